"""What one process of a job needs of its device's memory, counted before anything runs and without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from sweepctl.spec.activations import INDEX, WIDE, kept
from sweepctl.spec.execution import Execution
from sweepctl.spec.loss_chunks import chunk_rows
from sweepctl.spec.science import Point
from sweepctl.spec.sharding import IN_FLIGHT_BYTES, VALUE_BYTES, Shard, StatefulTensor, owners, resolve
from sweepctl.spec.weights import Weight, weights

CONTEXT_BYTES = 2**30
"""What a GPU has of a process beside tensors, at most: its context, libraries' workspaces."""
SPLIT_SHARE = 0.08
"""The share of a device that is lost to pieces of memory that fit nothing, and kept free."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a job's processes train it."""

    rows: int
    """Sequences that a process sees at once."""
    processes: int = 1
    """Processes, a device each."""
    shard: Shard = "none"
    """What they share out."""
    recomputes: bool = False
    """Whether blocks are computed anew in the backward pass."""
    loss_rows: int | None = None
    """Tokens whose logits are there at a time; None for all."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of the process that needs most, where the need is highest."""

    weights: int
    """In fp32."""
    gradients: int
    """In fp32, of what is not shared out."""
    moments: int
    """What the optimizer keeps."""
    copies: int
    """Of weights in bf16, which autocast makes."""
    activations: int
    """What the backward pass needs of the forward pass."""
    logits: int
    """Logits and their gradient."""
    workspace: int
    """What is there for a moment: slopes of activations, or the optimizer's directions if they are more than
    all that a pass needs."""

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self))

    @property
    def device_bytes(self) -> int:
        """The memory of the smallest device that has room for it, with what is lost."""
        return math.ceil((self.total + CONTEXT_BYTES) / (1 - SPLIT_SHARE))

    def fits(self, device_bytes: int) -> bool:
        """Whether a device has room for it."""
        return self.device_bytes <= device_bytes


def count_memory(point: Point, layout: Layout) -> Memory:
    """The memory of one process. No count is below what torch takes."""
    tensors = _tensors(point)
    stateful = stateful_tensors(point)
    owner = owners([tensor.elements for tensor in stateful], layout.processes)
    mine = _most(stateful, owner, layout)
    elements = sum(tensor.elements for tensor in stateful)
    gradients = elements
    in_flight = 0
    if layout.shard == "gradients":
        gradients = max(sum(stateful[i].elements for i in own) for own in mine)
        in_flight = min(VALUE_BYTES * elements, IN_FLIGHT_BYTES)
    autocast = point.precision == "bf16"
    copies, activations, logits, slopes = _of_a_pass(point, layout, autocast)
    of_pass = copies + activations + logits + slopes + in_flight
    update = max(
        VALUE_BYTES * sum(tensors[i].elements * point.optimizer.update_values(tensors[i]) for i in own)
        for own in mine
    )
    return Memory(
        weights=VALUE_BYTES * elements,
        gradients=VALUE_BYTES * gradients,
        moments=VALUE_BYTES
        * max(sum(stateful[i].elements * stateful[i].moments for i in own) for own in mine),
        copies=copies,
        activations=activations,
        logits=logits,
        workspace=max(of_pass, update) - copies - activations - logits,
    )


def choose_layout(
    point: Point,
    execution: Execution,
    processes: int = 1,
    memory_bytes: int | None = None,
    free_bytes: int | None = None,
) -> Layout:
    """How so many processes train this point on devices with so much memory, where that is known: of `auto`
    rows the most that fit into what is free of it, or one where none do. Only such devices, GPUs, take logits
    in chunks. What is shared out goes by all the memory, as it is the same whoever else is there."""
    room = memory_bytes if free_bytes is None else free_bytes
    own = point.batch.rows // processes
    asked = execution.micro_batch_rows
    every = [own] if memory_bytes is None else divisors(own)
    for rows in every if asked == "auto" else [asked or own]:
        pieces = own // rows
        shard = resolve(execution.shard, memory_bytes, stateful_tensors(point), processes, pieces)
        chunk = None
        if memory_bytes is not None:
            chunk = chunk_rows(rows * point.batch.context, point.corpus.vocab_size)
        layout = Layout(rows, processes, shard, execution.checkpoint_activations, chunk)
        if room is None or count_memory(point, layout).fits(room):
            break
    return layout


def divisors(rows: int) -> list[int]:
    """Micro-batches that a process's rows can be cut into, the largest first."""
    return [size for size in range(rows, 0, -1) if rows % size == 0]


def stateful_tensors(point: Point) -> list[StatefulTensor]:
    """The model's tensors by what is kept of them."""
    return [StatefulTensor(weight.elements, point.optimizer.moments(weight)) for weight in _tensors(point)]


def _tensors(point: Point) -> Sequence[Weight]:
    return weights(point.shape, point.model, point.corpus.vocab_size, point.batch.context)


def _most(tensors: Sequence[StatefulTensor], owner: Sequence[int], layout: Layout) -> list[list[int]]:
    """The tensors that each process updates."""
    every = range(len(tensors))
    if layout.shard == "none":
        return [list(every)]
    return [[i for i in every if owner[i] == rank] for rank in range(layout.processes)]


def _of_a_pass(point: Point, layout: Layout, autocast: bool) -> tuple[int, int, int, int]:
    """Copies of weights, activations, logits, and the slopes of the widest activations."""
    shape, model, context = point.shape, point.model, point.batch.context
    vocabulary, tokens = point.corpus.vocab_size, layout.rows * context
    fused = autocast or model.kv_heads(shape) == shape.n_heads  # in fp32 no fused kernel takes grouped heads
    of_sequence = kept(shape, model, context, autocast, fused)
    narrow = 2 if autocast else WIDE
    copies = sum(narrow * w.elements for w in _tensors(point) if autocast and _is_copied(w, model.tied))
    chunk = tokens if layout.loss_rows is None else layout.loss_rows
    # The softmax, the slope of the loss, that of the logits; in fp32 where they are not cut into chunks.
    logits = chunk * vocabulary * 3 * WIDE
    if layout.loss_rows is not None:  # the head's gradient in fp32 and a chunk's part of it, the slopes of x
        logits += chunk * vocabulary * (2 * WIDE + narrow)
        logits += vocabulary * shape.d_model * (WIDE + narrow) + 2 * tokens * WIDE * shape.d_model
    return (
        copies,
        layout.rows * of_sequence.total(layout.recomputes),
        logits,
        tokens * _widest(point) + 2 * INDEX * tokens,
    )


def _is_copied(weight: Weight, tied: bool) -> bool:
    """Whether a matrix product takes the tensor in, but for the router's, which is in fp32."""
    looked_up = weight.kind == "embedding" and not tied
    return len(weight.size) > 1 and weight.kind != "router" and weight.name != "positions" and not looked_up


def _widest(point: Point) -> int:
    """Bytes a token of the slopes that are there at once: of the residual stream, and before and after the
    widest operation of a block."""
    shape, model = point.shape, point.model
    wide = (model.mlp_matrices - 1) * shape.d_ff
    if model.experts is not None:
        wide = model.experts.top_k * ((model.mlp_matrices - 1) * model.experts.d_ff(shape) + shape.d_model)
    return WIDE * (3 * shape.d_model + 2 * max(wide, 3 * shape.d_model))
