"""What each of a job's processes keeps of its weights, gradients and moments, which are fp32.

Every tensor is owned whole by one process, so that an optimizer that needs whole matrices has them. Weights
are everywhere; moments lie with the owner (the first stage of Rajbhandari et al. 2019, arXiv 1910.02054), and
gradients too where every piece of a batch is reduced to it (the second).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Shard = Literal["none", "optimizer", "gradients"]
"""What is shared out: nothing, moments, or moments and gradients."""
ShardChoice = Literal["auto", "none", "optimizer", "gradients"]

VALUE_BYTES = 4
IN_FLIGHT_BYTES = 2**28
"""Gradients on their way to their owners at once: more would be the whole gradient again."""
STATE_SHARE = 0.5
"""The share of a device's memory that weights, gradients and moments may take before `auto` shares out more:
the rest is for activations and logits."""


@dataclass(frozen=True, slots=True)
class StatefulTensor:
    """A tensor's place in memory."""

    elements: int
    """Its values, and those of its gradient."""
    moments: int
    """Values that the optimizer keeps of each."""


def owners(sizes: Sequence[int], processes: int) -> list[int]:
    """The owner of each tensor, largest first, each to the process with the least so far."""
    loads, owner = [0] * processes, [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        owner[index] = loads.index(min(loads))
        loads[owner[index]] += sizes[index]
    return owner


def state_bytes(shard: Shard, tensors: Sequence[StatefulTensor], processes: int) -> int:
    """Weights, gradients and moments of the process that has most of them, between two pieces of a batch."""
    elements = sum(tensor.elements for tensor in tensors)
    if shard == "none":
        return VALUE_BYTES * (2 * elements + sum(tensor.elements * tensor.moments for tensor in tensors))
    own = [0] * processes
    for tensor, owner in zip(tensors, owners([t.elements for t in tensors], processes), strict=True):
        own[owner] += tensor.elements * (tensor.moments + (shard == "gradients"))
    return VALUE_BYTES * ((1 if shard == "gradients" else 2) * elements + max(own))


def resolve(
    choice: ShardChoice,
    memory_bytes: int | None,
    tensors: Sequence[StatefulTensor],
    processes: int,
    pieces: int,
) -> Shard:
    """What `choice` comes to for so many processes with so much memory each, None on a CPU, and each one's
    share of a batch in so many pieces.

    `auto` is none where there is room, else optimizer, and gradients where that is too much yet and there are
    pieces to reduce.
    """
    if processes == 1:
        return "none"
    if choice != "auto":
        return choice
    room = float("inf") if memory_bytes is None else memory_bytes * STATE_SHARE
    if state_bytes("none", tensors, processes) <= room:
        return "none"
    if pieces > 1 and state_bytes("optimizer", tensors, processes) > room:
        return "gradients"
    return "optimizer"
