"""Seconds of one update with each optimizer over AdamW's: fp32, eager, one thread, data loading included.

python -m benchmarks.optimizers [--rounds N] [--json]

All take turns in one process. `FLOPs` are an update's with Muon's matrix products over those without.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from pathlib import Path
from typing import Any

from benchmarks.training import CONTEXT, ROWS, ours

SHAPES = ((48, 3), (128, 4))
NAMES = ("adamw", "lion", "sgd", "muon")


def measure(corpus: Path, d_model: int, n_layers: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of an update by optimizer, and ratios to AdamW's with quartiles."""
    from benchmarks.side_by_side import ratio, take_turns

    updates = [ours(corpus, d_model, n_layers, "auto", (f"optimizer={name}",)) for name in NAMES]
    gc.collect()
    gc.freeze()
    actions, inner = [action for action, _ in updates], max(1, 60_000 // (d_model**2 * n_layers))
    seconds = dict(zip(NAMES, take_turns(actions, rounds, inner), strict=True))
    row: dict[str, Any] = {"shape": f"{d_model}x{n_layers}"}
    for name, times in seconds.items():
        row[name] = {
            "ms": round(1000 * sorted(times)[len(times) // 2], 2),
            "over adamw": [round(r, 3) for r in ratio(times, seconds["adamw"])],
        }
    flops = ROWS * CONTEXT * updates[0][1]  # of every other matrix product of an update
    row["muon"]["FLOPs"] = round(1 + muon_flops(d_model, n_layers) / flops, 3)
    return row


def muon_flops(d_model: int, n_layers: int, steps: int = 5) -> int:
    """Of Newton-Schulz on a layer's four square matrices and its two of one side four times as long."""
    square, wide = (2 * (d_model**2 * side * 2 + d_model**3) for side in (d_model, 4 * d_model))
    return n_layers * steps * (4 * square + 2 * wide)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    from benchmarks.side_by_side import corpus, machine

    with corpus() as folder:
        rows = [measure(folder, *shape, arguments.rounds) for shape in SHAPES]
    if arguments.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=1))
        return
    print(f"updates, fp32, eager, {ROWS}x{CONTEXT} tokens, one thread; {machine()}")
    for row in rows:
        print(f"  {row.pop('shape')}")
        for name, cost in row.items():
            middle, low, high = cost["over adamw"]
            least = f", FLOPs {cost['FLOPs']:.2f}x" if "FLOPs" in cost else ""
            print(f"    {name:6} {cost['ms']:8.2f} ms  {middle:.2f}x ({low:.2f} to {high:.2f}){least}")


if __name__ == "__main__":
    main()
