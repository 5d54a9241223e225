"""Tokens a second and MFU of training on a GPU, eager and compiled, bf16, for rungs of 10M to 1B parameters;
beside nanoGPT on the same shape where --peer names it.

python -m benchmarks.gpu [--peer PATH] [--depths 6,8,...] [--rounds N] [--device cuda|cpu] [--json]

The ladder is of width 64 L with heads of 64, d_ff 4 d. `ours` is the demo's decoder, `gpt2` has nanoGPT's own
parts (learned positions, LayerNorm, GELU, tied), so that both multiply the same. MFU is exact matrix products
over the dense bf16 peak of the device, none for a device that is not in the table.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTEXT, VOCAB = 1024, 50304
DEPTHS = (6, 8, 12, 16, 20, 28)
"""12 L (64 L)^2 hidden parameters: 10.6M, 25M, 85M, 201M, 393M, 1.08B."""
GPT2 = ("model.positions=learned", "model.norm=layernorm", "model.activation=gelu", "model.tied=true")
GPT2 += ("model.gains=true", "parametrization.zero_head=false")


def measure(size: argparse.Namespace, corpus: Path) -> list[dict[str, Any]]:
    """One row a rung, a mode and a model; the models of a row's rung and mode were timed in turns."""
    from benchmarks.nanogpt import update_of
    from benchmarks.side_by_side import demo_update, ratio, take_turns
    from sweepctl.spec.execution import Execution

    rows = []
    for depth in size.depths:
        batch = max(2, min(64, 2**22 // (depth * 64 * depth)) // 2 * 2) if size.rows is None else size.rows
        rung = ["ladder.aspect=64", "ladder.head_size=64", f"ladder.depths=[{depth}]", "precision=bf16"]
        rung += [f"batch.tokens={batch * size.context}", f"batch.context={size.context}"]
        for compiled in (False, True):
            execution = Execution(device=size.device, compile=compiled)
            facts: dict[str, tuple[int, float | None]] = {}
            actions: dict[str, Callable[[], object]] = {}
            for name, overrides in (("ours", ()), ("ours, gpt2", GPT2)):
                action, flops, peak = demo_update(corpus, [*rung, *overrides], execution)
                actions[name], facts[name] = action, (flops, peak)
            if size.peer:
                shape = (64 * depth, depth, depth)
                actions["nanoGPT"] = update_of(
                    size.peer, shape, batch, size.context, VOCAB, size.device, True, compiled
                )
                facts["nanoGPT"] = facts["ours, gpt2"]
            for action in actions.values():  # compilation, and the allocator's first meetings
                for _ in range(3):
                    action()
            seconds = take_turns(list(actions.values()), size.rounds, size.inner)
            times = dict(zip(actions, seconds, strict=True))
            for name in actions:
                rate = batch * size.context / sorted(times[name])[size.rounds // 2]
                flops, peak = facts[name]
                row = {
                    "rung": f"{64 * depth}x{depth}",
                    "mode": "compiled" if compiled else "eager",
                    "model": name,
                    "rows": batch,
                    "tokens_per_s": round(rate),
                    "mfu": rate * flops / peak if peak else None,
                }
                if size.peer and name != "nanoGPT":
                    row["over_nanogpt"] = ratio(times["nanoGPT"], times[name])
                rows.append(row)
                print(_line(row), flush=True) if not size.json else None
            actions.clear()
            gc.collect()
            _empty_cache()
    return rows


def random_corpus(folder: Path) -> Path:
    """Tokens drawn evenly from the vocabulary: speed does not depend on what they say."""
    import numpy as np

    from sweepctl.data.prepare import accept_flat

    draw = np.random.default_rng(0)
    for name, tokens in (("train", 20_000_000), ("held_out", 200_000)):
        draw.integers(0, VOCAB, tokens, dtype=np.uint16).tofile(folder / f"{name}.bin")
    corpus = folder / "data" / "pysrc"
    accept_flat(corpus, [folder / "train.bin"], [folder / "held_out.bin"], "uint16", VOCAB)
    return corpus


def _empty_cache() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    torch.compiler.reset()


def _line(row: dict[str, Any]) -> str:
    mfu = f"{row['mfu']:.1%} MFU" if row["mfu"] is not None else "no peak known"
    beside = row.get("over_nanogpt")
    against = f"  {beside[0]:.2f}x nanoGPT ({beside[1]:.2f} to {beside[2]:.2f})" if beside else ""
    speed = f"{row['tokens_per_s']:>9,} tokens/s"
    return f"  {row['rung']:8} {row['mode']:8} {row['model']:11} {speed}  {mfu}{against}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, help="a checkout of nanoGPT")
    parser.add_argument("--depths", type=lambda text: [int(x) for x in text.split(",")], default=list(DEPTHS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--inner", type=int, default=5, help="updates a round")
    parser.add_argument("--rows", type=int, help="sequences an update; by default what fits 80 GB")
    parser.add_argument("--context", type=int, default=CONTEXT)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SWEEPCTL_HOME"] = folder
        from benchmarks.side_by_side import machine

        corpus = random_corpus(Path(folder))
        print(f"training, bf16, {arguments.context} tokens a sequence, vocabulary {VOCAB}; {machine()}")
        rows = measure(arguments, corpus)
    if arguments.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
