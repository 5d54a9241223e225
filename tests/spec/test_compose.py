"""Hydra in, a study out; everything wrong in one sentence that names the key."""

from __future__ import annotations

import dataclasses
import types
import typing
from pathlib import Path

import pytest
import yaml

from sweepctl.errors import RequestError
from sweepctl.launch.local import LocalSettings
from sweepctl.resources import conf_dir
from sweepctl.spec.build import plain
from sweepctl.spec.compose import compose_launcher, compose_study
from sweepctl.spec.execution import Execution
from sweepctl.spec.scaling import Scaling
from sweepctl.spec.schedules.cosine import Cosine, CosineDecay
from sweepctl.spec.schedules.multistep import MultiStep
from sweepctl.spec.schedules.schedule import Schedule
from sweepctl.spec.study import Study


def test_the_demo_is_what_is_composed_without_a_word() -> None:
    study = compose_study([])
    assert study.name == "demo"
    assert list(study.stages) == ["lr", "lower", "top"]
    assert study == compose_study(["study=demo"])


def test_overrides_have_the_last_word_over_a_study() -> None:
    study = compose_study(["ladder=minicpm", "optimizer.lr=0.5", "name=mine", "~stages.top"])
    assert (study.name, study.optimizer.lr, len(study.ladder.table)) == ("mine", 0.5, 7)
    assert list(study.stages) == ["lr", "lower"]


def test_comma_sweeps_become_axes() -> None:
    study = compose_study(["optimizer.lr=1e-3,2e-3", "seed.init=range(3)", "model.activation=relu2,gelu"])
    assert study.grid.axes == {
        "optimizer.lr": [1e-3, 2e-3],
        "seed.init": [0, 1, 2],
        "model.activation": ["relu2", "gelu"],
    }
    assert study.stages["lr"].grid.axes["optimizer.lr"] == [1e-3, 2e-3]


def test_an_axis_can_be_written_as_a_key() -> None:
    rule = {"log2": {"from": -9, "to": -5}}
    axes = compose_study(
        ["grid.axes.optimizer.lr={log2: {from: -9, to: -5}}", "grid.axes.seed.init=[0, 1]"]
    ).grid.axes
    assert axes == {"optimizer.lr": rule, "seed.init": [0, 1]}
    staged = compose_study(["stages.lr.grid.axes.batch.tokens=[128, 256]"]).stages["lr"].grid
    searched = {"log2": {"from": -8, "to": -4}}
    assert staged.axes == {"optimizer.lr": searched, "seed.init": [0, 1], "batch.tokens": [128, 256]}


def test_intervals_become_random_axes() -> None:
    study = compose_study(["batch.tokens=interval(1,2)", "grid.sample={count: 3, seed: 1}"])
    assert study.grid.axes == {"batch.tokens": {"uniform": [1.0, 2.0]}}


@pytest.mark.parametrize("option", ["wsd", "multistep", "cosine", "constant", "wsd_s"])
def test_every_schedule_is_one_word(option: str) -> None:
    schedule = compose_study([f"schedule={option}"]).schedule
    assert schedule.kind == option.replace("_", "-") and schedule.warmup_steps == 40  # the demo's own
    by_kind = compose_study(["schedule.kind=multistep", "schedule.drops=[[0.5, 0.1]]"]).schedule
    assert by_kind == MultiStep(warmup_steps=40, drops=((0.5, 0.1),))


def test_a_schedules_file_has_the_keys_of_its_kind_and_its_defaults() -> None:
    for file in (conf_dir() / "schedule").glob("*.yaml"):
        record = yaml.safe_load(file.read_text())
        kind = Schedule.kinds()[record["kind"]]
        assert plain(kind(warmup_steps=500)) == record, file


def test_another_schedule_does_without_what_a_studys_file_sets_of_the_first() -> None:
    """The study transfer sets a fraction of its decay, and that nothing forks."""
    overrides = ["study=transfer", "schedule=cosine"]
    assert compose_study(overrides).schedule == Cosine(warmup_steps=30, decay=CosineDecay(0.0))
    steps = compose_study(["study=transfer", "schedule=multistep"]).schedule
    assert steps == MultiStep(warmup_steps=30, fork=False)
    for asked in ("schedule.decay.fraction=0.2", "schedule.decay={fraction: 0.2}", "schedule.fork=true"):
        key = "decay.fraction" if "decay" in asked else "fork"
        with pytest.raises(RequestError, match=rf"^schedule\.{key} is a key of wsd, .*not of cosine"):
            compose_study([*overrides, asked])


def test_a_rule_is_a_word_and_each_of_its_formulas_an_override() -> None:
    assert compose_study([]).scaling == Scaling()
    rule = compose_study(
        [
            "scaling=nanochat",
            "scaling.constants.D_ref=1e6",
            "scaling.fields.optimizer.lr='base * (D / D_ref) ** -0.1'",
            "scaling.fields.optimizer.beta2=0.98",
        ]
    ).scaling
    assert rule.constants == {"D_ref": 1e6, "B_ref": 2**19}
    assert rule.fields["optimizer.lr"] == "base * (D / D_ref) ** -0.1"
    assert rule.fields["optimizer.beta2"] == 0.98 and "batch.tokens" in rule.fields
    assert compose_study(["scaling=olmo", "scaling.fields={}"]).scaling.fields == {}


def test_the_users_directory_comes_first(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "ladder").mkdir()
    (tmp_path / "study" / "ours.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /ladder: ours\nname: ours\n"
    )
    (tmp_path / "ladder" / "ours.yaml").write_text(
        "aspect: 8\nhead_size: 8\nd_ff_ratio: 4\ndepths: [3]\nd_ff_multiple: 1\n"
        "widths: []\nparams: []\ntable: []\n"
    )
    (tmp_path / "ladder" / "demo.yaml").write_text((tmp_path / "ladder" / "ours.yaml").read_text())
    assert compose_study(["study=ours"], tmp_path).ladder.depths == (3,)
    assert compose_study(["study=demo"], tmp_path).ladder.depths == (3,)
    assert compose_study(["study=demo"]).ladder.depths == (2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer.lrr=1", "no key 'lrr' in optimizer. Did you mean lr? Known: beta1, beta2,"),
        ("+optimizer.lrr=1", "no key 'lrr' in optimizer. Did you mean lr?"),
        ("optimizer.lr=fast", "optimizer.lr='fast' is not valid: it must be a number"),
        ("optimizer.lr=-1", "optimizer.lr=-1.0 is not valid: it must be above 0"),
        ("optimizer.lr=inf", "a finite number"),
        ("ladder=nope", "ladder=nope is not there; ladder can be"),
        ("study=nope", "study=nope is not there; study can be"),
        ("nope=1", "nope is not a key"),
        ("batch.tokens=100", "batch.tokens=100"),
        ("batch.context=0", "batch.context=0"),
        (
            "model.activation=tanh",
            "model.activation='tanh' is not valid: it must be one of swiglu, relu2, gelu",
        ),
        ("precision=fp8", "precision='fp8'"),
        ("seed.init=x", "seed.init='x' is not valid: it must be a whole number"),
        ("schedule.decay.fraction=2", "schedule.decay.fraction=2.0"),
        ("schedule.warmup_tokens=5", "one of the two"),
        ("budget.flops=[]", "a non-empty list of tokens"),
        ("budget.flops=[-1]", "budget.flops="),
        ("budget.flops=7", "budget.flops=7 is not valid: it must be a list"),
        ("ladder.depths=[a]", "ladder.depths"),
        ("optimizer.clip_norm=nan", "a finite number"),
        ("budget.max_tokens=inf", "a finite number"),
        ("model.gains=foo", "true or false or scalar"),
        ("schedule.kind=sawtooth", "one of wsd, multistep, cosine, constant, wsd-s"),
        (
            "schedule.drops=[[0.8,0.1]]",
            "schedule.drops is a key of multistep, not of wsd: leave it out, or choose",
        ),
        ("schedule.decay.end=0.1", "no key 'end' in schedule.decay. Did you mean end_lr_share?"),
        ("schedule.decay={fracton: 1}", "no key 'fracton' in schedule.decay. Did you mean fraction?"),
        ("+grid.axes.optimizer.lr={linear: {from: 1, to: 2, count: 1e9}}", "at most 100000 values"),
        ("+grid.axes.optimizer.lr={log2: {from: 0, to: 1, step: 1e-9}}", "at most 100000 values"),
        ("name=../x", "name='../x'"),
        ("name=store", "none of store, data, checks"),
        ("grid.axes={optimizer.lr: [1,1]}", "without repeated values"),
        ("model=decoder,decoder2", "not a group"),
        ("stages.new={take: {optimizer.lr: {stage: later}}}", "an earlier stage (lr, lower, top)"),
        ("optimizer.lr", "not a Hydra override"),
        ("a b", "not a Hydra override"),
        ("optimizer.lr=[1,", "not a Hydra override"),
        ("optimizer.lr=${nope}", "nope"),
        ("data.hash=5", "data.hash=5"),
    ],
)
def test_every_kind_of_bad_override_is_one_sentence(override: str, said: str) -> None:
    with pytest.raises(RequestError) as caught:
        compose_study([override])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_broken_file_of_the_users_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "ladder").mkdir()
    (tmp_path / "ladder" / "bad.yaml").write_text("a: [1,\n")
    with pytest.raises(RequestError, match="not valid YAML") as caught:
        compose_study(["ladder=bad"], tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(RequestError, match="is not a directory"):
        compose_study([], tmp_path / "nowhere")


def fields_of(kind: typing.Any, prefix: str = "") -> set[str]:
    """Dotted names of every field that a YAML file could set."""
    names = set()
    hints = typing.get_type_hints(kind)
    for name, hint in ((field.name, hints[field.name]) for field in dataclasses.fields(kind)):
        parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        inner = next((part for part in parts if dataclasses.is_dataclass(part)), None)
        names |= (
            fields_of(inner, f"{prefix}{name}.") if inner and type(None) not in parts else {prefix + name}
        )
    return names


def keys_of(file: Path) -> dict[str, typing.Any]:
    """A group's own keys; a recipe that is global has them under the group's name."""
    text = file.read_text()
    keys: dict[str, typing.Any] = yaml.safe_load(text)
    return keys[file.parent.name] if text.startswith("# @package _global_") else keys


def test_every_field_is_written_in_conf_so_that_it_can_be_overridden() -> None:
    text = yaml.safe_load((conf_dir() / "config.yaml").read_text())
    written = {f"{key}.{name}" for key, value in text.items() if isinstance(value, dict) for name in value}
    written |= {key for key in text if key != "defaults"} | {"name", "stages"}
    for folder in conf_dir().iterdir():
        if folder.is_dir() and folder.name != "study":
            for file in folder.glob("*.yaml"):
                keys = keys_of(file)
                nested = {
                    f"{folder.name}.{key}.{name}"
                    for key, value in keys.items()
                    if isinstance(value, dict) and key not in ("axes", "options")
                    for name in value
                }
                written |= nested | {f"{folder.name}.{key}" for key in keys}
    missing = {name for name in fields_of(Study) if name not in written}
    assert not missing


def test_every_option_of_a_group_has_every_key() -> None:
    """Or switching between options would keep an override from one for the other."""
    for folder in conf_dir().iterdir():
        if folder.is_dir() and folder.name not in ("study", "data", "schedule", "optimizer"):
            keys = {file.name: set(keys_of(file)) for file in folder.glob("*.yaml")}
            assert len({frozenset(value) for value in keys.values()}) == 1, (folder.name, keys)


def test_the_local_launcher_file_says_every_setting() -> None:
    from sweepctl.spec.build import build

    raw = compose_launcher("local", [])
    hidden = {"curve_tokens", "curve_per_octave"}  # the study's own, not the machine's
    settings = build(LocalSettings, raw)
    assert settings.execution == Execution()
    assert set(raw["execution"]) == set(plain(Execution())) - hidden
