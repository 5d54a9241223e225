"""Slurm's commands: asked by id, with a deadline, under an environment of the user's own."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from sweepctl.launch.launcher import SchedulerError
from sweepctl.launch.tasks import Task, TaskState
from sweepctl.launch.workers import GROUP_VARIABLES, whole_path, without

PATIENCE_S = 30.0
"""How long a command may take: a controller that restarts answers late."""
SUBMISSION_PATIENCE_S = 600.0
"""How long sbatch may take, which asks a controller that is full again for two minutes."""
_BATCH = 500
"""Ids on one command line."""
_INHERITED = rf"(SLURM|SLURMD|SRUN|SBATCH|SQUEUE|SCANCEL|SCONTROL|SACCT|SINFO|SUBMITIT)_.*|{GROUP_VARIABLES}"
_NO_ANSWER = re.compile(r"timed out|did not answer|nable to contact|ommunication|Connection|send/recv")


class SlurmError(SchedulerError):
    """Slurm refused or did not answer; its own words."""

    @property
    def no_answer(self) -> bool:
        """Whether it may be otherwise in a moment, or even have worked."""
        return bool(_NO_ANSWER.search(str(self)))


@dataclass(frozen=True, slots=True)
class Limits:
    """What the cluster allows."""

    array: int
    """The most tasks of one array."""
    room: int | None
    """How many more tasks it takes of us; None: not said."""
    why: str = ""
    """Which limit that is."""


def ask(
    *command: str,
    patience_s: float = PATIENCE_S,
    errors: bool = False,
    text: str | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """What a command prints that is given a text and variables, with `errors` also what it says on standard
    error.

    Raises:
        SlurmError: it is not there, failed, or did not answer in time.
    """
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=patience_s,
            env={**clean_environment(), **variables},
            **({"stdin": subprocess.DEVNULL} if text is None else {"input": text}),
        )
    except FileNotFoundError:
        raise SlurmError(f"{command[0]} is not on the PATH: is this a machine of the cluster?") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} did not answer within {patience_s:.0f} s.") from None
    if done.returncode:
        raise SlurmError(sentence(done.stderr or done.stdout, command[0]))
    return done.stdout + done.stderr if errors else done.stdout


def sbatch(script: str, variables: Mapping[str, str] = MappingProxyType({})) -> str:
    """Submit a batch script, with these variables in its environment; the id of the job or array.

    Raises:
        SlurmError: it was refused, or Slurm does not answer.
    """
    # sbatch itself asks a busy controller again and again before it gives up.
    answer = ask("sbatch", "--parsable", patience_s=SUBMISSION_PATIENCE_S, text=script, variables=variables)
    return answer.strip().partition(";")[0]


def test_only(script: str, patience_s: float = PATIENCE_S) -> str:
    """What Slurm would do with a batch script, in its words. Nothing is queued.

    Raises:
        SlurmError: it would refuse it, or does not answer.
    """
    verdict = ask("sbatch", "--test-only", patience_s=patience_s, errors=True, text=script)
    return sentence(verdict, "").removeprefix(": ")


def sentence(text: str, command: str = "sbatch") -> str:
    """Slurm's complaint as one sentence."""
    lines = [re.sub(r"^\w+: (error: )?", "", line).strip() for line in text.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Try ")]
    return f"{command}: {'; '.join(dict.fromkeys(lines)) or 'failed without a word'}"


def clean_environment() -> dict[str, str]:
    """Without what a surrounding job or torchrun left behind: sbatch hands its environment on, and a task
    that is submitted from inside another must not inherit that one's. What says which cluster and as whom
    stays, of a login shell's also which of several."""
    whole = whole_path(os.environ)
    clean = without(whole, _INHERITED)
    clean |= {name: whole[name] for name in ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_JWT") if name in whole}
    clusters = whole.get("SBATCH_CLUSTERS") or whole.get("SLURM_CLUSTERS")
    if clusters and "SLURM_JOB_ID" not in whole:
        clean["SLURM_CLUSTERS"] = clusters
    return clean


def settings() -> dict[str, str]:
    """`scontrol show config` as a mapping."""
    pairs = (line.partition("=") for line in ask("scontrol", "show", "config").splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs if value}


def cluster() -> str:
    """The cluster's name."""
    return settings().get("ClusterName", "")


_STATES = {
    TaskState.PENDING: "PENDING REQUEUED REQUEUE_HOLD REQUEUE_FED RESV_DEL_HOLD SPECIAL_EXIT",
    TaskState.RUNNING: "RUNNING COMPLETING CONFIGURING RESIZING SIGNALING STAGE_OUT STOPPED SUSPENDED "
    "PREEMPTED",  # it is requeued
    TaskState.ENDED: "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY REVOKED TIMEOUT",
}
_STATE_OF = {word: state for state, words in _STATES.items() for word in words.split()}
HELD = re.compile(r"held", re.I)
"""JobHeldUser, JobHeldAdmin, and what Slurm itself holds: launch failed requeued held."""


def as_task(name: str, word: str, reason: str = "") -> Task:
    """A task by Slurm's words for its state and for why it waits."""
    held = word == "PENDING" and bool(HELD.search(reason))
    return Task(name, _STATE_OF.get(word, TaskState.UNKNOWN), word, reason, held)


def squeue(ids: Iterable[str], names: dict[str, str]) -> dict[str, Task]:
    """The tasks (`ARRAY_INDEX`) of these arrays that are in the queue. `names` gives every array the job name
    that it was submitted under: an id that was given out anew to somebody else has another.

    Raises:
        SlurmError: Slurm does not answer.
    """
    tasks: dict[str, Task] = {}
    wanted = list(ids)
    for first in range(0, len(wanted), _BATCH):
        for line in _squeue("-j", ",".join(wanted[first : first + _BATCH])):
            name, word, reason, array_name = line.split("|", 3)
            task = as_task(name, word, reason)
            if names.get(name.partition("_")[0]) == array_name and task.state is not TaskState.ENDED:
                tasks[name] = task
    return tasks


def arrays_named(name: str) -> set[str]:
    """The ids of arrays in the queue under a job name: how a submission whose id was lost is found again."""
    return {line.partition("|")[0].partition("_")[0] for line in _squeue("--name", name)}


def ours_waiting() -> dict[str, str]:
    """Our tasks that wait in the queue, and the names of their arrays."""
    lines = (line.split("|", 3) for line in _squeue("--me"))
    return {name: array_name for name, word, _, array_name in lines if word == "PENDING"}


def in_queue(*whose: str) -> int:
    """How many tasks are in the queue: everybody's, or with `--me` ours."""
    return len(_rows(ask("squeue", "-h", "-r", "-o", "%i|", *whose)))


def _squeue(*which: str) -> list[str]:
    try:
        return _rows(ask("squeue", "-h", "-r", "-t", "all", "-o", "%i|%T|%r|%j", *which))
    except SlurmError as error:
        if "Invalid job id" in str(error):  # of one id that it has forgotten
            return []
        raise


def _rows(text: str) -> list[str]:
    """The lines of a table, without those that say whose cluster it is."""
    return [line for line in text.splitlines() if "|" in line]


def sacct(tasks: Iterable[str]) -> dict[str, str]:
    """How tasks ended, by the accounting; empty where there is none."""
    wanted = list(tasks)
    if not wanted:
        return {}
    try:
        lines = ask("sacct", "-n", "-X", "-P", "-o", "JobID,State", "-j", ",".join(wanted)).splitlines()
    except SlurmError:
        return {}
    return {task: state for task, _, state in (line.partition("|") for line in lines)}


def release(tasks: Sequence[str]) -> dict[str, str]:
    """Let held tasks run; of one that is not held nothing happens. Those that Slurm refuses, and why."""
    return _each(tasks, lambda names: ask("scontrol", "release", ",".join(names)))


def state(task: str) -> str:
    """Slurm's word for where a task stands; empty where it has forgotten it."""
    return next((line.split("|")[1] for line in _squeue("-j", task)), "")


def requeue(task: str) -> None:
    """Put a running task back into the queue; it is told to end as if it were preempted."""
    ask("scontrol", "requeue", task)


def scancel(tasks: Sequence[str]) -> dict[str, str]:
    """Cancel tasks; those that Slurm refuses, and why. Without a filter by state: with one, Slurm 22.05
    cancels every pending task of an array where one was named."""
    return _each(tasks, lambda names: ask("scancel", *names))


_FORGOTTEN = re.compile(r"Invalid job id|already (finished|completing)|Job/step already|not pending")


def _each(tasks: Sequence[str], act: Callable[[Sequence[str]], object]) -> dict[str, str]:
    """Do something to many tasks at once, and where one of them is refused to each alone, so that it stops
    none of the others. Those that are refused, and why.

    Raises:
        SlurmError: Slurm does not answer.
    """
    refused: dict[str, str] = {}
    for first in range(0, len(tasks), _BATCH):
        batch = tasks[first : first + _BATCH]
        try:
            act(batch)
        except SlurmError as error:
            if error.no_answer:
                raise
            if _FORGOTTEN.search(str(error)) and len(batch) == 1:
                continue
            refused |= {batch[0]: str(error)} if len(batch) == 1 else _one_by_one(batch, act)
    return refused


def _one_by_one(batch: Sequence[str], act: Callable[[Sequence[str]], object]) -> dict[str, str]:
    refused: dict[str, str] = {}
    for task in batch:
        refused |= _each([task], act)
    return refused


def limits(max_submitted: int | None, wanted: int) -> Limits:
    """How much may be submitted now, by the cluster's configuration, the associations and the site's setting.
    Everybody's jobs are counted only where as many as are `wanted` might matter.

    Raises:
        SlurmError: Slurm does not answer.
    """
    config = settings()
    array = int(config.get("MaxArraySize", "1001"))
    rooms: list[tuple[int, str]] = []
    total = int(config.get("MaxJobCount", "0"))
    if 0 < total < 100 * wanted:
        # One less: the controller refuses what would reach it, after two minutes in which sbatch tries again.
        rooms.append((total - 1 - in_queue("-t", "all"), f"MaxJobCount={total}"))
    own = _association_limits()
    if max_submitted is not None:
        own.append((max_submitted, f"max_submitted={max_submitted}"))
    if own:
        mine = in_queue("--me")
        rooms += [(limit - mine, why) for limit, why in own]
    room, why = min(rooms, default=(None, ""), key=lambda pair: pair[0])
    return Limits(max(1, array), None if room is None else max(0, room), why)


_LIMIT = re.compile(r"\b((?:Max|Grp)SubmitJobs)=(\d+)")


def _association_limits() -> list[tuple[int, str]]:
    """Submit limits of the user's associations; a cluster without accounting has none. Those of a QOS bind
    who uses it: there the refusal itself is the limit."""
    try:
        text = ask("scontrol", "-o", "show", "assoc_mgr", f"users={getpass.getuser()}", "flags=assoc")
    except SlurmError:
        return []
    return [(int(m[2]), m[0]) for m in _LIMIT.finditer(text)]
