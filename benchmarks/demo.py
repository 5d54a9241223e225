"""What `make demo` promises, held against what is in its workspace.

python -m benchmarks.demo        exit code 1 where a promise is not kept
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pandas as pd

from benchmarks.side_by_side import machine
from sweepctl.store.workspace import Workspace

LARGEST_ERROR, WIDEST, LEAST_SAVING, LEAST_STEP = 0.025, 0.3, 1.5, 1.7


def promises(report: dict[str, Any]) -> Iterator[tuple[str, str, bool]]:
    """What is promised, what came out, whether it holds."""
    scored = [row for row in report["scores"]["top"] if row["d"] >= row["n"]]
    worst = max(abs(row["error"] or float("inf")) for row in scored)
    yield (
        f"the largest rung at its {len(scored)} budgets, predicted beforehand within {LARGEST_ERROR:.1%}",
        ", ".join(f"{row['error']:+.2%}" for row in scored),
        len(scored) >= 4 and worst <= LARGEST_ERROR,
    )
    sizes = sorted({row["n_with_head"] for row in report["runs"]})
    step = sizes[-1] / sizes[-2]
    yield f"which has {LEAST_STEP} times the parameters of the next", f"{step:.2f}", step >= LEAST_STEP
    a = {
        law: ((fit["params"] | fit["derived"])["a"], fit["intervals"]["a"])
        for law, fit in report["fits"].items()
    }
    (low, high), (low_, high_) = (bounds for _, bounds in a.values())
    yield (
        f"exponents of N* agree, and are known to {WIDEST}",
        "; ".join(f"{law} {value:.3f} [{b[0]:.3f}, {b[1]:.3f}]" for law, (value, b) in a.items()),
        max(low, low_) <= min(high, high_) and max(high - low, high_ - low_) <= WIDEST,
    )
    saving = report["whole"]["saving"]
    yield (
        f"fewer tokens than from scratch, {LEAST_SAVING} times at least",
        f"{saving:.2f}",
        saving >= LEAST_SAVING,
    )


def main() -> None:
    """Read the demo's report and judge it."""
    command = [sys.executable, "-m", "sweepctl", "report", "demo", "--json"]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if shown.returncode:  # it has said why
        raise SystemExit(shown.returncode)
    report = json.loads(shown.stdout)
    attempts = pd.read_parquet(Workspace.default().sweep("demo").folder / "attempts.parquet")
    print(f"the demo; {machine()}")
    print(f"  {attempts['train_s'].sum():.0f} s of training, summed over the workers")
    kept = True
    for what, outcome, holds in promises(report):
        kept &= holds
        print(f"  {'yes' if holds else 'NO '}  {what}: {outcome}")
    raise SystemExit(0 if kept else 1)


if __name__ == "__main__":
    main()
