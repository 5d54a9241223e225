"""Tokens a second of training on this CPU: fp32, eager, the demo's architecture; beside nanoGPT
where --peer names it.

python -m benchmarks.training [--peer PATH] [--threads N] [--rounds N] [--json]

The peer is a checkout of github.com/karpathy/nanoGPT: its GPT and its optimizer, stepped as its train.py
does (zero_grad, forward, backward, clip, step), on tensors made beforehand. Ours is the trainer as jobs use
it, its data loading included, with each matrix product that it can choose.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

SHAPES = ((32, 2), (64, 4), (128, 8))
ROWS, CONTEXT, VOCAB = 16, 128, 256


def ours(
    corpus: Path, d_model: int, n_layers: int, gemm: str, more: Sequence[str] = ()
) -> tuple[Callable[[], object], int]:
    """One update of the trainer, of the demo with `more` overrides, and its exact FLOPs a token."""
    from benchmarks.side_by_side import demo_update
    from sweepctl.spec.execution import Execution

    shape = f"{{d_model: {d_model}, n_layers: {n_layers}, n_heads: {d_model // 16}, d_ff: {4 * d_model}}}"
    size = ["ladder.aspect=null", "ladder.head_size=null", "ladder.d_ff_ratio=null", "ladder.depths=[]"]
    size += [f"ladder.table=[{shape}]", f"batch.tokens={ROWS * CONTEXT}", f"batch.context={CONTEXT}"]
    execution = Execution(device="cpu", gemm=gemm)  # type: ignore[arg-type]
    action, flops, _ = demo_update(corpus, [*size, *more], execution)
    return action, flops


def measure(arguments: argparse.Namespace, corpus: Path) -> list[dict[str, Any]]:
    """One row a shape."""
    from benchmarks.nanogpt import update_of
    from benchmarks.side_by_side import ratio, take_turns

    rows = []
    for d_model, n_layers in SHAPES:
        actions = {f"ours ({gemm})": ours(corpus, d_model, n_layers, gemm)[0] for gemm in ("auto", "torch")}
        if arguments.peer:
            shape = (d_model, n_layers, d_model // 16)
            actions["nanoGPT"] = update_of(arguments.peer, shape, ROWS, CONTEXT, VOCAB)
        inner = max(1, 2_000_000 // (d_model**2 * n_layers * 16))
        gc.collect()
        gc.freeze()
        seconds = dict(zip(actions, take_turns(list(actions.values()), arguments.rounds, inner), strict=True))
        row: dict[str, Any] = {"shape": f"{d_model}x{n_layers}"}
        for name, times in seconds.items():
            row[f"{name} tokens/s"] = round(ROWS * CONTEXT / sorted(times)[len(times) // 2])
        if arguments.peer:
            for name in list(seconds)[:-1]:
                row[f"{name} over nanoGPT"] = [round(r, 3) for r in ratio(seconds["nanoGPT"], seconds[name])]
        rows.append(row)
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    from benchmarks.side_by_side import corpus, machine

    with corpus() as folder:
        rows = measure(arguments, folder)
    if arguments.json:
        print(json.dumps({"machine": machine(), "threads": arguments.threads, "rows": rows}, indent=1))
        return
    print(f"training, fp32, eager, {ROWS}x{CONTEXT} tokens, {arguments.threads} thread(s); {machine()}")
    for row in rows:
        print(f"  {row.pop('shape')}")
        for name, value in row.items():
            print(f"    {name:28} {_shown(value)}")


def _shown(value: Any) -> str:
    return f"{value[0]:.2f}x ({value[1]:.2f} to {value[2]:.2f})" if isinstance(value, list) else f"{value:,}"


if __name__ == "__main__":
    main()
