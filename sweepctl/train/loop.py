"""The training loop of one attempt: metrics, curve points, rolling checkpoints, divergence, when to stop."""

from __future__ import annotations

import contextlib
import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TextIO

from sweepctl.spec.execution import Execution
from sweepctl.spec.science import JobScience
from sweepctl.store import attempts, checkpoints, retention
from sweepctl.store.attempts import Attempt
from sweepctl.store.ends import End
from sweepctl.store.facts import Origin
from sweepctl.store.files import finite, storage
from sweepctl.store.job import JobFolder
from sweepctl.store.protocol import Progress, Saved
from sweepctl.store.result import Result
from sweepctl.train.interface import Trainer, Update

GLANCE_S = 0.5
"""How often the loop looks at the store: for a newer owner, for new wishes, to beat."""


class Stopped(Exception):
    """Told to stop; the state is saved."""


class Superseded(Exception):
    """A newer attempt owns the job; nothing more may be written."""


class Diverged(Exception):
    """The loss left the bounds of the science; `result` is the job's result."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.reason)
        self.result = result


@dataclass
class Loop:
    """Drives a trainer. Everything that depends on a clock happens here, and none of it changes a number."""

    trainer: Trainer
    """At the step where the attempt goes on."""
    science: JobScience
    """What is trained."""
    execution: Execution
    """How often to save, to log, and to evaluate."""
    folder: JobFolder
    """The job's."""
    attempt: Attempt
    """The one that owns the job."""
    parent: Origin | None
    """The checkpoint that the next one stands on."""
    stop: threading.Event
    """Set where the attempt is to save and end."""
    report: Callable[[Progress | Saved], None]
    """Hears how far it is, and of every checkpoint."""
    _pending: Update | None = None
    _metrics: TextIO | None = None
    _saved_step: int = -1
    _saved_at: float = field(default_factory=time.monotonic)
    _glanced_at: float = 0.0
    _busy_s: float = 0.0
    _window: tuple[int, float] = (0, 0.0)

    def __post_init__(self) -> None:
        self.curve = self.science.curve()
        self.batch_tokens = self.science.point.batch.tokens
        self.setup, self.flops_per_token = self.trainer.setup(), self.trainer.flops_per_token
        self._saved_step = self.trainer.step
        self._first_step = self.trainer.step
        self._curve_steps = curve_steps(self.batch_tokens, self.execution.curve_per_octave)
        self._next_curve = next(s for s in self._curve_steps if s > self.trainer.step)

    @property
    def tokens(self) -> int:
        """Trained on since the initialization."""
        return self.trainer.step * self.batch_tokens

    def train_to(self, end: int, pause: Callable[[], bool] | None = None) -> None:
        """Train until `end` updates are made, or until `pause` says yes.

        Raises:
            Stopped, Superseded, Diverged: see there.
            StorageError: the store refused; older checkpoints are intact.
        """
        while self.trainer.step < end:
            now = time.monotonic()
            if now - self._glanced_at >= GLANCE_S:
                self._glance()
                if pause is not None and pause():
                    return
                now = time.monotonic()
            if now - self._saved_at >= self.execution.checkpoint_every_s:
                self.save()
                retention.roll(self.folder)
            started = time.perf_counter()
            update = self._pending = self.trainer.update(self.curve)
            if self._must_look():
                loss = float(update.loss)
                self._busy_s += time.perf_counter() - started
                self._look(update, loss)
            else:
                self._busy_s += time.perf_counter() - started
        self._settle()

    def save(self, weights_only: bool = False, final: bool = False) -> None:
        """A checkpoint of this step, durable when this returns; `final` also where this step was loaded."""
        self._settle()
        step = self.trainer.step
        if step != self._saved_step or final:
            checkpoints.save(
                self.folder,
                step,
                self.attempt.number,
                self.parent,
                lambda scratch: self.trainer.save(scratch, weights_only),
                lambda: not attempts.superseded(self.folder, self.attempt),
            )
            self.check_owner()
            self.parent = Origin(self.folder.id, step, self.attempt.number)
            self.report(Saved(self.folder.id, step))
        self._saved_step, self._saved_at = step, time.monotonic()

    def final_result(self, validation_tokens: int) -> Result:
        """The annealed loss on every held-out set.

        Raises:
            Diverged: one is not a number, or all are beyond the bound: of several sets one may be text of
                another kind, far from a model that is sound.
        """
        losses, bits = {}, {}
        for name in self.trainer.held_out:
            loss = self.trainer.evaluate(name, validation_tokens)
            if not math.isfinite(loss):
                raise Diverged(self._diverged("the final loss is not finite"))
            losses[name] = loss
            per_byte = self.trainer.bits_per_byte(name, loss)
            if per_byte is not None:
                bits[name] = per_byte
        if losses and min(losses.values()) > self._bound_nats:
            raise Diverged(self._diverged(f"the final loss is above {self._bound_nats:.3f} nats"))
        return Result(End.DONE, self.trainer.step, self.tokens, losses, bits, attempt=self.attempt.number)

    def _settle(self) -> None:
        """Wait for what a device has still to compute, as a part of training."""
        if self._pending is not None:
            started = time.perf_counter()
            float(self._pending.loss)
            self._busy_s += time.perf_counter() - started
            self._pending = None

    def check_owner(self) -> None:
        """Raises Superseded where a newer attempt owns the job."""
        if attempts.superseded(self.folder, self.attempt):
            raise Superseded

    def close(self) -> None:
        """Put the attempt's totals on its record."""
        if self._metrics is not None:
            with contextlib.suppress(OSError):  # the refusal that ends this attempt is on its record
                self._metrics.close()
        steps = self.trainer.step - self._first_step
        tokens = steps * self.batch_tokens
        rate = tokens / self._busy_s if self._busy_s and steps else None
        self.attempt.note(
            end_step=self.trainer.step,
            trained_tokens=tokens,
            train_s=self._busy_s,
            tokens_per_s=rate,
            mfu=self._mfu(rate) if rate is not None else None,
            peak_memory_bytes=self.trainer.peak_memory_bytes(),
        )

    def _glance(self) -> None:
        self._glanced_at = time.monotonic()
        self.check_owner()
        if self.stop.is_set():
            self.save()
            raise Stopped
        self.attempt.beat(self.trainer.step, self.tokens)
        self.report(Progress(self.folder.id, self.trainer.step))

    def _must_look(self) -> bool:
        step = self.trainer.step
        return (
            step % self.execution.log_every_steps == 0
            or step % self.science.point.divergence.every_steps == 0
            or step >= self._next_curve
        )

    def _look(self, update: Update, loss: float) -> None:
        """Log, judge divergence, and evaluate where a curve point lies."""
        step = self.trainer.step
        if step % self.science.point.divergence.every_steps == 0:
            self._judge(loss)
        if step % self.execution.log_every_steps == 0:
            row: dict[str, Any] = {"step": step, "tokens": self.tokens, "train_loss_nats": loss}
            row["lr"] = self.science.point.optimizer.lr * self.curve.at(step - 1)
            if update.grad_norm is not None:
                row["grad_norm"] = float(update.grad_norm)
            row |= {name: float(value) for name, value in update.further().items()}
            row |= self._speed()
            self._write(row)
        if step >= self._next_curve:
            self._next_curve = next(s for s in self._curve_steps if s > step)
            self._curve_point()

    def _curve_point(self) -> None:
        losses = {
            name: self.trainer.evaluate(name, self.execution.curve_tokens) for name in self.trainer.held_out
        }
        self._write(
            {
                "step": self.trainer.step,
                "tokens": self.tokens,
                "loss_nats": {name: loss for name, loss in losses.items() if math.isfinite(loss)},
            }
        )

    def _judge(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise Diverged(self._diverged("the loss is not finite"))
        if self.trainer.step > self.science.point.warmup_steps and loss > self._bound_nats:
            raise Diverged(self._diverged(f"the loss is above {self._bound_nats:.3f} nats"))

    @property
    def _bound_nats(self) -> float:
        point = self.science.point
        return math.log(point.corpus.vocab_size) + point.divergence.margin_nats

    def _diverged(self, reason: str) -> Result:
        step, tokens = self.trainer.step, self.tokens
        return Result(End.DIVERGED, step, tokens, attempt=self.attempt.number, reason=reason)

    def _speed(self) -> dict[str, float]:
        """Of the updates since it was asked last; empty at first, where they hold what is done once."""
        steps, seconds = self.trainer.step - self._window[0], self._busy_s - self._window[1]
        is_first = self._window[0] == 0
        self._window = (self.trainer.step, self._busy_s)
        if is_first or seconds <= 0:
            return {}
        rate = steps * self.batch_tokens / seconds
        speed: dict[str, float] = {"tokens_per_s": round(rate)}
        if self.flops_per_token is not None:
            speed["flops_per_s"] = rate * self.flops_per_token
        mfu = self._mfu(rate)
        return speed if mfu is None else speed | {"mfu": mfu}

    def _mfu(self, rate: float) -> float | None:
        peak, flops = self.setup.peak_flops, self.flops_per_token
        return None if peak is None or flops is None else rate * flops / (peak * self.setup.processes)

    def _write(self, row: dict[str, Any]) -> None:
        with storage(self.attempt.metrics):
            if self._metrics is None:
                self._metrics = open(self.attempt.metrics, "a", encoding="utf-8", buffering=1)
            self._metrics.write(json.dumps(finite(row), allow_nan=False) + "\n")


def curve_steps(batch_tokens: int, per_octave: int) -> Iterator[int]:
    """The steps of the points along a curve, endlessly rising.

    In tokens they are 2^k (1 + j / per_octave), the same for every batch size; each lies at the first step
    that reaches it, which is exact where the batch is a power of two of at most 2^k / per_octave tokens.
    """
    if per_octave == 0:
        yield sys.maxsize
    last, octave = 0, 32 * batch_tokens
    octave = 1 << (octave - 1).bit_length()
    while True:
        for part in range(per_octave):
            step = -(-(octave + octave * part // per_octave) // batch_tokens)
            if step > last:
                last = step
                yield step
        octave *= 2
