"""Ids: of science, all of it, and nothing else."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepctl.errors import RequestError
from sweepctl.spec import science
from sweepctl.spec.build import build, plain
from sweepctl.spec.hashing import canonical, digest
from sweepctl.spec.model import Shape
from sweepctl.spec.science import (
    Anneal,
    Batch,
    Corpus,
    JobScience,
    Point,
    read_job,
    run_id,
    trunk_id,
    with_field,
)
from tests.models import some_architecture, some_parametrization
from tests.optimizers import optimizer

POINT = Point(
    shape=Shape(8, 1, 1, 16),
    model=some_architecture(),
    parametrization=some_parametrization(),
    optimizer=optimizer(),
    warmup_steps=4,
    batch=Batch(64, 16),
    corpus=Corpus("c0ffee", 256),
)


def test_ids_are_frozen() -> None:
    """An id that was given stays: results are found by it. A new science field needs an entry in NEUTRAL."""
    assert trunk_id(POINT) == "a734ee0abf3501f1"
    assert JobScience("branch", POINT, Anneal(30, 40)).id == "7154ba671626f361"
    assert JobScience("run", POINT, Anneal(30, 40)).id == "1d716bc2c74eaf4b"


def leaves(prefix: str, value: object) -> list[str]:
    if isinstance(value, dict):
        return [path for key, item in value.items() for path in leaves(f"{prefix}{key}.", item)]
    return [prefix[:-1]]


OTHER = {bool: lambda v: not v, int: lambda v: v * 2 if v else 1, float: lambda v: v * 2 if v else 0.5}
WORDS = {
    "model.activation": "gelu",
    "model.norm": "layernorm",
    "model.positions": "learned",
    "model.mixers": ["linear", "softmax"],
    "model.linear_gate": "none",
    "model.experts": {"count": 4},
    "optimizer.name": "lion",
    "parametrization.init": "truncated_normal",
    "cycles": {"decays": [[3, 4]]},
    "parametrization.name": "mup",
    "parametrization.attention_scale": "inverse",
    "optimizer.weight_decay_rule": "independent",
    "precision": "bf16",
    "corpus.hash": "beef",
}
SKIP = {"trainer"}  # one value so far


@pytest.mark.parametrize("path", [p for p in leaves("", plain(POINT)) if p not in SKIP])
def test_every_field_changes_the_id(path: str) -> None:
    value = POINT
    for name in path.split("."):
        value = getattr(value, name)
    changes = {
        "optimizer.beta1": 0.5,
        "optimizer.beta2": 0.5,
        "batch.context": 32,
        "parametrization.depth_exponent": 1,
    }
    new = WORDS.get(path) or changes.get(path) or OTHER[type(value)](value)
    assert trunk_id(with_field(POINT, path, new)) != trunk_id(POINT)


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(Anneal)])
def test_every_field_of_the_decay_changes_a_branch(field: str) -> None:
    anneal = Anneal(30, 40)
    others = {"shape": "cosine", "drops": ((35, 0.5),)}
    new = others[field] if field in others else getattr(anneal, field) + 1
    changed = dataclasses.replace(anneal, **{field: new})
    assert JobScience("branch", POINT, changed).id != JobScience("branch", POINT, anneal).id


def test_the_fast_id_is_the_hash_of_the_record() -> None:
    for kind, anneal in (("trunk", None), ("branch", Anneal(30, 40)), ("run", Anneal(30, 40))):
        job = JobScience(kind, POINT, anneal)
        assert job.id == digest(canonical(job.record()))
    assert run_id(POINT, Anneal(30, 40)) == JobScience("run", POINT, Anneal(30, 40)).id


@given(st.floats(1e-6, 1), st.integers(0, 2**40), st.sampled_from(["linear", "cosine"]))
def test_a_record_is_read_back_whole(lr: float, seed: int, shape: str) -> None:
    point = with_field(with_field(POINT, "optimizer.lr", lr), "seed.init", seed)
    trunk = JobScience("trunk", point)
    branch = JobScience("branch", point, Anneal(30, 40, shape))
    assert read_job(trunk.record()) == trunk
    assert read_job(branch.record(), trunk.record()) == branch
    assert read_job(branch.record(), trunk.record()).id == branch.id


def test_a_field_added_later_is_left_out_at_its_neutral_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if `gains` had come later: old ids live while it is neutral, whatever its default becomes."""
    monkeypatch.setitem(science.NEUTRAL, "model.gains", False)
    science._section_text.cache_clear()
    without = JobScience("trunk", POINT).record()
    assert "gains" not in without["model"]
    assert read_job(without).point.model.gains is False
    with_gains = JobScience("trunk", with_field(POINT, "model.gains", True))
    assert with_gains.record()["model"]["gains"] is True
    assert with_gains.id == digest(canonical(with_gains.record()))
    science._section_text.cache_clear()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("optimizer.lrr", 1, "Did you mean optimizer.lr?"),
        ("nothing", 1, "no science field 'nothing'"),
        ("optimizer.lr", -1, "optimizer.lr=-1.0"),
        ("optimizer.lr", "fast", "optimizer.lr='fast'"),
        ("batch.tokens", 65, "batch.tokens=65"),
        ("model.activation", "tanh", "one of swiglu, relu2, gelu, relu"),
        ("seed.init", 1.5, "a whole number"),
    ],
)
def test_a_bad_setting_is_named_by_its_path(path: str, value: object, said: str) -> None:
    with pytest.raises(RequestError, match=said.replace("?", r"\?")):
        with_field(POINT, path, value)


def test_whole_numbers_and_floats_are_one_science() -> None:
    assert trunk_id(
        build(Point, {**plain(POINT), "optimizer": {**plain(POINT.optimizer), "clip_norm": 1}})
    ) == trunk_id(POINT)
