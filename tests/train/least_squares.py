"""A trainer without torch: least squares in a few numbers, its loss half the mean square of errors."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Self

from sweepctl.errors import DamagedFile, RequestError
from sweepctl.spec.learning_rate import LearningRateCurve
from sweepctl.train.interface import Assignment, Setup, Trainer, Update

MOMENTUM = 0.9


class LeastSquares(Trainer):
    """y = w . x with momentum; x and y are drawn by the data's seed and the step."""

    def __init__(self, assignment: Assignment) -> None:
        point = assignment.science.point
        self.step, self.point = 0, point
        draw = random.Random(f"weights {point.seed.init}")
        self.weights = [draw.gauss(0, 1) for _ in range(point.shape.d_model)]
        self.momentum = [0.0] * point.shape.d_model
        self.shared = 0

    @classmethod
    def make(cls, assignment: Assignment) -> Self:
        return cls(assignment)

    @classmethod
    def versions(cls) -> dict[str, str]:
        return {"least_squares": "3"}

    @property
    def held_out(self) -> tuple[str, ...]:
        return ("validation", "other")

    @property
    def flops_per_token(self) -> int | None:
        return 6 * len(self.weights)

    def setup(self) -> Setup:
        return Setup("an abacus", "cpu")

    def share(self) -> None:
        self.shared += 1

    def _batch(self, name: object, rows: int) -> list[tuple[list[float], float]]:
        draw = random.Random(f"{self.point.seed.data} {name}")
        inputs = [[draw.gauss(0, 0.5) for _ in self.weights] for _ in range(rows)]
        return [(x, sum(x) + 0.1 * draw.gauss(0, 1)) for x in inputs]

    def _errors(self, batch: list[tuple[list[float], float]]) -> list[float]:
        return [sum(w * value for w, value in zip(self.weights, x, strict=True)) - y for x, y in batch]

    def update(self, curve: LearningRateCurve) -> Update:
        assert self.shared == 1
        batch = self._batch(self.step, self.point.batch.rows)
        errors = self._errors(batch)
        rate = self.point.optimizer.lr * curve.at(self.step)
        for i in range(len(self.weights)):
            gradient = sum(e * x[i] for e, (x, _) in zip(errors, batch, strict=True)) / len(batch)
            self.momentum[i] = MOMENTUM * self.momentum[i] + gradient
            self.weights[i] -= rate * self.momentum[i]
        self.step += 1
        return Update(_half_square(errors), further=lambda: {"largest_weight": max(self.weights)})

    def evaluate(self, name: str, tokens: int) -> float:
        return _half_square(self._errors(self._batch(name, 8)))

    def bits_per_byte(self, name: str, loss: float) -> float | None:
        return loss / math.log(2) if name == "validation" else None

    def save(self, folder: Path, weights_only: bool = False) -> None:
        state = (
            {"weights": self.weights}
            if weights_only
            else {"weights": self.weights, "momentum": self.momentum}
        )
        (folder / "state.json").write_text(json.dumps(state))

    def load(self, folder: Path, step: int) -> None:
        try:
            state = json.loads((folder / "state.json").read_text())
        except (OSError, ValueError) as error:
            raise DamagedFile(f"{folder} is not a checkpoint: {error}.") from None
        if len(state["weights"]) != len(self.weights):
            raise RequestError(f"{folder} holds another model.")
        self.step, self.weights, self.momentum = step, state["weights"], state["momentum"]


def _half_square(errors: list[float]) -> float:
    return sum(e * e for e in errors) / len(errors) / 2
