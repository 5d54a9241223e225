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
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import mechanisms
from benchmarks.slurm_site import BEGIN, SMALL, Site, daemons, site, spread, until


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
    from sweepctl.store import attempts, checkpoints

    with site() as here:
        budgets = ",".join(str(round(tokens * (i + 1))) for i in range(count))
        here.plan("tree", *SMALL, f"budget.tokens=[{budgets}]", "schedule.decay.fraction=0.01")
        here.launch("tree", BEGIN)
        sweep_jobs = here.sweep_jobs("tree")
        wanted = [
            planned_job for planned_job in sweep_jobs.by_id.values() if planned_job.job.kind == "branch"
        ]
        until(lambda: all(planned_job.folder.has_result() for planned_job in wanted), 900)
        here.drain()
        released = {
            task: at for at, name, rest in here.calls() if name == "scontrol" and rest.startswith("release")
            for task in rest.split()[1].split(",")
        }  # fmt: skip
        tasks = {(f / "id").read_text().strip(): f / "tasks" for f in here.arrays("tree")}
        rows = []
        for planned_job in wanted:
            checkpoint = checkpoints.at(planned_job.trunk, planned_job.job.cut)
            durable = (checkpoint.path / "manifest.json").stat().st_mtime
            first = attempts.every(planned_job.folder)[0]
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
    [planned_job] = here.sweep_jobs(name).by_id.values()
    until((here.folder / "ends").exists)
    end = float((here.folder / "ends").read_text().split()[0])
    [attempt] = attempts.every(planned_job.folder)
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
        sweep_jobs = here.sweep_jobs("calm")
        trunks = [planned_job for planned_job in sweep_jobs.by_id.values() if planned_job.job.kind == "trunk"]
        until(lambda: any(sweep_jobs.state(planned_job).step for planned_job in trunks))
        states = Counter(here.ask("squeue", "-h", "-r", "-o", "%T %r").splitlines())
        here.ask("sdiag", "-r")
        here.forget()
        before = {planned_job.job.id: sweep_jobs.state(planned_job).step for planned_job in trunks}
        time.sleep(seconds)
        calls = here.calls()
        sdiag = here.ask("sdiag")
        steps = sum(sweep_jobs.state(planned_job).step - before[planned_job.job.id] for planned_job in trunks)
    if steps <= 0:
        raise SystemExit("nothing was trained meanwhile")
    return {
        "seconds": seconds,
        "queue": dict(states),
        "steps": steps,
        "ours": len(calls),
        "an_hour": 3600 / seconds * len(calls),
        "controller": _rpcs(sdiag),
    }


def _rpcs(text: str) -> dict[str, int]:
    """Counts by message type from sdiag."""
    counts = {}
    inside = False
    for line in text.splitlines():
        if line.startswith("Remote Procedure Call statistics"):
            inside = "by message type" in line
        elif inside and "count:" in line:
            name, _, rest = line.strip().partition("(")
            counts[name.strip()] = int(rest.partition("count:")[2].split()[0])
    return counts


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
    events = {
        "released": "scontrol release is called",
        "slurm_start": "Slurm starts the branch's task",
        "task": "first line of its Python",
        "training": "its worker owns the job",
        "first_step": "its first ten steps are trained",
    }
    for key, words in events.items():
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


PARTS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {
    "submission": (submission, _print_submission),
    "branches": (branches, _print_branches),
    "overhead": (overhead, _print_overhead),
    "idle": (idle, _print_idle),
    "mechanisms": (mechanisms.mechanisms, mechanisms.show),
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
        ["slurmctld", "-V"], capture_output=True, text=True, env=daemons()
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


if __name__ == "__main__":
    main()
