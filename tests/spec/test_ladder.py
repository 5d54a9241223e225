from __future__ import annotations

import pytest

from sweepctl.errors import RequestError
from sweepctl.spec.accounting import Accounting, count, hidden_parameters
from sweepctl.spec.build import build
from sweepctl.spec.compose import compose_study
from sweepctl.spec.ladder import Ladder
from sweepctl.spec.model import Shape
from tests.models import some_architecture

SWIGLU = some_architecture(activation="swiglu")


def test_the_minicpm_ladder_has_its_published_sizes() -> None:
    """Hu et al. 2024, table of the wind-tunnel models: 0.009 to 0.499 B non-embedding parameters."""
    study = compose_study(["study=demo", "ladder=minicpm", "model.activation=swiglu"])
    sizes = [
        count(shape, study.model, 122753, 4096).non_embedding for shape in study.ladder.shapes(study.model)
    ]
    assert [round(n / 1e9, 3) for n in sizes] == [0.009, 0.036, 0.066, 0.109, 0.166, 0.241, 0.499]


def test_a_rule_by_depth_width_or_size_gives_the_same_shapes() -> None:
    rule = {"aspect": 64, "head_size": 64, "d_ff_ratio": 4}
    by_depth = build(Ladder, {**rule, "depths": [4, 12]}).shapes(SWIGLU)
    by_width = build(Ladder, {**rule, "widths": [256, 768]}).shapes(SWIGLU)
    sizes = [count(shape, SWIGLU, 100, 16).non_embedding for shape in by_depth]
    by_size = build(Ladder, {**rule, "params": [size * 1.05 for size in sizes]}).shapes(SWIGLU)
    assert by_depth == by_width == by_size == [Shape(256, 4, 4, 1024), Shape(768, 12, 12, 3072)]


def test_a_size_is_met_by_a_shape_whose_heads_can_share_keys() -> None:
    shared = some_architecture(queries_per_kv=4)
    rule = {"aspect": 8, "head_size": 8, "d_ff_ratio": 4}
    sizes = [hidden_parameters(Shape(8 * n, n, n, 32 * n), shared) for n in (4, 8)]
    shapes = build(Ladder, {**rule, "params": [sizes[0] * 0.6, sizes[1] * 1.3]}).shapes(shared)
    assert shapes == [Shape(32, 4, 4, 128), Shape(64, 8, 8, 256)]
    with pytest.raises(RequestError, match="queries_per_kv=2000 is not valid: it must be a divisor of"):
        build(Ladder, {**rule, "params": [1e6]}).shapes(some_architecture(queries_per_kv=2000))


def test_d_ff_is_rounded_up_to_its_multiple() -> None:
    ladder = build(
        Ladder, {"aspect": 64, "head_size": 64, "d_ff_ratio": 8 / 3, "d_ff_multiple": 256, "depths": [4]}
    )
    assert ladder.shapes(SWIGLU)[0].d_ff == 768


def test_a_table_has_a_rule_for_sizes_between() -> None:
    shapes = [
        {"d_model": d, "n_layers": d // 40, "n_heads": d // 64, "d_ff": d * 5 // 2} for d in (320, 640, 1280)
    ]
    rule = build(Ladder, {"table": shapes}).rule()
    assert (rule.aspect, rule.head_size, rule.d_ff_ratio) == (40, 64, 2.5)


@pytest.mark.parametrize(
    ("ladder", "said"),
    [
        ({"depths": [1]}, "aspect"),
        ({"aspect": 8, "head_size": 8, "d_ff_ratio": 4}, "exactly one non-empty list"),
        ({"aspect": 8, "head_size": 8, "d_ff_ratio": 4, "depths": [1], "widths": [8]}, "exactly one"),
        ({"aspect": 8, "head_size": 8, "d_ff_ratio": 4, "depths": [0]}, "depths"),
        ({"aspect": -8, "head_size": 8, "d_ff_ratio": 4, "depths": [1]}, "aspect=-8"),
        ({"table": [{"d_model": 10, "n_layers": 1, "n_heads": 3, "d_ff": 4}]}, "a divisor of d_model=10"),
        ({"table": [{"d_model": 9, "n_layers": 1, "n_heads": 3, "d_ff": 4}]}, "even"),
    ],
)
def test_what_cannot_be_a_ladder_is_named(ladder: dict, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        build(Ladder, ladder, "ladder")


def test_rungs_that_round_to_one_shape_are_refused() -> None:
    ladder = build(Ladder, {"aspect": 8, "head_size": 8, "d_ff_ratio": 4, "params": [900, 1000]})
    with pytest.raises(RequestError, match="the same shape"):
        ladder.shapes(SWIGLU)


def test_conventions_of_counting() -> None:
    counts = count(Shape(8, 2, 1, 32), some_architecture(activation="relu2"), vocab_size=100, context=16)
    assert counts.non_embedding == 2 * 12 * 64
    assert counts.with_head == counts.non_embedding + 800
    assert counts.total == counts.active == counts.non_embedding + 1600
    assert counts.flops_per_token(Accounting("with_head", "six_n")) == 6 * counts.with_head
    attention = 12 * 2 * 8 * 16
    assert (
        counts.flops_per_token(Accounting("with_head", "six_n_attention")) == 6 * counts.with_head + attention
    )
    assert counts.exact_flops_per_token == 6 * counts.with_head + attention
    tied = count(Shape(8, 2, 1, 32), some_architecture(activation="relu2", tied=True, gains=True), 100, 16)
    assert tied.total == counts.non_embedding + 5 * 8 + 800
