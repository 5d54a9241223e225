"""Every optimizer against the formulas of its source, in float64, and its state through files and jobs."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from sweepctl.errors import RequestError
from sweepctl.plan.cost import checkpoint_bytes, total
from sweepctl.plan.expand import expand
from sweepctl.spec.compose import compose_study
from sweepctl.spec.execution import Execution
from sweepctl.spec.model import Shape
from sweepctl.spec.optimizers.muon import Muon as MuonSpec
from sweepctl.spec.optimizers.optimizer import DecayRule, Optimizer
from sweepctl.spec.parametrizations import TABLES
from sweepctl.spec.weights import Weight
from sweepctl.store import attempts
from sweepctl.train import ops
from sweepctl.train.batches import Batches
from sweepctl.train.builtin import BuiltinTrainer
from sweepctl.train.device import machine
from sweepctl.train.model import Decoder
from sweepctl.train.optimizer import GroupedOptimizer
from sweepctl.train.optimizers.muon import QUINTIC, Muon, orthogonalize
from tests.conftest import Planner, tiny
from tests.models import some_architecture, some_parametrization
from tests.optimizers import optimizer as spec_of
from tests.train.forks import assert_stops_do_not_matter

OPTIMIZERS = tuple(Optimizer.kinds())
RULES = get_args(DecayRule)
SCALES = get_args(get_type_hints(MuonSpec)["muon_scale"])
PARAMETRIZATIONS = tuple(TABLES)


def decoder(kind: str = "mup", seed: int = 0) -> Decoder:
    """Twice as wide as its base, with every class of tensor that a dense model has."""
    parametrization = some_parametrization(kind, 0.1, base_d_model=16, base_n_layers=1, depth_exponent=0.5)
    net = Decoder(
        Shape(32, 2, 2, 64), some_architecture("swiglu", gains=True), parametrization, 50, 8, ops.plain()
    )
    net.initialize(seed)
    return net


def give_gradients(net: Decoder, step: int) -> dict[str, Tensor]:
    """Draw a gradient for every tensor; the same ones in float64, by name."""
    generator = torch.Generator().manual_seed(step)
    for _, parameter in net.named_weights():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    return {weight.name: parameter.grad.double() for weight, parameter in net.named_weights()}


def newton_schulz(matrix: Tensor, steps: int = 5) -> Tensor:
    """Jordan's quintic on singular values, by singular value decomposition."""
    a, b, c = 3.4445, -4.7750, 2.0315
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return u * s @ vt


class Formula:
    """One tensor's updates in float64: `change` is what is subtracted beside the decay, over the rate."""

    def __init__(self, spec: Any, weight: Weight) -> None:
        self.spec, self.weight, self.t, self.m, self.v = spec, weight, 0, 0.0, 0.0
        orthogonal = spec.name == "muon" and weight.name.startswith("blocks") and len(weight.size) == 2
        self.name = "muon" if orthogonal else "adamw" if spec.name == "muon" else spec.name

    def change(self, g: Tensor, eps: float) -> Tensor:
        s, self.t = self.spec, self.t + 1
        if self.name == "adamw":  # Loshchilov and Hutter 2019, algorithm 2
            self.m = s.beta1 * self.m + (1 - s.beta1) * g
            self.v = s.beta2 * self.v + (1 - s.beta2) * g**2
            return self.m / (1 - s.beta1**self.t) / ((self.v / (1 - s.beta2**self.t)) ** 0.5 + eps)
        if self.name == "lion":  # Chen et al. 2023, algorithm 2
            direction = torch.sign(s.beta1 * self.m + (1 - s.beta1) * g)
            self.m = s.beta2 * self.m + (1 - s.beta2) * g
            return direction
        if self.name == "sgd":
            self.m = s.momentum * self.m + g
            return g + s.momentum * self.m if s.nesterov else self.m
        self.m = s.momentum * self.m + (1 - s.momentum) * g
        ahead = s.momentum * self.m + (1 - s.momentum) * g if s.nesterov else self.m
        blocks = 3 if "qkv" in self.weight.name else 2 if "mlp_in" in self.weight.name else 1
        return torch.cat([self.scale(block) * newton_schulz(block) for block in ahead.chunk(blocks)])

    def scale(self, block: Tensor) -> float:
        out, into = block.shape
        return {
            "jordan": max(1, out / into) ** 0.5,
            "spectral": (out / into) ** 0.5,
            "moonlight": 0.2 * max(out, into) ** 0.5,
        }[self.spec.muon_scale]


def rates(net: Decoder, spec: Any, formula: Formula) -> tuple[float, float]:
    """The rate and the decay of one update at the peak."""
    row = net.parametrization.row(formula.weight, net.shape)
    base = spec.adamw_lr if spec.name == "muon" and formula.name == "adamw" else spec.lr
    column = {"sgd": row.lr_sgd, "muon": row.lr_muon}.get(formula.name, row.lr)
    lr, decay = base * column, spec.weight_decay * row.weight_decay
    return lr, {"coupled": lr * decay, "scaled": base * decay, "independent": decay}[spec.weight_decay_rule]


VARIANTS = [
    *({"name": name, "weight_decay_rule": rule} for name, rule in itertools.product(OPTIMIZERS, RULES)),
    *({"name": "muon", "muon_scale": scale} for scale in SCALES),
    *({"name": name, "nesterov": False} for name in ("sgd", "muon")),
    *({"name": name, "momentum": 0.0} for name in ("sgd", "muon")),
]


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: "-".join(map(str, v.values())))
def test_three_updates_are_the_formulas(variant: dict[str, Any]) -> None:
    """Under muP off its base shape, with clipping and a rate that changes."""
    spec = spec_of(**{"lr": 0.02, "eps": 1e-3, "adamw_lr": 0.007, "clip_norm": 0.5, **variant})
    net = decoder()
    optimizer = GroupedOptimizer(net, spec)
    formulas = {weight.name: Formula(spec, weight) for weight, _ in net.named_weights()}
    expected = {weight.name: parameter.detach().double() for weight, parameter in net.named_weights()}
    for step, multiplier in enumerate((1.0, 0.5, 0.25)):
        gradients = give_gradients(net, step)
        norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
        assert float(optimizer.step(multiplier)) == pytest.approx(norm, rel=1e-5)
        for name, formula in formulas.items():
            lr, decay = rates(net, spec, formula)
            row = net.parametrization.row(formula.weight, net.shape)
            change = formula.change(gradients[name] * 0.5 / norm, spec.epsilon(row) or 0.0)
            expected[name] = expected[name] * (1 - multiplier * decay) - multiplier * lr * change
    for weight, parameter in net.named_weights():
        torch.testing.assert_close(parameter.double(), expected[weight.name], rtol=2e-5, atol=2e-6)


def test_a_tensor_without_a_gradient_is_left_alone() -> None:
    for name in OPTIMIZERS:
        net = decoder()
        optimizer = GroupedOptimizer(net, spec_of(name))
        give_gradients(net, 0)
        idle = [net.embedding, net.blocks[0].mixer.qkv]
        before = [parameter.detach().clone() for parameter in idle]
        for parameter in idle:
            parameter.grad = None
        optimizer.step(1.0)
        assert all(torch.equal(parameter, old) for parameter, old in zip(idle, before, strict=True))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 24), st.integers(1, 24), st.integers(0, 1000))
def test_orthogonalize_is_jordans_polynomial(count: int, rows: int, more: int, seed: int) -> None:
    matrices = torch.randn(count, rows, rows + more, generator=torch.Generator().manual_seed(seed))
    expected = torch.stack([newton_schulz(matrix.double()) for matrix in matrices])
    torch.testing.assert_close(orthogonalize(matrices, 5).double(), expected, rtol=0, atol=2e-4)


def test_orthogonalize_brings_singular_values_to_one_and_leaves_zeros() -> None:
    matrices = torch.randn(3, 32, 64, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalize(matrices, 5))
    assert values.min() > 0.68 and values.max() < 1.21
    assert torch.equal(orthogonalize(torch.zeros(2, 4, 8), 5), torch.zeros(2, 4, 8))


def muon(parameters: list[torch.nn.Parameter], block: tuple[int, int], scale: float = 1.0) -> Muon:
    """A Muon of one group, at a rate of 0.02 and a decay of 0.1."""
    group = {"params": parameters, "block": block, "scale": scale, "lr": 0.02, "weight_decay": 0.1}
    return Muon([group], momentum=0.95, nesterov=True, steps=5)


@pytest.mark.parametrize("block", [(8, 8), (24, 8), (8, 24)])
def test_experts_are_matrices_of_their_own(block: tuple[int, int]) -> None:
    """[experts, 2 f, d] is updated as 2 x experts separate matrices are."""
    generator = torch.Generator().manual_seed(0)
    stacked = torch.nn.Parameter(torch.randn(3, 2 * block[0], block[1], generator=generator))
    alone = [torch.nn.Parameter(m.clone()) for m in stacked.detach().reshape(6, *block)]
    optimizers = [muon([stacked], block), *(muon([parameter], block) for parameter in alone)]
    for _ in range(2):
        stacked.grad = torch.randn(stacked.shape, generator=generator)
        for parameter, gradient in zip(alone, stacked.grad.reshape(6, *block), strict=True):
            parameter.grad = gradient
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(stacked.detach().reshape(6, *block), torch.stack([p.detach() for p in alone]))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has Muon from 2.9 on")
@pytest.mark.parametrize(("scale", "theirs"), [("jordan", "original"), ("moonlight", "match_rms_adamw")])
@pytest.mark.parametrize("size", [(32, 32), (64, 16), (16, 64)])
def test_muon_is_torchs_where_that_has_it(size: tuple[int, int], scale: str, theirs: str) -> None:
    """Torch's multiplies in bf16, and here so does ours: they differ by less than by what that rounds."""
    weight = Weight("w", "hidden", size, size[1], size[0])
    factor = spec_of("muon", muon_scale=scale).scale(weight)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(size, generator=generator)
    ours, other, exact = (torch.nn.Parameter(start.clone()) for _ in range(3))
    optimizers = [
        muon([ours], size, factor),
        torch.optim.Muon([other], lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn=theirs),
        muon([exact], size, factor),
    ]
    optimizers[0].precision = torch.bfloat16
    for _ in range(3):
        gradient = torch.randn(size, generator=generator)
        for parameter, optimizer in zip((ours, other, exact), optimizers, strict=True):
            parameter.grad = gradient.clone()
            optimizer.step()
    rounding = (other - exact).norm()
    assert 0 < rounding < 0.02 * (other - start).norm()
    assert (ours - other).norm() < rounding


def test_what_the_scaling_rules_hold_constant() -> None:
    """Of orthogonal updates. Spectral: the spectral norm over sqrt(fan_out / fan_in); jordan: where outputs
    are no fewer than inputs; Moonlight: the RMS of the elements, 0.2."""
    for out, into in itertools.product((16, 64, 256), repeat=2):
        weight = Weight("w", "hidden", (out, into), into, out)
        u, _, vt = torch.linalg.svd(torch.randn(out, into).double(), full_matrices=False)
        jordan, spectral, moonlight = (
            spec_of("muon", muon_scale=scale).scale(weight) * (u @ vt)
            for scale in ("jordan", "spectral", "moonlight")
        )
        norms = [float(torch.linalg.matrix_norm(m, 2)) for m in (jordan, spectral)]
        assert norms == pytest.approx([math.sqrt(max(1, out / into)), math.sqrt(out / into)])
        assert float(moonlight.square().mean().sqrt()) == pytest.approx(0.2)


@pytest.mark.parametrize("kind", PARAMETRIZATIONS)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_goes_through_a_file_bit_for_bit(name: str, kind: str, tmp_path: Path) -> None:
    spec = spec_of(name, adamw_lr=0.003)
    through, lost, straight = decoder(kind), decoder(kind), decoder(kind)
    optimizer, expected = GroupedOptimizer(through, spec), GroupedOptimizer(straight, spec)
    for step in range(3):
        for net, own in ((through, optimizer), (straight, expected)):
            give_gradients(net, step)
            own.step(0.9**step)
    save_file(optimizer.state(), tmp_path / "state")
    lost.load_state_dict(through.state_dict())
    resumed, forgetful = GroupedOptimizer(through, spec), GroupedOptimizer(lost, spec)
    resumed.restore(load_file(tmp_path / "state"))
    for step in range(3, 5):
        for net, own in ((through, resumed), (straight, expected), (lost, forgetful)):
            give_gradients(net, step)
            own.step(0.9**step)
    pairs = list(zip(through.parameters(), straight.parameters(), strict=True))
    assert all(torch.equal(ours, theirs) for ours, theirs in pairs)
    assert not any(torch.equal(p, q) for p, q in zip(lost.parameters(), straight.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["standard", "mup"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_forked_stopped_and_straight_runs_are_one(
    planned: Planner, monkeypatch: pytest.MonkeyPatch, name: str, kind: str
) -> None:
    """Through jobs and their files: a trunk stopped on its way, resumed and forked, and runs of one go."""
    changes = {"optimizer__name": name, "parametrization__name": kind, "ladder__depths": [2]}
    trunk = assert_stops_do_not_matter(planned, monkeypatch, 7, **changes)
    assert [a.record["start_step"] for a in attempts.every(trunk.folder)] == [0, 7]


@pytest.fixture
def trainer(facts: Any, corpus_folder: Path) -> Any:
    """trainer(**changes of the tiny study) of its first job."""

    def make(**changes: Any) -> BuiltinTrainer:
        plan = expand(tiny(**changes), "all", facts)
        point, execution = plan.point(plan.jobs[0].point), Execution(device="cpu")
        return BuiltinTrainer(point, Batches(corpus_folder, point), machine(execution, "fp32"), execution)

    return make


KINDS = [{"optimizer__name": name} for name in OPTIMIZERS]
KINDS.append({"optimizer__name": "sgd", "optimizer__momentum": 0.0})


def test_a_checkpoint_of_another_optimizer_is_refused_in_one_sentence(trainer: Any, tmp_path: Path) -> None:
    trainers = [trainer(**changes) for changes in KINDS]
    for number, writer in enumerate(trainers):
        give_gradients(writer.model, 0)
        writer.optimizer.step(1.0)
        (tmp_path / str(number)).mkdir()
        writer.save(tmp_path / str(number))
    for (number, writer), reader in itertools.product(enumerate(trainers), trainers):
        if reader is writer:
            reader.load(tmp_path / str(number), 1)
            continue
        with pytest.raises(RequestError, match=r"holds another model or optimizer: of .* it keeps") as caught:
            reader.load(tmp_path / str(number), 1)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", KINDS, ids=lambda changes: "-".join(map(str, changes.values())))
def test_plans_know_the_size_of_checkpoints(trainer: Any, tmp_path: Path, changes: dict[str, Any]) -> None:
    writer = trainer(ladder__aspect=64, ladder__head_size=32, ladder__depths=[2], **changes)
    give_gradients(writer.model, 0)
    writer.optimizer.step(1.0)
    writer.save(tmp_path)
    written = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert checkpoint_bytes(writer.point) == pytest.approx(written, rel=0.01)


def test_a_plan_adds_up_each_jobs_own_optimizer(facts: Any) -> None:
    """A trunk's checkpoint in units of 4 bytes a parameter: AdamW 3, Lion 2; its branches' weights 1 each."""
    axes = {"optimizer.name": ["adamw", "lion"]}
    plan = expand(tiny(grid={"axes": axes}, ladder__depths=[1], budget__tokens=[2560]), "all", facts)
    unit = 4 * plan.rungs[0].counts.total
    assert total(plan).disk_all == (3 + 1 + 2 + 1) * unit


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_option_is_its_optimizer(name: str) -> None:
    assert compose_study([f"optimizer={name}"]).optimizer.name == name


def test_the_documented_coefficients() -> None:
    """0.68 and 1.21 in QUINTIC's words."""
    x = torch.logspace(math.log10(0.003), 0, 10_001, dtype=torch.float64)
    for _ in range(5):
        x = QUINTIC[0] * x + QUINTIC[1] * x**3 + QUINTIC[2] * x**5
    assert x.min() > 0.68 and x.max() < 1.21
