"""A sweep of 100,000 jobs on 1,000 nodes, by the feed itself in simulated time; a real one beside that.

python -m benchmarks.scale [--jobs N] [--nodes N] [--preemptions R] [--failures R] [--seed S]
                           [--demo WORKSPACE] [--json]

Rates are a node's, an hour. Submissions are those of a rehearsed launch on Slurm. Calls to its controller
while jobs run: squeue and scontrol release at every checkpoint that branches wait for, scontrol requeue at
every preemption. Files: job.json, result.json, a wish a branch; attempt, metrics, heartbeat and lease an
attempt; three a checkpoint.

--demo holds the simulation against the attempts that `make demo` has left in a workspace: with their own
durations, on as many workers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.planning import FACTS, study_of
from benchmarks.side_by_side import machine
from sweepctl.launch.launcher import LaunchRequest, read_launcher
from sweepctl.launch.retries import Retries
from sweepctl.launch.retry import Retry
from sweepctl.launch.simulation import (
    Faults,
    Pace,
    SimulatedJobs,
    Simulation,
    ThoughtStore,
    longest_chain,
    work_s,
)
from sweepctl.plan.expand import expand
from sweepctl.spec.compose import compose_launcher
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.store import attempts
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from sweepctl.store.workspace import Workspace

RETRIES = Retries(failed=0, request=0, out_of_memory=1, died=3, infrastructure=3, storage=20)
GOAL = 1.1
TRUNK_HOURS = 2.0
"""How long a trunk takes on average; branches in proportion to their steps."""


def scale(jobs: int, nodes: int, faults: Faults) -> dict[str, Any]:
    """The sweep on so many nodes of one device."""
    plan = expand(study_of(jobs), "all", CorpusFacts(*FACTS.values()))  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        sweep = Workspace(Path(folder)).sweep("scale")
        sweep.save({"all": plan})
        submissions = _submissions(SweepJobs(sweep, {"all": plan}))
        store = ThoughtStore(lambda job: False)
        simulated = SimulatedJobs(sweep, {"all": plan}, store)
        pace = _pace_by_flops(simulated)
        chain = longest_chain(simulated, pace)
        chain_s, whole_s = sum(link.seconds for link in chain), work_s(simulated, pace)
        saves = releases = 0

        def saved(planned_job: PlannedJob, step: int) -> None:
            nonlocal saves, releases
            saves += 1
            if planned_job.job.kind == "trunk":
                releases += any(b.job.cut == step for b in simulated.branches[planned_job.job.id])

        began = time.perf_counter()
        simulation = Simulation(simulated, nodes, pace, RETRIES, faults=faults, on_saved=saved)
        makespan_s = simulation.run()
        took_s = time.perf_counter() - began
        left = sum(1 for _ in simulated.unfinished())
    observations = sum(job.kind != "trunk" for job in plan.jobs)
    files = len(plan.jobs) + 2 * observations + 4 * len(simulation.stays) + 3 * (saves + observations)
    calls = {
        "sbatch": submissions,
        "squeue": 1 + releases,
        "scontrol": 3 + releases + simulation.preempted,
    }
    bound_s = max(chain_s, whole_s / nodes)
    return {
        "jobs": len(plan.jobs),
        "nodes": nodes,
        "unfinished": left,
        "attempts": len(simulation.stays),
        "preempted": simulation.preempted,
        "died": simulation.died,
        "lost_share": simulation.lost_s / whole_s,
        "makespan_s": makespan_s,
        "bound_s": bound_s,
        "chain_s": chain_s,
        "over_bound": makespan_s / bound_s,
        "calls": calls,
        "calls_a_minute": sum(calls.values()) / (makespan_s / 60),
        "files_a_job": files / len(plan.jobs),
        "simulated_in_s": took_s,
    }


def _submissions(sweep_jobs: SweepJobs) -> int:
    """Calls to sbatch that a launch of these jobs makes."""
    launcher = read_launcher("slurm", compose_launcher("slurm", []))
    rehearsal = launcher.rehearse(LaunchRequest(sweep_jobs, [], Retry()))
    return len(rehearsal.submissions)  # type: ignore[attr-defined]


def _pace_by_flops(jobs: SweepJobs) -> Callable[[PlannedJob], Pace]:
    """Trunks of TRUNK_HOURS on average; a minute of start, evaluation and saving an attempt."""
    trunks = [p for p in jobs.by_id.values() if p.job.kind == "trunk"]
    flops_per_s = sum(p.flops for p in trunks) / len(trunks) / (TRUNK_HOURS * 3600)

    def pace(planned_job: PlannedJob) -> Pace:
        return Pace(planned_job.flops / max(1, planned_job.steps_to_train) / flops_per_s, 60.0)

    return pace


def beside_the_demo(workspace: Workspace, workers: int = 2) -> dict[str, Any]:
    """Launch by launch: real starts and ends, and those of the simulation with the jobs' own durations."""
    sweep = workspace.sweep("demo")
    store = ThoughtStore(lambda job: False)
    launches = []
    for stage, plan in sweep.plans().items():
        jobs = SimulatedJobs(sweep, {stage: plan}, store)
        real = _real_stays(jobs, {b for launch in launches for b in launch["ids"]})
        durations = {
            job: Pace(train_s / max(1, steps), beside_s) for job, _, _, train_s, steps, beside_s in real
        }
        simulation = Simulation(jobs, workers, lambda p, d=durations: d[p.job.id], RETRIES)  # type: ignore[misc]
        makespan_s = simulation.run()
        order = [stay.planned_job.job.id for stay in simulation.stays]
        begun_s = {stay.planned_job.job.id: stay.begun_s for stay in simulation.stays}
        first_s = min(row[1] for row in real)
        launches.append(
            {
                "stage": stage,
                "ids": order,
                "jobs": len(real),
                "real_s": max(row[2] for row in real) - first_s,
                "simulated_s": makespan_s,
                "same_order": [row[0] for row in real] == order,
                "in_place": sum(a[0] == b for a, b in zip(real, order, strict=False)),
                "start_off_s": max(abs(row[1] - first_s - begun_s[row[0]]) for row in real),
            }
        )
    return {"launches": [{k: v for k, v in launch.items() if k != "ids"} for launch in launches]}


def _real_stays(jobs: SweepJobs, before: set[str]) -> list[tuple[str, float, float, float, int, float]]:
    """Job, start, end, seconds of training, steps and seconds beside them, in the order of starts; of a job
    that an earlier stage had begun, its second attempt."""
    rows = []
    for planned_job in jobs.by_id.values():
        every = attempts.every(planned_job.folder)
        facts = every[-1 if planned_job.job.id in before else 0].facts
        if facts.started is None or facts.ended is None or facts.train_s is None:
            continue
        steps = (facts.end_step or 0) - (facts.start_step or 0)
        beside_s = max(0.0, facts.ended - facts.started - facts.train_s)
        rows.append((planned_job.job.id, facts.started, facts.ended, facts.train_s, steps, beside_s))
    return sorted(rows, key=lambda row: row[1])


def main() -> None:
    """Measure and print."""
    summary = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=summary)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--preemptions", type=float, default=0.05)
    parser.add_argument("--failures", type=float, default=0.002)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--demo", type=Path)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    faults = Faults(arguments.preemptions, arguments.failures, seed=arguments.seed)
    result = scale(arguments.jobs, arguments.nodes, faults)
    demo = beside_the_demo(Workspace(arguments.demo.absolute())) if arguments.demo else None
    if arguments.json:
        print(json.dumps({"machine": machine(), "scale": result, "demo": demo}, indent=1))
        return
    _show(result, demo)


def _show(result: dict[str, Any], demo: dict[str, Any] | None) -> None:
    print(f"scale; {machine()}")
    print(
        f"  {result['jobs']:,} jobs on {result['nodes']:,} nodes: {result['attempts']:,} attempts, "
        f"{result['preempted']:,} preempted, {result['died']:,} died ({result['lost_share']:.2%} of the work "
        f"lost), {result['unfinished']} unfinished"
    )
    print(
        f"  makespan {result['makespan_s'] / 3600:.1f} h, {result['over_bound']:.3f} times the bound of "
        f"{result['bound_s'] / 3600:.1f} h (longest chain {result['chain_s'] / 3600:.1f} h; goal {GOAL})"
    )
    calls = ", ".join(f"{name} {count:,}" for name, count in result["calls"].items())
    print(f"  calls to the controller: {calls}; {result['calls_a_minute']:.1f} a minute")
    print(
        f"  files written a job: {result['files_a_job']:.1f}; simulated in {result['simulated_in_s']:.0f} s"
    )
    for launch in (demo or {"launches": []})["launches"]:
        print(
            f"  demo, stage {launch['stage']}: {launch['jobs']} jobs, {launch['real_s']:.1f} s, simulated "
            f"{launch['simulated_s']:.1f} s; {launch['in_place']} starts in their real place, "
            f"at most {launch['start_off_s']:.1f} s off"
        )


if __name__ == "__main__":
    main()
