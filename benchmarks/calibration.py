"""Whether the interval of a run holds the runs that come afterwards: coverage and width of 95 % intervals of
runs that the law was not fitted to, by table.

python -m benchmarks.calibration [--data FOLDER] [--synthetic N] [--json]

Ten sweeps of the demo, and ten of the demo as it first was, predict their largest rung from the smaller
ones, as they did before it was trained, and one rung less. Published tables (those of FOLDER that are
there) predict their larger sizes, one after another, each from what is smaller; laws of compute only the
best run of a budget. Synthetic truths have scatter of runs alone, of trunks too, of rungs too (trunks
without a name), or another form than the law's, (A / N^alpha + B / D^beta)^k. Width is half an interval as
a share of the loss; what the errors needed is 1.96 times their root mean square.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from sweepctl.errors import RequestError
from sweepctl.fitting.fit import fit_and_test
from sweepctl.laws.fit import Prediction, Target
from sweepctl.laws.holdout import TOLERANCE
from sweepctl.laws.law import Law
from sweepctl.laws.observations import Observations
from sweepctl.laws.registry import LAWS
from sweepctl.laws.shared.levels import levels

ROOT = Path(__file__).parents[1]
RECORDED = Path(__file__).parent / "data"
WRITTEN_DOWN = RECORDED / "first_demo_predictions.csv"
PARAMETRIC, OVERTRAINING = LAWS["parametric"], LAWS["overtraining"]
SIZES, LARGEST = 4, 8
"""Sizes that a published table's law stands on at least, and how many of its larger ones are predicted."""
NORMAL = 1.96
KINDS = ("runs", "trunks", "rungs", "misfit")


class Case(NamedTuple):
    """Rows to fit, and rows that came afterwards."""

    table: str
    """What it is counted under."""
    law: Law
    """Which is fitted."""
    fitted: Observations
    """The smaller ones."""
    later: Observations
    """Those that are predicted."""


@dataclass(frozen=True)
class Coverage:
    """What came of the predictions of a table, [rows] each."""

    inside: Any
    """Whether the interval held the run."""
    error: Any
    """Logarithm of predicted over measured."""
    half: Any
    """Half the interval, in logarithms."""

    def record(self) -> dict[str, float]:
        """Figures of a line."""
        rms, width = float(np.sqrt(np.mean(self.error**2))), float(np.mean(self.half))
        return {
            "runs": len(self.inside), "inside": int(self.inside.sum()), "coverage": float(self.inside.mean()),
            "rms_error": rms, "width": width, "width_over_needed": width / (NORMAL * rms),
        }  # fmt: skip


def demo_seeds(law: Law = PARAMETRIC, demo: str = "demo") -> Iterator[Case]:
    """The largest rung of each sweep from the smaller ones, and the one before it from three; of the demo, or
    of the `first demo`."""
    recorded = RECORDED / f"{demo.replace(' ', '_')}_seeds.csv"
    for _, sweep in pd.read_csv(recorded).groupby("sweep_seed"):
        data = Observations.of(
            n=sweep["n_with_head"], d=sweep["tokens"], loss=sweep["loss_nats"], trunk=sweep["rung"]
        )
        yield from _larger(f"{demo}, ten seeds ({law.name})", law, data, "n", 4, 1)
        if law is PARAMETRIC:
            below = data.take(np.flatnonzero(sweep["stage"] == "lower"))
            yield from _larger(f"{demo}, one rung less", law, below, "n", 3, 1)


def written_down() -> Coverage:
    """What was written down for the largest rungs before they were trained, when rows counted as independent
    and the law's form as true."""
    rows = pd.read_csv(WRITTEN_DOWN)
    inside = rows["measured"].between(rows["low"], rows["high"])
    error, half = np.log(rows["predicted"] / rows["measured"]), np.log(rows["high"] / rows["low"]) / 2
    return Coverage(inside.to_numpy(), error.to_numpy(), half.to_numpy())


def published(folder: Path) -> Iterator[Case]:
    """The tables that are there."""
    for name, read in (("chinchilla_besiroglu/runs.csv", _chinchilla), ("gemstones/runs.csv", _gemstones),
                       ("olmo_ladder/points.csv", _olmo), ("steplaw/dense_runs.csv", _steplaw)):  # fmt: skip
        if (folder / name).exists():
            yield from read(pd.read_csv(folder / name))
        else:
            print(f"{folder / name} is not there: left out", file=sys.stderr)


def _chinchilla(frame: pd.DataFrame) -> Iterator[Case]:
    frame = frame[5:]
    n, d, loss = (frame[c] for c in ("model_params", "training_tokens", "loss_nats"))
    data = Observations.of(n=n, d=d, flops=6 * n * d, loss=loss)
    for law in (PARAMETRIC, OVERTRAINING):
        yield from _larger(f"Chinchilla by size ({law.name})", law, data, "n", SIZES, LARGEST)
    yield from _larger("Chinchilla by budget (parametric)", PARAMETRIC, data, "flops", SIZES, LARGEST)
    for name in ("isoflop", "compute"):
        for case in _larger(f"Chinchilla by budget ({name})", LAWS[name], data, "flops", SIZES, LARGEST):
            yield case._replace(later=case.later.take([int(np.argmin(case.later.loss))]))


def _gemstones(frame: pd.DataFrame) -> Iterator[Case]:
    frame = frame[frame["subset"] == "hot"]
    n, d, loss = (frame[c] for c in ("params_total", "tokens", "loss_nats"))
    data = Observations.of(n=n, d=d, loss=loss, run=frame["run_name"])
    yield from _larger("Gemstones", PARAMETRIC, data, "n", SIZES, LARGEST)


def _olmo(frame: pd.DataFrame) -> Iterator[Case]:
    ends = frame.sort_values("ckpt_index").groupby(["task", "run"]).last().reset_index()
    for task, rows in ends.groupby("task"):
        columns = ["task_bpb", *(["c4_loss_nats"] if task == ends["task"].min() else [])]
        for column in columns:
            there = rows.dropna(subset=[column])
            n, d = there["params_non_embedding"], there["train_tokens"]
            data = Observations.of(n=n, d=d, loss=there[column])
            yield from _larger("OLMo ladder", PARAMETRIC, data, "n", 3, LARGEST)


def _steplaw(frame: pd.DataFrame) -> Iterator[Case]:
    best = frame.loc[frame.groupby(["params_non_embedding", "train_tokens"])["smooth_loss_nats"].idxmin()]
    n, d = best["params_non_embedding"], best["train_tokens"]
    data = Observations.of(n=n, d=d, flops=6.0 * n * d, loss=best["smooth_loss_nats"])
    for role in ("n", "d", "flops"):
        yield from _larger("StepLaw, best runs", PARAMETRIC, data, role, 3, LARGEST)


def _larger(table: str, law: Law, data: Observations, role: str, least: int, most: int) -> Iterator[Case]:
    """The `most` largest levels of a role, each with those below it, `least` of them at least."""
    place = levels(data[role], TOLERANCE)
    top = int(place.max()) + 1
    for level in range(top - 1, max(least, top - most) - 1, -1):
        yield Case(table, law, *(data.take(np.flatnonzero(rows)) for rows in (place < level, place == level)))


def synthetic(count: int) -> Iterator[Case]:
    """Ladders of four to seven sizes, three to seven budgets a trunk, and the next size."""
    for kind in KINDS:
        for seed in range(count):
            yield _ladder(kind, np.random.default_rng(seed))


def _ladder(kind: str, draw: np.random.Generator) -> Case:
    sizes = int(draw.integers(4, 8))
    n = 10 ** draw.uniform(4, 8) * (10 ** draw.uniform(0.25, 0.6)) ** np.arange(sizes + 1)
    alpha, beta = draw.uniform(0.25, 0.55, 2)
    floor, big_a, big_b = draw.uniform(0.8, 2), draw.uniform(0.3, 1.5), draw.uniform(0.3, 1.5)
    power = draw.choice([0.6, 0.8, 1.3, 1.6]) if kind == "misfit" else 1.0
    run, trunk = 10 ** draw.uniform(-3.5, -2.3), 10 ** draw.uniform(-2.5, -1.8)
    rows = []
    for rung, size in enumerate(n):
        common = trunk * draw.standard_normal() if kind in ("trunks", "rungs") else 0.0
        first = 20 * size**0.7 * n[0] ** 0.3 * draw.uniform(0.5, 2)
        for d in first * 2.0 ** np.arange(draw.integers(3, 8)):
            whole = floor + (big_a * (size / n[0]) ** -alpha + big_b * (d / 20 / n[0]) ** -beta) ** power
            rows.append((size, d, whole * np.exp(common + run * draw.standard_normal()), rung))
    columns = dict(zip(("n", "d", "loss", "rung"), map(np.array, zip(*rows, strict=True)), strict=True))
    rung = columns.pop("rung")
    data = Observations.of(**columns, **({} if kind == "rungs" else {"trunk": rung}))
    fitted, later = (data.take(np.flatnonzero(rows)) for rows in (rung < sizes, rung == sizes))
    return Case(f"synthetic, {kind}", PARAMETRIC, fitted, later)


def calibrate(cases: Iterator[Case], replicates: int) -> dict[str, Coverage]:
    """Table -> what came of its predictions; a case that the law refuses is left out."""
    lines: dict[str, list[tuple[bool, float, float]]] = {}
    for case in cases:
        with contextlib.suppress(RequestError):
            fit = fit_and_test(case.law, case.fitted, case.law.options(replicates=replicates))
            roles = next(roles for roles in case.law.targets if all(role in case.later for role in roles))
            for i, measured in enumerate(case.later.loss):
                at = Target({role: float(case.later[role][i]) for role in roles})
                loss = case.law.predict(fit, at)["loss"]
                if isinstance(loss, Prediction) and np.isfinite(loss.value):
                    low, high = loss.run_interval
                    line = low <= measured <= high, np.log(loss.value / measured), np.log(high / low) / 2
                    lines.setdefault(case.table, []).append(line)
    return {table: Coverage(*map(np.array, zip(*rows, strict=True))) for table, rows in lines.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--synthetic", type=int, default=40, help="ladders of each kind")
    parser.add_argument("--replicates", type=int, default=200, help="refits behind the law's own interval")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    def cases() -> Iterator[Case]:
        for demo in ("demo", "first demo"):
            yield from demo_seeds(PARAMETRIC, demo)
            yield from demo_seeds(OVERTRAINING, demo)
        yield from published(arguments.data)
        yield from synthetic(arguments.synthetic)

    by_table = calibrate(cases(), arguments.replicates)
    every = Coverage(*(np.concatenate([getattr(c, name) for c in by_table.values()])
                       for name in ("inside", "error", "half")))  # fmt: skip
    lines = by_table | {"all": every, "first demo, as it was written down": written_down()}
    records = {name: coverage.record() for name, coverage in lines.items()}
    if arguments.json:
        print(json.dumps(records, indent=1))
        return
    print(f"{'':36s} runs  inside  coverage  rms error    width  width / needed")
    for name, r in records.items():
        print(
            f"{name:36s} {r['runs']:4.0f} {r['inside']:7.0f} {r['coverage']:9.1%} {r['rms_error']:10.2%} "
            f"{r['width']:8.2%} {r['width_over_needed']:15.2f}"
        )


if __name__ == "__main__":
    main()
