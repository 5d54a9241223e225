"""The model against its counts, its FLOPs and its own plain spelling."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sweepctl.spec.accounting import count
from sweepctl.spec.model import Architecture, Shape
from sweepctl.spec.weights import VECTORS, weights
from sweepctl.train import ops
from sweepctl.train.model import Decoder
from tests.models import some_architecture, some_parametrization
from tests.train.architectures import ARCHITECTURES

SHAPES = [Shape(12, 1, 6, 16), Shape(24, 3, 3, 40)]
VOCAB, CONTEXT = 50, 12


def decoder(shape: Shape, model: Architecture, kind: str = "plain", **changes) -> Decoder:
    operations = ops.plain() if kind == "plain" else ops.eager_cpu(kind)
    parametrization = some_parametrization(init_std=0.2, **changes)
    out = Decoder(shape, model, parametrization, VOCAB, CONTEXT, operations)
    out.initialize(0)
    return out


def shaken(net: Decoder) -> Decoder:
    """Gains and biases off the values at which they do nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight, parameter in net.named_weights():
            if weight.kind in VECTORS:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return net


def tokens(rows: int = 3) -> torch.Tensor:
    return torch.arange(rows * CONTEXT).reshape(rows, CONTEXT) * 7 % VOCAB


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model", ARCHITECTURES)
def test_parameters_are_what_spec_counts(shape: Shape, model: Architecture) -> None:
    torch_count = sum(p.numel() for p in decoder(shape, model).parameters())
    assert torch_count == count(shape, model, VOCAB, CONTEXT).total


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model", ARCHITECTURES)
def test_flops_are_what_torch_counts(shape: Shape, model: Architecture) -> None:
    """Under the math attention backend: on a CPU the default one counts no attention."""
    net, x = decoder(shape, model), tokens()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        F.cross_entropy(net(x).logits, x.reshape(-1)).backward()
    counts = count(shape, model, VOCAB, CONTEXT)
    assert counter.get_total_flops() == counts.exact_flops_per_token * x.numel()
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        net(x)
    assert counter.get_total_flops() == counts.forward_flops_per_token * x.numel()


@pytest.mark.parametrize("kind", ["torch", "onednn"])
@pytest.mark.parametrize("model", ARCHITECTURES)
def test_the_fast_operations_mean_the_same(model: Architecture, kind: str) -> None:
    shape = Shape(96, 2, 6, 96)
    plain, fast = (shaken(decoder(shape, model, name)) for name in ("plain", kind))
    x = tokens(30)  # 360 rows: large enough that oneDNN is taken
    losses = []
    for net in (plain, fast):
        loss = F.cross_entropy(net(x).logits, (x * 3 % VOCAB).reshape(-1))
        loss.backward()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for (name, a), b in zip(plain.named_parameters(), fast.parameters(), strict=True):
        torch.testing.assert_close(
            a.grad, b.grad, rtol=2e-3, atol=2e-6, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_initialization_is_by_tensor_and_seed() -> None:
    a, b, deeper = (decoder(s, some_architecture()) for s in (SHAPES[1], SHAPES[1], Shape(24, 4, 3, 40)))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    state = deeper.state_dict()
    assert torch.equal(state["blocks.2.mixer.qkv"], a.state_dict()["blocks.2.mixer.qkv"])
    b.initialize(1)
    assert not torch.equal(a.embedding, b.embedding)


def test_zero_initializations() -> None:
    net = decoder(SHAPES[1], some_architecture(), zero_head=True, zero_query=True)
    qkv = net.blocks[0].mixer.qkv
    assert net.head.count_nonzero() == 0
    assert qkv[:24].count_nonzero() == 0 and qkv[24:].count_nonzero() > 0
    grouped = decoder(SHAPES[1], some_architecture(queries_per_kv=3), zero_query=True).blocks[0].mixer
    assert grouped.q.count_nonzero() == 0 and grouped.kv.count_nonzero() > 0


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_the_list_of_weights_is_the_model(model: Architecture) -> None:
    """Names, sizes and nothing else."""
    net = decoder(SHAPES[1], model)
    sizes = {weight.name: tuple(parameter.shape) for weight, parameter in net.named_weights()}
    assert sizes == {weight.name: weight.size for weight in weights(SHAPES[1], model, VOCAB, CONTEXT)}
