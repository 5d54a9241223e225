"""Jobs, their loop and their records know no more of a trainer than its interface: shown by another one."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

import sweepctl.train
from sweepctl.errors import InvalidValue, RequestError
from sweepctl.spec import study
from sweepctl.spec.learning_rate import LearningRateCurve
from sweepctl.store import attempts, checkpoints
from sweepctl.store.ends import End
from sweepctl.store.sweep_jobs import SweepJobs
from sweepctl.train import registry
from sweepctl.train.interface import Assignment, Update
from tests.conftest import Planner, StopAfter, manifest, only, run_all, run_job, tiny
from tests.train.least_squares import LeastSquares

STUDY = {"trainer": "least_squares", "optimizer__lr": 0.05}


@pytest.fixture(autouse=True)
def least_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.TRAINERS, "least_squares", LeastSquares)
    monkeypatch.setattr(study, "TRAINERS", (*study.TRAINERS, "least_squares"))


def results(sweep_jobs: SweepJobs, kind: str) -> list[object]:
    return [
        (planned_job.job.end, planned_job.folder.result().loss_nats) for planned_job in only(sweep_jobs, kind)
    ]


@pytest.fixture
def straight(planned: Planner) -> SweepJobs:
    """Every budget trained from its first step, in one go."""
    sweep_jobs = planned(name="straight", schedule__fork=False, **STUDY)
    run_all(sweep_jobs)
    return sweep_jobs


def test_it_forks_and_ends_in_results_of_its_own(planned: Planner, straight: SweepJobs) -> None:
    """Branches, started from files, are the straight runs, bit for bit."""
    sweep_jobs = planned(name="forked", **STUDY)
    run_all(sweep_jobs)
    assert len(only(sweep_jobs, "branch")) == 4
    assert results(sweep_jobs, "branch") == results(straight, "run")
    for planned_job in only(sweep_jobs, "branch"):
        result = planned_job.folder.result()
        assert result.loss_nats.keys() == {"validation", "other"}
        assert result.bits_per_byte.keys() == {"validation"}
        assert result.loss_nats["validation"] < 1


def test_it_is_stopped_and_resumed_as_if_nothing_had_been(
    planned: Planner, straight: SweepJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_jobs = planned(name="stopped", **STUDY)
    sweep_jobs.make_wishes()
    trunk = only(sweep_jobs, "trunk")[-1]
    with monkeypatch.context() as patch:
        patch.setattr("sweepctl.train.loop.GLANCE_S", 0.0)
        assert run_job(sweep_jobs, trunk, StopAfter(7)).why is End.STOPPED
    assert checkpoints.steps(trunk.folder) == [7]
    run_all(sweep_jobs)
    assert [attempt.facts.start_step for attempt in attempts.every(trunk.folder)] == [0, 7]
    assert results(sweep_jobs, "branch") == results(straight, "run")


def test_one_that_was_killed_goes_on_from_its_last_checkpoint(
    planned: Planner, straight: SweepJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two updates, with a checkpoint at every one of them."""
    sweep_jobs = planned(name="killed", **STUDY)
    sweep_jobs.make_wishes()
    trunk = only(sweep_jobs, "trunk")[-1]
    update = LeastSquares.update

    class Killed(BaseException):
        """What no attempt catches."""

    def dying(self: LeastSquares, curve: LearningRateCurve) -> Update:
        if self.step == 12:
            raise Killed
        return update(self, curve)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(LeastSquares, "update", dying)
        run_job(sweep_jobs, trunk, checkpoint_every_s=1e-9)
    died = attempts.newest(trunk.folder)
    assert died is not None and not died.ended
    died.end(End.DIED)  # as its launcher would: this process lives on
    run_all(sweep_jobs)
    assert attempts.every(trunk.folder)[-1].facts.start_step == 12
    assert results(sweep_jobs, "branch") == results(straight, "run")


def test_its_own_facts_and_measurements_are_recorded(planned: Planner) -> None:
    sweep_jobs = planned(ladder__depths=[1], **STUDY)
    run_all(sweep_jobs)
    trunk = only(sweep_jobs, "trunk")[0]
    attempt = attempts.newest(trunk.folder)
    assert attempt is not None
    facts = attempt.facts
    assert (facts.device, facts.device_kind, facts.world_size, facts.gemm) == ("an abacus", "cpu", 1, None)
    assert facts.versions["least_squares"] == "3" and facts.mfu is None
    rows = [json.loads(line) for line in attempt.metrics.read_text().splitlines()]
    logged = [row for row in rows if "train_loss_nats" in row]
    assert all("largest_weight" in row and "grad_norm" not in row for row in logged)
    assert logged[-1]["flops_per_s"] == pytest.approx(logged[-1]["tokens_per_s"] * 48, rel=0.01)
    branch = attempts.newest(only(sweep_jobs, "branch")[-1].folder)
    assert branch is not None
    points = [json.loads(line) for line in branch.metrics.read_text().splitlines() if '"loss_nats"' in line]
    assert points and all(point["loss_nats"].keys() == {"validation", "other"} for point in points)


def test_it_diverges_by_the_jobs_rule_not_its_own(planned: Planner) -> None:
    sweep_jobs = planned(ladder__depths=[1], **{**STUDY, "optimizer__lr": 5.0})
    run_all(sweep_jobs)
    result = only(sweep_jobs, "trunk")[0].folder.result()
    assert result is not None and result.end is End.DIVERGED and "the loss is above" in result.reason


def test_a_damaged_checkpoint_of_its_own_is_refused_in_its_words(planned: Planner) -> None:
    sweep_jobs = planned(ladder__depths=[1], **STUDY)
    sweep_jobs.make_wishes()
    [trunk] = only(sweep_jobs, "trunk")
    run_job(sweep_jobs, trunk)
    folder = checkpoints.at(trunk.folder, 30).path
    of_trunk = manifest(sweep_jobs, trunk)
    other = LeastSquares(Assignment(of_trunk.job_science(), Path(of_trunk.data), of_trunk.execution))
    other.load(folder, 30)
    other.weights.append(0.0)
    with pytest.raises(RequestError, match="holds another model"):
        other.load(folder, 30)


def test_an_unknown_trainer_is_refused_with_those_there_are(planned: Planner) -> None:
    with pytest.raises(InvalidValue, match="trainer='abacus' is not valid: it must be one of builtin, least"):
        tiny(trainer="abacus")
    with pytest.raises(RequestError, match=r"no trainer 'abacus'\. Known: builtin, least_squares"):
        registry.trainer_named("abacus")
    assert set(study.TRAINERS) == set(registry.TRAINERS)


def test_what_drives_a_trainer_names_neither_torch_nor_numpy() -> None:
    for name in ("job", "loop", "follower", "interface", "processes"):
        tree = ast.parse((Path(sweepctl.train.__file__).parent / f"{name}.py").read_text())
        types = [node for test in ast.walk(tree) if isinstance(test, ast.If) for node in ast.walk(test)]
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node not in types:
                assert str(node.module).split(".")[0] not in ("torch", "numpy"), name
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & {"torch", "numpy"}, name
