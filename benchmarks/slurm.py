"""What Slurm is asked, and how soon it acts, on a slurmbox of this checkout's own.

python -m benchmarks.slurm [submission] [branches] [overhead] [idle] [mechanisms] [--json]

submission   10,000 jobs: seconds of `sweepctl launch`, calls to sbatch, and what the second launch costs
branches     from a checkpoint in the store to the branch that starts from it
overhead     from sbatch to the first training step, and what a job spends on anything but training
idle         calls to the controller, by us and in all, while jobs train and wait
mechanisms   ways to start a branch at its checkpoint, each as bash jobs: latency, calls, idle time
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "launchers" / "slurmbox"))
from box import Box, search_path  # noqa: E402

COUNTED = ("sbatch", "scontrol", "squeue", "scancel", "sacct", "sinfo", "sdiag")
BASE = [
    *("data=synthetic", "stages={}", "precision=fp32", "budget.flops=[]", "budget.max_tokens=null"),
    *(
        "budget.min_tokens_per_parameter=0",
        "budget.min_steps=0",
        "batch.context=32",
        "validation.tokens=2048",
    ),
    *("validation.curve_tokens=512", "validation.curve_per_octave=1"),
]
SITE = ["resources.gpus_per_node=1", "resources.cpus_per_task=1", "execution.device=cpu"]
SMALL = ["ladder.depths=[2]", "batch.tokens=64"]
BEGIN = 'setup=["date +%s.%N > $SWEEPCTL_ARRAY/tasks/$SLURM_ARRAY_TASK_ID.script"]'
"""Notes when a task's batch script begins."""


@dataclass
class Site:
    """A box, a workspace with a corpus, and Slurm's commands in wrappers that note every call."""

    folder: Path
    box: Box

    @property
    def environment(self) -> dict[str, str]:
        found = self.box.environment()
        return found | {
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{found['PATH']}",
            "PYTHONPATH": str(ROOT),
            "SWEEPCTL_HOME": str(self.folder / "sweeps"),
            "OMP_NUM_THREADS": "1",
        }

    def ask(self, *command: str) -> str:
        """What a command prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def calls(self) -> list[tuple[float, str, str]]:
        """When, which command, with what: everything since the last `forget`."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [(float(at), name, rest) for at, name, rest in (line.split(" ", 2) for line in lines)]

    def forget(self) -> None:
        (self.folder / "calls").write_text("")

    def plan(self, name: str, *overrides: str) -> int:
        """Plan a study in the workspace; its jobs."""
        from sweepctl.data.shards import read_index
        from sweepctl.plan.expand import CorpusFacts, expand
        from sweepctl.spec.compose import compose_study
        from sweepctl.store.workspace import Workspace

        workspace = Workspace(self.folder / "sweeps")
        index = read_index(workspace.corpus("synthetic"))
        study = compose_study([f"name={name}", *BASE, *overrides])
        plan = expand(study, "all", CorpusFacts(index.hash, index.vocab_size, index.splits["train"].tokens))
        workspace.sweep(name).save({"all": plan})
        return len(plan.jobs)

    def launch(self, name: str, *words: str) -> float:
        """Seconds of `sweepctl launch NAME --on slurm`."""
        began = time.perf_counter()
        self.ask(sys.executable, "-m", "sweepctl", "launch", name, "--on", "slurm", *SITE, *words)
        return time.perf_counter() - began

    def board(self, name: str) -> Any:
        from sweepctl.store.board import Board
        from sweepctl.store.workspace import Workspace

        sweep = Workspace(self.folder / "sweeps").sweep(name)
        return Board(sweep, sweep.plans())

    def arrays(self, name: str) -> list[Path]:
        """Folders of what was submitted."""
        return list((self.folder / "sweeps" / name / "slurm" / "arrays").iterdir())

    def drain(self) -> None:
        """Wait until the queue is empty."""
        until(lambda: not self.ask("squeue", "-h", "-t", "PD,R,CG,S,CF"))


@contextmanager
def site(*settings: str) -> Iterator[Site]:
    """A box of its own with 3 nodes, ended afterwards."""
    from sweepctl.data.corpora import prepare_synthetic

    with tempfile.TemporaryDirectory(prefix="slurmbench-") as name:
        folder = Path(name)
        (folder / "bin").mkdir()
        for command in COUNTED:
            real, shim = shutil.which(command, path=search_path()), folder / "bin" / command
            shim.write_text(
                f'#!/bin/sh\necho "$(date +%s.%N) {command} $*" >> {folder}/calls\nexec {real} "$@"\n'
            )
            shim.chmod(0o755)
        epilog = folder / "epilog"
        epilog.write_text(f"#!/bin/sh\ndate +%s.%N >> {folder}/ends\n")
        epilog.chmod(0o755)
        found = Site(folder, Box(folder / "box", 3, "\n".join([f"Epilog={epilog}", *settings])))
        found.forget()
        prepare_synthetic(folder / "sweeps" / "data" / "synthetic", 0, 8_000_000, 100_000)
        try:
            found.box.up()
            yield found
        finally:
            found.box.down()


def until(true: Callable[[], Any], patience_s: float = 600.0) -> Any:
    """Wait for something; what it is."""
    deadline = time.monotonic() + patience_s
    while not (found := true()):
        if time.monotonic() > deadline:
            raise SystemExit(f"waited for more than {patience_s:.0f} s")
        time.sleep(0.2)
    return found


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "worst": max(values)}


def submission() -> dict[str, Any]:
    """A sweep of 10,000 jobs in two classes of resources, which no node may run."""
    with site("MaxArraySize=1001", "MaxJobCount=30000") as here:
        here.ask("scontrol", "update", "PartitionName=gpu", "State=DOWN")
        jobs = here.plan(
            *("many", "ladder.depths=[1,2]", "grid.axes.seed.init={seeds: 25}"),
            *("grid.axes.optimizer.lr={log: {from: 1e-4, to: 1e-1, count: 25}}", "batch.tokens=256"),
            "budget.tokens=[1e6,1.5e6,2e6,3e6,4e6,5e6,6e6]",
        )
        options = ("resources.time_min=60", "+rungs={32x2: {time_min: 120}}")
        rehearsed = [here.launch("many", *options, "--dry-run") for _ in range(3)]
        here.forget()
        first = here.launch("many", *options)
        calls = Counter(name for _, name, _ in here.calls())
        queued = len(here.ask("squeue", "-h", "-r", "-o", "%i").splitlines())
        sizes = [len(json.loads((f / "array.json").read_text())["jobs"]) for f in here.arrays("many")]
        sent = calls["sbatch"]
        here.forget()
        again = [here.launch("many", *options) for _ in range(3)]
        calls_again = Counter(name for _, name, _ in here.calls())
    return {
        "jobs": jobs,
        "in_queue": queued,
        "launch_s": first,
        "sbatch": sent,
        "calls": dict(calls),
        "largest_array": max(sizes),
        "again_s": statistics.median(again),
        "again_calls": {name: count / 3 for name, count in calls_again.items()},
        "dry_run_s": statistics.median(rehearsed),
    }


def branches(count: int = 24, tokens: float = 200_000) -> dict[str, Any]:
    """One trunk with `count` branches, and the moments on the way to each."""
    from sweepctl.store import attempts

    with site() as here:
        budgets = ",".join(str(round(tokens * (i + 1))) for i in range(count))
        here.plan("tree", *SMALL, f"budget.tokens=[{budgets}]", "schedule.decay.fraction=0.01")
        here.launch("tree", BEGIN)
        board = here.board("tree")
        wanted = [entry for entry in board.entries.values() if entry.job.kind == "branch"]
        until(lambda: all(entry.folder.has_result() for entry in wanted), 900)
        here.drain()
        released = {
            task: at for at, name, rest in here.calls() if name == "scontrol" and rest.startswith("release")
            for task in rest.split()[1].split(",")
        }  # fmt: skip
        tasks = {(f / "id").read_text().strip(): f / "tasks" for f in here.arrays("tree")}
        rows = []
        for entry in wanted:
            durable = (
                (entry.trunk.checkpoints / f"step-{entry.job.cut:08d}" / "manifest.json").stat().st_mtime
            )
            first = attempts.every(entry.folder)[0]
            array, _, index = first.record["scheduler_id"].partition("_")
            script = float((tasks[array] / f"{index}.script").read_text())
            rows.append(
                {
                    "released": released.get(first.record["scheduler_id"], durable) - durable,
                    "slurm_start": script - durable,
                    "task": (tasks[array] / f"{index}.0").stat().st_mtime - durable,
                    "training": first.record["started"] - durable,
                    "first_step": birth(first.metrics) - durable,
                }
            )
        calls = sum(name == "scontrol" and rest.startswith("release") for _, name, rest in here.calls())
    return {
        "branches": len(rows),
        **{key: spread([row[key] for row in rows]) for key in rows[0]},
        "release_calls": calls,
        "rows": rows,
    }


def birth(path: Path) -> float:
    """When a file was made: what Python's stat does not say."""
    done = subprocess.run(["stat", "-c", "%.9W", str(path)], capture_output=True, text=True, check=True)
    return float(done.stdout)


def overhead(rounds: int = 3, tokens: float = 1_500_000) -> dict[str, Any]:
    """Jobs of one run each, one after another: of a minute without rolling checkpoints, then with many."""
    rows, saving = [], []
    with site() as here:
        for number in range(2 * rounds):
            often = number >= rounds
            rows.append(_one_run(here, f"run{number}", number, tokens / (4 if often else 1), often))
        saving = [row for row in rows if row["saves"]]
        rows = [row for row in rows if not row["saves"]]
    middle = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    # What goes on beside the updates costs in proportion; what is left of it is the checkpoints.
    rate = middle["beside_s"] / middle["train_s"]
    write = statistics.median(max(0.0, r["beside_s"] - rate * r["train_s"]) / r["saves"] for r in saving)
    fixed = middle["begin_s"] + middle["end_s"] + 2 * write
    return {
        **middle,
        "worst_to_first_step_s": max(row["to_first_step_s"] for row in rows),
        "write_s": write,
        "ten_minutes": (fixed + rate * (600 - fixed) / (1 + rate)) / 600,
        "rows": [*rows, *saving],
    }


def _one_run(here: Site, name: str, seed: int, tokens: float, often: bool) -> dict[str, float]:
    """One job on an idle box, by the clock of every part."""
    from sweepctl.store import attempts

    here.plan(name, *SMALL, "schedule=cosine", f"budget.tokens=[{tokens:.0f}]", f"seed.init={seed}")
    here.forget()
    (here.folder / "ends").unlink(missing_ok=True)
    pause = "execution.checkpoint_every_s=1" if often else "execution.checkpoint_every_s=300"
    here.launch(name, BEGIN, pause)
    [entry] = here.board(name).entries.values()
    until((here.folder / "ends").exists)
    end = float((here.folder / "ends").read_text().split()[0])
    [attempt] = attempts.every(entry.folder)
    [folder] = here.arrays(name)
    record = attempt.record
    sbatch = next(at for at, command, _ in here.calls() if command == "sbatch")
    script = float((folder / "tasks" / "0.script").read_text())
    task = (folder / "tasks" / "0.0").stat().st_mtime
    step = birth(attempt.metrics)
    return {
        "to_script_s": script - sbatch,
        "to_task_s": task - script,
        "to_worker_s": record["started"] - task,
        "to_step_s": step - record["started"],
        "to_first_step_s": step - sbatch,
        "begin_s": step - script,
        "train_s": record["train_s"],
        "beside_s": record["ended"] - step - record["train_s"],
        "end_s": end - record["ended"],
        "held_s": end - script,
        "saves": int(record["train_s"]) if often else 0,
    }


def idle(seconds: float = 90.0) -> dict[str, Any]:
    """A trunk that trains, another in the queue and 40 held branches, none of which reaches a checkpoint."""
    with site() as here:
        budgets = ",".join(str(20_000_000 + 64_000 * i) for i in range(20))
        here.plan("calm", *SMALL, f"budget.tokens=[{budgets}]", "grid.axes.seed.init=[0,1]")
        here.launch("calm", "parallel=1")
        board = here.board("calm")
        trunks = [entry for entry in board.entries.values() if entry.job.kind == "trunk"]
        until(lambda: any(board.state(entry).step for entry in trunks))
        states = Counter(here.ask("squeue", "-h", "-r", "-o", "%T %r").splitlines())
        here.ask("sdiag", "-r")
        here.forget()
        before = {entry.job.id: board.state(entry).step for entry in trunks}
        time.sleep(seconds)
        calls = here.calls()
        told = here.ask("sdiag")
        steps = sum(board.state(entry).step - before[entry.job.id] for entry in trunks)
    if steps <= 0:
        raise SystemExit("nothing was trained meanwhile")
    return {
        "seconds": seconds,
        "queue": dict(states),
        "steps": steps,
        "ours": len(calls),
        "an_hour": 3600 / seconds * len(calls),
        "controller": _rpcs(told),
    }


def _rpcs(text: str) -> dict[str, int]:
    """Counts by message type from sdiag."""
    found = {}
    inside = False
    for line in text.splitlines():
        if line.startswith("Remote Procedure Call statistics"):
            inside = "by message type" in line
        elif inside and "count:" in line:
            name, _, rest = line.strip().partition("(")
            found[name.strip()] = int(rest.partition("count:")[2].split()[0])
    return found


CHECKPOINTS, EVERY_S, TAIL_S = 8, 3.37, 3.0
NOTE = "date +%s.%N >"


@dataclass(frozen=True)
class Mechanism:
    """How branches begin. `submit` sends everything that is sent in advance; `reached` is what the trunk's
    script does after checkpoint $i."""

    name: str
    on_nodes: str
    slots: str
    submit: Callable[[Site, Path, str], None]
    reached: str = ":"


def _sbatch(here: Site, folder: Path, script: str, *options: str) -> str:
    return here.ask(
        *("sbatch", "--parsable", f"--output={folder}/%A_%a.out", "--cpus-per-task=1", "--mem=100"),
        *options, "--wrap", script,
    ).split(";")[0]  # fmt: skip


BRANCH = "; ".join(
    [
        "i=${B:-$SLURM_ARRAY_TASK_ID}",
        f"{NOTE} FOLDER/start.$i",
        "until [ -e FOLDER/ck.$i ]; do sleep 1; done",
        f"{NOTE} FOLDER/work.$i",
        "sleep 1",
    ]
)
ALL = f"--array=1-{CHECKPOINTS}"


def _trunk(folder: Path, reached: str) -> str:
    """A trunk that takes EVERY_S from checkpoint to checkpoint, and goes on after the last."""
    return (
        f"{NOTE} {folder}/trunk.start; for i in $(seq {CHECKPOINTS}); do sleep {EVERY_S}; "
        f"{NOTE} {folder}/ck.$i.tmp; mv {folder}/ck.$i.tmp {folder}/ck.$i; {reached}; done; sleep {TAIL_S}; "
        f"{NOTE} {folder}/trunk.end"
    )


def _held(here: Site, folder: Path, branch: str) -> None:
    array = _sbatch(here, folder, branch, "--hold", ALL)
    _sbatch(here, folder, _trunk(folder, f"scontrol release {array}_$i"))


def _from_inside(here: Site, folder: Path, branch: str) -> None:
    (folder / "branch.sh").write_text(f"#!/bin/sh\n{branch}\n")
    call = f"B=$i sbatch --parsable --output={folder}/b%A.out --cpus-per-task=1 --mem=100 {folder}/branch.sh"
    _sbatch(here, folder, _trunk(folder, call))


def _after(word: str) -> Callable[[Site, Path, str], None]:
    def submit(here: Site, folder: Path, branch: str) -> None:
        trunk = _sbatch(here, folder, _trunk(folder, ":"))
        _sbatch(here, folder, branch, ALL, f"--dependency={word}:{trunk}")

    return submit


def _in_pieces(here: Site, folder: Path, branch: str) -> None:
    """The trunk ends at every checkpoint: task i of its array is the piece that leads to checkpoint i."""
    piece = (
        f"i=$SLURM_ARRAY_TASK_ID; {NOTE} {folder}/piece.$i; sleep {EVERY_S}; "
        f"{NOTE} {folder}/ck.$i.tmp; mv {folder}/ck.$i.tmp {folder}/ck.$i"
    )
    trunk = _sbatch(here, folder, piece, f"{ALL}%1")
    _sbatch(here, folder, branch, ALL, f"--dependency=aftercorr:{trunk}")


MECHANISMS = (
    Mechanism("held, released by the trunk's task (the default)", "no", "yes", _held),
    Mechanism("sbatch from inside the trunk's task", "no", "no", _from_inside),
    Mechanism("afterok on the trunk", "yes", "yes", _after("afterok")),
    Mechanism("afterany on the trunk (commands_on_nodes: false)", "yes", "yes", _after("afterany")),
    Mechanism("aftercorr, the trunk cut into an array of pieces", "yes", "yes", _in_pieces),
    Mechanism("after, tasks wait (commands_on_nodes: false, wait_min)", "yes", "yes", _after("after")),
)


def mechanisms() -> list[dict[str, Any]]:
    """Every mechanism with the same trunk: a script that sleeps, with a branch a checkpoint."""
    rows = []
    with site() as here:
        for number, one in enumerate(MECHANISMS):
            folder = here.folder / f"mechanism{number}"
            folder.mkdir()
            here.forget()
            one.submit(here, folder, BRANCH.replace("FOLDER", str(folder)))
            paths = [folder / f"work.{i + 1}" for i in range(CHECKPOINTS)]
            until(lambda paths=paths: all(path.exists() and path.read_text().strip() for path in paths), 120)
            calls = [name for _, name, _ in here.calls()]
            here.drain()

            def at(kind: str, i: int, folder: Path = folder) -> float:
                return float((folder / f"{kind}.{i}").read_text())

            each = range(1, CHECKPOINTS + 1)
            pieces = [at("piece", i + 1) - at("ck", i) for i in each if (folder / f"piece.{i + 1}").exists()]
            rows.append(
                {
                    "mechanism": one.name,
                    "latency": spread([at("work", i) - at("ck", i) for i in each]),
                    "calls_a_branch": len(calls) / CHECKPOINTS,
                    "idle_s_a_branch": statistics.mean(at("work", i) - at("start", i) for i in each),
                    "trunk_stands_s": statistics.median(pieces) if pieces else 0.0,
                    "without_commands_on_nodes": one.on_nodes,
                    "slots_in_advance": one.slots,
                }
            )
    return rows


def _print_submission(r: dict[str, Any]) -> None:
    calls = ", ".join(f"{n} {name}" for name, n in r["calls"].items())
    print(
        f"  {r['jobs']:,} jobs: launch {r['launch_s']:.1f} s, {r['sbatch']} sbatch calls of at most ", end=""
    )
    print(f"{r['largest_array']} tasks ({calls}); {r['in_queue']:,} in the queue")
    calls = ", ".join(f"{n:g} {name}" for name, n in r["again_calls"].items())
    print(f"  launch again: {r['again_s']:.1f} s ({calls}); --dry-run: {r['dry_run_s']:.1f} s (medians of 3)")


def _print_branches(r: dict[str, Any]) -> None:
    print(
        f"  {r['branches']} branches of one trunk, {r['release_calls']} calls of scontrol release; ", end=""
    )
    print("from the checkpoint's manifest (median, worst):")
    told = {
        "released": "scontrol release is called",
        "slurm_start": "Slurm starts the branch's task",
        "task": "first line of its Python",
        "training": "its worker owns the job",
        "first_step": "its first ten steps are trained",
    }
    for key, words in told.items():
        print(f"    {words:32} {r[key]['median']:6.2f} s {r[key]['worst']:6.2f} s")


def _print_overhead(r: dict[str, Any]) -> None:
    print(f"  sbatch to the first ten training steps: {r['to_first_step_s']:.2f} s, worst ", end="")
    print(f"{r['worst_to_first_step_s']:.2f} s (medians of {sum(not row['saves'] for row in r['rows'])})")
    for key, words in {
        "to_script_s": "sbatch to the batch script",
        "to_task_s": "to the first line of Python",
        "to_worker_s": "to the worker, torch imported",
        "to_step_s": "to its first ten steps",
    }.items():
        print(f"    {words:32} {r[key]:6.2f} s")
    print(f"  a job that trains {r['train_s']:.1f} s: beside the updates {r['beside_s']:.2f} s, ", end="")
    print(f"from its end to the node's release {r['end_s']:.2f} s; a checkpoint {1000 * r['write_s']:.0f} ms")
    print(f"  extrapolated to 600 s on the node with 2 checkpoints: {r['ten_minutes']:.1%} not training")


def _print_idle(r: dict[str, Any]) -> None:
    queue = ", ".join(f"{n} {state}" for state, n in r["queue"].items())
    print(f"  {r['seconds']:.0f} s with {queue}; {r['steps']:,} steps trained meanwhile")
    print(
        f"  calls by us: {r['ours']}, so {r['an_hour']:.0f} an hour; what the controller was sent: ", end=""
    )
    print(", ".join(f"{n} {name}" for name, n in r["controller"].items()))


def _print_mechanisms(rows: list[dict[str, Any]]) -> None:
    print(f"  a checkpoint every {EVERY_S:g} s, {CHECKPOINTS} of them, {TAIL_S:g} s more after the last")
    print(
        "  | | latency, s (worst) | calls a branch | idle, s a branch | trunk stands, s | "
        "no commands on nodes | slots in advance |"
    )
    for r in rows:
        print(
            f"  | {r['mechanism']} | {r['latency']['median']:.2f} ({r['latency']['worst']:.2f}) | "
            f"{r['calls_a_branch']:.2f} | {r['idle_s_a_branch']:.1f} | {r['trunk_stands_s']:.2f} | "
            f"{r['without_commands_on_nodes']} | {r['slots_in_advance']} |"
        )


PARTS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "submission": (submission, _print_submission),
    "branches": (branches, _print_branches),
    "overhead": (overhead, _print_overhead),
    "idle": (idle, _print_idle),
    "mechanisms": (mechanisms, _print_mechanisms),
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    from benchmarks.side_by_side import machine

    version = subprocess.run(
        ["slurmctld", "-V"], capture_output=True, text=True, env=_daemons()
    ).stdout.strip()
    results = {}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the box is ended all the same
    if not arguments.json:
        print(f"{version} on a slurmbox of 3 nodes; {machine()}")
    for part in arguments.parts or PARTS:
        measure, show = PARTS[part]
        results[part] = measure()
        if not arguments.json:
            print(part)
            show(results[part])
            sys.stdout.flush()
    if arguments.json:
        print(json.dumps({"machine": machine(), "slurm": version, **results}, indent=1))


def _daemons() -> dict[str, str]:
    return {**os.environ, "PATH": search_path()}


if __name__ == "__main__":
    main()
