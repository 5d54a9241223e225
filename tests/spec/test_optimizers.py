"""Optimizers by name: their keys, what they refuse, and ids that were given when all had the same keys."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.plan import earlier
from sweepctl.plan.expand import expand
from sweepctl.resources import conf_dir
from sweepctl.spec.build import plain
from sweepctl.spec.compose import compose_study
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.hashing import digest
from sweepctl.spec.model import Shape
from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.science import Batch, Corpus, JobScience, Point, read_job, trunk_id, with_field
from tests.conftest import FIRST
from tests.models import some_architecture, some_parametrization
from tests.optimizers import VALUES, optimizer

NAMES = tuple(Optimizer.kinds())
LONG = ("stages={}", "budget.flops=[]", "budget.tokens=[256e6,512e6]", "batch.tokens=1024")
LONG += ("budget.min_steps=0", "budget.max_tokens=null", "budget.min_tokens_per_parameter=0")


def point(name: str, **changes: Any) -> Point:
    return Point(
        Shape(8, 1, 1, 16),
        some_architecture(),
        some_parametrization(),
        optimizer(name, **changes),
        4,
        Batch(64, 16),
        Corpus("c0ffee", 256),
    )


@pytest.mark.parametrize(
    ("overrides", "first", "every"),
    [
        ("optimizer=adamw", "06e0d2644b151389", "493c0fbae8c3576d"),
        ("optimizer=adamw optimizer.lr=0.5", "7793987892710742", "f6bbf3ed406a409d"),
        ("optimizer=adamw optimizer.beta2=0.99 optimizer.eps=1e-8", "932e1fe8a3367175", "e98c5f7295b5bc94"),
        (
            "optimizer=adamw optimizer.weight_decay_rule=independent optimizer.clip_norm=null",
            "ced9a40078e0b1eb",
            "5570d13e1a88edf5",
        ),
        ("optimizer=lion", "03a7bc17c7ece9a1", "eebfbf766440aba5"),
        ("optimizer=lion optimizer.beta1=0.95", "e76b99f61a6e4bfd", "1d8f095ea040cc9e"),
        ("optimizer=lion optimizer.weight_decay_rule=scaled", "9fdb3545b3526aab", "aa8a0e58ccac016a"),
        ("optimizer=muon", "44a01b54aa5e2dcf", "bad709ccad7349ff"),
        ("optimizer=muon optimizer.muon_scale=spectral", "83dab6602a957dfe", "675630aa719369f0"),
        (
            "optimizer=muon optimizer.muon_steps=3 optimizer.nesterov=false",
            "06bc5dc5883a0f08",
            "b8d6cdd01a6a17bb",
        ),
        ("optimizer=muon optimizer.adamw_lr=null optimizer.eps=1e-8", "f678baa1c8f7b553", "350a63b471a55b1f"),
        ("optimizer=muon parametrization=depth_dial", "66d1ccf72c85eebe", "dae234e1181540dc"),
        ("optimizer=muon scaling=nanochat", "1b9060203bdf8669", "46a2da581f79061c"),
        ("optimizer=sgd", "eb7c737f914f44a8", "6fc7bc02455f4577"),
        ("optimizer=sgd optimizer.momentum=0", "42cfb6bcbdc336d8", "2295559f569e38ff"),
        (
            "optimizer=sgd optimizer.nesterov=true optimizer.momentum=0.95",
            "1ef933c61091f4e4",
            "3650ce87281d8424",
        ),
        ("optimizer=adamw optimizer.name=adamw,lion,sgd,muon", "06e0d2644b151389", "cd8c05815bdedfc2"),
        ("optimizer=muon optimizer.muon_steps=3,5", "93498a526fc5ba33", "a1dae9872baf6bf1"),
        ("optimizer=sgd optimizer.name=sgd,muon", "eb7c737f914f44a8", "c301cf0ddfe205f1"),
        ("optimizer=adamw scaling=nanochat", "113c8bd421ea1aae", "909dc8a5d43bda77"),
        ("optimizer=lion scaling=nanochat", "548f4e839a9fdfe1", "011aecd5246d8009"),
        ("optimizer=sgd parametrization=cerebras", "e88fa8d1842a3019", "5a8957f657b73f64"),
    ],
)
def test_ids_are_what_they_were_when_every_optimizer_had_every_key(
    overrides: str, first: str, every: str
) -> None:
    """The demo's study with each optimizer: the first job, and a digest of all."""
    plan = expand(
        compose_study([*overrides.split(), *LONG], FIRST),
        "all",
        CorpusFacts("c0ffee", 256, 10**10, ("validation",)),
    )
    assert plan.jobs[0].id == first
    assert digest(" ".join(job.id for job in plan.jobs)) == every


@pytest.mark.parametrize("name", NAMES)
def test_a_record_of_then_is_read_and_keeps_its_id(name: str) -> None:
    """Every key was in it that was not at its neutral value."""
    job = JobScience("trunk", point(name))
    record = job.record()
    then = {"lr", "beta1", "beta2", "eps", "weight_decay", "weight_decay_rule", "clip_norm", "name"}
    assert record["optimizer"].keys() >= then
    assert read_job(record) == job and read_job(record).id == job.id
    assert plain(job.point.optimizer).keys() == plain(optimizer(name)).keys()


@pytest.mark.parametrize("name", NAMES)
def test_its_file_holds_its_keys_and_no_others(name: str) -> None:
    keys = yaml.safe_load((conf_dir() / "optimizer" / f"{name}.yaml").read_text())
    composed = compose_study([f"optimizer={name}", "~study", "+name=x", "parametrization=standard"])
    assert plain(composed.optimizer) == keys
    assert keys["name"] == name


def test_every_optimizer_has_a_file() -> None:
    assert {path.stem for path in (conf_dir() / "optimizer").glob("*.yaml")} == set(NAMES)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["optimizer.momentum=0.9"],
            r"optimizer\.momentum is a key of muon, sgd, not of adamw: leave it out",
        ),
        (["optimizer=lion", "optimizer.eps=1e-8"], r"optimizer\.eps is a key of adamw, muon, not of lion"),
        (["optimizer=sgd", "optimizer.beta1=0.8"], r"beta1 is a key of adamw, lion, muon, not of sgd"),
        (["optimizer.name=sgd"], r"optimizer\.momentum is missing: optimizer=sgd gives every key of sgd its"),
        (["optimizer.name=adam"], "one of adamw, lion, muon, sgd"),
        (["optimizer.name=[adamw]"], "one of adamw, lion, muon, sgd"),
        (["optimizer=adam"], "optimizer can be adamw, lion, muon, sgd"),
        (["optimizer.muon_steps=3,5"], r"optimizer\.muon_steps is a key of muon, not of adamw"),
    ],
)
def test_a_key_it_does_not_have_is_refused_with_who_has_it(overrides: list[str], said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        expand(compose_study([*overrides, *LONG]), "all", CorpusFacts("c0ffee", 256, 10**10, ("validation",)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("other", NAMES)
def test_an_axis_of_names_keeps_the_values_that_both_have(name: str, other: str) -> None:
    """What the first does not have is as its record had it."""
    switched = with_field(point(name, lr=0.5), "optimizer.name", other)
    before, after = plain(optimizer(name, lr=0.5)), plain(switched.optimizer)
    assert after == {
        **plain(optimizer(other, eps=1e-12)),
        **{k: before[k] for k in after.keys() & before},
    } | {"name": other}
    assert (trunk_id(switched) == trunk_id(point(name, lr=0.5))) == (name == other)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        *((name, "lr", 0.0) for name in NAMES),
        *((name, "weight_decay", -1e-9) for name in NAMES),
        *((name, "clip_norm", 0.0) for name in NAMES),
        *((name, "beta1", 1.0) for name in ("adamw", "lion", "muon")),
        *((name, "beta2", -0.1) for name in ("adamw", "lion", "muon")),
        *((name, "eps", 0.0) for name in ("adamw", "muon")),
        *((name, "momentum", 1.0) for name in ("sgd", "muon")),
        *(("muon", key, 0) for key in ("muon_steps", "adamw_lr")),
    ],
)
def test_a_value_out_of_range_is_named(name: str, key: str, value: float) -> None:
    with pytest.raises(InvalidValue, match=rf"^optimizer\.{key}="):
        optimizer(name, **{key: value})


def test_a_mapping_without_a_name_and_one_without_a_key_are_refused() -> None:
    from sweepctl.spec.build import build

    with pytest.raises(RequestError, match=r"optimizer\.name is missing"):
        build(Optimizer, {"lr": 1.0}, "optimizer")
    adamw = plain(optimizer())
    for key in adamw.keys() - {"name"}:
        with pytest.raises(RequestError, match=rf"optimizer\.{key} is missing"):
            build(Optimizer, {k: v for k, v in adamw.items() if k != key}, "optimizer")
    assert adamw.keys() < VALUES.keys()


def test_what_a_recipe_sets_for_another_optimizer_is_left_out() -> None:
    """The depth dial names the rate of what Muon leaves to AdamW."""
    muon, adamw = (
        compose_study(["parametrization=depth_dial", f"optimizer={name}"]) for name in ("muon", "adamw")
    )
    assert muon.optimizer.adamw_lr == 0.008 and muon.optimizer.lr == adamw.optimizer.lr == 0.02  # type: ignore[attr-defined]


def test_settings_of_an_earlier_plan_that_its_optimizer_never_used_are_left_out() -> None:
    settings = {"optimizer.momentum": 0.9, "optimizer.lr": 0.5}
    adamw, sgd = earlier.settings([settings, {**settings, "optimizer.name": "sgd"}], optimizer(), VALUES)
    assert adamw == {"optimizer.lr": 0.5}
    assert sgd == {**settings, "optimizer.name": "sgd"}
