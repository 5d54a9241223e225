"""The fork check: equal where nothing is lost, unequal where something is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sweepctl.check.fork import TOLERANCE, Distance, ForkResult, check, short
from sweepctl.cli import main
from sweepctl.data.shards import VERIFIED, CorpusIndex
from sweepctl.errors import RequestError, WorkFailed
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.execution import Execution
from sweepctl.spec.science import Corpus, Point
from sweepctl.spec.study import Study
from sweepctl.store.workspace import Workspace
from sweepctl.train.builtin import BuiltinTrainer
from tests.conftest import tiny, tree


def point_of(study: Study, index: CorpusIndex) -> Point:
    shape, corpus = study.ladder.shapes(study.model)[0], Corpus(index.hash, index.vocab_size)
    return Point(shape, study.model, study.parametrization, study.optimizer, 0, study.batch, corpus)


def forked(workspace: Workspace, facts: CorpusFacts, **changes: Any) -> ForkResult:
    execution = Execution(device="cpu")
    return check(workspace, tiny(**changes), facts, None, 24, execution, lambda text: None)


def files_of(workspace: Workspace) -> dict[str, bytes]:
    """All but the note that the corpus's shards were found to be what was prepared."""
    return {name: content for name, content in tree(workspace.root).items() if Path(name).name != VERIFIED}


def test_a_fork_holds_and_leaves_nothing(workspace: Workspace, facts: CorpusFacts) -> None:
    before = files_of(workspace)
    result = forked(workspace, facts)
    assert result.holds and result.exact and result.noise is None
    assert [run.what for run in result.compared] == ["the branch", "the resumed one"]
    assert (result.rung, result.steps, result.cut) == ("8x1", 24, 18)
    assert files_of(workspace) == before


@pytest.mark.parametrize("kind", ["constant", "multistep", "wsd-s"])
def test_whatever_forks_is_forked(workspace: Workspace, facts: CorpusFacts, kind: str) -> None:
    """Also where the branch has nothing left to train: its end is the trunk's."""
    result = forked(workspace, facts, schedule__kind=kind)
    assert result.holds and result.exact and len(result.compared) == 2


@pytest.mark.parametrize("lost", ["exp_avg", "exp_avg_sq", "step"])
def test_it_fails_where_optimizer_state_is_lost(
    workspace: Workspace, facts: CorpusFacts, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    load = BuiltinTrainer.load

    def lossy(self: BuiltinTrainer, folder: Path, step: int) -> None:
        load(self, folder, step)
        for state in self.optimizer.members[0].state.values():
            state[lost].zero_()

    monkeypatch.setattr(BuiltinTrainer, "load", lossy)
    result = forked(workspace, facts)
    assert not result.holds and not any(run.exact for run in result.compared)
    assert all(run.weights > 1e-6 and run.state > 1e-6 for run in result.compared)
    assert "they must be equal" in result.summary


def test_a_resume_alone_is_found_out(
    workspace: Workspace, facts: CorpusFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost only where an attempt goes on inside its job, as after the interruption: the branch holds."""
    load = BuiltinTrainer.load

    def lossy(self: BuiltinTrainer, folder: Path, step: int) -> None:
        load(self, folder, step)
        if step == 2:
            torch.nn.init.zeros_(self.optimizer.members[0].state[self.model.embedding]["exp_avg"])

    monkeypatch.setattr(BuiltinTrainer, "load", lossy)
    branch, resumed = forked(workspace, facts).compared
    assert branch.exact and not resumed.exact


def test_where_equal_runs_differ_their_distance_is_the_tolerance(
    workspace: Workspace, facts: CorpusFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16, with a gradient that is a little different each time, as on a GPU."""
    generator = torch.Generator().manual_seed(0)
    accumulate = BuiltinTrainer._accumulate
    size = [1e-4]

    def noisy(self: BuiltinTrainer) -> torch.Tensor:
        loss = accumulate(self)
        for parameter in self.model.parameters():
            assert parameter.grad is not None
            parameter.grad.mul_(1 + size[0] * torch.randn(parameter.grad.shape, generator=generator))
        return loss

    monkeypatch.setattr(BuiltinTrainer, "_accumulate", noisy)
    result = forked(workspace, facts, precision="bf16")
    assert result.holds and not result.exact and result.noise is not None
    assert result.noise.weights > 0 and f"{TOLERANCE:g} times that is allowed" in result.summary
    load = BuiltinTrainer.load

    def lossy(self: BuiltinTrainer, folder: Path, step: int) -> None:
        load(self, folder, step)
        for state in self.optimizer.members[0].state.values():
            state["exp_avg"].zero_()

    monkeypatch.setattr(BuiltinTrainer, "load", lossy)
    assert not forked(workspace, facts, precision="bf16").holds


def test_equal_runs_that_are_equal_leave_no_room() -> None:
    same, other = Distance("", 0.0, 0.0, 0.0, True), Distance("the branch", 1e-9, 0.0, 0.0, False)
    result = ForkResult("8x1", 24, 18, 4, 4, "a GPU", "bf16", True, False, True, (other,), same)
    assert not result.holds and "two equal runs end bit for bit the same" in result.summary


@pytest.mark.parametrize("changes", [{"schedule__kind": "cosine"}, {"schedule__fork": False}])
def test_what_cannot_fork_is_resumed(
    workspace: Workspace, facts: CorpusFacts, changes: dict[str, Any]
) -> None:
    result = forked(workspace, facts, **changes)
    assert result.holds and result.cut is None
    assert [run.what for run in result.compared] == ["the resumed one"]


def test_a_run_that_does_not_end_is_said(
    workspace: Workspace, facts: CorpusFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BuiltinTrainer, "evaluate", lambda self, name, tokens: float("nan"))
    with pytest.raises(WorkFailed, match="diverged"):
        forked(workspace, facts)
    assert not list((workspace.root / "checks").iterdir())


def test_the_budget_is_short_and_the_warmup_with_it() -> None:
    study = short(tiny(schedule__warmup_steps=100, grid={"axes": {"optimizer.lr": [0.1, 0.2]}}), None, 24)
    assert study.schedule.warmup_steps == 6 and study.grid.axes == {} and study.budget.tokens == (24 * 64,)
    assert study.all_stages["all"].rungs == (0,)
    with pytest.raises(RequestError, match="--rung=2"):
        short(tiny(), 2, 24)


def test_the_command(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweepctl", "check", "fork", "data=synthetic", "--steps", "8", "execution.device=cpu"]
    for more, code in (([], 0), (["--json"], 0), (["--rung", "7"], 2)):
        monkeypatch.setattr("sys.argv", [*command, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert (ended.value.code or 0) == code
        printed = capsys.readouterr().out
        if more == ["--json"]:
            assert json.loads(printed)["exact"] is True


def test_attempts_in_processes_of_their_own_are_the_straight_run_too(
    workspace: Workspace, facts: CorpusFacts
) -> None:
    """As where models are compiled: whoever is interrupted is killed, and the next process goes on. Of a
    schedule with few attempts, since each is a process."""
    before = files_of(workspace)
    study, execution = tiny(schedule__kind="cosine"), Execution(device="cpu")
    result = check(workspace, study, facts, None, 8, execution, lambda text: None, apart=True)
    assert result.holds and result.exact and result.apart and not result.compiled
    assert files_of(workspace) == before


def test_every_process_begins_with_nothing_compiled(
    workspace: Workspace, facts: CorpusFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweepctl.check import apart

    caches: list[str] = []

    class Refused(Exception):
        """In the place of a process."""

    def begin(*arguments: Any, env: dict[str, str], **options: Any) -> None:
        caches.extend(env[name] for name in apart.CACHES)
        assert not any(Path(cache).exists() for cache in caches)
        raise Refused

    monkeypatch.setattr("subprocess.Popen", begin)
    for _ in range(2):
        with pytest.raises(Refused):
            execution = Execution(device="cpu", compile=True)
            check(workspace, tiny(), facts, None, 8, execution, lambda text: None)
    assert len(set(caches)) == 4


def test_a_process_that_dies_says_its_last_words(
    workspace: Workspace, facts: CorpusFacts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr("sweepctl.launch.workers.SAFE_PATH", ("-c", "raise SystemExit('no torch here')"))
    with pytest.raises(WorkFailed, match="ended as died: no torch here"):
        check(workspace, tiny(), facts, None, 8, Execution(device="cpu"), lambda text: None, apart=True)
