"""`sweepctl fit`: from a table to a claim, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sweepctl.cli import main
from sweepctl.laws import parametric
from sweepctl.laws.registry import LAWS

TRUE = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
KEYS = {
    "law", "protocol", "accounting", "params", "intervals", "objective", "rows_used", "rows_excluded",
    "starts", "flags", "derived", "predictions",
}  # fmt: skip


def runs() -> pd.DataFrame:
    n, ratio = np.meshgrid(np.geomspace(1e7, 3e9, 5), np.geomspace(3, 300, 5))
    frame = pd.DataFrame({"n": n.ravel(), "d": (n * ratio).ravel()})
    noise = np.exp(0.002 * np.random.default_rng(0).standard_normal(len(frame)))
    return frame.assign(loss=parametric.loss(TRUE, frame["n"], frame["d"]) * noise)


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Write a table, run the command on it, give back its JSON, or what it said when it refused."""
    monkeypatch.chdir(tmp_path)

    def call(frame: pd.DataFrame | None, *arguments: str) -> Any:
        source = [] if frame is None else ["t.csv"]
        if frame is not None:
            frame.to_csv("t.csv", index=False)
        words = ["sweepctl", "fit", *source, *arguments]
        monkeypatch.setattr("sys.argv", [*words, "--json", "-"] if "--json" not in arguments else words)
        try:
            main()
        except SystemExit as end:
            if end.code:
                assert end.code == 2
                out, err = capsys.readouterr()
                assert out == "" and err.startswith("sweepctl: ") and err.count("\n") == 1, err
                return err
        out = capsys.readouterr().out
        return json.loads(out) if out.startswith("{") else out

    return call


PARAMETRIC = ("--law", "parametric", "--option", "replicates=100")


def test_a_fit_has_what_a_claim_needs(fit: Any) -> None:
    record = fit(runs(), *PARAMETRIC, "--at", "flops=1e21", "--at", "n=7e9,d=2e12")
    assert set(record) >= KEYS
    assert record["law"] == "parametric" and record["protocol"]["replicates"] == 100
    assert record["protocol"]["delta"] == 1e-3  # defaults too
    assert set(record["params"]) == set(TRUE) and record["params"]["alpha"] == pytest.approx(0.34, abs=0.05)
    low, high = record["intervals"]["alpha"]
    assert low < record["params"]["alpha"] < high
    assert record["derived"]["a"] + record["derived"]["b"] == pytest.approx(1)
    assert record["accounting"]["flops"] == "six_n" and record["rows_excluded"] == []
    assert record["starts"]["agreeing"] <= record["starts"]["tried"] and len(record["rows_used"]) == 25
    at_c, at_nd = record["predictions"]
    assert at_c["at"] == {"flops": 1e21} and at_c["n"] * at_c["d"] * 6 == pytest.approx(1e21)
    truth = parametric.loss(TRUE, 7e9, 2e12)
    assert at_nd["loss"] == pytest.approx(truth, rel=0.02)
    low, high = at_nd["intervals"]["loss"]
    assert low < high and at_nd["intervals"]["loss_of_a_run"][0] <= low


def test_json_goes_where_it_is_told(fit: Any) -> None:
    assert "parametric" in fit(runs(), *PARAMETRIC, "--json", "made.json")  # the screen too
    assert json.loads(Path("made.json").read_text())["law"] == "parametric"
    assert fit(runs(), "--json", *PARAMETRIC)["law"] == "parametric"
    both = fit(runs(), "--option", "replicates=20")
    assert "parametric" in both and "isoflop" in both["refused"]


def test_columns_may_be_expressions(fit: Any) -> None:
    plain = fit(runs(), *PARAMETRIC)
    frame = runs().assign(n=lambda t: t["n"] / 1e6, d=lambda t: t["d"] / 1e9)
    scaled = fit(frame, *PARAMETRIC, "--n", "n * 1e6", "--d", "d * 1e9")
    assert scaled["params"]["A"] == pytest.approx(plain["params"]["A"], rel=1e-3)
    assert scaled["accounting"]["parameters"] == "n * 1e6"
    whole = runs().astype({"n": "int64", "d": "int64"})  # 6 N D would overflow
    record = fit(whole, *PARAMETRIC, "--flops", "6*n*d", "--at", "flops=1e22")
    assert record["predictions"][0]["n"] > 1e9


def test_the_third_of_n_d_and_c_follows(fit: Any) -> None:
    frame = runs().assign(flops=lambda t: 6 * t["n"] * t["d"])
    for gone in ("d", "n"):
        record = fit(frame.drop(columns=gone), *PARAMETRIC)
        assert record["params"] == pytest.approx(fit(frame, *PARAMETRIC)["params"], rel=1e-4)
        assert "flops / (6" in record["accounting"][gone]


def test_what_was_left_out_and_why(fit: Any) -> None:
    frame = runs().assign(state="done", kind="branch", lr=0.01)
    frame.loc[0, "state"] = "diverged"
    frame.loc[1, "kind"] = "trunk"
    frame.loc[2, "loss"] = np.nan
    worse = frame.loc[[5]].assign(lr=0.02, loss=9.0)
    frame = pd.concat([frame, frame.loc[[4]], worse], ignore_index=True)
    record = fit(frame, *PARAMETRIC)
    assert {row["row"]: row["reason"] for row in record["rows_excluded"]} == {
        "0": "diverged",
        "1": "undecayed: it was not annealed",
        "2": "no loss",
        "25": "it repeats another row",
        "26": "a lower loss at the same N and D dominates it",
    }
    assert record["accounting"]["reduction"].startswith("least over lr")
    assert len(fit(frame, *PARAMETRIC, "--undecayed")["rows_used"]) == 23
    assert "repeated:n_d" in fit(frame, *PARAMETRIC, "--reduce", "none")["flags"]
    every = fit(frame.assign(kind="trunk"), *PARAMETRIC)
    assert "undecayed" in every and "no row" in every


def test_held_out_budgets_are_predicted(fit: Any) -> None:
    record = fit(runs(), *PARAMETRIC, "--hold-out", "n=1")
    assert len(record["held_out"]) == 5 and record["derived"]["held_out_rms"] < 0.02
    assert record["held_out"][0]["fitted_up_to"] == pytest.approx(runs()["n"].unique()[3])
    rolling = fit(runs(), *PARAMETRIC, "--hold-out", "n=1", "--rolling")
    assert len(rolling["held_out"]) == 10  # two sizes do not identify a third
    for row in rolling["held_out"]:
        assert row["error"] == pytest.approx(row["predicted"] / row["measured"] - 1)


def test_accountings_side_by_side(fit: Any) -> None:
    frame = (
        runs()
        .rename(columns={"n": "n_total", "d": "tokens"})
        .assign(n_non_embedding=lambda t: 0.8 * t["n_total"], loss_nats=lambda t: t["loss"])
    )
    for n in ("total", "non_embedding"):
        frame[f"flops_{'six_n' if n == 'total' else 'exact'}"] = 6 * frame[f"n_{n}"] * frame["tokens"]
    record = fit(
        frame, *PARAMETRIC, "--accounting", "all", "--n", "n_total", "--d", "tokens", "--at", "flops=1e20"
    )
    others = record["other_accountings"]
    assert set(others) == {f"{n}/{c}" for n in ("total", "non_embedding") for c in ("six_n", "exact")}
    assert others["total/six_n"]["params"] == pytest.approx(record["params"], rel=1e-6)
    assert others["non_embedding/exact"]["params"]["A"] < 0.95 * record["params"]["A"]
    assert "predictions" in others["total/six_n"]


@pytest.mark.parametrize(
    ("change", "arguments", "says"),
    [
        (lambda t: t, ("--n", "nosuch"), "nosuch"),
        (lambda t: t, ("--n", "n +"), "expression"),
        (lambda t: t, ("--n", "__import__('os')"), "expression"),
        (lambda t: t.drop(columns="d"), (), "needs a column of tokens D"),
        (lambda t: t.assign(loss=-t["loss"]), (), "above 0"),
        (lambda t: t.head(3), (), "at least 6 rows"),
        (lambda t: t.head(0), (), "no row"),
        (lambda t: t.assign(d=20 * t["n"]), ("--rolling",), "--hold-out"),
        (lambda t: t, ("--json", "nosuch/x.json"), "nosuch/x.json"),
        (lambda t: t, ("--option", "replicates=1e9"), "replicates"),
        (lambda t: t, ("--where", "n"), "of each row"),
        (lambda t: t.assign(n=t["n"].where(t.index > 9, t["n"] / 1e9)), (), "mix units"),
        (lambda t: t.assign(flops=(6 * t["n"] * t["d"]).where(t.index > 9, 1e3)), (), "mix units"),
        (lambda t: t, ("--at", "flops"), "role=number"),
        (lambda t: t, ("--at", "flops=-1"), "above 0"),
        (lambda t: t, ("--at", "lr=1"), "n=...,d=... or flops=..."),
        (lambda t: t, ("--hold-out", "n"), "--hold-out"),
        (lambda t: t, ("--hold-out", "n=9"), "there are 5 levels"),
        (lambda t: t, ("--hold-out", "n=3"), "does not identify"),
        (lambda t: t, ("--option", "delta=0"), "delta"),
        (lambda t: t, ("--option", "delta=x"), "delta"),
        (lambda t: t, ("--option", "nosuch=1"), "nosuch"),
        (lambda t: t, ("--option", "replicates=-1"), "replicates"),
        (lambda t: t, ("--accounting", "all"), "n_total"),
        (lambda t: t, ("--accounting", "nosuch"), "nosuch"),
        (lambda t: t, ("--where", "n >"), "--where"),
        (lambda t: t, ("--png", "x.doc"), ".png"),
        (lambda t: t, ("--law", "nosuch"), "nosuch"),
    ],
)  # fmt: skip
def test_refusals_are_one_sentence(fit: Any, change: Any, arguments: tuple[str, ...], says: str) -> None:
    assert says in fit(change(runs()), *PARAMETRIC, *arguments)
    assert not [path for path in Path.cwd().iterdir() if path.name != "t.csv"]


def test_every_law_is_listed_and_drawn(fit: Any) -> None:
    listed = fit(None, "--list")
    assert set(listed) == set(LAWS)
    for name, law in listed.items():
        assert {"replicates", "seed"} <= set(law["options"]), name
        assert all(option["told"] for option in law["options"].values()), name
    fit(runs(), *PARAMETRIC, "--png", "made.png")
    assert Path("made.png").read_bytes().startswith(b"\x89PNG")


def test_what_the_rows_do_not_identify_is_not_predicted(fit: Any) -> None:
    """On one ratio of tokens to parameters, other ratios are unknown; of two sizes, larger ones."""
    line = runs().assign(d=lambda t: 20 * t["n"])
    line = line.drop_duplicates("n").pipe(lambda t: pd.concat([t, t.assign(n=1.7 * t["n"], d=1.7 * t["d"])]))
    line = line.assign(loss=parametric.loss(TRUE, line["n"], line["d"]))
    record = fit(line, *PARAMETRIC, "--at", "n=1e9,d=2e10", "--at", "n=1e9,d=1e12", "--at", "flops=1e22")
    assert {"collinear:n_d", "not_identified:alpha", "not_identified:beta"} <= set(record["flags"])
    on, off, best = record["predictions"]
    assert on["loss"] == pytest.approx(parametric.loss(TRUE, 1e9, 2e10), rel=0.01)
    assert off["loss"] is None and best["n"] is None and best["intervals"]["n"] == [None, None]
    two = runs().query("n < 5e7")
    record = fit(two, *PARAMETRIC, "--at", "n=4e7,d=1e9", "--at", "n=1e11,d=1e9")
    assert [row["loss"] is None for row in record["predictions"]] == [False, True]


def test_names_are_shown_as_they_are(fit: Any) -> None:
    """Also those that look like markup of the terminal."""
    frame = pd.concat(
        [runs().assign(group="a[/x]"), runs().assign(group="[red]b", loss=1.01 * runs()["loss"])]
    )
    screen = fit(frame, "--law", "compare", "--option", "replicates=50", "--json", "made.json")
    assert "[red]b" in screen
    nameless = runs().head(3).assign(group=None, loss=5.0)
    record = fit(
        pd.concat([frame, nameless], ignore_index=True), "--law", "compare", "--option", "replicates=0"
    )
    assert [row["reason"] for row in record["rows_excluded"] if int(row["row"]) >= 50] == ["no group"] * 3
    assert not any(flag.startswith("not_resolved") for flag in record["flags"])
