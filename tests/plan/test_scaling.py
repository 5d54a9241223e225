"""Scaling rules: formulas by rung, as their sources print them."""

from __future__ import annotations

import math

import pytest
import yaml

from sweepctl.errors import RequestError
from sweepctl.plan.diff import diff
from sweepctl.plan.expand import expand
from sweepctl.plan.plan import Plan, load
from sweepctl.resources import conf_dir
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.science import Point
from tests.conftest import tiny
from tests.plan.test_expand import plan

RULE = {
    "tokens_per_parameter": 10,
    "constants": {"ref": 144},
    "fields": {
        "optimizer.adamw_lr": "base * 2",
        "optimizer.lr": "base * sqrt(B / 64) * L / d * 8",
        "batch.tokens": "pow2(64 * (N / ref) ** 0.5) + 3",
        "optimizer.beta2": "0.95 if B >= 128 else 0.99",
        "schedule.warmup_steps": "D / B / 100 + 3",
        "optimizer.clip_norm": "base * 2",
    },
}


def test_a_scaling_rule_sets_each_rungs_fields() -> None:
    planned = plan(scaling=RULE, budget__tokens=[12_800], optimizer__clip_norm=None)
    small, large = (planned.point(i) for i in range(2))
    sizes = [rung.counts.non_embedding for rung in planned.rungs]
    batches = [round((2 ** round(math.log2(64 * (size / 144) ** 0.5)) + 3) / 16) * 16 for size in sizes]
    assert [small.batch.tokens, large.batch.tokens] == batches and batches[0] != batches[1]
    for point, layers, batch, size in ((small, 1, batches[0], sizes[0]), (large, 2, batches[1], sizes[1])):
        assert point.optimizer.lr == pytest.approx(0.02 * math.sqrt(batch / 64) * layers / (8 * layers) * 8)
        assert point.optimizer.beta2 == (0.95 if batch >= 128 else 0.99)
        assert point.warmup_steps == round(10 * size / batch / 100 + 3)
        assert point.optimizer.clip_norm is None and not hasattr(point.optimizer, "adamw_lr")
    again = load(planned.text, "x")
    assert again == planned and all(again.science(job).id == job.id for job in again.jobs)


def test_an_axis_stands_above_the_rule_and_the_rule_is_not_an_axis() -> None:
    planned = plan(scaling=RULE, grid={"axes": {"optimizer.lr": [0.1, 0.2]}}, budget__tokens=[12_800])
    assert sorted(planned.point(i).optimizer.lr for i in range(4)) == [0.1, 0.1, 0.2, 0.2]
    assert "optimizer.lr" not in planned.scaling.fields
    assert (
        planned.point(0).batch.tokens
        == plan(scaling=RULE, budget__tokens=[12_800], optimizer__clip_norm=None).point(0).batch.tokens
    )


def test_a_rule_leaves_out_what_a_kind_does_not_have() -> None:
    rule = {"fields": {"optimizer.beta2": "0.9", "schedule.decay.fraction": "0.5"}}
    axes = {"optimizer.name": ["adamw", "sgd"], "schedule.kind": ["wsd", "cosine"]}
    planned = plan(scaling=rule, grid__axes=axes)
    beta2 = [getattr(planned.point(index).optimizer, "beta2", None) for index in range(4)]
    assert beta2 == [0.9, 0.9, None, None]
    assert load(planned.text, "plan").points == planned.points
    alone = plan(scaling=rule, schedule={"kind": "cosine", "warmup_steps": 4})
    assert {job.kind for job in alone.jobs} == {"run"}


def test_a_changed_rule_is_traced_to_the_field_it_sets() -> None:
    def rule(lr: str) -> Plan:
        return plan(scaling={"fields": {"optimizer.lr": lr}})

    difference = diff(rule("base / L"), rule("base / L / 2"))
    assert difference.changed == 6 and {change.field for change in difference.changes} == {"optimizer.lr"}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"fields": {"optimizer.lr": "base * M"}}, "scaling.fields.optimizer.lr, rung 8x1: .*'M'"),
        ({"fields": {"optimizer.lr": "D"}}, "no name of a formula 'D'"),
        ({"fields": {"optimizer.lr": "1 / 0"}}, "has no value"),
        ({"fields": {"optimizer.lr": "9 ** 9 ** 9 ** 9"}}, "has no value"),
        ({"fields": {"optimizer.lr": "-" * 3000 + "1"}}, "formula"),
        ({"fields": {"optimizer.lr": "(-8) ** 0.5"}}, "has no finite value"),
        ({"fields": {"optimizer.lr": "base < 3"}}, "must give a number"),
        ({"fields": {"batch.tokens": "-5"}}, "above 0; it gives -5"),
        ({"fields": {"optimizer.lr": "__import__('os')"}}, "no arithmetic"),
        ({"fields": {"optimizer.lr": "-1"}}, "optimizer.lr=-1.0 is not valid"),
        ({"fields": {"optimizer.speed": "1"}}, "no science field 'optimizer.speed'"),
        ({"fields": {"nothing": "1"}}, "no science field 'nothing'"),
        ({"fields": {"optimizer.name": "1"}}, "optimizer.name=1.0 is not valid: it must be one of adamw"),
        ({"fields": {"shape.d_model": "8"}}, "fields='shape.d_model' is not valid"),
        ({"fields": {"schedule.warmup_tokens": "N"}}, "given one of the two"),
        ({"tokens_per_parameter": 0}, "tokens_per_parameter=0.0 is not valid"),
        ({"constants": {"N": 1}}, "a name other than N, D"),
    ],
)
def test_a_bad_rule_is_one_sentence(rule: dict, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        plan(scaling=rule)
    assert "\n" not in str(caught.value)


def published(name: str, shape: dict, vocab: int, **changes) -> Point:
    """The point that a rule of conf/ gives one shape, with 2,048 tokens of context."""
    rule = yaml.safe_load((conf_dir() / "scaling" / f"{name}.yaml").read_text())
    study = tiny(
        ladder={"table": [shape]}, batch={"tokens": 524_288, "context": 2048},
        budget={"tokens": [1e9]}, scaling=rule, **changes,
    )  # fmt: skip
    return expand(study, "all", CorpusFacts("c0ffee", vocab, 10**12, ("validation",))).point(0)


def test_the_published_rules_give_what_their_sources_give() -> None:
    d12 = {"d_model": 768, "n_layers": 12, "n_heads": 6, "d_ff": 3072}
    d24 = {"d_model": 1536, "n_layers": 24, "n_heads": 12, "d_ff": 6144}
    reference = published("nanochat", d12, 32_768, optimizer={"lr": 0.02, "weight_decay": 0.28})
    assert (reference.batch.tokens, reference.optimizer.lr) == (2**19, 0.02)
    assert reference.optimizer.weight_decay == pytest.approx(0.28, rel=1e-3)
    d30 = {"d_model": 1920, "n_layers": 30, "n_heads": 15, "d_ff": 7680}
    deep = published("nanochat", d30, 32_768, optimizer={"lr": 0.02, "weight_decay": 0.28})
    ratio = (30 * 12 * 1920**2 + 32_768 * 1920) / (12 * 12 * 768**2 + 32_768 * 768)
    batch = 2 ** round(math.log2(2**19 * ratio**0.383))
    assert deep.batch.tokens == batch == 2**20
    assert deep.optimizer.lr == pytest.approx(0.02 * math.sqrt(batch / 2**19))
    assert deep.optimizer.weight_decay == pytest.approx(0.28 * math.sqrt(batch / 2**19) / ratio, rel=1e-3)

    for shape, n in ((d12, 12 * 12 * 768**2), (d24, 24 * 12 * 1536**2)):
        olmo = published("olmo", shape, 100_000)
        wanted = 2048 * 160 * (n / 108e6) ** (2 / 3)
        assert abs(olmo.batch.tokens - wanted) < 2048 * 0.6
        assert olmo.optimizer.lr == pytest.approx(0.0047 * (n / 108e6) ** (-1 / 3) / 2, rel=1e-3)
        assert olmo.optimizer.beta2 == (0.95 if olmo.batch.tokens >= 524_288 else 0.99)
        deepseek = published("deepseek", shape, 100_000)
        c = (6 * n + 12 * shape["n_layers"] * shape["d_model"] * 2048) * 20 * n
        assert abs(deepseek.batch.tokens - 0.2920 * c**0.3271) < 2048 * 0.6
        assert deepseek.optimizer.lr == pytest.approx(0.3118 * c**-0.1250, rel=1e-3)
    assert published("olmo", d12, 100_000).optimizer.beta2 == 0.99
