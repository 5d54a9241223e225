"""One short job that looks around on a compute node, sent, waited for, and judged by `sweepctl doctor`."""

from __future__ import annotations

import contextlib
import platform
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sweepctl.errors import DamagedFile
from sweepctl.launch.doctor import Finding, Say, clock_finding, gpu_finding, judge_disk, torch_finding
from sweepctl.launch.slurm import commands
from sweepctl.launch.slurm.commands import SlurmError
from sweepctl.launch.slurm.records import Array, new_token
from sweepctl.launch.slurm.script import script
from sweepctl.launch.slurm.settings import SlurmSettings
from sweepctl.launch.slurm.task_ends import last_words
from sweepctl.launch.tasks import Task
from sweepctl.launch.variables import handed_on
from sweepctl.resources import code_version
from sweepctl.store.files import create, read_json, write_text

TIME_MIN = 2
LOOK_S, ASK_S = 0.2, 2.0
"""How often the folder is looked into, and the queue is."""
LATE_S = 20.0
"""How long after the end of the job its files may still be on their way."""
SLOW_S = 15.0
"""A file seen later than this is told: jobs wait for each other's files."""
REPORT = "sweepctl.launch.slurm.node_report"
_HOPELESS = re.compile(
    r"PartitionTimeLimit|PartitionNodeLimit|PartitionDown|PartitionInactive|BadConstraints|Invalid(Account|QOS)"
)


@dataclass(slots=True)
class SentJob:
    """The job that looks around, and what became of it."""

    folder: Path
    """Where the nodes answer."""
    array_id: str
    """Its id."""
    name: str
    """The name that it was submitted under."""
    nodes: int
    """How many nodes answer."""
    began: float = field(default_factory=time.monotonic)
    """When it was sent."""
    started: float | None = None
    """When it was first seen to run."""
    answered: set[int] = field(default_factory=set)
    """The nodes that have been answered."""
    shared: list[str] = field(default_factory=list)
    """What is wrong with files that both sides see."""
    last: Task | None = None
    """What the queue said of it last."""


def check_node(
    folder: Path, launcher: SlurmSettings, gpus: int | None, say: Say, wait_min: float
) -> Iterator[Finding]:
    """Send the job with the launcher's own resources, and say what it found. It is gone afterwards. A node
    should have so many `gpus` (None: not known)."""
    wanted = replace(launcher.resources, time_min=min(TIME_MIN, launcher.resources.time_min))
    token = new_token()
    # Without our trap a task that cannot begin fails at once, and is not tried again.
    brief = replace(launcher, resources=wanted, rungs={}, save_ahead_s=1, commands_on_nodes=False)
    array = Array(token, "", f"doctor.{token}", commands.cluster(), ("doctor",), wanted)
    (folder / "tasks").mkdir()
    launched = replace(array, resources=launcher.resources)
    (folder / "launch.sh").write_text(script(launched, folder, launcher))
    say("sending a job")
    try:
        text = script(array, folder, brief, f"{REPORT} {shlex.quote(str(folder))}")
        array_id = commands.sbatch(text, handed_on(launcher.environment))
        sent = SentJob(folder, array_id, array.name, wanted.nodes)
        problem = _wait(sent, say, wait_min)
        if problem is not None:
            yield problem
        else:
            waited = (sent.started or time.monotonic()) - sent.began
            yield Finding("job", "ok", f"{sent.array_id} waited {waited:.0f} s and ran on {_hosts(sent)}")
        yield from _merged(sent, launcher, gpus)
    except SlurmError as error:
        advice = "Wait until the queue takes more jobs of yours, or see `squeue --me`."
        yield Finding("job", "failed", str(error).rstrip("."), advice)
    finally:
        _end(array.name)


def _end(name: str) -> None:
    """See the job out: what it has open is in the folder. One that has reported ends by itself."""
    with contextlib.suppress(SlurmError):
        for patience_s, cancel in ((3.0, False), (15.0, True)):
            ids = commands.arrays_named(name)
            if cancel:
                commands.scancel(sorted(ids))
            deadline = time.monotonic() + patience_s
            while live := commands.squeue(ids, dict.fromkeys(ids, name)):
                if time.monotonic() > deadline or (
                    not cancel and any(task.word == "PENDING" for task in live.values())
                ):
                    break
                time.sleep(LOOK_S)
            else:
                return


def _wait(sent: SentJob, say: Say, wait_min: float) -> Finding | None:
    """Answer the nodes until all have reported; else what came in between."""
    asked = gone = 0.0
    while True:
        now = time.monotonic()
        _answer(sent)
        if all((sent.folder / f"{n}.json").exists() for n in range(sent.nodes)):
            return None
        if now - asked >= ASK_S:
            asked = now
            with contextlib.suppress(SlurmError):  # a controller that is busy is asked again
                live = commands.squeue([sent.array_id], {sent.array_id: sent.name})
                sent.last = next(iter(live.values()), None)
                gone = 0.0 if sent.last else gone or now
            say(_state(sent, now))
        if gone and now - gone > (LATE_S if sent.answered or _log(sent) == "" else 3.0):
            return _ended(sent)
        waiting = sent.last is not None and sent.last.word in ("PENDING", "CONFIGURING")
        if sent.last is not None and waiting and _HOPELESS.search(sent.last.reason):
            return Finding(
                "job",
                "failed",
                f"it would never start: {sent.last.reason}",
                "Change the launcher's resources.",
            )
        if waiting and now - sent.began > 60 * wait_min:
            return _still_queued(sent, wait_min)
        if sent.last is not None and not waiting:
            sent.started = sent.started or now
            if now - sent.started > 60 * TIME_MIN + 60:
                return Finding(
                    "job", "failed", f"{sent.last.word} for {now - sent.started:.0f} s without a report",
                    "See whether its node can write the workspace.",
                )  # fmt: skip
        time.sleep(LOOK_S)


def _answer(sent: SentJob) -> None:
    """Let nodes that have begun see a file of ours, and hold theirs against us."""
    for number in range(sent.nodes):
        if number in sent.answered or not (sent.folder / f"{number}.begun").exists():
            continue
        sent.started = sent.started or time.monotonic()
        sent.answered.add(number)
        if create(sent.folder / f"{number}.begun", durable=False):
            sent.shared.append("O_EXCL made a file that a node had made")
        write_text(sent.folder / f"{number}.answer", "")


def _state(sent: SentJob, now: float) -> str:
    since = f"{now - sent.began:.0f} s"
    if sent.answered:
        return f"job {sent.array_id} looks around ({since})"
    if sent.last is None:
        return f"job {sent.array_id} has left the queue ({since})"
    reason = f": {sent.last.reason}" if sent.last.reason not in ("", "None") else ""
    return f"job {sent.array_id} is {sent.last.word.lower()}{reason} ({since})"


def _still_queued(sent: SentJob, wait_min: float) -> Finding:
    reason = sent.last.reason if sent.last else "unknown"
    return Finding(
        "job",
        "warning",
        f"{sent.array_id} was still queued after {wait_min:g} min ({reason}) and is cancelled",
        "Wait longer (--wait-min): until a job has run, nothing is known of the nodes.",
    )


def _ended(sent: SentJob) -> Finding:
    """The job is gone and has not reported: what Slurm and its log say."""
    text = f"{sent.array_id} ended without a report"
    host = ""
    with contextlib.suppress(SlurmError):
        output = commands.ask("scontrol", "-o", "show", "job", sent.array_id)
        facts = {
            key: m[1] for key in ("JobState", "ExitCode", "BatchHost", "Reason") if (m := _fact(key, output))
        }
        host = facts.get("BatchHost", "")
        code = facts.get("ExitCode", "0:0")
        text += f" on {host}" if host else ""
        text += f": {facts.get('JobState', 'gone')}"
        text += f", exit code {code.partition(':')[0]}" if code != "0:0" else ""
    last = _log(sent)
    if last:
        return Finding("job", "failed", f"{text}; it said: {last}", _cure(last))
    return Finding(
        "job",
        "failed",
        f"{text}, and wrote nothing",
        f"See whether {host or 'its node'} mounts the workspace.",
    )


def _fact(key: str, text: str) -> re.Match[str] | None:
    return re.search(rf"\b{key}=(\S+)", text)


def _log(sent: SentJob) -> str:
    """The last line that the job printed, but for what Slurm says of any task that fails."""
    words = (last_words(path) for path in sorted(sent.folder.glob("*_log.out")))
    return next(filter(None, words), "")


def _cure(line: str) -> str:
    if re.search(r"No such file|not found|Permission denied|execve", line):
        return "Set the launcher's `python` and `setup` to what is there on the nodes."
    if "No module named" in line:
        return "Install sweepctl for the nodes' interpreter, or name another as `python`."
    return "Correct the launcher's `setup`, `environment` or `python`; `srun` by hand shows more."


def _hosts(sent: SentJob) -> str:
    return ", ".join(str(report["host"]) for report in _reports(sent))


def _reports(sent: SentJob) -> Iterator[dict[str, Any]]:
    for number in range(sent.nodes):
        with contextlib.suppress(FileNotFoundError, DamagedFile):
            yield read_json(sent.folder / f"{number}.json")


_RANK = {"ok": 0, "skipped": 0, "warning": 1, "failed": 2}


def _merged(sent: SentJob, launcher: SlurmSettings, gpus: int | None) -> Iterator[Finding]:
    """The worst of every check among the nodes."""
    worst: dict[str, Finding] = {}
    for report in _reports(sent):
        for finding in judge(report, launcher, gpus, sent.shared):
            if sent.nodes > 1 and finding.verdict != "ok":
                finding = replace(finding, text=f"{report['host']}: {finding.text}")
            before = worst.get(finding.check)
            if before is None or _RANK[finding.verdict] > _RANK[before.verdict]:
                worst[finding.check] = finding
    yield from worst.values()


def judge(
    report: dict[str, Any], launcher: SlurmSettings, gpus: int | None, shared: list[str]
) -> Iterator[Finding]:
    """What one node reported, held against what jobs need and what is here."""
    yield _code(report, launcher)
    torch = report if report["missing"] is None else {"error": report["missing"]}
    yield torch_finding(report["python"], torch)
    if "error" not in torch:
        yield _gpus(report, launcher, gpus)
    disk = report["disk"]
    yield from judge_disk([*disk["faults"], *shared], disk["sync_s"], disk["free_bytes"], "node disk")
    yield _shared_files(report["round_trip_s"])
    yield clock_finding(disk["ahead_s"], "node clock", "of the node")
    yield _commands(report["commands_fail"], launcher.commands_on_nodes)


def _code(report: dict[str, Any], launcher: SlurmSettings) -> Finding:
    if report["code"] != code_version():
        return Finding(
            "code",
            "failed",
            f"the node has another sweepctl than this one, under {report['executable']}",
            "Install the same sweepctl there, or name this environment as `python`.",
        )
    text = f"the same sweepctl under {report['executable']}"
    here = platform.python_version()
    if report["python"].split(".")[:2] != here.split(".")[:2]:
        return Finding(
            "code", "warning", f"{text}, but Python {report['python']} there and {here} here",
            "Use one environment for both.",
        )  # fmt: skip
    return Finding("code", "ok", text)


def _gpus(report: dict[str, Any], launcher: SlurmSettings, gpus: int | None) -> Finding:
    options = " ".join([*launcher.sbatch, *launcher.srun_args])
    bound = re.search(r"gpus-per-task|gpu-bind", options) is not None
    return gpu_finding(gpus, report, launcher.execution, launcher.resources.tasks_per_node, bound)


def _shared_files(round_trip_s: float | None) -> Finding:
    if round_trip_s is None:
        return Finding(
            "shared files",
            "failed",
            "the node did not see a file that was written here",
            "Put the workspace where every node sees the same files (not /tmp).",
        )
    text = f"seen there and answered here within {round_trip_s:.1f} s"
    if round_trip_s > SLOW_S:
        return Finding("shared files", "warning", text, "Ask for a shorter attribute cache (NFS: actimeo).")
    return Finding("shared files", "ok", text)


def _commands(fail: str | None, expected: bool) -> Finding:
    if fail is None and expected:
        return Finding("node commands", "ok", "scontrol, squeue and sbatch work on the node")
    if fail is None:
        return Finding(
            "node commands",
            "ok",
            "they work on the node",
            "commands_on_nodes: true would start branches sooner.",
        )
    if not expected:
        return Finding("node commands", "ok", f"none on the node, as the launcher says ({fail})")
    return Finding("node commands", "failed", f"on the node: {fail}", "Set commands_on_nodes: false.")
