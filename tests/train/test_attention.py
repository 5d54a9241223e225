"""Positions, shared keys, norms of queries and keys, and one more token after a prompt."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sweepctl.errors import InvalidValue
from sweepctl.spec.accounting import count
from sweepctl.spec.model import Architecture, Shape
from sweepctl.train.layers.attention import SoftmaxAttention
from sweepctl.train.model import Decoder
from tests.conftest import Planner, only, run_all
from tests.models import some_architecture
from tests.train.architectures import ARCHITECTURES, pairwise
from tests.train.test_model import CONTEXT, SHAPES, VOCAB, decoder, shaken, tokens

KINDS = [
    some_architecture(**row)
    for row in pairwise(
        {"positions": ("rope", "learned", "none"), "queries_per_kv": (1, 2, 4), "qk_norm": (False, True)}
    )
]
SHALLOW = Shape(16, 1, 4, 32)


@pytest.mark.parametrize("kind", ["plain", "torch"])
@pytest.mark.parametrize("model", KINDS)
def test_attention_is_causal_and_positions_count(model: Architecture, kind: str) -> None:
    """Without positions, one layer sees what came before as a set."""
    net, x = decoder(SHALLOW, model, kind), tokens(1)
    before = net(x).logits
    changed = x.clone()
    changed[0, 8] = (changed[0, 8] + 1) % VOCAB
    after = net(changed).logits
    assert torch.equal(before[:8], after[:8]) and not torch.equal(before[8:], after[8:])
    swapped = net(x[:, [1, 0, *range(2, CONTEXT)]]).logits
    same = torch.allclose(swapped[-1], before[-1], rtol=1e-5, atol=1e-6)
    assert same == (model.positions == "none")


@pytest.mark.parametrize("kind", ["plain", "torch", "onednn"])
@pytest.mark.parametrize("model", [model for model in KINDS if model.queries_per_kv > 1])
def test_shared_keys_are_repeated_keys(model: Architecture, kind: str) -> None:
    """The same logits; a shared key's gradient is the sum over the queries that share it."""
    model = dataclasses.replace(model, biases=True)
    shared = shaken(decoder(SHALLOW, model, kind))
    full = decoder(SHALLOW, dataclasses.replace(model, queries_per_kv=1), kind)
    parts = dict(shared.named_parameters())
    with torch.no_grad():
        for name, parameter in full.named_parameters():
            q, kv = name.replace("qkv", "q"), name.replace("qkv", "kv")
            parameter.copy_(torch.cat((parts[q], repeated(parts[kv], model))) if q != name else parts[name])
    x = tokens()
    torch.testing.assert_close(full(x).logits, shared(x).logits)
    for net in (full, shared):
        F.cross_entropy(net(x).logits, x.reshape(-1)).backward()
    for ending in ("", "_bias"):
        whole = getattr(full.blocks[0].mixer, f"qkv{ending}").grad
        summed = whole[16:].view(2, -1, model.queries_per_kv, 4, *whole.shape[1:]).sum(2)
        grad = getattr(shared.blocks[0].mixer, f"kv{ending}").grad
        torch.testing.assert_close(grad, summed.view(grad.shape), rtol=1e-4, atol=1e-6)


def repeated(kv: Tensor, model: Architecture) -> Tensor:
    """Rows of shared keys and values, once for every query."""
    heads = kv.view(2, -1, 4, *kv.shape[1:])
    return heads.repeat_interleave(model.queries_per_kv, dim=1).reshape(-1, *kv.shape[1:])


@pytest.mark.parametrize("norm", ["rmsnorm", "layernorm"])
@pytest.mark.parametrize("queries", [1, 4])
def test_query_key_norm_forgets_the_scale_of_queries_and_keys(norm: str, queries: int) -> None:
    for qk_norm in (True, False):
        model = some_architecture(
            norm=norm, gains=True, queries_per_kv=queries, qk_norm=qk_norm, norm_eps=1e-12
        )
        net, x = decoder(SHALLOW, model), tokens()
        before, mixer = net(x).logits, net.blocks[0].mixer
        with torch.no_grad():
            (mixer.q if queries > 1 else mixer.qkv[:16]).mul_(7)
        assert torch.allclose(net(x).logits, before, rtol=1e-4, atol=1e-5) == qk_norm
        with torch.no_grad():
            (mixer.kv[:4] if queries > 1 else mixer.qkv[16:32]).mul_(3)
        assert torch.allclose(net(x).logits, before, rtol=1e-4, atol=1e-5) == qk_norm


@pytest.mark.parametrize("kind", ["plain", "torch"])
@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("qk_norm", [True, False])
def test_rotary_attention_depends_on_distances_only(kind: str, queries: int, qk_norm: bool) -> None:
    """Su et al. 2021, section 3.1. Gains after the rotation instead of before it would break this."""
    model = some_architecture(gains=True, queries_per_kv=queries, qk_norm=qk_norm)
    net = shaken(decoder(SHALLOW, model, kind))
    mixer, x = net.blocks[0].mixer, torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    here, there = (mixer(x, net.rotations[first : first + 6], 1) for first in (0, 6))
    torch.testing.assert_close(here, there)
    assert not torch.allclose(here, mixer(x, None, 1))


def test_the_gains_of_queries_and_keys_are_their_own() -> None:
    net = decoder(SHALLOW, some_architecture(gains=True, qk_norm=True))
    mixer, x = net.blocks[0].mixer, torch.ones(6, 16)
    with torch.no_grad():
        mixer.query_norm.gain.zero_()
    q, k, v = mixer.project(x, net.rotations[:6], 1)
    assert q.count_nonzero() == 0 and k.count_nonzero() > 0 and v.count_nonzero() > 0


def test_learned_positions_are_added_to_the_embedding() -> None:
    """After its multiplier; at zero they are no positions at all."""
    learned, none = (
        decoder(SHALLOW, some_architecture(positions=kind), name="mup", embedding_multiplier=10.0)
        for kind in ("learned", "none")
    )
    x = tokens()
    assert not torch.allclose(learned(x).logits, none(x).logits)
    with torch.no_grad():
        learned.positions.zero_()
        assert torch.equal(learned(x).logits, none(x).logits)
        learned.positions += 0.5
        none.embedding += 0.05
    for prompt in (x, x[:, :5]):
        torch.testing.assert_close(learned(prompt).logits, none(prompt).logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("model", ARCHITECTURES)
def test_one_more_token_takes_the_flops_that_spec_counts(shape: Shape, model: Architecture) -> None:
    """The keys of a prompt are kept; the logits are those of the whole sequence at its last token."""
    net, x = shaken(decoder(shape, model)), tokens(1)
    with sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        kept = keys_and_values(net, x[:, :-1])
        with FlopCounterMode(display=False) as counter:
            logits = one_more(net, kept, x[0, -1:])
        torch.testing.assert_close(logits, net(x).logits[-1:], rtol=1e-4, atol=1e-5)
    assert counter.get_total_flops() == count(shape, model, VOCAB, CONTEXT).decode_flops_per_token


def keys_and_values(net: Decoder, prompt: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What every layer's attention keeps of a prompt [1, T]."""
    kept, x = [], net.embed(prompt)
    rotations = None if net.rotations is None else net.rotations[: prompt.shape[1]]
    for block in net.blocks:
        kept.append(block.mixer.project(block.attention_norm(x), rotations, 1)[1:])
        x, *_ = block(x, rotations, 1)
    return kept


def one_more(net: Decoder, kept: list[tuple[Tensor, Tensor]], token: Tensor) -> Tensor:
    """The logits [1, V] of one token after those that `kept` is of."""
    place = kept[0][0].shape[1]
    x = F.embedding(token, net.embedding)
    if net.positions is not None:
        x = x + net.positions[place]
    rotations = None if net.rotations is None else net.rotations[place : place + 1]
    for block, (keys, values) in zip(net.blocks, kept, strict=True):
        q, k, v = block.mixer.project(block.attention_norm(x), rotations, 1)
        every = [torch.cat(pair, dim=1).transpose(1, 2) for pair in ((keys, k), (values, v))]
        mixer: SoftmaxAttention = block.mixer
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), *every, scale=mixer.scale, enable_gqa=mixer.grouped
        )
        x = x + mixer.output(y, x)
        x = x + block.mlp(block.mlp_norm(x))
    return F.linear(net.final_norm(x), net.embedding if net.head is None else net.head)


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_every_architecture_trains_in_bf16(model: Architecture) -> None:
    """Autocast mixes precisions: norms and rotations in fp32, products in bf16."""
    net, x = decoder(SHAPES[1], model), tokens()
    exact = F.cross_entropy(net(x).logits, x.reshape(-1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = net(x).logits
    loss = F.cross_entropy(logits.float(), x.reshape(-1))
    loss.backward()
    assert logits.dtype == torch.bfloat16
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_branch_is_the_straight_run_with_every_tensor_there_is(planned: Planner) -> None:
    """Bit for bit, through checkpoints of shared keys, norms, biases and learned positions."""
    model = {"norm": "layernorm", "gains": True, "biases": True, "positions": "learned"}
    model |= {"activation": "gelu", "queries_per_kv": 2, "qk_norm": True, "tied": True}
    losses = []
    for fork in (True, False):
        sweep_jobs = planned(
            name=f"fork_{fork}", ladder__head_size=4, budget__tokens=[1280], schedule__fork=fork,
            **{f"model__{key}": value for key, value in model.items()},
        )  # fmt: skip
        run_all(sweep_jobs)
        ends = only(sweep_jobs, "branch" if fork else "run")
        losses.append([planned_job.folder.result().loss_nats for planned_job in ends])
    assert len(losses[0]) == 2 and losses[0] == losses[1]


def test_heads_that_cannot_share_keys_are_named() -> None:
    with pytest.raises(InvalidValue, match="a divisor of the 3 heads of rung 24x3"):
        decoder(SHAPES[1], some_architecture(queries_per_kv=2))
