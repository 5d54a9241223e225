"""Studies from outside: a folder of another project's files, and Hydra's grammar beyond a study."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweepctl.errors import RequestError
from sweepctl.launch.local import LocalSettings
from sweepctl.spec.build import build
from sweepctl.spec.compose import compose_launcher, compose_study
from sweepctl.spec.grid import MOST, Grid, Sample


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The configuration of another project."""
    (tmp_path / "config.yaml").write_text("defaults: [model: small, _self_]\nseed: 42\nrun: ${model.name}\n")
    for group, text in {
        "model": "name: gpt\nn_layer: 12\n",
        "study": "# @package _global_\nname: ours\noptimizer: {lr: 0.5}\n",
    }.items():
        (tmp_path / group).mkdir()
        (tmp_path / group / "small.yaml").write_text(text)
    return tmp_path


def test_a_root_of_the_users_own_hides_nothing(folder: Path) -> None:
    study = compose_study(["study=small"], folder)
    assert (study.name, study.optimizer.lr) == ("ours", 0.5)
    with pytest.raises(RequestError, match="no key 'name' in model"):
        compose_study(["study=small", "model=small"], folder)
    (folder / "config.yaml").write_text("- no mapping\n: {")
    assert compose_study(["study=small"], folder) == study


def test_a_file_that_extends_itself_is_named(folder: Path) -> None:
    (folder / "model" / "decoder.yaml").write_text("# ours\ndefaults:\n  - decoder  # theirs\n  - _self_\n")
    with pytest.raises(RequestError, match=r"model/decoder\.yaml extends decoder, which is itself"):
        compose_study(["model=decoder"], folder)
    (folder / "local.yaml").write_text("defaults:\n- local\n- _self_\nworkers: 1\n")
    with pytest.raises(RequestError, match=r"local\.yaml extends local, which is itself"):
        compose_launcher("local", [], folder)
    (folder / "ours.yaml").write_text("defaults: [theirs]\n")
    (folder / "theirs.yaml").write_text("defaults: [ours]\n")
    (folder / "local.yaml").unlink()
    (folder / "model" / "decoder.yaml").unlink()
    with pytest.raises(RequestError, match="without end"):
        compose_launcher("ours", [], folder)
    (folder / "ours.yaml").write_text("defaults: [local, _self_]\nworkers: 3\n")
    assert build(LocalSettings, compose_launcher("ours", [], folder)).workers == 3


@pytest.mark.parametrize(
    "text",
    ["defaults: 3", "defaults: [[1]]", "defaults: {a: 1}", "defaults: [null]", "3", "- 1", "lr: ${lr}",
     "lr: ${oc.env:NO_SUCH_VARIABLE}", "lr: ${nosuch:1}", "lr: ${", "? [1, 2]\n: 3",
     "lr: !!python/name:os.x 1", "lr: &a [*a]", "1: 2", "lr: 2024-01-01", "lr: .inf", "\ttab: 1"],
)  # fmt: skip
def test_no_file_of_the_users_ends_in_a_traceback(text: str, folder: Path) -> None:
    (folder / "optimizer").mkdir()
    (folder / "optimizer" / "adamw.yaml").write_text(text)
    with pytest.raises(RequestError) as error:
        compose_study([], folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("optimizer.lr=glob(*)", "glob chooses among files"),
        ("seed.init=glob([a*],exclude=b)", "glob chooses among files"),
        ("optimizer.lr=range(1,2,0)", "a step other than 0"),
        ("seed.init=range(2000000000)", f"at most {MOST} values"),
        ("seed.init=range(0,inf)", f"at most {MOST} values"),
        ("seed.init=range(0,-2000000000,-1)", f"at most {MOST} values"),
        ("seed.init=shuffle(range(0,1e12))", f"at most {MOST} values"),
        ("optimizer.lr=sort(range(0,1,1e-9))", f"at most {MOST} values"),
        ("optimizer.lr=range(nan,2)", "at most"),
        ("optimizer.lr=${oc.env:NO_SUCH_VARIABLE},2", "NO_SUCH_VARIABLE"),
        ("grid.axes.seed.init={seeds: 2.5}", "seeds: a number"),
        ("grid.axes.seed.init={seeds: true}", "seeds: a number"),
        ("grid.axes={optimizer.lr: {log: {from: -1, to: 3, count: 4}}}", "log: {from, to, count}"),
        ("grid.axes={optimizer.lr: {linear: {from: 1, to: inf, count: 4}}}", "linear: {from, to, count}"),
        ("grid.axes={optimizer.lr: {log2: {from: -9, to: -4, step: nan}}}", "log2: {from, to, step}"),
    ],
)
def test_an_override_function_without_an_end_is_one_sentence(override: str, says: str) -> None:
    with pytest.raises(RequestError) as error:
        compose_study([override])
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_grid_is_counted_before_it_is_made() -> None:
    with pytest.raises(RequestError, match="1000000000000000 points"):
        Grid({name: {"seeds": MOST} for name in ("seed.init", "seed.data", "a")}).settings()
    with pytest.raises(RequestError, match=r"sample\.count"):
        Grid({"a": [1]}, Sample(10**12)).settings()
    with pytest.raises(RequestError, match="log_uniform needs"):
        Grid({"a": {"log_uniform": [1, float("inf")]}}, Sample(2)).settings()
