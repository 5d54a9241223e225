"""How fast plans are made: 100,000 jobs, and 1,000 jobs beside 1,000 warm Hydra composes of the same study.

python -m benchmarks.planning [--jobs N] [--json]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

FACTS = {"digest": "0" * 32, "vocab_size": 256, "train_tokens": 10_000_000, "held_out": ("validation",)}


def study_of(jobs: int) -> Any:
    """A study of about so many jobs: learning rates by seeds, a trunk and nine budgets each."""
    from sweepctl.spec.compose import compose_study

    seeds = max(1, jobs // 1000)
    return compose_study(
        [
            *("stages={}", "ladder.depths=[1,2,3,4]", "budget.flops=[]", "budget.max_tokens=null"),
            *("budget.tokens=[1e6,1.5e6,2e6,3e6,4e6,5e6,6e6,8e6,9e6]", "budget.min_tokens_per_parameter=0"),
            *("grid.axes.optimizer.lr={log: {from: 1e-4, to: 1e-1, count: 25}}",),
            f"grid.axes.seed.init={{seeds: {seeds}}}",
        ]
    )


def plan_many(jobs: int) -> dict[str, Any]:
    """In this process: seconds by part, and the process's peak memory."""
    from sweepctl.plan.cost import total
    from sweepctl.plan.expand import expand
    from sweepctl.plan.plan import load
    from sweepctl.spec.corpus import CorpusFacts

    facts = CorpusFacts(*FACTS.values())  # type: ignore[arg-type]
    parts: dict[str, float] = {}
    began = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal began
        now = time.perf_counter()
        parts[name], began = now - began, now

    study = study_of(jobs)
    lap("compose")
    plan = expand(study, "all", facts)
    lap("expand")
    text, digest = plan.text, plan.hash
    lap("write and hash")
    total(plan)
    lap("cost")
    load(text, digest)
    lap("load")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"jobs": len(plan.jobs), "seconds": parts, "total_s": sum(parts.values()), "peak_mib": peak}


def against_hydra(count: int = 1000) -> dict[str, Any]:
    """Seconds for `count` jobs planned, the one compose of their study included, and for `count` composes."""
    from hydra import compose, initialize_config_dir

    from benchmarks.side_by_side import ratio, take_turns
    from sweepctl.plan.expand import expand
    from sweepctl.resources import conf_dir
    from sweepctl.spec.corpus import CorpusFacts

    facts = CorpusFacts(*FACTS.values())  # type: ignore[arg-type]
    share = 20

    def plan() -> int:
        whole = expand(study_of(count), "all", facts)
        return len(whole.text) and len(whole.jobs)

    def composes() -> None:
        with initialize_config_dir(version_base="1.3", config_dir=str(conf_dir())):
            for i in range(count // share):
                compose("config", overrides=[f"optimizer.lr={1e-4 * (i + 1)}", f"seed.init={i}"])

    planned, composed = take_turns([plan, composes], rounds=5)
    composed = [seconds * share for seconds in composed]
    middle, low, high = ratio(composed, planned)
    return {
        "jobs": plan(),
        "plan_s": sorted(planned)[2],
        "composes_s": sorted(composed)[2],
        "ratio": [middle, low, high],
    }


def main() -> None:
    """Measure and print; the large plan in a process of its own, for its memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_process:
        print(json.dumps(plan_many(arguments.jobs)))
        return
    from benchmarks.side_by_side import machine

    command = [sys.executable, "-m", "benchmarks.planning", "--in-process", "--jobs", str(arguments.jobs)]
    many = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    pair = against_hydra()
    if arguments.json:
        print(json.dumps({"machine": machine(), "large": many, "hydra": pair}, indent=1))
        return
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in many["seconds"].items())
    print(f"planning; {machine()}")
    print(
        f"  {many['jobs']:,} jobs: {many['total_s']:.2f} s ({parts}), {many['peak_mib']:.0f} MiB at the peak"
    )
    middle, low, high = pair["ratio"]
    print(
        f"  {pair['jobs']:,} jobs, warm: {pair['plan_s'] * 1000:.0f} ms; 1,000 warm Hydra composes ", end=""
    )
    print(f"{pair['composes_s']:.1f} s: {middle:.0f}x ({low:.0f} to {high:.0f})")


if __name__ == "__main__":
    main()
