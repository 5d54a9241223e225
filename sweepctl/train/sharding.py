"""Moments and gradients shared out over a job's processes: every tensor is owned whole by one of them.

A gradient is summed at its owner while the backward pass goes on and is dropped elsewhere; the owner updates
the tensor, and all take over what it has made of it.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sweepctl.spec.sharding import IN_FLIGHT_BYTES, owners
from sweepctl.train.processes import SingleProcess


class _Reduction(NamedTuple):
    """A gradient on its way."""

    name: str
    gradient: Tensor
    wait: Callable[[], object]


class Shards:
    """Who owns which tensor, and the traffic between the owners and the others.

    All processes must send the same tensors in the same order: gradients go in the reverse of the model's
    own, as soon as they are there.
    """

    def __init__(self, named: Mapping[str, nn.Parameter], processes: SingleProcess, each_piece: bool) -> None:
        """`named` has the model's tensors in the order of its layers. With `each_piece` every piece of a
        batch is reduced, else the last with the sum of all."""
        self._named, self._processes, self._each_piece = dict(named), processes, each_piece
        sizes = [parameter.numel() for parameter in named.values()]
        self.owner = dict(zip(named, owners(sizes, processes.size), strict=True))
        self._order = list(reversed(self._named))
        self._reducing = False
        self._ready: set[str] = set()
        self._sent = 0
        self._in_flight: deque[_Reduction] = deque()
        self._sums: dict[str, Tensor] = {}

    def owns(self, name: str) -> bool:
        """Whether the tensor is this process's."""
        return self.owner[name] == self._processes.rank

    def begin(self) -> None:
        """All have their owners' weights from here on, and gradients leave as they come."""
        self.spread()
        this = weakref.ref(self)  # or the tensors would wait for the collector of cycles
        for name, parameter in self._named.items():
            parameter.register_post_accumulate_grad_hook(_on_arrival(this, name))  # type: ignore[no-untyped-call]

    @contextmanager
    def piece(self, is_last: bool) -> Iterator[None]:
        """The forward and backward pass of one piece of a batch. After the last, owners have as gradients the
        means over all processes, and the others have none."""
        self._reducing = is_last or self._each_piece
        yield
        if not self._reducing:
            return
        self._send(everything=True)
        while self._in_flight:
            self._receive()
        self._ready.clear()
        self._sent = 0
        if is_last:
            for name, gradient in self._sums.items():
                self._named[name].grad = gradient
            self._sums.clear()

    def gradient_norm(self, names: Mapping[str, object]) -> Tensor:
        """The norm of the whole gradient; its tensors' norms are taken in the order of these names."""
        own = {name: grad for name in names if (grad := self._own_gradient(name)) is not None}
        norms = dict(zip(own, torch._foreach_norm(list(own.values())), strict=True)) if own else {}
        nothing = torch.zeros((), device=next(iter(self._named.values())).device)
        by_tensor = torch.stack([norms.get(name, nothing) for name in names])
        norm: Tensor = torch.linalg.vector_norm(self._processes.total(by_tensor))
        return norm

    @torch.no_grad()
    def spread(self) -> None:
        """Everybody takes over every tensor from its owner."""
        waits = [
            self._processes.begin_copy(parameter.detach(), self.owner[name])
            for name, parameter in self._named.items()
        ]
        for wait in waits:
            wait()

    def gather(self, name: str, kept: Tensor) -> Tensor | None:
        """What the owner of a tensor keeps of it, on rank 0's host; None elsewhere. Rank 0 gives, where it is
        not the owner, a tensor on its host to be overwritten."""
        owner, rank = self.owner[name], self._processes.rank
        if rank == owner:
            kept = kept.cpu()
        if owner != 0 and rank in (0, owner):
            self._processes.hand_over(kept, owner)
        return kept if rank == 0 else None

    def _own_gradient(self, name: str) -> Tensor | None:
        return self._named[name].grad if self.owns(name) else None

    def _arrive(self, name: str) -> None:
        if self._reducing:
            self._ready.add(name)
            self._send()

    @torch.no_grad()
    def _send(self, everything: bool = False) -> None:
        """Begin to sum every gradient whose turn it is."""
        while self._sent < len(self._order) and (everything or self._order[self._sent] in self._ready):
            name = self._order[self._sent]
            self._sent += 1
            if self._named[name].grad is not None:  # else the loss depends on it in no process
                self._in_flight.append(self._reduction(name))
            while len(self._in_flight) > 1 and self._bytes_in_flight() > IN_FLIGHT_BYTES:
                self._receive()

    def _reduction(self, name: str) -> _Reduction:
        """A tensor's gradient, taken from it."""
        parameter = self._named[name]
        assert parameter.grad is not None
        gradient = parameter.grad.contiguous().mul_(1 / self._processes.size)
        parameter.grad = None
        return _Reduction(name, gradient, self._processes.begin_sum(gradient, self.owner[name]))

    def _bytes_in_flight(self) -> int:
        return sum(reduction.gradient.nbytes for reduction in self._in_flight)

    def _receive(self) -> None:
        """Wait for the gradient that was sent first; its owner keeps it."""
        reduction = self._in_flight.popleft()
        reduction.wait()
        if not self.owns(reduction.name):
            return
        if reduction.name in self._sums:
            self._sums[reduction.name] += reduction.gradient
        else:
            self._sums[reduction.name] = reduction.gradient


def _on_arrival(shards: weakref.ref[Shards], name: str) -> Callable[[Tensor], None]:
    """What to do once a tensor has its gradient."""

    def arrive(_: Tensor) -> None:
        if (this := shards()) is not None:
            this._arrive(name)

    return arrive
