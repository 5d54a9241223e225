"""How fast the parametric law is fitted to the 240 Chinchilla points: the search from the 4,500 published
starts, the search of the default grid, and 4,000 bootstrap refits, all on one core.

python -m benchmarks.laws [--published PATH | --table CSV --n COL --d COL --loss COL --drop K] [--json]

Without a table, one of the same size and ranges is made from the law. PATH is a checkout of
epoch-research/analyzing-chinchilla: its table is used, and its notebook's own cells are timed beside (a
minute or two; they need autograd). Seconds are those of the clock and those of the core: other work on the
machine lengthens the first. Ratios are of the second.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd

STARTS, BOOTSTRAPS = 4500, 4000
SEARCH, GRID, REFITS = f"search, {STARTS:,} starts", "search, grid of 49", f"{BOOTSTRAPS:,} bootstraps"
CELLS = {
    "table": "pd.read_csv('data/svg_extracted_data.csv')",
    "excluded": "nr_of_models_excluded = 5",
    "rows": "np.random.seed(42)",
    "objective": "def huber_loss_objective(",
    SEARCH: "product(alpha_vals, beta_vals, e_vals, a_vals, b_vals)",
    REFITS: "for num, indices in enumerate(random_indices):",
}
"""What the notebook's cells are told apart by, in the order in which they are run."""


def synthetic(rows: int = 240) -> pd.DataFrame:
    """Sizes and tokens in the ranges of figure 4 of Hoffmann et al., losses by the law with 0.5 % noise."""
    draw = np.random.default_rng(0)
    n = np.exp(draw.uniform(np.log(5e7), np.log(1.6e10), rows))
    flops = np.exp(draw.uniform(np.log(1e19), np.log(3e21), rows))
    d = flops / 6 / n
    loss = (1.82 + 478 / n**0.347 + 2143 / d**0.367) * np.exp(0.005 * draw.standard_normal(rows))
    return pd.DataFrame({"n": n, "d": d, "loss": loss})


def table(arguments: argparse.Namespace) -> tuple[pd.DataFrame, str]:
    """The rows to fit as columns n, d and loss, and where they are from."""
    if arguments.published is not None:
        frame = pd.read_csv(arguments.published / "data" / "svg_extracted_data.csv")
        n, flops = frame["Model Size"], frame["Training FLOP"]
        frame, origin = pd.DataFrame({"n": n, "d": flops / (6.0 * n), "loss": frame["loss"]}), "published"
        arguments.drop = 5
    elif arguments.table is not None:
        frame, origin = pd.read_csv(arguments.table), arguments.table.name
        names = {arguments.n: "n", arguments.d: "d", arguments.loss: "loss"}
        frame = frame.rename(columns=names)[["n", "d", "loss"]].astype(float).dropna()
    else:
        return synthetic(), "synthetic"
    return frame.sort_values("loss").iloc[: len(frame) - arguments.drop].sort_index(), origin


def actions(frame: pd.DataFrame) -> dict[str, Callable[[], Any]]:
    """What is timed."""
    from sweepctl.laws.parametric.search import Options, refit, solve

    n, d, loss = (frame[name].to_numpy() for name in ("n", "d", "loss"))
    draw = np.random.RandomState(42)
    weights = np.stack([
        np.bincount(draw.choice(len(n), len(n)), minlength=len(n)) for _ in range(BOOTSTRAPS)
    ]).astype(np.float64)  # fmt: skip
    whole = solve(n, d, loss, Options())
    return {
        SEARCH: lambda: solve(n, d, loss, Options(starts="hoffmann")),
        GRID: lambda: solve(n, d, loss, Options()),
        REFITS: lambda: refit(n, d, loss, Options(), whole, weights),
    }


def published(path: Path) -> dict[str, Any]:
    """Seconds of the notebook's search and of its bootstraps, in a process of its own; and their answers."""
    code = [sys.executable, "-m", "benchmarks.laws", "--run-notebook", str(path.resolve())]
    lines = subprocess.run(code, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    answers: dict[str, Any] = json.loads(lines[-1])
    return answers


def run_notebook(path: Path) -> None:
    """Run the cells in a fresh namespace, in their order; the last line printed says what was found."""
    import warnings

    warnings.filterwarnings("ignore")
    cells = [
        "".join(cell["source"]) for cell in json.loads((path / "data_analysis.ipynb").read_text())["cells"]
    ]
    os.chdir(path)
    names: dict[str, Any] = {"pd": pd, "np": np, "grad": import_module("autograd").grad}
    seconds: dict[str, list[float]] = {}
    for name, mark in CELLS.items():
        source = next(text for text in cells if mark in text)
        seconds[name] = list(timed(lambda source=source: exec(source, names)))  # type: ignore[misc]
    low, high = np.percentile(names["param_list"][:, 3], [2.5, 97.5])
    losses = [result["loss"] for result in names["results_dict"].values()]
    answers = {SEARCH: [len(losses), float(min(losses))], REFITS: [float(low), float(high)]}
    print("\n" + json.dumps({"seconds": {k: seconds[k] for k in (SEARCH, REFITS)}, "answers": answers}))


def timed(action: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the clock and of the core."""
    began, used = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - began, time.process_time() - used


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians of ours, what was found, and the published code's beside them."""
    frame, origin = table(arguments)
    todo = actions(frame)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in todo}
    for turn in range(arguments.rounds + 1):
        for name, action in todo.items():
            spent = timed(action)
            if turn:
                seconds[name].append(spent)
    search, refits = todo[SEARCH](), todo[REFITS]()
    result: dict[str, Any] = {
        "table": origin,
        "rows": len(frame),
        "seconds": {name: [statistics.median(part) for part in zip(*spent, strict=True)]
                    for name, spent in seconds.items()},
        "starts": search.starts,
        "restarted": search.restarted,
        "objective": float(search.objectives[0]),
        "alpha_interval": np.percentile(refits.parameters[:, 3], [2.5, 97.5]).tolist(),
    }  # fmt: skip
    if arguments.published is not None:
        result["published"] = published(arguments.published)
        theirs, ours = result["published"]["seconds"], result["seconds"]
        result["ratio"] = {name: theirs[name][1] / ours[name][1] for name in theirs}
    return result


def show(result: dict[str, Any]) -> None:
    """The table on the screen."""
    from rich.console import Console
    from rich.table import Table

    from benchmarks.side_by_side import machine

    peer = result.get("published")
    out = Table(title=f"parametric law, {result['rows']} {result['table']} rows; {machine()}")
    columns = ["", "s", "core s", *(("published code, s", "core s", "ratio") if peer else ())]
    for column in columns:
        out.add_column(column, justify="right" if column else "left")
    for name, (wall, core) in result["seconds"].items():
        row = [name, f"{wall:.3f}", f"{core:.3f}"]
        if peer and name in peer["seconds"]:
            theirs = peer["seconds"][name]
            row += [f"{theirs[0]:.1f}", f"{theirs[1]:.1f}", f"{result['ratio'][name]:.0f}"]
        out.add_row(*row)
    console = Console()
    console.print(out)
    tried, agreeing = result["starts"]
    low, high = result["alpha_interval"]
    console.print(
        f"{agreeing:,} of {tried:,} starts end at objective {result['objective']:.10e}; "
        f"{result['restarted']:,} were solved for E, A and B on the way. "
        f"alpha's interval {low:.4f} to {high:.4f}"
    )
    if peer:
        tried, best = peer["answers"][SEARCH]
        low, high = peer["answers"][REFITS]
        console.print(
            f"published code: best of {tried:,} starts {best:.10e}; alpha's {low:.4f} to {high:.4f}"
        )


def main() -> None:
    """Measure on one core and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path)
    parser.add_argument("--n", default="n")
    parser.add_argument("--d", default="d")
    parser.add_argument("--loss", default="loss")
    parser.add_argument("--drop", type=int, default=0, help="rows of highest loss to leave out")
    parser.add_argument("--published", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--run-notebook", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if arguments.run_notebook is not None:
        run_notebook(arguments.run_notebook)
        return
    result = measure(arguments)
    if arguments.json:
        from benchmarks.side_by_side import machine

        print(json.dumps({"machine": machine(), **result}, indent=1))
        return
    show(result)


if __name__ == "__main__":
    main()
