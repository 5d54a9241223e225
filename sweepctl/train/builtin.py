"""The built-in trainer: a decoder in torch, one update at a time."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

import numpy
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sweepctl.errors import DamagedFile, RequestError
from sweepctl.spec.accounting import count
from sweepctl.spec.execution import Execution
from sweepctl.spec.learning_rate import LearningRateCurve
from sweepctl.spec.loss_chunks import chunk_rows
from sweepctl.spec.memory import Layout, choose_layout, count_memory, stateful_tensors
from sweepctl.spec.science import Point
from sweepctl.spec.sharding import Shard, resolve
from sweepctl.store.facts import Facts
from sweepctl.store.files import reading, refusal
from sweepctl.train import compilation
from sweepctl.train.batches import Batches
from sweepctl.train.cross_entropy import chunked_cross_entropy
from sweepctl.train.device import Machine, machine
from sweepctl.train.interface import Assignment, Setup, Trainer, Update
from sweepctl.train.model import Decoder, flat_name
from sweepctl.train.optimizer import GroupedOptimizer
from sweepctl.train.prefetch import Pair, Prefetched
from sweepctl.train.processes import Command, SingleProcess
from sweepctl.train.sharding import Shards

WEIGHTS, OPTIMIZER = "weights.safetensors", "optimizer.safetensors"
SMALL_STEP_FLOPS = 2e12
"""What a fast GPU computes in about 5 ms: as long as a host takes to launch the kernels of a step."""
UNCOUNTED = -100
"""A target of which no loss is taken."""


class Objective(nn.Module):
    """A decoder and its loss in one module: compiled, the largest tensor of a step, the logits, need not be
    written out in fp32; with `chunk_rows` there are never more rows of them than that."""

    def __init__(self, decoder: Decoder, chunk_rows: int | None = None) -> None:
        super().__init__()
        self.decoder, self.chunk_rows = decoder, chunk_rows

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens and targets [B, T] -> the mean loss in nats a token, and what training adds to it."""
        if self.chunk_rows is None:
            logits, penalty = self.decoder(x)
            return F.cross_entropy(logits.float(), y.reshape(-1)), penalty
        hidden, penalty = self.decoder.hidden(x)
        return _chunked_loss(self.decoder, hidden, y, self.chunk_rows), penalty


class Evaluation(nn.Module):
    """A decoder's loss on held-out rows. It is apart from `Objective`, so that what was evaluated, and at
    which sizes, is nothing to the code that trains."""

    def __init__(self, decoder: Decoder, chunk_rows: int | None = None) -> None:
        super().__init__()
        self.decoder, self.chunk_rows = decoder, chunk_rows

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Tokens and targets [B, T] -> the mean loss in nats a token of those whose target is counted."""
        if self.chunk_rows is not None:
            return _chunked_loss(self.decoder, self.decoder.hidden(x)[0], y, self.chunk_rows)
        return F.cross_entropy(self.decoder(x).logits.float(), y.reshape(-1), ignore_index=UNCOUNTED)


def _chunked_loss(decoder: Decoder, hidden: Tensor, y: Tensor, rows: int) -> Tensor:
    return chunked_cross_entropy(
        hidden, decoder.output, y.reshape(-1), decoder.logit_multiplier, rows, UNCOUNTED
    )


class BuiltinTrainer(Trainer):
    """A model, its optimizer and its place in the data."""

    def __init__(
        self,
        point: Point,
        batches: Batches,
        machine: Machine,
        execution: Execution,
        processes: SingleProcess | None = None,
        before: Facts | None = None,
    ) -> None:
        self.point, self.batches, self.machine = point, batches, machine
        self.processes = processes or SingleProcess()
        self.micro_rows = _micro_rows(point, execution, self.processes.size, machine, before)
        if machine.memory_bytes is not None:
            torch.cuda.reset_peak_memory_stats(machine.device)
        self.model = Decoder(
            point.shape,
            point.model,
            point.parametrization,
            point.corpus.vocab_size,
            point.batch.context,
            machine.ops,
        )
        self.model.recomputes = execution.checkpoint_activations
        self.model.initialize(point.seed.init)
        self.model.to(machine.device)
        self.shard = self._shard(execution)
        self.shards = None if self.shard == "none" else self._shards()
        self.optimizer = GroupedOptimizer(self.model, point.optimizer, self.shards)
        self.step = 0
        rank, size = self.processes.rank, self.processes.size
        self._batch: Callable[[int], Pair] = lambda step: batches.batch(step, rank, size)
        if machine.device.type != "cpu":
            self._batch = Prefetched(self._batch, machine.device).take
        self.chunk_rows = self._chunk_rows(self.micro_rows)
        self.cuda_graphs = self._takes_graphs(execution)
        if machine.compiled:
            compilation.begin(self._program(), self.cuda_graphs, machine.deterministic)
        evaluation = Evaluation(self.model, self._chunk_rows(batches.piece_rows))
        self._evaluation = compilation.compiled(evaluation) if machine.compiled else evaluation
        self._use(Objective(self.model, self.chunk_rows))
        self._pieces: dict[tuple[str, int], list[tuple[Tensor, Tensor]]] = {}

    @classmethod
    def make(cls, assignment: Assignment) -> Self:
        point, execution, processes = assignment.science.point, assignment.execution, assignment.processes
        device = machine(execution, point.precision, processes.local_rank, assignment.before)
        data = Batches(assignment.data, point)
        return cls(point, data, device, execution, processes, assignment.before)

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {"torch": torch.__version__, "numpy": numpy.__version__}

    @property
    def held_out(self) -> tuple[str, ...]:
        return tuple(self.batches.index.held_out)

    @property
    def flops_per_token(self) -> int:
        point = self.point
        counts = count(point.shape, point.model, point.corpus.vocab_size, point.batch.context)
        return counts.exact_flops_per_token

    def setup(self) -> Setup:
        context = self.point.batch.context
        return Setup(
            device=self.machine.name,
            device_kind=self.machine.kind,
            micro_batch_rows=self.micro_rows,
            gemm=self.machine.gemm,
            compiled=self.machine.compiled,
            cuda_graphs=self.cuda_graphs,
            deterministic=self.machine.deterministic,
            loss_chunks=1 if self.chunk_rows is None else self.micro_rows * context // self.chunk_rows,
            processes=self.processes.size,
            shard=self.shard,
            hosts=tuple(self.processes.hosts),
            peak_flops=self.machine.peak_flops,
            counted_memory_bytes=self._counted_bytes(),
        )

    def _counted_bytes(self) -> int | None:
        """What `plan` counts for this process, on a GPU."""
        if self.machine.memory_bytes is None:
            return None
        layout = Layout(
            self.micro_rows, self.processes.size, self.shard, self.model.recomputes, self.chunk_rows
        )
        return count_memory(self.point, layout).total

    def peak_memory_bytes(self) -> int | None:
        if self.machine.memory_bytes is None:
            return None
        return int(torch.cuda.max_memory_allocated(self.machine.device))

    def share(self) -> None:
        """They take over rank 0's weights, or each tensor from its owner."""
        if self.shards is not None:
            self.shards.begin()
        else:
            self._use(self.processes.share(Objective(self.model, self.chunk_rows)))

    def _use(self, objective: nn.Module) -> None:
        self._shared = objective
        self._objective: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | None]] = objective
        if self.machine.compiled:
            self._objective = compilation.compiled(objective, self.cuda_graphs)

    def _chunk_rows(self, sequences: int) -> int | None:
        """Rows of logits at a time of so many sequences; None for all."""
        if self.machine.device.type == "cpu":
            return None
        return chunk_rows(sequences * self.point.batch.context, self.point.corpus.vocab_size)

    def _takes_graphs(self, execution: Execution) -> bool:
        """Whether a step's kernels are launched together as CUDA graphs. Gradients then lie in memory that
        the next piece of a batch would overwrite, so only where there is none; by itself only where kernels
        are so small that launching them is what takes time."""
        machine, point = self.machine, self.point
        one_piece = self.micro_rows == point.batch.rows and self.processes.size == 1
        if not (machine.compiled and machine.kind == "cuda" and one_piece and execution.cuda_graphs):
            return False
        flops = self.flops_per_token * point.batch.tokens
        return execution.cuda_graphs is True or (point.model.experts is None and flops <= SMALL_STEP_FLOPS)

    def _program(self) -> object:
        """What the compiled code depends on."""
        point, machine = self.point, self.machine
        model = (point.shape, point.model, point.parametrization, point.corpus.vocab_size)
        sizes = (self.micro_rows, point.batch.context, self.processes.size, self.shard)
        how = (str(machine.device), machine.precision, machine.deterministic, self.model.recomputes)
        return (*model, *sizes, *how)

    def update(self, curve: LearningRateCurve) -> Update:
        with self.processes.together(Command.UPDATE):
            loss = self.processes.mean(self._accumulate())
            norm = self.optimizer.step(curve.at(self.step))
            loads = self.model.balance(self.processes.total)
        self.step += 1
        if loads is None:
            return Update(loss, norm)
        return Update(loss, norm, lambda: {"expert_load_max": largest_load(loads)})

    def _shard(self, execution: Execution) -> Shard:
        """What the processes share out."""
        kept = stateful_tensors(self.point)
        own = self.point.batch.rows // self.processes.size
        pieces = own // self.micro_rows
        return resolve(execution.shard, self.machine.memory_bytes, kept, self.processes.size, pieces)

    def _shards(self) -> Shards:
        named = {weight.name: parameter for weight, parameter in self.model.named_weights()}
        by_layer = {name: named[name] for name in self.model.specs}
        return Shards(by_layer, self.processes, each_piece=self.shard == "gradients")

    def _piece(self, is_last: bool) -> AbstractContextManager[Any]:
        """One piece of a batch, its gradients reduced where they are to be."""
        if self.shards is not None:
            return self.shards.piece(is_last)
        return nullcontext() if is_last else self.processes.accumulating(self._shared)

    def _accumulate(self) -> Tensor:
        """The gradient of this process's rows, piece by piece, reduced with the last one or with each; their
        loss."""
        inputs, targets = self._move(*self._batch(self.step))
        pieces = len(inputs) // self.micro_rows
        total: Tensor | None = None
        for first in range(0, len(inputs), self.micro_rows):
            x, y = inputs[first : first + self.micro_rows], targets[first : first + self.micro_rows]
            last = first + self.micro_rows == len(inputs)
            with self._piece(last):
                if self.cuda_graphs:
                    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
                with self.machine.autocast():
                    loss, penalty = self._objective(x, y)
                aim = loss if penalty is None else loss + penalty
                aim = aim / pieces if pieces > 1 else aim
                aim.backward()  # type: ignore[no-untyped-call]
            loss = loss.detach() / pieces if pieces > 1 else loss.detach()
            total = loss if total is None else total + loss
        assert total is not None
        return total.clone() if self.cuda_graphs else total  # its memory is the next step's

    def _move(self, x: Tensor, y: Tensor) -> Pair:
        """Onto the device, waiting for nothing where they are in pinned memory."""
        device = self.machine.device
        return x.to(device, non_blocking=True), y.to(device, non_blocking=True)

    @torch.no_grad()
    def evaluate(self, name: str, tokens: int) -> float:
        """Its pieces are dealt out to the processes."""
        with self.processes.together(Command.EVALUATE, self.held_out.index(name), tokens):
            if (name, tokens) not in self._pieces:
                pieces = self.batches.held_out(name, tokens, self.processes.rank, self.processes.size)
                self._pieces[name, tokens] = pieces
            losses, sizes = [], []
            for x, y in self._pieces[name, tokens]:
                sizes.append(y.numel())
                if self.machine.compiled:
                    x, y = self._filled(x, y)
                with self.machine.autocast():
                    losses.append(self._evaluation(*self._move(x, y)))
            total = 0.0
            for loss, size in zip(losses, sizes, strict=True):  # nothing is waited for before the last piece
                total += float(loss) * size
            total, targets = self.processes.sum(total, float(sum(sizes)))
        return total / targets

    def _filled(self, x: Tensor, y: Tensor) -> Pair:
        """A piece with the rows of a whole one, so that it is compiled once: those that it lacks count for
        nothing."""
        lacking = self.batches.piece_rows - len(x)
        return F.pad(x, (0, 0, 0, lacking)), F.pad(y, (0, 0, 0, lacking), value=UNCOUNTED)

    def bits_per_byte(self, name: str, loss: float) -> float | None:
        per_token = self.batches.bytes_per_token(name)
        return loss / math.log(2) / per_token if per_token else None

    def save(self, folder: Path, weights_only: bool = False) -> None:
        """Weights, and all that the optimizer keeps, as safetensors."""
        weights = {flat_name(path): tensor.contiguous() for path, tensor in self.model.state_dict().items()}
        try:
            save_file(weights, folder / WEIGHTS)
            if not weights_only:
                save_file(self._optimizer_state(), folder / OPTIMIZER)
        except SafetensorError as error:
            if (refused := _file_system_error(error, folder)) is not None:
                raise refused from error
            raise

    def _optimizer_state(self) -> dict[str, Tensor]:
        """What the optimizer keeps, in rank 0's hands if the processes share it out."""
        if self.shards is None:
            return self.optimizer.state()
        with self.processes.together(Command.SAVE):
            return self.optimizer.state()

    def hand_over(self) -> None:
        self._optimizer_state()

    def load(self, folder: Path, step: int) -> None:
        try:
            with reading(folder):
                weights, state = load_file(folder / WEIGHTS), load_file(folder / OPTIMIZER)
        except (OSError, ValueError) as error:
            raise DamagedFile(f"{folder} cannot be loaded: {error}.") from None
        except SafetensorError as error:
            if (refused := _file_system_error(error, folder)) is not None:
                raise refusal(refused, folder, "read") from error
            raise DamagedFile(f"{folder} is not a checkpoint: {error}.") from None
        try:
            tensors = {path: weights.pop(flat_name(path)) for path in self.model.state_dict()}
            if weights:
                raise KeyError(f"{next(iter(weights))} is not a tensor of it")
            self.model.load_state_dict(tensors)
            self.optimizer.restore(state)
        except (RuntimeError, KeyError) as error:
            difference = str(error.args[0]).splitlines()[0]
            raise RequestError(f"{folder} holds another model or optimizer: {difference}") from None
        self.step = step


def _file_system_error(error: SafetensorError, folder: Path) -> OSError | None:
    """The file system's refusal, which the library hides in its text."""
    number = re.search(r"os error (\d+)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1])), str(folder)) if number else None


def largest_load(loads: Tensor) -> Tensor:
    """Tokens of experts [layers, experts] -> the largest load over the mean of its layer, of all layers."""
    return (loads.amax(1) / loads.mean(1)).amax()


def _micro_rows(
    point: Point, execution: Execution, processes: int, machine: Machine, before: Facts | None
) -> int:
    """Rows that one process sees at once; of `auto` as before, for then they are the same sums."""
    tokens = f"{point.batch.tokens} tokens / context {point.batch.context}"
    batch = f"{point.batch.rows} rows of a batch ({tokens})"
    own, left = divmod(point.batch.rows, processes)
    if left:
        raise RequestError(f"{processes} processes cannot share the {batch} evenly.")
    if execution.micro_batch_rows == "auto":
        if (rows := _rows_before(before, machine, processes)) and own % rows == 0:
            return rows
        return choose_layout(point, execution, processes, machine.memory_bytes, machine.free_bytes).rows
    rows = execution.micro_batch_rows or own
    if own % rows:
        share = "" if processes == 1 else f", {own} for each of {processes} processes"
        raise RequestError(f"micro_batch_rows={rows} does not divide the {batch}{share}.")
    return rows


def _rows_before(before: Facts | None, machine: Machine, processes: int) -> int | None:
    """The micro-batch of the attempt that is gone on from, on as many devices of the same kind."""
    if before is None or (before.device_kind, before.world_size) != (machine.kind, processes):
        return None
    return before.micro_batch_rows
