"""What is compiled: where, how often, from whose cache. One small model, compiled for this CPU."""

from __future__ import annotations

import os
import pwd
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sweepctl.spec.execution import Execution
from sweepctl.spec.learning_rate import LearningRateCurve
from sweepctl.store.facts import Facts
from sweepctl.store.protocol import WORKERS_VARIABLE
from sweepctl.train import compilation
from sweepctl.train.batches import Batches
from sweepctl.train.builtin import BuiltinTrainer
from sweepctl.train.device import machine
from tests.conftest import Planner, only

needs_a_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")


def trainer_of(planned: Planner, corpus: Path, execution: Execution, **changes: Any) -> BuiltinTrainer:
    science = planned(ladder__depths=[1], **changes).plans["all"].point(0)
    where = machine(execution, science.precision)
    trainer = BuiltinTrainer(science, Batches(corpus, science), where, execution)
    trainer.share()
    return trainer


@needs_a_compiler
def test_nothing_is_compiled_after_the_first_steps_and_the_next_process_finds_it(
    planned: Planner, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rates that change at every step, evaluations of any size between updates, a resume; losses are those of
    the eager model. Then a process with nothing in memory takes from disk what this one has left there."""
    from torch._dynamo.utils import counters

    monkeypatch.setenv(compilation.CACHE_VARIABLE, str(tmp_path / "cache"))
    curve = LearningRateCurve(warmup=30)
    eager = trainer_of(planned, corpus_folder, Execution(device="cpu"), name="eager")
    trainer = trainer_of(planned, corpus_folder, Execution(device="cpu", compile=True, micro_batch_rows=2))
    assert not eager.setup().compiled and trainer.setup().compiled
    assert trainer.evaluate("validation", 512) == pytest.approx(eager.evaluate("validation", 512), abs=1e-5)
    for _ in range(20):
        loss, other = float(trainer.update(curve).loss), float(eager.update(curve).loss)
    assert loss == pytest.approx(other, abs=1e-4)
    before = compilation.compilations()
    assert before > 0
    for tokens in (512, 2048, 0, 16):
        trainer.update(curve)
        eager.update(curve)
        ours, theirs = trainer.evaluate("validation", tokens), eager.evaluate("validation", tokens)
        assert ours == pytest.approx(theirs, abs=1e-4)
    trainer.save(tmp_path)
    again = trainer_of(planned, corpus_folder, Execution(device="cpu", compile=True, micro_batch_rows=2))
    again.load(tmp_path, trainer.step)
    again.update(curve)
    assert compilation.compilations() == before
    torch.compiler.reset()
    counters.clear()
    again.update(curve)
    taken = counters["inductor"]
    assert taken["fxgraph_cache_hit"] > 0 and taken["fxgraph_cache_miss"] == 0


def test_a_program_begins_anew_where_it_is_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else what a process compiled before would decide which sizes are constants, and after eight models
    whether anything is compiled at all."""
    monkeypatch.setenv(compilation.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(compilation, "_cache_folder", lambda: pytest.fail("one is named"))
    resets: list[None] = []
    monkeypatch.setattr(torch.compiler, "reset", lambda: resets.append(None))
    for program, number in ((("a", 1), 1), (("a", 1), 1), (("a", 2), 2), (("a", 1), 3)):
        compilation.begin(program)
        assert len(resets) == number


@pytest.mark.parametrize("rights", [0o770, 0o707])
def test_compiled_code_lies_where_nobody_else_can_put_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rights: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    umask = os.umask(0)
    try:
        folder = compilation._cache_folder()
    finally:
        os.umask(umask)
    assert folder == tmp_path / "sweepctl" / f"torch-{torch.__version__}"
    assert all(place.stat().st_mode & 0o777 == 0o700 for place in (folder, folder.parent))
    folder.parent.chmod(rights)
    other = compilation._cache_folder()
    assert tmp_path not in other.parents and other.stat().st_mode & 0o777 == 0o700
    folder.parent.chmod(0o700)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert tmp_path not in compilation._cache_folder().parents


def test_a_user_without_a_home_compiles_into_a_folder_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in containers, where a number without a name trains."""

    def nobody(number: int) -> None:
        raise KeyError(number)

    for variable in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert compilation._cache_folder().stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("workers", "processes", "helpers"),
    [("1", "", 8), ("4", "", 8), ("1", "32", 2), ("16", "", 4), ("99", "1", 1)],
)
def test_who_trains_side_by_side_shares_the_cores_that_compile(
    workers: str, processes: str, helpers: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torch._inductor import config

    monkeypatch.setenv(compilation.CACHE_VARIABLE, str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_COMPILE_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    monkeypatch.setenv(WORKERS_VARIABLE, workers)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
    with config.patch(compile_threads=0):
        compilation.begin("a program")
        assert config.compile_threads == helpers


GPU = Facts(device_kind="cuda", compiled=True)
CPU = Facts(device_kind="cpu", compiled=True)
EAGER = Facts(device_kind="cpu", compiled=False)
OLD = Facts.read({"device_kind": "cpu", "execution": {"compile": True}})
SILENT = Facts(device_kind="cpu")


@pytest.mark.parametrize(
    ("asked", "before", "compiled"),
    [
        ("auto", None, False),
        ("auto", CPU, True),
        ("auto", EAGER, False),
        ("auto", OLD, True),
        ("auto", SILENT, False),
        ("auto", GPU, False),
        (True, EAGER, True),
        (False, CPU, False),
    ],
)
def test_auto_goes_on_as_it_was_and_begins_eager_on_a_cpu(
    asked: Any, before: Facts | None, compiled: bool
) -> None:
    assert machine(Execution(device="cpu", compile=asked), "fp32", before=before).compiled is compiled


def test_a_branch_takes_over_how_its_trunk_was_computed(
    planned: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweepctl.store import attempts
    from tests.conftest import run_job

    monkeypatch.setattr(compilation, "compiled", lambda module, graphs=False: module)
    sweep_jobs = planned(ladder__depths=[1], budget__tokens=[1280])
    sweep_jobs.make_wishes()
    [trunk], [branch] = only(sweep_jobs, "trunk"), only(sweep_jobs, "branch")
    run_job(sweep_jobs, trunk, compile=True)
    run_job(sweep_jobs, branch)
    facts = [attempts.every(job.folder)[-1].facts for job in (trunk, branch)]
    assert [fact.compiled for fact in facts] == [True, True]
    assert facts[1].execution["compile"] == "auto"


def test_deterministic_algorithms_are_a_jobs_own_and_its_branches() -> None:
    """A worker trains one job after another."""
    wanted, unasked = Execution(device="cpu", deterministic=True), Execution(device="cpu")
    try:
        for execution, before, taken in (
            (wanted, None, True),
            (unasked, None, False),
            (unasked, Facts(deterministic=True), True),
            (unasked, Facts(deterministic=False), False),
        ):
            assert machine(execution, "fp32", before=before).deterministic is taken
            assert torch.are_deterministic_algorithms_enabled() is taken
    finally:
        machine(unasked, "fp32")


@pytest.mark.parametrize(
    ("asked", "changes", "rows", "compiled", "taken"),
    [
        ("auto", {}, None, True, True),
        ("auto", {"budget__tokens": [2**36], "batch__tokens": 2**28}, None, True, False),
        (True, {"budget__tokens": [2**36], "batch__tokens": 2**28}, None, True, True),
        (False, {}, None, True, False),
        (True, {}, 2, True, False),
        (True, {}, None, False, False),
    ],
)
def test_graphs_are_for_small_steps_of_one_piece(
    planned: Planner,
    corpus_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: Any,
    changes: dict[str, Any],
    rows: int | None,
    compiled: bool,
    taken: bool,
) -> None:
    """A GPU but for the device, on which nothing is compiled here."""
    graphed: list[bool] = []
    monkeypatch.setattr(compilation, "begin", lambda *arguments: None)
    monkeypatch.setattr(compilation, "compiled", lambda m, graphs=False: graphed.append(graphs) or m)
    point = planned(ladder__depths=[1], **changes).plans["all"].point(0)
    execution = Execution(device="cpu", cuda_graphs=asked, micro_batch_rows=rows)
    where = replace(machine(execution, point.precision), kind="cuda", compiled=compiled)
    trainer = BuiltinTrainer(point, Batches(corpus_folder, point), where, execution)
    assert trainer.setup().cuda_graphs is taken and graphed == [False, taken] * compiled
