"""Every table against its paper's numbers, and the rules that hold for all of them."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.report.parametrization import numbers_at, shapes_of
from sweepctl.spec.compose import compose_study
from sweepctl.spec.model import Architecture, Experts, Shape
from sweepctl.spec.parametrization import Parametrization, Row
from sweepctl.spec.parametrizations import TABLES
from sweepctl.spec.parametrizations.table import COLUMNS
from sweepctl.spec.weights import CLASSES, VECTORS, weights
from tests.models import some_architecture, some_parametrization
from tests.optimizers import optimizer

EVERYTHING = some_architecture(
    "gelu", "layernorm", True, biases=True, positions="learned", experts=Experts(count=4, shared=1)
)
VOCAB = 512
MUP = ("mup", "completep", "minicpm", "mutransfer")


def shape(width: int, layers: int = 2) -> Shape:
    return Shape(width, layers, max(1, width // 64), 4 * width)


def rows(parametrization: Parametrization, at: Shape, model: Architecture = EVERYTHING) -> dict[str, Row]:
    """The row of each class, by the first tensor of it."""
    every = weights(at, model, VOCAB, 32)
    return {weight.kind: parametrization.row(weight, at) for weight in reversed(every)}


def near(**values: float) -> dict[str, Any]:
    return {key: pytest.approx(value) for key, value in values.items()}


@pytest.mark.parametrize("name", TABLES)
def test_every_table_has_every_class_and_a_number_in_every_column(name: str) -> None:
    assert set(TABLES[name]) == set(CLASSES)
    table_rows = rows(some_parametrization(name, 0.5, depth_exponent=0.5), shape(512, 6))  # type: ignore[arg-type]
    assert set(table_rows) == set(CLASSES)
    for kind, row in table_rows.items():
        assert set(dataclasses.asdict(row)) == set(COLUMNS)
        assert all(math.isfinite(value) for value in dataclasses.asdict(row).values())
        assert min(row.lr, row.lr_sgd, row.lr_muon, row.forward, row.eps) > 0
        assert (row.weight_decay == 0 and row.init_std == 0) == (kind in VECTORS)


@pytest.mark.parametrize(("width", "m"), [(256, 1), (1024, 4)])
def test_cerebras_gpts_table(width: int, m: float) -> None:
    """Dey et al. 2023, table 14; SGD by Yang et al. 2022, table 8: vectors and the output times m."""
    study = compose_study(["~study", "+name=x", "parametrization=cerebras"])
    assert study.optimizer.lr == 6e-3 and study.parametrization.init == "truncated_normal"
    table = rows(study.parametrization, shape(width, 6))
    assert table["embedding"] == Row(0.08, lr_sgd=m, forward=10.0)
    assert table["hidden"] == Row(0.08 / math.sqrt(m), 1 / m)
    assert table["residual_output"] == Row(pytest.approx(0.08 / math.sqrt(m) / math.sqrt(12)), 1 / m)
    assert table["head"] == Row(0.08, lr_sgd=m, forward=1 / m)
    assert table["router"] == Row(0.08 / m, 1 / m, 1 / m)
    assert table["final_gain"] == table["bias"] == Row(0, lr_sgd=m, weight_decay=0)


def test_completeps_table() -> None:
    """Dey et al. 2025, table 1: m = 2, m_L = 4, alpha 1 and 1/2."""
    study = compose_study(["~study", "+name=x", "parametrization=completep"])
    table = rows(study.parametrization, shape(512, 8))
    assert table["hidden"] == Row(
        **near(init_std=0.02 / math.sqrt(2)), lr=0.5, lr_sgd=4, weight_decay=2, eps=1 / 8
    )
    assert table["residual_output"] == dataclasses.replace(table["hidden"], forward=0.25)
    assert table["embedding"] == Row(0.02, lr_sgd=2, eps=0.5)
    assert table["head"] == Row(0.02, lr_sgd=2, forward=0.5, eps=0.5)
    assert (table["gain"].lr, table["final_gain"].lr, table["bias"].eps) == (1, 1, 1 / 8)
    half = rows(dataclasses.replace(study.parametrization, depth_exponent=0.5), shape(512, 8))
    assert (half["hidden"].lr, half["hidden"].lr_muon, half["gain"].lr) == (0.25, 0.5, 0.5)
    assert (half["residual_output"].forward, half["hidden"].lr_sgd) == (0.5, 1)
    assert half["hidden"].eps == 1 / 4


@pytest.mark.parametrize(("width", "layers", "m"), [(512, 12, 2), (1024, 20, 4)])
def test_minicpms_table(width: int, layers: int, m: float) -> None:
    """Hu et al. 2024, table 7: scale_emb 12, scale_depth 1.4, init 0.1, rate 0.01, logits over m."""
    study = compose_study(["~study", "+name=x", "parametrization=minicpm"])
    assert study.optimizer.lr == 0.01
    at = shape(width, layers)
    table = rows(study.parametrization, at)
    assert table["embedding"] == Row(0.1, lr_sgd=m, forward=12)
    assert table["hidden"] == Row(0.1 / math.sqrt(m), 1 / m)
    branch = 1.4 / math.sqrt(layers)
    assert table["residual_output"] == Row(0.1 / math.sqrt(m), 1 / m, forward=pytest.approx(branch))
    assert table["head"] == Row(0.1, lr_sgd=m, forward=1 / m)
    assert study.parametrization.attention_multiplier(at) == 1 / 8
    assert study.parametrization.logit_multiplier(at, tied=True) == 1 / m


@pytest.mark.parametrize(("width", "m"), [(128, 1), (2048, 16)])
def test_lingles_table(width: int, m: float) -> None:
    """Lingle 2024, table 1, relative rule: hidden fan_in^-1/2, head 1/d at eta / m; SP unembedding d^-1/2."""
    parametrization = compose_study(["~study", "+name=x", "parametrization=mutransfer"]).parametrization
    at = shape(width)
    table = rows(parametrization, at, some_architecture())
    assert table["embedding"] == Row(1, lr_sgd=m)
    assert table["hidden"] == Row(pytest.approx(width**-0.5), 1 / m)
    down = next(w for w in weights(at, some_architecture(), VOCAB, 32) if w.name == "blocks.0.mlp_out")
    assert parametrization.row(down, at) == Row(pytest.approx((4 * width) ** -0.5), 1 / m)
    assert table["head"] == Row(1 / width, 1 / m, 1 / m)
    variant = rows(dataclasses.replace(parametrization, sp_head=True), at)["head"]
    assert variant == Row(pytest.approx(width**-0.5), 1 / m, 1 / m)
    assert parametrization.attention_multiplier(at) == 1 / at.head_size
    assert parametrization.logit_multiplier(at, tied=False) == 1
    assert parametrization.logit_multiplier(at, tied=True) == 1 / width


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([4, 64, 5000]))
def test_the_spectral_rule_is_one_formula_of_fans(width: int, share: int, vocab: int) -> None:
    """Yang, Simon and Bernstein 2023, parametrization 1; the embedding's input is one-hot."""
    at = Shape(2 * width, 1, 1, share)
    for weight in weights(at, EVERYTHING, vocab, 8):
        row, ratio = some_parametrization("spectral", 1.0).row(weight, at), weight.fan_out / weight.fan_in
        assert row.lr == 1 / weight.fan_in and row.lr_sgd == ratio
        if weight.kind not in VECTORS:
            assert row.init_std == pytest.approx(weight.fan_in**-0.5 * min(1, ratio**0.5))
    assert rows(some_parametrization("spectral", 1.0), at)["embedding"].init_std == 1


@pytest.mark.parametrize(("depth", "factor"), [(12, 1.0), (48, 0.5)])
def test_nanochats_dial(depth: int, factor: float) -> None:
    """d = 64 L: AdamW's rates 0.3 and 0.008 at (d / 768)^-1/2, Muon's 0.02 at every depth."""
    study = compose_study(["~study", "+name=x", "parametrization=depth_dial", "optimizer=muon"])
    at = Shape(64 * depth, depth, depth // 2, 256 * depth)
    every = {weight.kind: weight for weight in weights(at, study.model, VOCAB, 32)}
    table = {kind: study.parametrization.row(weight, at) for kind, weight in every.items()}
    rates = {kind: study.optimizer.peak_lr(every[kind], row) for kind, row in table.items()}
    assert rates == near(embedding=0.3 * factor, head=0.008 * factor, hidden=0.02, residual_output=0.02)
    assert (table["embedding"].init_std, table["head"].init_std) == (0.8, 0.001)
    assert table["residual_output"].init_std == 0
    assert table["hidden"].init_std == pytest.approx(at.d_model**-0.5)


@pytest.mark.parametrize("name", MUP)
def test_at_its_base_every_mup_is_its_declared_base(name: Any) -> None:
    """To every bit. The base is the standard table; declared differences: completep and minicpm do not draw
    residual outputs smaller, minicpm has its branch, mutransfer its absolute initialization."""
    base = shape(192, 3)
    options: dict[str, Any] = {"base_d_model": 192, "base_n_layers": 3, "embedding_multiplier": 3.0}
    ours = rows(some_parametrization(name, 0.1, **options), base)
    declared = rows(some_parametrization("standard", 0.1, **options), base)
    if name in ("completep", "minicpm"):
        branch = 1 / math.sqrt(3) if name == "minicpm" else 1.0
        declared["residual_output"] = dataclasses.replace(declared["hidden"], forward=branch)
    if name == "mutransfer":
        drawn = {"hidden": 192**-0.5, "router": 1 / 192, "head": 1 / 192}
        drawn["residual_output"] = 192**-0.5
        for kind, std in drawn.items():
            declared[kind] = dataclasses.replace(declared[kind], init_std=pytest.approx(0.1 * std))
    assert ours == declared


@given(st.sampled_from(MUP), st.integers(1, 6), st.integers(1, 6), st.floats(0.25, 1))
def test_rates_and_variances_fall_with_the_width_alone(name: Any, small: int, by: int, a: float) -> None:
    """In every muP and at any depth: hidden rate 1 / m, variance 1 / m, update of logits 1 / m; input and
    vectors as they are; depth does not touch what lies outside blocks."""
    parametrization = some_parametrization(name, 0.3, base_d_model=192, depth_exponent=a)
    low, high = (
        rows(parametrization, shape(128 * small, 5)),
        rows(parametrization, shape(128 * small * by, 5)),
    )
    for kind in ("hidden", "residual_output"):
        assert high[kind].lr == pytest.approx(low[kind].lr / by)
        assert high[kind].init_std == pytest.approx(low[kind].init_std / math.sqrt(by))
        assert high[kind].lr_sgd == low[kind].lr_sgd and high[kind].lr_muon == low[kind].lr_muon
    assert high["router"].init_std == pytest.approx(low["router"].init_std / by)
    for vector in ("embedding", "input", "gain", "final_gain", "bias"):
        assert high[vector].lr == low[vector].lr
        assert high[vector].lr_sgd == pytest.approx(low[vector].lr_sgd * by)
    out = [row.forward * row.lr for row in (low["head"], high["head"])]
    assert out[1] == pytest.approx(out[0] / by)
    deep = rows(parametrization, shape(128 * small, 9))
    outside = ("embedding", "input", "head", "final_gain")
    assert all(deep[kind] == low[kind] for kind in outside)


@given(
    st.sampled_from([*TABLES]),
    st.sampled_from(["adamw", "lion", "sgd", "muon"]),
    st.floats(1e-4, 1),
    st.floats(0.01, 1),
)
def test_decay_rules_to_the_exact_factor(name: Any, kind: str, lr: float, decay: float) -> None:
    """The share lost at a peak update: coupled rate x decay x multiplier; scaled base rate x decay;
    independent decay. Vectors lose nothing."""
    parametrization, at = some_parametrization(name, 0.1, base_n_layers=2, depth_exponent=0.5), shape(512, 8)
    for weight in weights(at, EVERYTHING, VOCAB, 32):
        row = parametrization.row(weight, at)
        share: dict[Any, float] = {}
        for rule in ("coupled", "scaled", "independent"):
            spec = optimizer(kind, lr=lr, weight_decay=decay, weight_decay_rule=rule, adamw_lr=2 * lr)
            share[rule] = spec.peak_lr(weight, row) * spec.decay(weight, row)
        if weight.kind in VECTORS:
            assert set(share.values()) == {0.0}
            continue
        by_adam = kind in ("adamw", "lion") or (kind == "muon" and not spec.orthogonalizes(weight))
        multiplier = row.weight_decay if by_adam else 1.0
        base = 2 * lr if kind == "muon" and by_adam else lr
        assert share == near(
            coupled=spec.peak_lr(weight, row) * decay * multiplier, scaled=base * decay, independent=decay
        )


@pytest.mark.parametrize("name", ["cerebras", "minicpm", "depth_dial"])
def test_overrides_and_studies_have_the_last_word_over_a_recipe(name: str) -> None:
    chosen = compose_study([f"parametrization={name}", "optimizer.lr=0.5", "parametrization.zero_query=true"])
    assert chosen.optimizer.lr == 0.5 and chosen.parametrization.zero_query
    assert chosen.parametrization.base_d_model == 16  # the demo's own
    assert compose_study([f"parametrization={name}"]).optimizer.weight_decay == 0.0


def test_queries_are_rows_of_softmax_layers_alone() -> None:
    """Fused, or on their own under GQA; a linear layer with zero queries would normalize zeros."""
    hybrid = some_architecture(mixers=("linear", "softmax"))
    for model, expected in (
        (hybrid, {"blocks.1.qkv": 256}),
        (some_architecture(queries_per_kv=2), {"blocks.0.q": 256, "blocks.1.q": 256}),
    ):
        every = weights(shape(256), model, VOCAB, 32)
        assert {weight.name: weight.queries for weight in every if weight.queries} == expected


def test_what_contradicts_is_refused() -> None:
    with pytest.raises(InvalidValue, match="sp_head=True"):
        some_parametrization(zero_head=True, sp_head=True)
    with pytest.raises(RequestError, match="residual_multiplier=0"):
        compose_study(["parametrization.residual_multiplier=0"])


def test_the_printed_table_has_the_ladders_shapes_and_a_line_a_tensor_where_fans_differ() -> None:
    study = compose_study(["~study", "+name=x", "parametrization=spectral", "ladder.d_ff_ratio=2"])
    (at,) = shapes_of(study, [64], 3)
    assert at == Shape(64, 3, 4, 128)
    lines = numbers_at(study, at, VOCAB).lines
    assert [(line.kind, line.tensors) for line in lines][:4] == [
        ("embedding", ("embedding",)), ("hidden", ("qkv",)), ("hidden", ("mlp_in",)),
        ("residual_output", ("attention_out",)),
    ]  # fmt: skip
    assert lines[2].learning_rate == study.optimizer.lr / 64
    assert lines[2].decay == lines[2].learning_rate * study.optimizer.weight_decay


def table(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in a process that fails where it has imported torch."""
    code = (
        "import sys; from sweepctl.cli import main\ntry: main()\nfinally: assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, "check", "table", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    "widths", [("--d", "256", "1024"), ("--d", "256,1024"), ("--d", "256", "--d", "1024")]
)
def test_the_command_takes_widths_in_three_spellings(widths: tuple[str, ...]) -> None:
    done = table("cerebras", *widths, "--json", "optimizer.lr=0.004")
    tables = json.loads(done.stdout)
    assert [entry["shape"]["d_model"] for entry in tables["shapes"]] == [256, 1024]
    hidden = next(line for line in tables["shapes"][1]["lines"] if line["kind"] == "hidden")
    assert hidden["learning_rate"] == 0.001 and hidden["row"]["init_std"] == 0.04
    assert tables["formulas"]["hidden"]["init_std"] == "s / sqrt(m)"


def test_the_command_shows_what_it_can_without_torch_and_refuses_in_a_sentence() -> None:
    done = table("completep", "--d", "512", "--layers", "8")
    assert done.returncode == 0, done.stderr
    for text in ("m_L ** -a / m", "d = 512, L = 8", "not in this model: input, router", "1.25e-13"):
        assert text in done.stdout
    assert "Muon" in table("mup", "--d", "64").stdout
    assert "Muon" not in table("standard", "--d", "64").stdout  # 1 everywhere
    for arguments, said in (
        (("nope",), "parametrization can be cerebras"),
        (("mup", "--d", "100"), "head_size=16"),
        (("mup", "--d", "wide"), "a width"),
    ):
        refused = table(*arguments)
        assert refused.returncode == 2 and said in refused.stderr and "Traceback" not in refused.stderr


def test_ids_do_not_know_of_the_new_fields_at_their_neutral_values() -> None:
    from sweepctl.spec.science import section

    assert (
        set(section("parametrization", some_parametrization())) & {"residual_multiplier", "sp_head"} == set()
    )
    assert section("parametrization", some_parametrization(sp_head=True))["sp_head"] is True
