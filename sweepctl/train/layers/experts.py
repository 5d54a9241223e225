"""A mixture of experts in place of an MLP."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sweepctl.spec.model import Architecture, Experts, Shape
from sweepctl.train.layers.mlp import activate
from sweepctl.train.ops import Ops


class Mixture(nn.Module):
    """Top-k routing to experts, dropless, and shared experts that see every token.

    A token's output is the sum of its experts' outputs times their gates, and of the shared experts'
    (Dai et al. 2024, arXiv 2401.06066, equations 3 to 5). How gates come about: see `_Route`.
    """

    def __init__(self, shape: Shape, model: Architecture, ops: Ops) -> None:
        super().__init__()
        assert model.experts is not None
        self.spec, self.activation, self.ops = model.experts, model.activation, ops
        d, ins, count, d_ff = shape.d_model, model.mlp_matrices - 1, self.spec.count, self.spec.d_ff(shape)
        self.router = nn.Parameter(torch.empty(count, d))
        self.experts_in = nn.Parameter(torch.empty(count, ins * d_ff, d))
        self.experts_out = nn.Parameter(torch.empty(count, d, d_ff))
        if wide := self.spec.shared * d_ff:
            self.shared_in = nn.Parameter(torch.empty(ins * wide, d))
            self.shared_out = nn.Parameter(torch.empty(d, wide))
        self.selection_bias: Tensor | None
        self.register_buffer("selection_bias", torch.zeros(count) if self.spec.bias_rate else None)
        self.loads: Tensor
        self.register_buffer("loads", torch.zeros(count, dtype=torch.int64), persistent=False)

    def forward(self, x: Tensor, rows: int) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """x [rows * T, d] -> the same shape, and of a pass that has gradients the penalty and the tokens of
        each expert [E]. Nothing is counted here: a pass may be made twice."""
        gates, penalty, chosen, counts = _Route.apply(  # type: ignore[no-untyped-call]
            x, self.router, self.selection_bias, self.spec, rows
        )
        y = self._experts(x, gates, chosen, counts)
        if self.spec.shared:
            hidden = activate(self.activation, self.ops.linear(x, self.shared_in), self.ops)
            y = y + self.ops.linear(hidden, self.shared_out)
        if not torch.is_grad_enabled():
            return y, None, None
        return y, penalty if self.spec.balance_loss else None, counts

    def _experts(self, x: Tensor, gates: Tensor, chosen: Tensor, counts: Tensor) -> Tensor:
        """Sort the N * k pairs of a token and its expert by expert, multiply, and sum by token."""
        order = chosen.flatten().argsort(stable=True)
        token, place = order // self.spec.top_k, torch.empty_like(order)
        place.scatter_(0, order, torch.arange(len(order), device=order.device))
        taken = _Take.apply(x, token, place)  # type: ignore[no-untyped-call]
        hidden = activate(self.activation, self.ops.grouped(taken, self.experts_in, counts), self.ops)
        outputs = self.ops.grouped(hidden, self.experts_out, counts)
        y: Tensor = _Sum.apply(outputs, gates, order, token, place)  # type: ignore[no-untyped-call]
        return y

    @torch.no_grad()
    def balance(self, loads: Tensor) -> None:
        """Move every selection bias by bias_rate against its expert's load over the whole batch (Wang et al.
        2024, arXiv 2408.15664, algorithm 1), and begin to count anew. `loads` [E] are whole numbers."""
        if self.selection_bias is not None:
            self.selection_bias += self.spec.bias_rate * torch.sign(loads.sum() - len(loads) * loads)
        self.loads.zero_()


class _Kept(NamedTuple):
    """What the slopes of `_Route` need besides tensors."""

    spec: Experts
    length: int
    weight: float


class _Route(torch.autograd.Function):
    """x [N, d], router [E, d] -> gates [N, k], penalty [], chosen experts [N, k], tokens of each expert [E].

    Scores are the softmax or sigmoid of the router's product, in fp32 whatever the precision of the rest. A
    token is sent to the experts with the largest scores, each shifted by its selection bias, which nothing
    else sees. A gate is its expert's score; normalized gates are divided by their sum, but for top-1, where
    the score stays (Fedus et al. 2021, arXiv 2101.03961, equation 2) or the loss would not reach the router.

    The penalty is the load-balance loss balance_loss x E sum_i f_i P_i, with f_i the share of a sequence's
    choices that went to expert i and P_i its mean share of the scores (Fedus et al. 2021, equation 4; with k
    choices a token as in DeepSeek-V3, arXiv 2412.19437, equations 17 to 20). Where all is even it is
    balance_loss. It is computed for each sequence and averaged (DeepSeek-V3, section 2.1.2), so that it does
    not depend on how a batch is cut into micro-batches or shared out among processes.

    Written by hand, because each of its small operations costs more than its arithmetic. Inside, tokens are
    the last dimension, where torch is fast.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, router: Tensor, bias: Tensor | None, spec: Experts, rows: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with _without_autocast(x):
            product = torch.mm(router, x.float().t())
        softmax, experts, length = spec.scores == "softmax", len(router), len(x) // rows
        scores = product.softmax(0) if softmax else product.sigmoid()
        all_scores = None if softmax else scores.sum(0)
        chosen = (scores if bias is None else scores + bias[:, None]).topk(spec.top_k, dim=0).indices
        gates = scores.gather(0, chosen)
        own_scores = gates.sum(0) if spec.normalize and spec.top_k > 1 else None
        if own_scores is not None:
            gates = gates / own_scores
        sent = torch.zeros_like(scores).scatter_(0, chosen, 1.0).view(experts, rows, length).sum(-1)
        shares = scores if all_scores is None else scores / all_scores
        weight = spec.balance_loss * experts / (spec.top_k * length * len(x))
        penalty = torch.vdot(sent.flatten(), shares.view(experts, rows, length).sum(-1).flatten()) * weight
        chosen_by_token, counts = chosen.t().contiguous(), sent.sum(1).long()
        ctx.mark_non_differentiable(chosen_by_token, counts)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, router, scores, all_scores, chosen, gates, own_scores, sent)
        ctx.kept = _Kept(spec, length, weight)
        return gates.t().contiguous(), penalty, chosen_by_token, counts

    @staticmethod
    def backward(
        ctx: Any, grad: Tensor, grad_penalty: Tensor | None, *_: None
    ) -> tuple[Tensor, Tensor, None, None, None]:
        x, router, scores, all_scores, chosen, gates, own_scores, sent = ctx.saved_tensors
        spec, length, weight = ctx.kept
        if grad_penalty is None:
            slope = torch.zeros_like(scores)
        else:
            even = (sent * (grad_penalty * weight))[:, :, None].expand(-1, -1, length)
            slope = even.contiguous().view(scores.shape)
            if all_scores is not None:
                slope = (slope - (slope * scores).sum(0) / all_scores) / all_scores
        of_gates = grad.t()
        if own_scores is not None:
            of_gates = (of_gates - (of_gates * gates).sum(0)) / own_scores
        slope.scatter_add_(0, chosen, of_gates)
        if spec.scores == "softmax":
            slope = torch.ops.aten._softmax_backward_data(slope, scores, 0, scores.dtype)
        else:
            slope = torch.ops.aten.sigmoid_backward(slope, scores)
        with _without_autocast(x):
            return torch.mm(slope.t(), router).to(x.dtype), torch.mm(slope, x.float()), None, None, None


def _without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


class _Take(torch.autograd.Function):
    """x [N, d] -> its rows `token` [N * k, d]; a row's slope is the sum of the slopes at its `place`s."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token: Tensor, place: Tensor) -> Tensor:
        ctx.rows = len(x)
        ctx.save_for_backward(place)
        return x.index_select(0, token)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return F.embedding_bag(place.view(ctx.rows, -1), grad, mode="sum"), None, None


class _Sum(torch.autograd.Function):
    """rows [N * k, d] times their gates [N, k], summed by token: [N, d]."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, gates: Tensor, order: Tensor, token: Tensor, place: Tensor) -> Tensor:
        gates = gates.to(rows.dtype)
        ctx.save_for_backward(rows, gates.flatten().index_select(0, order), token, place)
        return F.embedding_bag(place.view(gates.shape), rows, mode="sum", per_sample_weights=gates)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        rows, gates, token, place = ctx.saved_tensors
        taken = grad.index_select(0, token)
        slopes = torch.linalg.vecdot(rows, taken).index_select(0, place)
        return taken.mul_(gates[:, None]), slopes.view(len(grad), -1).float(), None, None, None
