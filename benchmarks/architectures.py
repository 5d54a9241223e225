"""Training speed of each architecture at the demo's middle rung, beside the default's; fp32, one CPU thread.

python -m benchmarks.architectures [--rounds N] [--only NAME,...] [--json]

Each is trained as jobs train it, data loading included, the others in turns with it. An architecture passes
where an update takes at most 1.5 times as long as its exact FLOPs take in the default model.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from pathlib import Path
from typing import Any

DEFAULT = "default"
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    DEFAULT: (),
    "relu": ("model.activation=relu",),
    "gelu": ("model.activation=gelu",),
    "swiglu": ("model.activation=swiglu",),
    "layernorm": ("model.norm=layernorm",),
    "vector gains": ("model.gains=true",),
    "scalar gains": ("model.gains=scalar",),
    "biases": ("model.biases=true",),
    "learned positions": ("model.positions=learned",),
    "tied": ("model.tied=true",),
    "gqa 3": ("model.queries_per_kv=3",),
    "qk norm": ("model.qk_norm=true",),
    "gpt2": ("model=gpt2",),
    "llama": ("model=llama",),
    "llama3": ("model=llama3", "model.queries_per_kv=3"),
    "qwen3": ("model=qwen3", "model.queries_per_kv=3"),
    "moe 8 top 2": ("model=moe",),
    "moe by biases": ("model=moe", "model.experts.balance_loss=0", "model.experts.bias_rate=0.001"),
    "moe 64 top 6": ("model=moe_deepseek",),
    "linear": ("model=linear",),
    "hybrid 2:1": ("model=hybrid", "model.mixers=[linear,linear,softmax]"),
}
"""Name -> overrides of the demo. The rung has three heads, which decides how many can share a key, and three
layers, of which one in eight could not be softmax."""
DEPTH = 3
BATCHES = ((8, 32), (16, 128))
"""Rows and context: the demo's own batch, and a longer one."""
LIMIT = 1.5


def measure(corpus: Path, names: list[str], rounds: int) -> list[dict[str, Any]]:
    """One row a batch and architecture."""
    from benchmarks.side_by_side import demo_update, ratio, take_turns
    from sweepctl.spec.execution import Execution

    table = []
    for rows, context in BATCHES:
        size = [f"ladder.depths=[{DEPTH}]", f"batch.tokens={rows * context}", f"batch.context={context}"]
        updates = {
            name: demo_update(corpus, [*size, *ARCHITECTURES[name]], Execution(device="cpu"))
            for name in names
        }
        gc.collect()
        gc.freeze()
        seconds = take_turns(
            [action for action, _, _ in updates.values()], rounds, max(1, 4096 // (rows * context))
        )
        times = dict(zip(updates, seconds, strict=True))
        for name, (_, flops, _) in updates.items():
            share = updates[DEFAULT][1] / flops
            per_flop = [share * value for value in ratio(times[name], times[DEFAULT])]
            table.append(
                {
                    "batch": f"{rows}x{context}",
                    "architecture": name,
                    "tokens_per_s": round(rows * context / sorted(times[name])[rounds // 2]),
                    "flops_per_token": flops,
                    "time_per_flop": [round(value, 3) for value in per_flop],
                    "passes": per_flop[0] <= LIMIT,
                }
            )
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(ARCHITECTURES))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    from benchmarks.side_by_side import corpus, machine

    names = [DEFAULT, *(name for name in arguments.only if name != DEFAULT)]
    with corpus() as folder:
        rows = measure(folder, names, arguments.rounds)
    if arguments.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=1))
        return
    print(f"training {16 * DEPTH}x{DEPTH}, fp32, eager, 1 thread; {machine()}")
    print("time per FLOP: median and quartiles over that of the default")
    print("| batch | architecture | tokens/s | FLOPs a token | time per FLOP | at most 1.5 |")
    print("| --- | --- | --- | --- | --- | --- |")
    for row in rows:
        middle, low, high = row["time_per_flop"]
        speed = (
            f"{row['tokens_per_s']:,} | {row['flops_per_token']:,} | {middle:.2f} ({low:.2f} to {high:.2f})"
        )
        print(f"| {row['batch']} | {row['architecture']} | {speed} | {'yes' if row['passes'] else 'NO'} |")


if __name__ == "__main__":
    main()
