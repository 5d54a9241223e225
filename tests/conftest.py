"""A tiny study on a tiny corpus, and jobs run in this process."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background: children would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest

from sweepctl.data.corpora import prepare_synthetic
from sweepctl.data.shards import CorpusIndex
from sweepctl.plan.expand import expand
from sweepctl.plan.plan import Plan
from sweepctl.spec.build import build
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.execution import Execution
from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.schedules.schedule import Schedule
from sweepctl.spec.study import Study
from sweepctl.store.facts import Dispatch
from sweepctl.store.manifest import Manifest
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from sweepctl.store.workspace import Sweep, Workspace
from tests.optimizers import VALUES
from tests.users import shared_folder as shared_folder

FIRST = Path(__file__).parent / "conf"
"""Configs of studies whose ids were written down."""
TINY: dict[str, Any] = {
    "name": "tiny",
    "ladder": {"aspect": 8, "head_size": 8, "d_ff_ratio": 2, "depths": [1, 2]},
    "model": {
        "activation": "relu2",
        "norm": "rmsnorm",
        "gains": False,
        "tied": False,
        "rope_base": 1e4,
        "norm_eps": 1e-6,
    },
    "parametrization": {
        "name": "mup",
        "init_std": 0.3,
        "base_d_model": 8,
        "base_n_layers": 1,
        "depth_exponent": 1.0,
        "embedding_multiplier": 1.0,
        "output_multiplier": 1.0,
        "attention_scale": "inverse",
        "zero_head": True,
        "zero_query": False,
    },
    "optimizer": {"lr": 0.02, "eps": 1e-12, "weight_decay": 0.1},
    "schedule": {"kind": "wsd", "warmup_steps": 4, "decay": {"fraction": 0.25}},
    "batch": {"tokens": 64, "context": 16},
    "data": {"name": "synthetic", "source": "synthetic"},
    "budget": {"tokens": [1280, 2560]},
    "validation": {"tokens": 2048, "curve_tokens": 512, "curve_per_octave": 2},
    "divergence": {"every_steps": 1},
}
"""40 steps of 64 tokens at most: a job takes a tenth of a second."""


LONGEST = ("slurm/test_chaos.py", "slurm/", "launch/", "train/", "test_cli.py", "laws/")
"""Below tests/: what takes longest, the longest first."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where workers share the tests, the longest files come first: nobody waits for one at the end."""
    if config.getoption("dist", "no") == "no" and not hasattr(config, "workerinput"):
        return
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        file = item.path.relative_to(here).as_posix()
        return next((i for i, start in enumerate(LONGEST) if file.startswith(start)), len(LONGEST))

    items.sort(key=place)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with nested values replaced by dotted keys."""
    out = {key: dict(value) if isinstance(value, dict) else value for key, value in base.items()}
    for path, value in changes.items():
        target = out
        *parents, leaf = path.split(".")
        for name in parents:
            target[name] = dict(target.get(name) or {})
            target = target[name]
        target[leaf] = value
    return out


def tiny(**changes: Any) -> Study:
    """The tiny study; `a__b=1` sets a.b. Another schedule or optimizer does without the keys that it does
    not have."""
    raw = merged(TINY, {key.replace("__", "."): value for key, value in changes.items()})
    schedule = Schedule.own_keys(raw["schedule"])
    optimizer = Optimizer.own_keys({**VALUES, **raw["optimizer"]})
    return build(Study, {**raw, "schedule": schedule, "optimizer": optimizer})


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus") / "synthetic"
    prepare_synthetic(folder, seed=3, train_tokens=200_000, validation_tokens=60_000)
    return folder


@pytest.fixture(scope="session")
def index(corpus_folder: Path) -> CorpusIndex:
    from sweepctl.data.shards import read_index

    return read_index(corpus_folder)


@pytest.fixture(scope="session")
def facts(index: CorpusIndex) -> CorpusFacts:
    return index.facts


@pytest.fixture
def workspace(tmp_path: Path, corpus_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """An empty workspace with the corpus in it; $SWEEPCTL_HOME points there."""
    root = tmp_path / "sweeps"
    shutil.copytree(corpus_folder, root / "data" / "synthetic")
    monkeypatch.setenv("SWEEPCTL_HOME", str(root))
    return Workspace(root)


Planner = Callable[..., SweepJobs]


@pytest.fixture
def planned(workspace: Workspace, facts: CorpusFacts) -> Planner:
    """Plan the tiny study in the workspace: planned(name="x", **changes) -> its jobs."""

    def plan(**changes: Any) -> SweepJobs:
        study = tiny(**changes)
        sweep = workspace.sweep(study.name)
        sweep.save({stage: expand(study, stage, facts) for stage in study.all_stages})
        return SweepJobs(sweep, sweep.plans())

    return plan


EXECUTION = {"checkpoint_every_s": 1e9, "log_every_steps": 5, "curve_tokens": 512, "curve_per_octave": 2}


def manifest(sweep_jobs: SweepJobs, planned_job: PlannedJob, **execution: Any) -> Manifest:
    return sweep_jobs.manifest(
        planned_job, Execution(**{**EXECUTION, **execution}), Dispatch(launcher="test")
    )


def run_job(
    sweep_jobs: SweepJobs, planned_job: PlannedJob, stop: threading.Event | None = None, **execution: Any
) -> Any:
    """Run one job in this process; its outcome."""
    from sweepctl.train.job import run

    return run(manifest(sweep_jobs, planned_job, **execution), stop or threading.Event(), lambda event: None)


class StopAfter(threading.Event):
    """Set once the loop has looked at it so many times; with GLANCE_S = 0 it looks at every step."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def run_all(sweep_jobs: SweepJobs, **execution: Any) -> None:
    """Train everything a sweep lacks, trunks first."""
    sweep_jobs.make_wishes(execution.get("keep", "all"))
    for planned_job in sorted(sweep_jobs.unfinished(), key=lambda e: e.job.kind != "trunk"):
        if not sweep_jobs.finished(planned_job):
            run_job(sweep_jobs, planned_job, **execution)


class Undisturbed:
    """Plans trained by one process, in a workspace that tests share: equal science is trained once."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def sweep_jobs(self, sweep_jobs: SweepJobs) -> SweepJobs:
        """The same plans as these jobs, trained and collected."""
        from sweepctl.collect.tables import collect

        sweep = self.workspace.sweep(sweep_jobs.sweep.name)
        sweep.save(sweep_jobs.plans)
        trained = SweepJobs(sweep, sweep.plans())
        run_all(trained)
        collect(trained)
        return trained

    def runs(self, sweep_jobs: SweepJobs) -> bytes:
        """The runs.parquet that these plans come to."""
        return (self.sweep_jobs(sweep_jobs).sweep.folder / "runs.parquet").read_bytes()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, corpus_folder: Path) -> Undisturbed:
    workspace = Workspace(tmp_path_factory.mktemp("undisturbed"))
    shutil.copytree(corpus_folder, workspace.corpus("synthetic"))
    return Undisturbed(workspace)


def only(sweep_jobs: SweepJobs, kind: str) -> list[PlannedJob]:
    return [planned_job for planned_job in sweep_jobs.by_id.values() if planned_job.job.kind == kind]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def one_plan(sweep: Sweep) -> Plan:
    return next(iter(sweep.plans().values()))
