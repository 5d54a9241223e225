"""A fit that was written down is the same when it is read."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweepctl.collect.tables import collect
from sweepctl.errors import DamagedFile, RequestError, StorageError
from sweepctl.fitting.fit import fit_law, predict_at
from sweepctl.fitting.saved import finite, kept, load, save
from sweepctl.laws.fit import NO_INTERVAL, UNKNOWN, Answer, Estimate, Fit, HeldOutRow, Target, UnderAccounting
from sweepctl.laws.observations import Observations
from sweepctl.laws.registry import LAWS
from sweepctl.store.sweep_jobs import SweepJobs
from sweepctl.store.workspace import Sweep, Workspace
from tests.conftest import Planner, run_all, tree
from tests.users import as_nobody


def fitted() -> Fit:
    n, ratio = (grid.ravel() for grid in np.meshgrid(np.geomspace(1e7, 3e9, 4), np.geomspace(3, 300, 4)))
    loss = 1.7 + 400 / n**0.34 + 410 / (n * ratio) ** 0.28
    data = Observations.of(n=n, d=n * ratio, flops=6 * n * n * ratio, loss=loss).keep(n < 1e9, "too large")
    fit = fit_law(LAWS["parametric"], data, LAWS["parametric"].options(replicates=5))
    predict_at(LAWS["parametric"], fit, [Target({"n": 1e10, "d": 1e11}), Target({"flops": 1e21})])
    fit.predictions += [Answer({"run": "a", "step": 7}, {"loss": Estimate(2.0, NO_INTERVAL)}, 2.5)]
    fit.predictions += [Answer(Target({"flops": 1e30}), {"loss": UNKNOWN})]
    fit.held_out = [HeldOutRow("flops", 1e20, "3", {"flops": 1e21}, 2.0, 2.1)]
    fit.other_accountings = {
        "total/exact": UnderAccounting(refused="No."),
        "total/six_n": UnderAccounting(fit.params, fit.intervals, fit.derived, fit.predictions[:1]),
    }
    return fit


def written(fit: Fit) -> Any:
    return json.loads(json.dumps(finite(fit.record()), allow_nan=False))


def test_a_fit_is_read_as_it_was_written() -> None:
    record = written(fitted())
    again = Fit.read(record)
    assert written(again) == record
    assert again.arrays()["alpha"].shape == (5,) and again.rows_excluded[0].reason == "too large"
    curve, unknown = record["predictions"][2:]
    assert curve["intervals"] == {} and curve["error"] == pytest.approx(-0.2)
    assert unknown["loss"] is None and unknown["intervals"] == {"loss": [None, None]}
    assert record["other_accountings"]["total/exact"] == {"refused": "No."}


def test_fits_are_kept_beside_their_sweep(tmp_path: Path) -> None:
    sweep = Workspace(tmp_path).sweep("of_fits")
    with pytest.raises(RequestError, match="no parametric fit"):
        load(sweep, "parametric")
    path = save(sweep, fitted())
    assert written(load(sweep, "parametric")) == json.loads(path.read_text())
    assert list(kept(sweep)) == ["parametric"]
    path.write_text('{"law": "parametric"}')
    with pytest.raises(DamagedFile, match="is not a fit"):
        load(sweep, "parametric")


def test_a_fit_by_an_early_version_is_read() -> None:
    """Before laws held anything out, compared accountings or kept residuals."""
    early = {
        "law": "isoflop", "protocol": {"tolerance": 0.1}, "accounting": {"flops": "six_n"},
        "params": {"a": 0.5, "E": None}, "intervals": {"a": [0.4, 0.6], "E": [None, None]}, "objective": 1e-3,
        "rows_used": ["0"], "rows_excluded": [{"row": "1", "reason": "diverged"}],
        "starts": {"tried": 1, "agreeing": 1}, "details": {"minima": []},
    }  # fmt: skip
    fit = Fit.read(early)
    assert fit.intervals["a"] == (0.4, 0.6) and np.isnan(fit.params["E"])
    assert fit.rows_excluded[0].row == "1" and fit.predictions == [] and fit.starts.tried == 1


def test_who_may_only_read_a_sweep_has_results_elsewhere(planned: Planner, shared_folder: Path) -> None:
    sweep_jobs = planned(name="theirs", ladder__depths=[1])
    run_all(sweep_jobs)
    collect(sweep_jobs)
    save(sweep_jobs.sweep, fitted())
    root = shared_folder / "workspace"
    shutil.copytree(sweep_jobs.sweep.workspace.root, root)
    for place in (root, *root.rglob("*")):
        place.chmod(0o755 if place.is_dir() else 0o644)
    before, out = tree(root), shared_folder / "mine" / "results"

    def results() -> tuple[Sweep, list[str]]:
        sweep = Workspace(root).read_sweep("theirs", out)
        collect(SweepJobs(sweep, sweep.plans()))
        theirs = list(kept(sweep))
        save(sweep, fitted())
        return sweep, theirs

    refused = as_nobody(lambda: Workspace(root).read_sweep("theirs", None))
    assert isinstance(refused, StorageError) and "--out FOLDER" in str(refused)
    sweep, theirs = as_nobody(results)
    assert (sweep.results, theirs) == (out, ["parametric"])
    assert (out / "runs.parquet").read_bytes() == (root / "theirs" / "runs.parquet").read_bytes()
    assert sorted(os.listdir(out)) == ["attempts.parquet", "curves.parquet", "fits", "runs.parquet"]
    assert tree(root) == before
