"""Parametrizations in the model: what is drawn, what an update does, and muP against what it promises."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from sweepctl.spec.model import Shape
from sweepctl.spec.parametrization import Parametrization
from sweepctl.spec.parametrizations import TABLES
from sweepctl.spec.weights import VECTORS
from sweepctl.train import ops
from sweepctl.train.model import Decoder
from sweepctl.train.optimizer import GroupedOptimizer
from tests.models import some_architecture, some_parametrization
from tests.optimizers import optimizer


def shape(width: int, layers: int = 2) -> Shape:
    return Shape(width, layers, width // 16, 4 * width)


def named(name: str, **changes: Any) -> Parametrization:
    """A table at its recipe's numbers, with a base small enough for tests."""
    absolute = name in ("mutransfer", "spectral", "depth_dial")
    options: dict[str, Any] = {"init_std": 1.0 if absolute else 0.1, "base_d_model": 32, "base_n_layers": 2}
    if name == "minicpm":
        options |= {"embedding_multiplier": 12.0, "residual_multiplier": 1.4}
    if name == "completep":
        options |= {"depth_exponent": 1.0}
    return some_parametrization(name, **options | changes)  # type: ignore[arg-type]


def decoder(parametrization: Parametrization, at: Shape, seed: int = 1, **model: Any) -> Decoder:
    net = Decoder(at, some_architecture("relu2", **model), parametrization, 64, 32, ops.eager_cpu("torch"))
    net.initialize(seed)
    return net


def train(
    parametrization: Parametrization, at: Shape, steps: int, lr: float = 2**-7, seed: int = 1
) -> tuple[Decoder, torch.Tensor]:
    """A model after `steps` updates, and the RMS change of the last block's output."""
    net = decoder(parametrization, at, seed)
    grouped = GroupedOptimizer(net, optimizer(lr=lr, eps=1e-12, weight_decay=0.0))
    x = (torch.arange(8 * 33).reshape(8, 33) ** 2 // 7) % 64
    hidden: list[torch.Tensor] = []
    net.final_norm.register_forward_pre_hook(lambda _, args: hidden.append(args[0].detach()))
    net(x[:, :-1])
    for _ in range(steps):
        F.cross_entropy(net(x[:, :-1]).logits, x[:, 1:].reshape(-1)).backward()
        grouped.step(1.0)
    net(x[:, :-1])
    return net, (hidden[-1] - hidden[0]).square().mean().sqrt()


@pytest.mark.parametrize("name", TABLES)
def test_tensors_are_drawn_with_the_tables_deviation(name: str) -> None:
    """Every tensor, within five standard errors of its number of elements; vectors are ones, biases zeros."""
    at = shape(64)
    net = decoder(named(name), at, gains=True, norm="rmsnorm")
    for weight, parameter in net.named_weights():
        std = net.parametrization.row(weight, at).init_std
        if weight.kind in VECTORS:
            assert bool((parameter == 1).all())
        else:
            error = 5 / math.sqrt(2 * weight.elements)
            assert float(parameter.detach().std()) == pytest.approx(std, rel=error, abs=1e-12), weight.name


def test_a_truncated_normal_is_clipped_at_two_deviations_and_keyed_by_the_seed() -> None:
    """Its deviation is 0.880 of the one given, sqrt(1 - 4 pdf(2) / (2 cdf(2) - 1)): nothing is rescaled."""
    clipped = named("mup", init="truncated_normal")
    nets = [decoder(clipped, shape(64)) for _ in range(2)]
    nets[1].initialize(2)
    for weight, parameter in nets[0].named_weights():
        std = clipped.row(weight, shape(64)).init_std
        assert float(parameter.detach().abs().max()) <= 2 * std * (1 + 1e-6)
        assert float(parameter.detach().abs().max()) > 1.9 * std
        assert float(parameter.detach().std()) == pytest.approx(
            0.87963 * std, rel=5 / math.sqrt(2 * weight.elements)
        )
    assert not torch.equal(nets[0].embedding, nets[1].embedding)
    nets[1].initialize(1)
    assert torch.equal(nets[0].embedding, nets[1].embedding)


def test_zero_query_leaves_keys_and_values() -> None:
    net = decoder(named("mutransfer", zero_query=True), shape(32))
    q, k, v = net.get_parameter("blocks.0.mixer.qkv").chunk(3)
    assert not q.any() and bool(k.all()) and bool(v.all())


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("rule", ["coupled", "scaled", "independent"])
def test_an_update_without_gradient_is_the_decay_alone(name: str, rule: Any) -> None:
    """At half the peak, with vectors that do not decay, at four times the base width and twice its depth."""
    net = decoder(named(name), shape(128, 4), gains=True)
    spec = optimizer(lr=0.01, weight_decay=0.5, weight_decay_rule=rule)
    grouped = GroupedOptimizer(net, spec)
    before = {weight.name: parameter.detach().clone() for weight, parameter in net.named_weights()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    grouped.step(0.5)
    for weight, parameter in net.named_weights():
        row = net.parametrization.row(weight, net.shape)
        share = {"coupled": 0.01 * row.lr * 0.5 * row.weight_decay, "scaled": 0.01 * 0.5, "independent": 0.5}
        kept = 1.0 if weight.kind in VECTORS else 1 - 0.5 * share[rule]
        torch.testing.assert_close(parameter.detach(), before[weight.name] * kept)


@pytest.mark.parametrize("name", TABLES)
def test_training_goes_down_and_stays_finite(name: str) -> None:
    net, change = train(named(name), shape(64, 3), 6, 2**-4 if name == "spectral" else 2**-8)
    x = (torch.arange(8 * 33).reshape(8, 33) ** 2 // 7) % 64
    fresh = decoder(named(name), shape(64, 3))
    losses = [F.cross_entropy(m(x[:, :-1]).logits, x[:, 1:].reshape(-1)).item() for m in (fresh, net)]
    assert math.isfinite(losses[1]) and losses[1] < losses[0]
    assert 0 < float(change) < 100


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (named("standard"), named("mup")),
        (named("mup", depth_exponent=1.0), named("completep")),
        (named("minicpm", residual_multiplier=2**0.5), named("completep", embedding_multiplier=12.0)),
    ],
)
def test_two_tables_are_identical_at_their_base(first: Parametrization, other: Parametrization) -> None:
    """To every bit, after training; MiniCPM's branch of sqrt(2) / sqrt(L) is 1 at two layers."""
    (a, _), (b, _) = train(first, shape(32), 5), train(other, shape(32), 5)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("name", ["mutransfer", "spectral"])
def test_a_tied_head_starts_and_moves_as_an_untied_one(name: str) -> None:
    """With the embedding's rate and no multiplier its logits would be of size sqrt(d)."""
    x = torch.arange(64).reshape(2, 32)
    for width in (32, 128):
        net = decoder(named(name), shape(width), tied=True)
        assert net.logit_multiplier == 1 / width
        assert float(net(x).logits.detach().std()) < 1


def slope(parametrization: Parametrization, lr: float = 2**-7) -> float:
    """Of log2 RMS change of the last block's output against log2 width, 32 to 256, after four updates,
    the mean of three seeds; with a zero head, so that the first logits are the same at every width."""
    options: dict[str, Any] = {"zero_head": True}
    if parametrization.name != "minicpm":
        options["attention_scale"] = "inverse"
    changed = dataclasses.replace(parametrization, **options)
    changes = [
        [train(changed, shape(width), 4, lr, seed)[1] for seed in range(3)] for width in (32, 64, 128, 256)
    ]
    logs = torch.log2(torch.tensor(changes)).mean(1)
    x = torch.tensor([0.0, 1.0, 2.0, 3.0])
    return float(((x - x.mean()) * (logs - logs.mean())).sum() / ((x - x.mean()) ** 2).sum())


@pytest.mark.parametrize(
    ("parametrization", "lr"),
    [
        (named("mup"), 2**-7),
        (named("mup", init_std=0.08, embedding_multiplier=10.0, init="truncated_normal"), 6e-3),
        (named("completep"), 2**-7),
        (named("minicpm"), 0.01),
        (named("mutransfer"), 2**-7),
        (named("spectral"), 2**-2),
    ],
    ids=["mup", "cerebras", "completep", "minicpm", "mutransfer", "spectral"],
)
def test_mup_keeps_the_change_of_activations(parametrization: Parametrization, lr: float) -> None:
    assert abs(slope(parametrization, lr)) < 0.1


def test_standard_does_not() -> None:
    assert slope(named("standard")) > 0.8
