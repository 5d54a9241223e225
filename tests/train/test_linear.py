"""Linear attention: chunks against the quadratic form and the recurrence, its counts, models with it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sweepctl.spec.accounting import count
from sweepctl.spec.model import Architecture, Shape
from sweepctl.spec.weights import weights
from sweepctl.train import ops
from sweepctl.train.layers.linear import LinearAttention, decays, mix
from sweepctl.train.model import Decoder
from sweepctl.train.optimizer import GroupedOptimizer
from tests.conftest import Planner
from tests.models import some_architecture, some_parametrization
from tests.optimizers import optimizer as spec_of
from tests.train.forks import assert_forks_are_straight, assert_stops_do_not_matter

VOCAB = 40
LINEAR = some_architecture("relu2", mixers=("linear",), linear_chunk=8)
HYBRID = replace(LINEAR, mixers=("linear", "linear", "softmax"))
SHAPE = Shape(24, 3, 3, 40)


def decoder(model: Architecture, shape: Shape = SHAPE, kind: str = "plain", context: int = 32, **changes):
    operations = ops.plain() if kind == "plain" else ops.eager_cpu(kind)
    net = Decoder(shape, model, some_parametrization(init_std=0.2, **changes), VOCAB, context, operations)
    net.initialize(0)
    return net


def tokens(rows: int, length: int) -> Tensor:
    return torch.arange(rows * length).reshape(rows, length) ** 2 % 31 % VOCAB


def rates(shape: Shape, layer: int) -> list[float]:
    """Written out once more, by hand: ALiBi's slopes, slower with depth."""
    slow = 1 - layer / (shape.n_layers - 1) + 1e-5 if shape.n_layers > 1 else 1 + 1e-5
    return [2 ** (-8 * h / shape.n_heads) * slow for h in range(1, shape.n_heads + 1)]


def quadratic(q: Tensor, k: Tensor, v: Tensor, slopes: list[float]) -> Tensor:
    """[H, rows, T, head]: every pair of tokens, masked and decayed."""
    t = torch.arange(q.shape[2], dtype=torch.float64)
    apart = t[:, None] - t
    decay = torch.stack([torch.where(apart >= 0, torch.exp(-r * apart), 0.0) for r in slopes]).to(q)
    return (q @ k.transpose(-1, -2) * decay[:, None]) @ v


def recurrent(q: Tensor, k: Tensor, v: Tensor, slopes: list[float]) -> Tensor:
    """The same token by token, from the state alone."""
    decay = torch.tensor([math.exp(-r) for r in slopes], dtype=q.dtype)[:, None, None, None]
    state, out = torch.zeros(*q.shape[:2], q.shape[3], q.shape[3], dtype=q.dtype), []
    for t in range(q.shape[2]):
        state = decay * state + k[:, :, t, :, None] @ v[:, :, t, None, :]
        out.append((q[:, :, t, None, :] @ state)[:, :, 0])
    return torch.stack(out, dim=2)


def mixed(q: Tensor, k: Tensor, v: Tensor, shape: Shape, layer: int, chunks: int) -> Tensor:
    """`mix` of whole sequences."""
    heads, rows, length, head = q.shape
    within, powers = (x.to(q) for x in decays(shape, layer, length // chunks))
    parts = (x.reshape(heads, rows, chunks, length // chunks, head) for x in (q, k, v))
    return mix(*parts, within, powers).reshape(q.shape)


@settings(max_examples=60, deadline=None)
@given(
    heads=st.integers(1, 5),
    layers=st.integers(1, 4),
    rows=st.integers(1, 3),
    chunks=st.integers(1, 9),
    chunk=st.integers(1, 9),
    double=st.booleans(),
    data=st.data(),
)
def test_chunks_are_the_quadratic_form_and_the_recurrence(heads, layers, rows, chunks, chunk, double, data):
    """Values and gradients."""
    shape, layer = Shape(6 * heads, layers, heads, 4), data.draw(st.integers(0, layers - 1))
    dtype, close = (torch.float64, 1e-12) if double else (torch.float32, 2e-5)
    torch.manual_seed(0)
    inputs = torch.randn(3, heads, rows, chunks * chunk, 6, dtype=dtype, requires_grad=True)
    weight = torch.randn(heads, rows, chunks * chunk, 6, dtype=dtype)
    outputs = [mixed(*inputs, shape, layer, chunks)]
    outputs += [form(*inputs, rates(shape, layer)) for form in (quadratic, recurrent)]
    grads = [torch.autograd.grad((y * weight).sum(), inputs)[0] for y in outputs]
    for values in (outputs, grads):
        scale = float(values[1].detach().abs().max())
        for other in values[1:]:
            torch.testing.assert_close(values[0], other, rtol=close, atol=close * scale)


def test_slopes_are_alibis_and_slower_with_depth() -> None:
    """Press et al. 2022, section 3: of 8 heads 1/2, 1/4, ... 1/256."""
    shape = Shape(64, 5, 8, 4)
    for layer, slow in enumerate((1.0, 0.75, 0.5, 0.25, 0.0)):
        powers = decays(shape, layer, 4)[1]
        expected = torch.tensor([(slow + 1e-5) * 2.0**-h for h in range(1, 9)], dtype=torch.float64)
        torch.testing.assert_close(-powers[:, 1].log(), expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(-powers[:, 4].log(), 4 * expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("length", [1, 3, 8, 13, 32])
def test_a_layer_is_the_same_at_every_chunk(length: int) -> None:
    """Also where the chunk does not divide the length, or is longer than it."""
    torch.manual_seed(0)
    x, outputs = torch.randn(2 * length, 24), []
    for chunk in (1, 5, 8, 64):
        torch.manual_seed(1)
        layer = LinearAttention(SHAPE, replace(LINEAR, linear_chunk=chunk), 1, ops.plain())
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, 0.0, 0.3)
        outputs.append(layer(x, torch.empty(0), 2))
    for other in outputs[1:]:
        torch.testing.assert_close(outputs[0], other, rtol=1e-4, atol=1e-5)


def test_a_layer_is_minimax_s() -> None:
    """MiniMax-01, section 2.2, written out: SiLU, sums, norm over all heads, sigmoid gate, output."""
    torch.manual_seed(0)
    layer = LinearAttention(SHAPE, replace(LINEAR, gains=True), 1, ops.plain())
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.4)
    x = torch.randn(2, 13, 24)
    q, k, v = (F.silu(x @ w.T).view(2, 13, 3, 8).permute(2, 0, 1, 3) for w in layer.qkv.split(24))
    y = quadratic(q, k, v, rates(SHAPE, 1)).permute(1, 2, 0, 3).reshape(2, 13, 24)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.mixed_norm.gain
    expected = (torch.sigmoid(x @ layer.gate.T) * y) @ layer.attention_out.T
    torch.testing.assert_close(layer(x.view(26, 24), torch.empty(0), 2), expected.view(26, 24))


@pytest.mark.parametrize("mixers", [LINEAR.mixers, HYBRID.mixers])
@pytest.mark.parametrize("gate", ["full", "head_size", "none"])
@pytest.mark.parametrize("length", [5, 8, 13, 16, 32])
def test_flops_are_what_torch_counts(mixers: tuple, gate: str, length: int) -> None:
    """Training, forward, and decoding by the recurrence; per token they are rounded to whole FLOPs."""
    model = replace(LINEAR, mixers=mixers, linear_gate=gate)
    net, x = decoder(model), tokens(2, length)
    counts = count(SHAPE, model, VOCAB, length)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        loss = F.cross_entropy(net(x).logits, x.reshape(-1))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as backward:
        loss.backward()
    total = forward.get_total_flops() + backward.get_total_flops()
    assert counts.exact_flops_per_token == -(-total // x.numel())
    assert counts.forward_flops_per_token == forward.get_total_flops() // x.numel()
    assert backward.get_total_flops() == 2 * forward.get_total_flops()
    if length % 8 == 0:
        assert total == counts.exact_flops_per_token * x.numel()


def test_decoding_flops_do_not_grow_with_the_context() -> None:
    """One token of the recurrence, as torch counts it: an outer product and a product with the state."""
    ones = torch.ones(3, 1, 1, 8)
    with FlopCounterMode(display=False) as counter:
        recurrent(ones, ones, ones, rates(SHAPE, 0))
    for length in (8, 13, 4096):
        counts = count(SHAPE, LINEAR, VOCAB, length)
        assert counts.decode_flops_per_token == 2 * counts.matrix_elements + 3 * counter.get_total_flops()
    assert counts.attention_flops_per_token == count(SHAPE, LINEAR, VOCAB, 16).attention_flops_per_token


@pytest.mark.parametrize("gate", ["full", "head_size", "none"])
@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
@pytest.mark.parametrize("gains", [False, True, "scalar"])
def test_parameters_are_the_list_of_weights(gate: str, norm: str, gains: bool | str) -> None:
    model = replace(LINEAR, linear_gate=gate, norm=norm, gains=gains)
    net = decoder(model)
    sizes = {weight.name: tuple(parameter.shape) for weight, parameter in net.named_weights()}
    assert sizes == {weight.name: weight.size for weight in weights(SHAPE, model, VOCAB, 32)}
    assert sum(p.numel() for p in net.parameters()) == count(SHAPE, model, VOCAB, 32).total
    assert {name.split(".mixer.")[-1] for name in net.state_dict()}.isdisjoint({"within", "powers"})


@pytest.mark.parametrize("gate", ["full", "head_size", "none"])
def test_biases_are_those_of_the_list(gate: str) -> None:
    model = replace(LINEAR, linear_gate=gate, biases=True)
    layer = LinearAttention(SHAPE, model, 0, ops.plain())
    listed = {w.name: w.size for w in weights(SHAPE, model, VOCAB, 32) if w.name.startswith("blocks.0.")}
    own = {f"blocks.0.{name}": tuple(p.shape) for name, p in layer.named_parameters()}
    assert own == {name: size for name, size in listed.items() if "mlp" not in name}
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    layer(torch.randn(16, 24), torch.empty(0), 2).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in layer.parameters())


@pytest.mark.parametrize("kind", ["torch", "onednn"])
def test_the_fast_operations_mean_the_same(kind: str) -> None:
    shape = Shape(64, 3, 4, 96)
    losses, grads, x = [], [], tokens(12, 32)
    for net in (decoder(HYBRID, shape), decoder(HYBRID, shape, kind)):
        loss = F.cross_entropy(net(x).logits, (x * 3 % VOCAB).reshape(-1))
        loss.backward()
        losses.append(loss.item())
        grads.append([p.grad for p in net.parameters()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-6)


def test_it_is_causal_and_sees_positions_by_its_decay() -> None:
    net = decoder(LINEAR, Shape(24, 1, 3, 40))
    x = tokens(1, 21)
    before = net(x).logits
    for at in (20, 16, 7, 3):
        changed = x.clone()
        changed[0, at] = (changed[0, at] + 1) % VOCAB
        after = net(changed).logits
        assert torch.equal(before[:at], after[:at]) and not torch.equal(before[at:], after[at:])
    swapped = net(x[:, [1, 0, *range(2, 21)]]).logits
    assert not torch.allclose(swapped[-1], before[-1], atol=1e-5)
    for block in net.blocks:  # without decay the order of what lies before is lost
        block.mixer.within.copy_(torch.ones_like(block.mixer.within).tril())
        block.mixer.powers.fill_(1.0)
    flat = [net(y).logits[-1] for y in (x, x[:, [1, 0, *range(2, 21)]])]
    torch.testing.assert_close(flat[0], flat[1], rtol=1e-5, atol=1e-6)


def test_zero_queries_are_for_softmax_layers() -> None:
    """A linear layer with zero queries would have a norm of nothing: gradients a thousand times too large."""
    net = decoder(HYBRID, zero_query=True)
    zeros = [int(block.mixer.qkv[:24].count_nonzero()) for block in net.blocks]
    assert zeros[0] > 0 and zeros[1] > 0 and zeros[2] == 0


def test_bf16_sums_its_states_in_fp32() -> None:
    """Over 2,048 tokens of a head that hardly forgets, errors stay those of bf16's inputs."""
    torch.manual_seed(0)
    shape = Shape(8, 2, 1, 4)
    q, k, v = torch.rand(3, 1, 2, 2048, 8)
    exact = mixed(q.double(), k.double(), v.double(), shape, 1, 128)
    rounded = [x.bfloat16().double() for x in (q, k, v)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        within, powers = (x.float() for x in decays(shape, 1, 16))
        result = mix(*(x.view(1, 2, 128, 16, 8) for x in (q, k, v)), within, powers).reshape(exact.shape)
    floor = (mixed(*rounded, shape, 1, 128) - exact).abs().mean()
    error = (result.double() - exact).abs().mean()
    assert error < 2 * floor + 2**-9 * exact.abs().mean()


def test_torch_compile_takes_it_whole() -> None:
    net, x = decoder(replace(HYBRID, mixers=("linear",)), Shape(24, 1, 3, 40)), tokens(2, 13)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x).logits, net(x).logits, rtol=1e-4, atol=1e-5)


def change(model: Architecture, kind: str, width: int, seed: int) -> float:
    """log2 of the RMS change of the last block's output after four updates."""
    shape = Shape(width, 2, width // 16, 4 * width)
    options = {"base_d_model": 32, "base_n_layers": 2, "attention_scale": "inverse", "zero_head": True}
    net = Decoder(shape, model, some_parametrization(kind, 0.1, **options), 64, 32, ops.eager_cpu("torch"))
    net.initialize(seed)
    optimizer = GroupedOptimizer(net, spec_of(lr=2**-7, eps=1e-12, weight_decay=0.0))
    x = (torch.arange(8 * 33).reshape(8, 33) ** 2 // 7) % 64
    hidden: list[Tensor] = []
    net.final_norm.register_forward_pre_hook(lambda _, args: hidden.append(args[0].detach()))
    for _ in range(4):
        F.cross_entropy(net(x[:, :-1]).logits, x[:, 1:].reshape(-1)).backward()
        optimizer.step(1.0)
    net(x[:, :-1])
    return math.log2((hidden[-1] - hidden[0]).square().mean().sqrt())


NARROW_GATE = replace(LINEAR, linear_gate="head_size")


@pytest.mark.parametrize("model", [LINEAR, replace(LINEAR, mixers=("linear", "softmax")), NARROW_GATE])
def test_mup_keeps_the_change_of_activations(model: Architecture) -> None:
    """Slope against log2 width, 64 to 256, of the mean over three seeds; see test_parametrization."""
    slopes = {}
    for kind in ("mup", "standard"):
        narrow, wide = ([change(model, kind, width, seed) for seed in (1, 2, 3)] for width in (64, 256))
        slopes[kind] = (sum(wide) - sum(narrow)) / 3 / 2
    assert abs(slopes["mup"]) < 0.1
    assert slopes["standard"] > 0.8


CHANGES = {"model__mixers": ["linear", "softmax"], "model__linear_chunk": 5}


def test_a_branch_of_a_hybrid_is_the_straight_run_bit_for_bit(planned: Planner) -> None:
    for tensors in assert_forks_are_straight(planned, **CHANGES):
        assert "blocks.0.gate" in tensors and "blocks.1.gate" not in tensors


def test_a_stopped_hybrid_goes_on_where_it_was(planned: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_stops_do_not_matter(planned, monkeypatch, 5, **CHANGES)
