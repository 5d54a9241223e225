"""The recipe for a target: shape, tokens, learning rate, batch, loss with its interval, device hours."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.laws import parametric
from sweepctl.laws.fit import Estimate, Fit, Prediction
from sweepctl.plan.plan import Plan
from sweepctl.predict.carried import carried_share, probed
from sweepctl.spec.accounting import Counts, count
from sweepctl.spec.model import Shape
from sweepctl.spec.science import Point, with_field
from sweepctl.spec.weights import distinct_weights
from sweepctl.store import predictions
from sweepctl.store.throughput import measured
from sweepctl.store.workspace import Sweep


@dataclass(frozen=True, slots=True)
class Recipe:
    """A run to train."""

    shape: Shape
    """The ladder's, of the nearest size."""
    n: int
    """Parameters under the study's convention."""
    d: int
    """Tokens."""
    flops: float
    """Under the study's accounting."""
    flops_exact: float
    """Every matrix product."""
    lr: float
    """Peak learning rate of the base shape."""
    class_lr: dict[str, float]
    """Peak learning rates by class of tensors; by tensor in a class whose tensors differ."""
    batch_tokens: int
    """Of an update."""
    steps: int
    """Updates."""
    loss_nats: Prediction
    """By the law, with its intervals."""
    optimum: dict[str, Estimate] | None
    """N, D and loss at these FLOPs by the law; None where N and D were asked for."""
    device_hours: float | None
    """None where no rate is there to go by."""
    beyond: float
    """How many times the FLOPs of the plan's largest run it takes."""
    notes: tuple[str, ...] = ()
    """Sentences on where it lies outside what was planned."""


def recipe(
    plan: Plan, fit: Fit, flops: float | None, n: float | None, d: float | None, rate: float | None
) -> Recipe:
    """The recipe for C FLOPs, or for N parameters and D tokens, by the plan's ladder and the law.

    `rate` is one device's training FLOP/s. `beyond` says how many times the FLOPs of the plan's largest run
    the target is.

    Raises:
        RequestError: neither a budget nor a size with tokens is given, or one is not above 0.
    """
    for key, value in (("--flops", flops), ("--n", n), ("--d", d)):
        if value is not None and not 0 < value < math.inf:
            raise InvalidValue(key, value, "a finite number above 0")
    if (flops is None) == (n is None and d is None) or (n is None) != (d is None):
        raise RequestError("Say what to predict: --flops C, or --n N with --d D.")
    optimum = None
    if flops is not None:
        optimum = parametric.predict_optimum(fit, flops)
        n = optimum["n"].value
    assert n is not None
    shape = plan.ladder.rule().by_size(n, lambda s: _counts(plan, s).parameters(plan.accounting.parameters))
    counts = _counts(plan, shape)
    per_token = counts.flops_per_token(plan.accounting)
    tokens = d if d is not None else (flops or 0.0) / per_token
    base = _base(plan, shape, counts)
    batch = base.batch.tokens
    steps = max(1, round(tokens / batch))
    trained = steps * batch
    size = counts.parameters(plan.accounting.parameters)
    exact = float(trained) * counts.exact_flops_per_token
    largest = max(
        plan.tokens(j) * plan.counts(j).flops_per_token(plan.accounting) for j in plan.observations()
    )
    return Recipe(
        shape=shape,
        n=size,
        d=trained,
        flops=float(trained) * per_token,
        flops_exact=exact,
        lr=base.optimizer.lr,
        class_lr=_learning_rates(base),
        batch_tokens=batch,
        steps=steps,
        loss_nats=parametric.predict(fit, float(size), float(trained)),
        optimum=optimum,
        device_hours=exact / rate / 3600 if rate else None,
        beyond=float(trained) * per_token / largest,
    )


def predict_target(
    sweep: Sweep, fit: Fit, flops: float | None, n: float | None, d: float | None, rate: float | None
) -> Recipe:
    """The recipe for a target by the sweep's last planned stage, written down.

    Without a stated `rate`, device time is by what the sweep's largest rung measured.
    """
    plans = sweep.plans()
    plan = list(plans.values())[-1]
    if rate is None:
        speeds = measured(sweep.workspace, plans)
        rate = max((speed.flops_per_s for speed in speeds.values()), default=None)
    target = recipe(plan, fit, flops, n, d, rate)
    share = carried_share(plans, probed(sweep, plans), plan, float(target.n))
    target = dataclasses.replace(
        target,
        loss_nats=target.loss_nats.carrying(share),
        notes=tuple(_notes(plans, target, n)),
    )
    predictions.write(
        sweep,
        {
            "kind": "recipe",
            "sweep": sweep.name,
            "asked": {"flops": flops, "n": n, "d": d},
            "recipe": dataclasses.asdict(target),
            "fit": fit.record() | {"samples": {}},
        },
    )
    return target


def _notes(plans: dict[str, Plan], target: Recipe, asked_n: float | None) -> Iterator[str]:
    """Where the target lies outside what was planned, or not where it was asked for."""
    if asked_n is not None and not 0.5 < target.n / asked_n < 2:
        yield f"the ladder has no shape of {asked_n:.3g} parameters; its nearest has {target.n:.3g}"
    runs = [
        (plan.counts(job).parameters(plan.accounting.parameters), plan.tokens(job))
        for plan in plans.values() if plan.fit for job in plan.observations()
    ]  # fmt: skip
    for name, value, column in (("N", target.n, 0), ("D", target.d, 1)):
        sizes = [run[column] for run in runs]
        if sizes and not min(sizes) <= value <= max(sizes):
            yield f"{name} = {value:.3g} lies outside the runs, {min(sizes):.3g} to {max(sizes):.3g}"


def _base(plan: Plan, shape: Shape, counts: Counts) -> Point:
    """The plan's base at a shape, by its scaling rule."""
    point = dataclasses.replace(plan.base, shape=shape)
    for path, value in plan.scaling.settings(point, plan.schedule, counts, plan.accounting).items():
        point = point if path.startswith("schedule.") else with_field(point, path, value)
    return point


def _learning_rates(base: Point) -> dict[str, float]:
    """Peak learning rates by class of tensors; by tensor in a class whose tensors differ."""
    every = distinct_weights(base.shape, base.model, base.corpus.vocab_size, base.batch.context)
    rates: dict[str, dict[str, float]] = {}
    for weight, _ in every:
        row = base.parametrization.row(weight, base.shape)
        rates.setdefault(weight.kind, {})[weight.name] = base.optimizer.peak_lr(weight, row)
    return {
        name: rate
        for kind, by_name in rates.items()
        for name, rate in (
            by_name if len(set(by_name.values())) > 1 else {kind: by_name.popitem()[1]}
        ).items()
    }


def _counts(plan: Plan, shape: Shape) -> Counts:
    return count(shape, plan.base.model, plan.base.corpus.vocab_size, plan.base.batch.context)
