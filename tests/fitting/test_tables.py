"""Tables to observations: what is left out and why, what is reduced, and the paths of every schedule."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from sweepctl.collect.tables import collect
from sweepctl.errors import RequestError
from sweepctl.fitting.columns import select
from sweepctl.fitting.fit import fit_law, law_of
from sweepctl.fitting.observations import TableReading, observations
from sweepctl.fitting.request import read_options
from sweepctl.fitting.sweeps import sweep_reading, with_paths
from sweepctl.laws.registry import LAWS
from tests.conftest import Planner, run_all

PARAMETRIC, READING = LAWS["parametric"], TableReading()


def test_rows_that_are_left_out_say_why() -> None:
    frame = pd.DataFrame(
        {
            "n": [1e6, 1e6, 1e6, 2e6, 2e6, 2e6],
            "d": [1e8, 1e8, 2e8, 1e8, 1e8, None],
            "loss": [3.0, 3.2, None, 2.9, 2.7, 2.6],
            "state": ["done", "done", "done", "diverged", "done", "done"],
            "lr": [0.1, 0.2, 0.1, 0.1, 0.1, 0.1],
        }
    )
    data = observations(frame, PARAMETRIC, READING)
    assert data.rows == ("0", "4") and data.flops.tolist() == [6e14, 12e14]
    assert dict(data.excluded) == {
        "1": "a lower loss at the same N and D dominates it",
        "2": "no loss",
        "3": "diverged",
        "5": "no tokens D",
    }


def test_seeds_are_averaged_before_the_best_is_chosen() -> None:
    """A lucky seed of a worse setting must not win."""
    frame = pd.DataFrame(
        {
            "n": [1e6] * 4,
            "d": [1e8] * 4,
            "loss": [3.0, 3.2, 2.9, 3.5],
            "lr": [0.1, 0.1, 0.2, 0.2],
            "seed_init": [0, 1, 0, 1],
        }
    )
    assert observations(frame, PARAMETRIC, READING).loss.tolist() == [pytest.approx(3.1)]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda t: observations(t, PARAMETRIC, TableReading({"n": "N"})), "N"),
        (lambda t: select(t, "n >"), "does not work on this table"),
        (lambda t: select(t, "nosuch > 3"), "nosuch"),
        (lambda t: law_of("nosuch"), "nosuch"),
        (lambda t: read_options(PARAMETRIC, ("delta",)), "is not key=value"),
        (lambda t: read_options(PARAMETRIC, ("nosuch=1",)), "nosuch"),
        (
            lambda t: fit_law(PARAMETRIC, observations(t, PARAMETRIC, READING), PARAMETRIC.options()),
            "at least 6 rows",
        ),
        (lambda t: observations(t.assign(loss=-1.0), PARAMETRIC, READING), "above 0"),
    ],
)
def test_what_cannot_be_fitted_is_one_sentence(act, message: str) -> None:
    frame = pd.DataFrame({"n": [1e6, 2e6], "d": [1e8, 2e8], "loss": [3.0, 2.5]})
    with pytest.raises(RequestError, match=message) as error:
        act(frame)
    assert "\n" not in str(error.value)


def test_runs_say_their_schedule_and_how_they_came_down(planned: Planner) -> None:
    kinds = ["wsd", "multistep", "cosine", "constant", "wsd-s"]
    sweep_jobs = planned(
        grid={"axes": {"schedule.kind": kinds}}, ladder__depths=[1], budget__tokens=[1280, 2560]
    )
    run_all(sweep_jobs)
    frames = collect(sweep_jobs)
    runs = frames["runs"]
    assert (runs["state"] == "done").all()
    by_schedule = runs.set_index(["schedule", "steps"])
    assert {kind: by_schedule.loc[(kind, 40), "cut_step"] for kind in kinds} == {
        "wsd": 30, "multistep": 32, "cosine": 4, "constant": 40, "wsd-s": 35,
    }  # fmt: skip
    assert by_schedule.loc[("multistep", 40), "drops"] == "32:0.316 36:0.1"
    assert by_schedule.loc["multistep", "end_lr_share"].eq(0.1).all()
    assert runs[runs["schedule"] != "multistep"]["drops"].isna().all()
    assert by_schedule["end_lr_share"].eq(1.0).sum() == 2

    reading = sweep_reading(sweep_jobs.plans["all"].accounting)
    with pytest.raises(RequestError, match="wsd-s goes on from decayed weights, which is another law"):
        observations(runs, PARAMETRIC, reading)
    for where, rows in (("schedule == 'wsd-s'", 2), ("schedule == 'wsd'", 2), ("schedule != 'wsd-s'", 2)):
        kept = observations(select(runs, where), PARAMETRIC, reading)
        assert len(kept) == rows  # of several schedules the lowest loss at each budget
    reasons = [why for _, why in observations(
        select(runs, "schedule == 'constant' or schedule == 'wsd'"), PARAMETRIC, reading
    ).excluded]  # fmt: skip
    assert reasons == ["undecayed: it was not annealed"] * 2
    constant = observations(select(runs, "schedule == 'constant'"), PARAMETRIC, reading)
    assert len(constant) == 0 and len(constant.excluded) == 2
    by_kind = dataclasses.replace(reading, columns={**reading.columns, "group": "schedule"})
    assert len(observations(runs, LAWS["compare"], by_kind)) == 8


@pytest.mark.parametrize("kind", ["multistep", "constant", "wsd-s"])
def test_the_paths_of_every_schedule_are_those_that_were_trained(planned: Planner, kind: str) -> None:
    changes = {"schedule__kind": kind, "schedule__rewarm_steps": 2, "ladder__depths": [1]}
    sweep_jobs = planned(**changes, budget__tokens=[1280, 2560])
    run_all(sweep_jobs, log_every_steps=1)
    frames = collect(sweep_jobs)
    curves = with_paths(frames["curves"].iloc[:0], frames["runs"])
    trained = frames["curves"].dropna(subset=["lr"]).set_index(["job", "step"])["lr"]
    for run in frames["runs"].itertuples():
        path = curves[curves["job"] == run.job]
        assert path["parent"].eq(run.trunk).all() and path["step"].iloc[-1] == run.steps
        own = run.job if run.cut_step < run.steps and kind == "multistep" else run.trunk
        for row in path.itertuples():
            assert row.lr == pytest.approx(trained[own, row.step])


def test_a_path_has_both_sides_of_every_drop() -> None:
    run = {
        "job": "b",
        "trunk": "t",
        "rung": "r",
        "state": "done",
        "lr": 2.0,
        "batch_tokens": 10,
        "steps": 2000,
    }
    run |= {"cut_step": 1600, "decay": "linear", "end_lr_share": 0.1, "drops": "1600:0.3 1805:0.1"}
    path = with_paths(pd.DataFrame(), pd.DataFrame([run | {"loss_nats": 3.0}])).set_index("step")
    assert [path.loc[step, "lr"] for step in (1601, 1805, 1806, 2000)] == pytest.approx([0.6, 0.6, 0.2, 0.2])
    assert path["loss_nats"].dropna().to_dict() == {2000: 3.0} and path.index.min() == 1601


def test_a_law_of_wsd_s_says_so(planned: Planner) -> None:
    shape = {"schedule__warmup_steps": 1, "ladder__depths": [1, 2, 3], "budget__tokens": [640, 1280, 2560]}
    for kind, flagged in (("wsd-s", True), ("wsd", False)):
        sweep_jobs = planned(name=kind, schedule__kind=kind, **shape)
        runs = collect(sweep_jobs)["runs"]
        runs["state"], runs["loss_nats"] = "done", 1.0 + 100 / runs["n_total"] + 1000 / runs["tokens"]
        reading = sweep_reading(sweep_jobs.plans["all"].accounting)
        data = observations(runs, PARAMETRIC, reading)
        fit = fit_law(PARAMETRIC, data, PARAMETRIC.options(replicates=0))
        assert ("schedule:wsd-s" in fit.flags) == flagged


def test_rows_know_the_trunk_that_they_were_cut_from(planned: Planner) -> None:
    sweep_jobs = planned(name="shares")
    run_all(sweep_jobs)
    frame, plan = collect(sweep_jobs)["runs"], next(iter(sweep_jobs.plans.values()))
    data = observations(frame, PARAMETRIC, sweep_reading(plan.accounting))
    assert data.shared_trunks() == tuple(frame.set_index("job").loc[list(data.rows), "trunk"])
    assert len(set(data.label("trunk"))) < len(data)
    whole = observations(frame.assign(trunk=None), PARAMETRIC, sweep_reading(plan.accounting))
    assert whole.shared_trunks() == ()  # a run without a trunk shares none
