"""Predictions are written before the run that tests them, kept, and scored."""

from __future__ import annotations

import numpy as np
import pytest

from sweepctl.errors import DamagedFile, RequestError
from sweepctl.laws import parametric
from sweepctl.laws.fit import Fit
from sweepctl.predict.recipe import predict_target
from sweepctl.predict.stage import predict_stage, score
from sweepctl.store import attempts, predictions
from tests.conftest import Planner, run_all, tree
from tests.laws.common import observed

TRUE = {"E": 1.5, "A": 60.0, "B": 400.0, "alpha": 0.4, "beta": 0.4}


@pytest.fixture(scope="module")
def law() -> Fit:
    n, d = (grid.ravel() for grid in np.meshgrid(np.geomspace(500, 5e4, 5), np.geomspace(1e3, 1e6, 6)))
    noise = np.exp(0.003 * np.random.default_rng(0).standard_normal(n.size))
    loss = parametric.loss(TRUE, n, d) * noise
    data = observed(n, d, 6 * n * d, loss, tuple(map(str, range(n.size))))
    return parametric.fit(data, parametric.Options(replicates=100, seed=0))


def test_a_prediction_made_before_is_prior_and_is_kept(planned: Planner, law: Fit) -> None:
    sweep_jobs = planned(name="told")
    stage = next(iter(sweep_jobs.plans))
    first, new = predict_stage(sweep_jobs.sweep, stage, law, post_hoc=False)
    assert new and first.prior and len(first.observations) == 4
    parts = [row.parts for row in first.observations]
    assert all(row and set(row) == {"parameters", "run", "trunk", "beyond", "carried"} for row in parts)
    files = tree(predictions.folder(sweep_jobs.sweep))
    again, new = predict_stage(sweep_jobs.sweep, stage, law, post_hoc=False)
    assert not new and again.observations == first.observations
    run_all(sweep_jobs)
    after, new = predict_stage(sweep_jobs.sweep, stage, law, post_hoc=False)
    assert not new and after.observations == first.observations
    assert tree(predictions.folder(sweep_jobs.sweep)) == files


def test_an_attempt_makes_a_prior_prediction_impossible(planned: Planner, law: Fit) -> None:
    sweep_jobs = planned(name="late")
    stage = next(iter(sweep_jobs.plans))
    run_all(sweep_jobs)
    with pytest.raises(RequestError, match="has begun"):
        predict_stage(sweep_jobs.sweep, stage, law, post_hoc=False)
    assert not predictions.folder(sweep_jobs.sweep).exists()
    prediction, new = predict_stage(sweep_jobs.sweep, stage, law, post_hoc=True)
    assert new and not prediction.prior
    with pytest.raises(RequestError, match="No stage"):
        score(sweep_jobs.sweep)


def test_one_begun_run_is_enough_to_refuse_and_the_rest_is_told_apart(planned: Planner, law: Fit) -> None:
    sweep_jobs = planned(name="partly")
    stage = next(iter(sweep_jobs.plans))
    first, *rest = sweep_jobs.plans[stage].observations()
    attempts.claim(sweep_jobs.sweep.workspace.job(first.id), {})
    with pytest.raises(RequestError, match=f"has begun.*{first.id}"):
        predict_stage(sweep_jobs.sweep, stage, law, post_hoc=False)
    assert not predictions.folder(sweep_jobs.sweep).exists()
    prediction, _ = predict_stage(sweep_jobs.sweep, stage, law, post_hoc=True)
    assert not prediction.prior and len(prediction.observations) == 4
    assert set(predictions.prior(sweep_jobs.sweep)) == {job.id for job in rest}


def test_a_score_holds_what_was_measured_against_what_was_written(planned: Planner, law: Fit) -> None:
    sweep_jobs = planned(name="scored")
    stage = next(iter(sweep_jobs.plans))
    predict_stage(sweep_jobs.sweep, stage, law, post_hoc=False)
    assert all(s.measured is None and s.error is None for s in score(sweep_jobs.sweep)[stage])
    run_all(sweep_jobs)
    for scored in score(sweep_jobs.sweep)[stage]:
        assert scored.measured is not None and scored.error == scored.predicted / scored.measured - 1
        assert scored.predicted == pytest.approx(parametric.loss(law.params, scored.n, scored.d))
        assert scored.low < scored.predicted < scored.high
        assert scored.inside == (scored.low <= scored.measured <= scored.high)


def test_another_plan_needs_its_own_prediction(planned: Planner, law: Fit) -> None:
    sweep_jobs = planned(name="moved")
    stage = next(iter(sweep_jobs.plans))
    predict_stage(sweep_jobs.sweep, stage, law, post_hoc=False)
    sweep_jobs = planned(name="moved", optimizer__lr=0.03)
    fresh, late = predictions.unpredicted(sweep_jobs.sweep, sweep_jobs.plans[stage])
    assert len(fresh) == 4 and not late


def test_a_longer_budget_needs_a_prediction_of_its_own_alone(planned: Planner, law: Fit) -> None:
    sweep_jobs = planned(name="grows", ladder__depths=[1])
    stage = next(iter(sweep_jobs.plans))
    first, _ = predict_stage(sweep_jobs.sweep, stage, law, post_hoc=False)
    run_all(sweep_jobs)
    sweep_jobs = planned(name="grows", ladder__depths=[1], budget__tokens=[1280, 2560, 5120])
    assert len(score(sweep_jobs.sweep)[stage]) == 2
    fresh, late = predictions.unpredicted(sweep_jobs.sweep, sweep_jobs.plans[stage])
    assert [job.label for job in fresh] == ["5.12k tokens"] and not late
    whole, new = predict_stage(sweep_jobs.sweep, stage, law, post_hoc=False)
    assert new and whole.prior and whole.observations[:2] == first.observations
    assert predictions.unpredicted(sweep_jobs.sweep, sweep_jobs.plans[stage]) == ([], [])


def test_a_prediction_that_was_edited_is_not_believed(planned: Planner, law: Fit) -> None:
    sweep_jobs = planned(name="edited")
    predict_stage(sweep_jobs.sweep, next(iter(sweep_jobs.plans)), law, post_hoc=False)
    [path] = predictions.folder(sweep_jobs.sweep).iterdir()
    path.write_text(path.read_text().replace('"loss_nats": ', '"loss_nats": 1'))
    with pytest.raises(DamagedFile, match="is not the prediction that was written down"):
        score(sweep_jobs.sweep)


def test_a_recipe_for_a_budget_is_on_the_ladder_and_at_the_optimum(planned: Planner, law: Fit) -> None:
    sweep_jobs = planned(name="recipe")
    recipe = predict_target(sweep_jobs.sweep, law, flops=1e12, n=None, d=None, rate=1e9)
    assert recipe.optimum is not None
    best = recipe.optimum["n"].value
    assert recipe.shape.d_model == 8 * recipe.shape.n_layers and 0.5 < recipe.n / best < 2
    assert recipe.d == recipe.steps * 64 and recipe.flops == pytest.approx(1e12, rel=0.01)
    assert recipe.device_hours == pytest.approx(recipe.flops_exact / 1e9 / 3600)
    assert recipe.loss_nats.value == pytest.approx(parametric.loss(law.params, recipe.n, recipe.d))
    larger = predict_target(sweep_jobs.sweep, law, None, 10 * best, 1e6, None)
    assert larger.loss_nats.interval[0] < larger.loss_nats.value < larger.loss_nats.interval[1]
    assert larger.device_hours is None and len(tree(predictions.folder(sweep_jobs.sweep))) == 2


@pytest.mark.parametrize(
    "asked",
    [
        (None, None, None),
        (1e12, 1e6, 1e6),
        (None, 1e6, None),
        (-1.0, None, None),
        (float("nan"), None, None),
        (None, 1e6, float("inf")),
    ],
)
def test_half_a_target_is_refused(planned: Planner, law: Fit, asked) -> None:
    sweep_jobs = planned(name="half")
    with pytest.raises(RequestError):
        predict_target(sweep_jobs.sweep, law, *asked, None)
    assert not predictions.folder(sweep_jobs.sweep).exists()
