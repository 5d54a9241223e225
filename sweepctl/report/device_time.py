"""What a plan's device time comes to, by stage and in all, and how far it is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sweepctl.launch.compare import Comparison
from sweepctl.launch.rates import PlanRates
from sweepctl.plan.cost import Cost, by_rung
from sweepctl.plan.plan import Plan
from sweepctl.report.console import duration
from sweepctl.store.throughput import Rate


@dataclass(frozen=True, slots=True)
class DeviceTime:
    """Device time of several rungs."""

    seconds: float = 0.0
    """The sum over rungs with a rate."""
    most: bool = False
    """Whether one of them goes by a smaller rung alone, so that it takes less."""
    unknown: tuple[str, ...] = ()
    """Rungs without a rate."""

    def __add__(self, other: DeviceTime) -> DeviceTime:
        unknown = tuple(dict.fromkeys((*self.unknown, *other.unknown)))
        return DeviceTime(self.seconds + other.seconds, self.most or other.most, unknown)

    def words(self, price: float | None) -> str:
        """12 device-hours, and their price; less than one and a half in minutes."""
        short = self.seconds < 5400
        hours = duration(self.seconds) if short else f"{self.seconds / 3600:,.1f} device-hours"
        text = ("< " if self.most else "") + hours
        return text if price is None else f"{text} (price {self.seconds / 3600 * price:,.2f})"

    def record(self, price: float | None) -> dict[str, Any]:
        whole = None if self.unknown else self.seconds
        return {
            "device_hours": None if whole is None else whole / 3600,
            "device_hours_is_upper_bound": self.most,
            "rungs_without_rate": list(self.unknown),
            "price": None if whole is None or price is None else whole / 3600 * price,
        }


def of_costs(costs: Mapping[str, Cost], rates: Mapping[str, Rate]) -> DeviceTime:
    """The device time of costs by rung."""
    whole = DeviceTime()
    for rung, cost in costs.items():
        rate = rates.get(rung)
        whole += DeviceTime(unknown=(rung,)) if rate is None else DeviceTime(rate.device_s(cost), rate.least)
    return whole


def of_plan(plan: Plan, rates: Mapping[str, Rate]) -> DeviceTime:
    """Of a whole stage."""
    return of_costs({rung.name: cost for rung, _, cost in by_rung(plan)}, rates)


def total(times: Iterable[DeviceTime]) -> DeviceTime:
    """The sum."""
    return sum(times, DeviceTime())


def stage_lines(plan: Plan, compared: Comparison, rates: PlanRates, price: float | None) -> Iterator[str]:
    """A stage's device time, and of which rungs it was not measured."""
    if not rates.by_rung:
        return
    whole = of_plan(plan, rates.by_rung)
    left = of_costs(compared.left_by_rung, rates.by_rung)
    yield f"device time: {whole.words(price)} in all, {left.words(price)} left"
    sources: dict[str, list[str]] = {}
    for rung, _, _ in by_rung(plan):
        rate = rates.by_rung.get(rung.name)
        if rate is None or not rate.is_measured:
            source = rate.source if rate else "of no known speed, and not counted"
            sources.setdefault(source, []).append(rung.name)
    for source, rungs in sources.items():
        yield f"  {', '.join(rungs)}: {source}"
