"""Names from outside are shown in pictures as they are written."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import sweepctl
from sweepctl.fitting.fit import fit_law, law_of
from sweepctl.fitting.observations import TableReading, observations
from sweepctl.report.figure import legend_name, save_figure
from sweepctl.report.laws import draw, panels

NAMES = [
    r"lr $\eta_base$",
    "$x^y^z$",
    "_muon",
    "a$b$c",
    "50 %_{",
    r"\frac{1",
    "x" * 500,
    "two\nlines\x1b[31m",
    "",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_a_text_of_the_picture(name: str, tmp_path: Path) -> None:
    figure, ax = plt.subplots()
    ax.plot([1, 10], [1, 1000], label=legend_name(name))
    ax.set(xscale="log", yscale="log", title=name, xlabel=name)
    ax.set_xticks([1, 10], [name, "ten"])
    shown = [text.get_text().lstrip("\N{ZERO WIDTH SPACE}") for text in ax.legend().get_texts()]
    figure.suptitle(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*label.*")
        save_figure(tmp_path / "a.png", figure)
    if name and len(name) < 40 and name.isprintable():
        assert shown == [name]
    assert not ax.title.get_parse_math() and not ax.get_xticklabels()[0].get_parse_math()
    assert ax.get_yticklabels()[0].get_parse_math()  # powers of ten
    assert (tmp_path / "a.png").stat().st_size > 1000 and not plt.get_fignums()


def test_groups_of_a_comparison_are_named_as_in_the_table(tmp_path: Path) -> None:
    n = np.geomspace(1e6, 1e8, 6)
    tables = [
        pd.DataFrame({"n": n, "d": 20 * n, "loss": (2 + 1e3 / n**0.4) * (1 + 0.02 * i), "group": name})
        for i, name in enumerate(["_muon", r"$\mup$"])
    ]
    compare = law_of("compare")
    data = observations(pd.concat(tables, ignore_index=True), compare, TableReading())
    fit = fit_law(compare, data, compare.options(replicates=0))
    draw(tmp_path / "a.svg", [fit])
    figure, ax = plt.subplots()
    panels(fit)[0](ax)
    assert {"\N{ZERO WIDTH SPACE}_muon", r"$\mup$"} <= {t.get_text() for t in ax.legend().get_texts()}
    plt.close(figure)


def test_every_picture_goes_through_the_one_door() -> None:
    for path in sorted(Path(sweepctl.__file__).parent.rglob("*.py")):
        if path.name != "figure.py":
            text = path.read_text()
            assert not re.search(r"savefig|mathtext|usetex", text), path
            assert not re.search(r"label=(name|rung|run|curve\b|group|row\[)", text), path
