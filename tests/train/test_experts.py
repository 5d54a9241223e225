"""A mixture of experts against a plain spelling of it, its counts, and runs that stop, fork, are cut up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sweepctl.spec.accounting import count
from sweepctl.spec.execution import Execution
from sweepctl.spec.model import Experts, Shape
from sweepctl.spec.weights import weights
from sweepctl.train import grouped, ops
from sweepctl.train.batches import Batches
from sweepctl.train.builtin import BuiltinTrainer
from sweepctl.train.device import machine
from sweepctl.train.layers.experts import Mixture, _Route
from sweepctl.train.layers.mlp import activate
from sweepctl.train.model import Decoder, flat_name
from tests.conftest import Planner, only, run_all
from tests.models import some_architecture, some_parametrization
from tests.train.forks import assert_forks_are_straight, assert_stops_do_not_matter

SHAPE, ROWS, LENGTH = Shape(16, 1, 2, 36), 4, 5
VOCAB, CONTEXT = 50, 12
KINDS = [
    Experts(),
    Experts(5, 1, normalize=True),
    Experts(3, 3, normalize=False, shared=1),
    Experts(4, 2, scores="sigmoid", bias_rate=0.1, balance_loss=0.3),
    Experts(64, 6, shared=2, scores="sigmoid", normalize=False, bias_rate=0.001, d_ff_share=0.1),
    Experts(8, 2, balance_loss=0.0, bias_rate=0.5),
]
OPS = {"plain": ops.plain(), "torch": ops.eager_cpu("torch"), "onednn": ops.eager_cpu("onednn")}


def mixture(spec: Experts, kind: str = "plain", activation: str = "relu2", shape: Shape = SHAPE) -> Mixture:
    """A layer with weights, and selection biases of some size where it has them."""
    mixture = Mixture(shape, some_architecture(activation, experts=spec), OPS[kind])  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for parameter in mixture.parameters():
        parameter.data.normal_(0.0, 0.4, generator=generator)
    if mixture.selection_bias is not None:
        mixture.selection_bias.normal_(0.0, 0.3, generator=generator)
    return mixture


def inputs(tokens: int = ROWS * LENGTH, width: int = SHAPE.d_model, seed: int = 1) -> Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(seed))


def reference(layer: Mixture, x: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Every expert on every token, masked; torch's own derivatives; the penalty sequence by sequence."""
    spec = layer.spec
    logits = x @ layer.router.t()
    scores = logits.softmax(-1) if spec.scores == "softmax" else logits.sigmoid()
    shifted = scores if layer.selection_bias is None else scores + layer.selection_bias
    mask = torch.zeros_like(scores).scatter(1, shifted.topk(spec.top_k).indices, 1.0)
    gates = scores * mask
    if spec.normalize and spec.top_k > 1:
        gates = gates / gates.sum(-1, keepdim=True)
    hidden = torch.einsum("nd,efd->nef", x, layer.experts_in)
    outputs = torch.einsum(
        "nef,edf->ned", activate(layer.activation, hidden, OPS["plain"]), layer.experts_out
    )
    y = (outputs * gates[..., None]).sum(1)
    if spec.shared:
        y = y + activate(layer.activation, x @ layer.shared_in.t(), OPS["plain"]) @ layer.shared_out.t()
    losses = []
    for own, sent in zip((scores / scores.sum(-1, keepdim=True)).chunk(rows), mask.chunk(rows), strict=True):
        share = sent.mean(0) / spec.top_k
        losses.append(spec.count * (share * own.mean(0)).sum())
    return y, spec.balance_loss * torch.stack(losses).mean()


def slopes(layer: Mixture, x: Tensor, spelling) -> dict[str, Tensor]:
    """Output, penalty, the gradients of both together, and loads where the spelling says them."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    y, penalty, *loads = spelling(x)
    penalty = y.new_zeros(()) if penalty is None else penalty
    ((y * inputs(len(x), x.shape[1], 2)).sum() + 7 * penalty).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in layer.named_parameters()}
    said = {"loads": loads[0]} if loads else {}
    return {**gradients, "x": x.grad, "y": y.detach(), "penalty": penalty.detach(), **said}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 2e-5) -> None:
    for name, value in theirs.items():
        scale = max(float(value.abs().max()), 1e-3)
        assert float((ours[name] - value).abs().max()) < tolerance * scale, name


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("activation", ["relu2", "swiglu", "gelu", "relu"])
@pytest.mark.parametrize("spec", KINDS)
def test_values_and_gradients_are_those_of_every_expert_on_every_token(
    spec: Experts, activation: str, kind: str
) -> None:
    layer, x = mixture(spec, kind, activation), inputs()
    for rows in (ROWS, 1):
        ours = slopes(layer, x, lambda x, rows=rows: layer(x, rows))
        same(ours, slopes(layer, x, lambda x, rows=rows: reference(layer, x, rows)))


def test_large_products_in_chunks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the faster kernel from the first row on; some experts have less than a chunk, one has nothing."""
    monkeypatch.setattr(grouped, "WORTH", 0)
    layer, x = mixture(Experts(6, 2, bias_rate=0.1), "onednn"), inputs(300)
    layer.selection_bias[:] = torch.tensor([-9.0, 0.2, 0.0, 0.0, -0.1, -0.2])
    ours = slopes(layer, x, lambda x: layer(x, 3))
    same(ours, slopes(layer, x, lambda x: reference(layer, x, 3)))
    assert ours["loads"][0] == 0 and ours["loads"].max() > grouped.CHUNK > ours["loads"][-1]
    assert not ours["experts_in"][0].any()


@pytest.mark.parametrize("d_ff", [32, 36])
def test_bf16_is_the_same_but_for_its_rounding(d_ff: int) -> None:
    """Torch's kernel (d_ff of 16 an expert) and the loop (18); the router stays in fp32, so that the same
    experts are chosen."""
    layer, x = mixture(Experts(4, 2, scores="sigmoid", bias_rate=0.1), shape=Shape(16, 1, 2, d_ff)), inputs()
    layer.selection_bias[0] = -9.0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = slopes(layer, x, lambda x: layer(x, ROWS))
    assert ours["y"].dtype == torch.bfloat16 and ours["penalty"].dtype == torch.float32
    theirs = slopes(layer, x, lambda x: layer(x, ROWS))
    assert torch.equal(ours["loads"], theirs["loads"]) and not ours["experts_in"][0].any()
    same(ours, theirs, 0.03)
    assert torch.equal(ours["penalty"], theirs["penalty"])


def test_torch_compile_follows_it() -> None:
    """As one graph in bf16; no code is generated."""
    net = decoder(Shape(16, 1, 2, 32), Experts(4, 2, bias_rate=0.1))
    x = torch.arange(24).reshape(2, CONTEXT)
    values = []
    for forward in (net, torch.compile(net, backend="aot_eager", fullgraph=True)):
        net.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, penalty = forward(x)
        (F.cross_entropy(logits.float(), x.flatten()) + penalty).backward()
        values.append([logits, penalty, *(p.grad.clone() for p in net.parameters())])
    assert all(torch.equal(a, b) for a, b in zip(*values, strict=True))
    assert net.blocks[0].mlp.loads.sum() == 2 * 2 * 24


@given(st.integers(2, 9), st.integers(1, 9), st.booleans(), st.booleans(), st.integers(0, 99))
def test_every_token_goes_to_k_experts_and_no_order_matters(
    experts: int, top_k: int, normalize: bool, sigmoid: bool, seed: int
) -> None:
    spec = Experts(
        experts, min(top_k, experts), normalize=normalize, scores="sigmoid" if sigmoid else "softmax"
    )
    layer, x = mixture(spec), inputs(12, seed=seed)
    gates, _, chosen, counts = _Route.apply(x, layer.router, None, spec, 2)
    assert chosen.shape == (12, spec.top_k) and all(len(set(row)) == spec.top_k for row in chosen.tolist())
    assert (
        torch.equal(chosen.flatten().bincount(minlength=experts), counts) and counts.sum() == 12 * spec.top_k
    )
    assert gates.min() > 0
    if normalize and spec.top_k > 1:
        torch.testing.assert_close(gates.sum(1), torch.ones(12))
    order = torch.randperm(12, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        torch.testing.assert_close(layer(x[order], 2)[0], layer(x, 2)[0][order], rtol=1e-4, atol=1e-5)


def test_selection_biases_choose_and_do_nothing_else() -> None:
    layer, x = mixture(Experts(4, 1, bias_rate=0.1, normalize=False)), inputs()
    layer.selection_bias[:] = torch.tensor([0.0, 0.0, 5.0, 0.0])
    gates, _, _, counts = _Route.apply(x, layer.router, layer.selection_bias, layer.spec, ROWS)
    assert counts.tolist() == [0, 0, len(x), 0]
    torch.testing.assert_close(gates[:, 0], (x @ layer.router.t()).softmax(-1)[:, 2])


def test_the_balance_loss_is_its_coefficient_where_all_is_even() -> None:
    spec = Experts(4, 1, balance_loss=0.25)
    even = torch.eye(4).repeat(2, 1) * 1e-3
    assert _Route.apply(even, torch.eye(4), None, spec, 2)[1] == pytest.approx(0.25, rel=1e-3)
    rows = torch.tensor([[30.0, 0, 0, 0]]).repeat(8, 1)
    assert _Route.apply(rows, torch.eye(4), None, spec, 2)[1] == pytest.approx(4 * 0.25, rel=1e-3)


def test_the_balance_loss_of_a_batch_is_the_mean_of_its_sequences() -> None:
    """And not that of the batch's own shares, which are more even."""
    layer, x = mixture(Experts(8, 2, balance_loss=1.0)), inputs()
    whole, parts = layer(x, ROWS)[1], [layer(part, 1)[1] for part in x.chunk(ROWS)]
    assert whole.item() == pytest.approx(torch.stack(parts).mean().item(), rel=1e-6)
    assert whole > layer(x, 1)[1] + 0.01


def test_biases_move_against_the_load() -> None:
    layer = mixture(Experts(4, 2, bias_rate=0.25))
    layer.selection_bias.zero_()
    layer.loads += 3
    layer.balance(torch.tensor([9.0, 3.0, 6.0, 6.0]).double())
    assert layer.selection_bias.tolist() == [-0.25, 0.25, 0.0, 0.0] and not layer.loads.any()


def test_biases_even_out_the_load() -> None:
    """The loss-free rule by itself, on a router that prefers two of eight experts."""
    spec = Experts(8, 2, scores="sigmoid", balance_loss=0.0, bias_rate=0.003)
    layer, x = mixture(spec), inputs(400)
    layer.selection_bias.zero_()
    x = x + (layer.router[0] + layer.router[1]).detach()
    largest = []
    for _ in range(200):
        _, _, loads = layer(x, 4)
        largest.append(loads.max() / 100)
        layer.balance(loads.double())
    assert largest[0] > 2.5 and max(largest[-10:]) < 1.15


def decoder(shape: Shape, spec: Experts, kind: str = "plain", **changes) -> Decoder:
    model = some_architecture(experts=spec, **changes)
    net = Decoder(shape, model, some_parametrization(init_std=0.2), VOCAB, CONTEXT, OPS[kind])
    net.initialize(0)
    return net


@pytest.mark.parametrize("spec", KINDS)
@pytest.mark.parametrize("activation", ["relu2", "swiglu"])
@pytest.mark.parametrize("biases", [True, False])
def test_parameters_are_those_of_spec(spec: Experts, activation: str, biases: bool) -> None:
    """Experts have no biases; selection biases are state, not parameters."""
    shape, model = Shape(24, 3, 3, 40), some_architecture(activation, biases=biases, experts=spec)
    listed = [
        weight for weight in weights(shape, model, VOCAB, CONTEXT) if weight.name.startswith("blocks.1.")
    ]
    own = {w.name[9:]: w.size for w in listed if "attention" not in w.name and "qkv" not in w.name}
    layer = Mixture(shape, model, OPS["plain"])
    assert own == {name: tuple(parameter.shape) for name, parameter in layer.named_parameters()}
    counts = count(shape, model, VOCAB, CONTEXT)
    expert = layer.experts_in[0].numel() + layer.experts_out[0].numel()
    assert counts.idle == 3 * (spec.count - spec.top_k) * expert == counts.total - counts.active
    without = count(shape, some_architecture(activation, biases=False), VOCAB, CONTEXT).total
    mlp = 24 * 40 * model.mlp_matrices
    attention_biases = 3 * 4 * 24 if biases else 0
    assert counts.total - attention_biases == without + 3 * (sum(p.numel() for p in layer.parameters()) - mlp)


def test_experts_of_a_token_have_the_parameters_of_the_dense_mlp() -> None:
    shape = Shape(64, 2, 4, 256)
    dense = count(shape, some_architecture("relu2"), VOCAB, CONTEXT)
    for spec in (Experts(), Experts(16, 4), Experts(64, 6, shared=2)):
        sparse = count(shape, some_architecture("relu2", experts=spec), VOCAB, CONTEXT)
        assert sparse.active - dense.active == 2 * spec.count * 64  # the routers


@pytest.mark.parametrize("kind", ["plain", "torch"])
@pytest.mark.parametrize("spec", KINDS)
def test_flops_are_what_torch_counts(spec: Experts, kind: str) -> None:
    shape, x = Shape(24, 2, 3, 40), torch.arange(3 * CONTEXT).reshape(3, CONTEXT) * 7 % VOCAB
    net, counts = decoder(shape, spec, kind), count(shape, some_architecture(experts=spec), VOCAB, CONTEXT)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        logits, _ = net(x)
        forward = counter.get_total_flops()
        F.cross_entropy(logits, x.reshape(-1)).backward()
    assert forward == counts.forward_flops_per_token * x.numel()
    assert counter.get_total_flops() == counts.exact_flops_per_token * x.numel()


def test_tensors_are_drawn_by_their_rows_of_the_parametrization() -> None:
    shape, spec = Shape(64, 4, 4, 256), Experts(32, 2, shared=1)
    mup = some_parametrization("mup", init_std=0.3, base_d_model=16, base_n_layers=2, depth_exponent=1.0)
    net = Decoder(shape, some_architecture("relu2", experts=spec), mup, VOCAB, CONTEXT, OPS["plain"])
    net.initialize(0)
    drawn = dict(net.named_weights())
    names = {weight.name: weight for weight in drawn}
    for name in ("router", "experts_in", "experts_out", "shared_in"):
        weight = names[f"blocks.2.{name}"]
        assert drawn[weight].detach().std().item() == pytest.approx(mup.row(weight, shape).init_std, rel=0.05)
    assert names["blocks.2.router"].kind == "router"


BALANCED = {"count": 4, "top_k": 2, "bias_rate": 0.02, "balance_loss": 0.01}
MOE = {"model__experts": BALANCED}


@pytest.mark.parametrize("scores", ["softmax", "sigmoid"])
def test_a_branch_is_the_straight_run_bit_for_bit(planned: Planner, scores: str) -> None:
    """Selection biases are saved and restored by their flat names."""
    changes = {"model__experts": {**BALANCED, "scores": scores}}
    for tensors in assert_forks_are_straight(planned, **changes):
        assert tensors["blocks.0.selection_bias"].any()


def test_a_fork_needs_the_selection_biases(planned: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control of the equality above."""
    load = BuiltinTrainer.load

    def lossy(self: BuiltinTrainer, folder, step: int) -> None:
        load(self, folder, step)
        for block in self.model.blocks:
            block.mlp.selection_bias.zero_()

    straight = planned(name="straight", schedule__fork=False, **MOE)
    run_all(straight)
    monkeypatch.setattr(BuiltinTrainer, "load", lossy)
    forked = planned(name="forked", **MOE)
    run_all(forked)
    ours = [e.folder.result().loss_nats for e in only(forked, "branch")]
    assert ours != [e.folder.result().loss_nats for e in only(straight, "run")]


def test_a_stopped_job_goes_on_where_it_was(planned: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_stops_do_not_matter(planned, monkeypatch, 7, **MOE)


def trainer(sweep_jobs, data: Path, **execution) -> tuple[BuiltinTrainer, object]:
    """The largest trunk's trainer and curve."""
    planned_job = only(sweep_jobs, "trunk")[-1]
    science, how = planned_job.plan.science(planned_job.job), Execution(device="cpu", **execution)
    device = machine(how, "fp32")
    return BuiltinTrainer(science.point, Batches(data, science.point), device, how), science.curve()


def state(trainer: BuiltinTrainer) -> dict[str, Tensor]:
    return {flat_name(path): tensor.clone() for path, tensor in trainer.model.state_dict().items()}


def test_micro_batches_balance_the_whole_batch(planned: Planner, corpus_folder: Path) -> None:
    """The biases are the same to the bit, since loads are whole numbers; all else to rounding."""
    sweep_jobs = planned(**MOE)
    (whole, curve), (cut, _) = (
        trainer(sweep_jobs, corpus_folder),
        trainer(sweep_jobs, corpus_folder, micro_batch_rows=1),
    )
    for _ in range(8):
        single, many = whole.update(curve), cut.update(curve)
        assert single.further()["expert_load_max"] == many.further()["expert_load_max"] > 1
    assert single.loss.item() == pytest.approx(many.loss.item(), rel=1e-5)
    ours, theirs = state(cut), state(whole)
    assert theirs["blocks.1.selection_bias"].any()
    for name in ours:
        exact = name.endswith("selection_bias")
        torch.testing.assert_close(
            ours[name], theirs[name], rtol=0 if exact else 1e-3, atol=0 if exact else 1e-5
        )


def test_the_penalty_is_in_the_gradient_and_in_no_loss(planned: Planner, corpus_folder: Path) -> None:
    sweeps_jobs = [planned(model__experts={**BALANCED, "balance_loss": loss}) for loss in (0.0, 10.0)]
    (free, curve), (bound, _) = (trainer(sweep_jobs, corpus_folder) for sweep_jobs in sweeps_jobs)
    assert free.evaluate("validation", 512) == bound.evaluate("validation", 512)
    assert free.update(curve).loss == bound.update(curve).loss
    assert not torch.equal(state(free)["blocks.0.router"], state(bound)["blocks.0.router"])


def test_evaluation_moves_no_bias(planned: Planner, corpus_folder: Path) -> None:
    sweep_jobs = planned(**MOE)
    (first, curve), (other, _) = trainer(sweep_jobs, corpus_folder), trainer(sweep_jobs, corpus_folder)
    for _ in range(3):
        first.update(curve)
        other.evaluate("validation", 512)
        other.update(curve)
    assert all(torch.equal(a, b) for a, b in zip(state(first).values(), state(other).values(), strict=True))


def test_metrics_tell_the_largest_load(planned: Planner) -> None:
    sweep_jobs = planned(**MOE)
    run_all(sweep_jobs)
    text = next(only(sweep_jobs, "trunk")[0].folder.path.rglob("metrics.jsonl")).read_text()
    assert '"expert_load_max": 1.' in text
