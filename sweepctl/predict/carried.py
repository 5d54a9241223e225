"""What it costs that a setting was chosen at one rung and is used at another: measured where a stage probes
it there, else by how sure it was and how far it was carried."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sweepctl.plan.optimum import GridOptimum, optimum
from sweepctl.plan.plan import Plan
from sweepctl.store.grid_losses import grid_losses
from sweepctl.store.workspace import Sweep

DRIFT = 0.15
"""Octaves by which an optimum may move with every octave of parameters, 95 %: 1 over the 100-fold, as far as
`check transfer` lets one move. No more is known where nobody probes."""
UNBOUNDED = 1.0
"""Octaves that an open end of an interval counts as."""
SAME_RUNG = 0.5
"""Octaves of parameters within which a probe counts as one of the rung itself."""


@dataclass(frozen=True, slots=True)
class CarriedSetting:
    """A setting of another rung, and what a probe there measured that it costs."""

    field: str
    """What is carried."""
    value: Any
    """Its value."""
    stage: str
    """The stage that probes it."""
    rung: str
    """Where."""
    n: float
    """Parameters of that rung, under the study's convention."""
    tokens: int
    """Of the runs that were compared."""
    optimum: GridOptimum
    """Where the rung itself has the least loss."""
    cost: float
    """Loss at the carried value over that at the optimum, minus one."""
    interval: tuple[float, float]
    """Of that cost, 95 %."""


def probed(sweep: Sweep, plans: Mapping[str, Plan]) -> list[CarriedSetting]:
    """What every probe whose runs are there measured."""
    return [carried for plan in plans.values() for carried in _probed(sweep, plan)]


def _probed(sweep: Sweep, plan: Plan) -> Iterator[CarriedSetting]:
    for taken in plan.taken:
        for place, rung in enumerate(plan.rungs if taken.factors else ()):
            losses = grid_losses(sweep.workspace, plan, taken.field, place)
            means = losses.means()
            if losses.missing or not means:
                continue
            lowest = optimum(losses.by_seed)
            least = min(means.values())
            measured = means.get(taken.value, math.inf) / least - 1
            at, low, high = lowest.cost(taken.value) or (measured, 0.0, measured)
            if "edge" in lowest.flags:  # what is measured is the least of it
                at, high = max(at, measured), max(high, measured)
            n = float(rung.counts.parameters(plan.accounting.parameters))
            yield CarriedSetting(
                taken.field, taken.value, plan.stage, rung.name, n, losses.tokens, lowest, at, (low, high)
            )


def carried_share(
    plans: Mapping[str, Plan], probes: list[CarriedSetting], plan: Plan, n: float, point: int | None = None
) -> float:
    """What carried settings may cost a run of N parameters by a stage's plan, as a share of its loss.

    Of each setting that the stage takes: the bend of its parabola, by what it was found at the nearest rung,
    times the squares of how unsure its vertex is and of how far it may have moved since, in octaves. Where a
    probe was made at the rung itself, its measured cost.
    """
    settings = plan.points[point].settings if point is not None else {}
    return sum(
        _share(plans, probes, plan, taken.field, settings.get(taken.field, taken.value), n)
        for taken in plan.taken
    )


def _share(
    plans: Mapping[str, Plan], probes: list[CarriedSetting], plan: Plan, path: str, value: Any, n: float
) -> float:
    sources = [(probe.n, probe.optimum) for probe in probes if probe.field == path]
    for taken in plan.taken:
        source = plans.get(taken.stage)
        if taken.field == path and taken.optimum is not None and source is not None:
            counts = source.rungs[0].counts
            sources.append((float(counts.parameters(plan.accounting.parameters)), taken.optimum))
    sources = [(size, lowest) for size, lowest in sources if lowest.bend is not None]
    if not sources:
        return 0.0
    size, lowest = min(sources, key=lambda source: abs(math.log2(n / source[0])))
    assert lowest.bend is not None
    apart = abs(math.log2(n / size))
    at = abs(math.log2(value / lowest.value))
    measured = next((p.cost for p in probes if p.optimum is lowest and p.value == value), lowest.bend * at**2)
    if apart <= SAME_RUNG:
        return measured
    ends = [abs(math.log2(value / end)) if end else at + UNBOUNDED for end in lowest.interval]
    unsure = max(at, min(max(ends), at + UNBOUNDED))
    return lowest.bend * (unsure**2 + (DRIFT * apart) ** 2)
