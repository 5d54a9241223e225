"""When a plan would be done on so many devices: stage after stage, by the feed itself in simulated time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sweepctl.errors import InvalidValue, RequestError, SweepctlError
from sweepctl.launch.retries import Retries
from sweepctl.launch.simulation import (
    Link,
    Pace,
    SimulatedJobs,
    Simulation,
    Stay,
    ThoughtStore,
    longest_chain,
    work_s,
)
from sweepctl.plan.expand import expand
from sweepctl.plan.plan import Plan, Taken
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.study import Study
from sweepctl.store.predictions import unpredicted
from sweepctl.store.sweep_jobs import PlannedJob
from sweepctl.store.throughput import Rate
from sweepctl.store.workspace import Sweep

NEAR = 1.05
"""How near the bound of endless devices is near enough."""
MANY_JOBS = 5000
"""Of more jobs than that, only the number of devices that was asked for is simulated."""
WITHOUT_FAULTS = Retries(0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Phase:
    """Stages that can be trained side by side, once what comes before them is done."""

    plans: dict[str, Plan]
    """By stage."""
    provisional: dict[str, str]
    """Stages that cannot be planned yet -> what was taken in the place of values that are not there."""


@dataclass(frozen=True, slots=True)
class DeviceCount:
    """What so many devices come to."""

    devices: int
    """How many."""
    seconds: float
    """Until all is done."""
    busy: float
    """The share of that time that they train."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """When what is left of a plan would be done."""

    whole: DeviceCount
    """On the devices that were asked for."""
    stages: dict[str, float]
    """Stage -> seconds until its last job ends."""
    stays: list[Stay]
    """Every attempt, in the order of starts."""
    chain: list[Link]
    """The longest chain of jobs, which no number of devices makes shorter."""
    bound_s: float
    """No order of the jobs could be done sooner: each phase's longest chain, or its work shared by all."""
    others: list[DeviceCount]
    """Other numbers of devices, rising."""
    enough: int | None
    """The least number within 5 % of the longest chain; None where that was not looked for."""
    not_counted: dict[str, str]
    """Stages that are left out, and why."""
    provisional: dict[str, str]
    """Stages that are counted with a value that is not there yet."""


def phases(
    sweep: Sweep, study: Study, corpus: CorpusFacts, plans: Mapping[str, Plan]
) -> tuple[list[Phase], dict[str, str]]:
    """The stages in the order in which they can be trained, and those that cannot be counted."""
    at: dict[str, int] = {}
    every: dict[str, Plan] = dict(plans)
    provisional: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name, stage in study.all_stages.items():
        needed = [rule.stage for rule in stage.take.values()]
        if name not in every:
            try:
                every[name], provisional[name] = _provisional(study, name, corpus, every)
            except SweepctlError as error:
                left_out[name] = str(error)
                continue
        at[name] = 0 if name in plans else 1 + max(at.get(other, 0) for other in needed)
        if every[name].predict_first and (name in provisional or unpredicted(sweep, every[name])[0]):
            at[name] = max([at[name], *(1 + place for other, place in at.items() if other != name)])
    ordered = [
        Phase(
            {name: every[name] for name in at if at[name] == place},
            {name: text for name, text in provisional.items() if at[name] == place},
        )
        for place in sorted(set(at.values()))
    ]
    return ordered, left_out


def _provisional(
    study: Study, stage: str, corpus: CorpusFacts, plans: Mapping[str, Plan]
) -> tuple[Plan, str]:
    """A stage's plan with the middle of the grid in the place of each value that it will take.

    Raises:
        RequestError: there is no such grid.
    """
    taken = []
    for path, rule in study.all_stages[stage].take.items():
        if rule.stage not in plans:
            raise RequestError(f"it takes {path} from stage {rule.stage}, which cannot be planned")
        earlier = plans[rule.stage]
        values = [p.settings[path] for p in earlier.points if path in p.settings]
        if not values:
            raise RequestError(f"stage {rule.stage} does not vary {path}")
        value = sorted(values, key=lambda v: (str(type(v)), v))[len(values) // 2]
        taken.append(Taken(path, value, rule.stage, rule.rule, earlier.hash, {}))
    shown = ", ".join(f"{value.field} = {_short(value.value)}" for value in taken)
    return expand(study, stage, corpus, tuple(taken)), shown


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def paces(
    ordered: list[Phase],
    rates: Callable[[dict[str, Plan]], Mapping[str, Rate]],
    devices_of: Callable[[str], int],
) -> Callable[[PlannedJob], Pace]:
    """How long jobs take, by the rates of their rungs.

    Raises:
        RequestError: of a rung nothing is known.
    """
    plans = {stage: plan for phase in ordered for stage, plan in phase.plans.items()}
    by_rung = rates(plans)
    rungs = dict.fromkeys(rung.name for plan in plans.values() for rung in plan.rungs)
    if unknown := [rung for rung in rungs if rung not in by_rung]:
        raise RequestError(
            f"How fast {', '.join(unknown)} train is not known: nothing was measured yet; state it with "
            "--tokens-per-s, --flops-per-s, or --mfu and --device."
        )
    known_paces: dict[tuple[int, int, bool], Pace] = {}

    def pace(planned_job: PlannedJob) -> Pace:
        job, plan = planned_job.job, planned_job.plan
        key = id(plan), job.point, job.kind == "trunk"
        if key not in known_paces:
            rung = plan.rung_of(job).name
            rate, devices = by_rung[rung], devices_of(rung)
            flops = plan.batch_tokens(job) * plan.counts(job).exact_flops_per_token
            beside_s = rate.trunk_s if job.kind == "trunk" else rate.observation_s
            known_paces[key] = Pace(flops / (rate.flops_per_s * devices), beside_s / devices, devices)
        return known_paces[key]

    return pace


def simulate(
    sweep: Sweep, ordered: list[Phase], pace: Callable[[PlannedJob], Pace], devices: int
) -> tuple[DeviceCount, list[Stay], list[Link], float]:
    """Every phase after the one before it: what it comes to, its attempts, the longest chain, the bound."""
    store = ThoughtStore(sweep.workspace.has_job)
    now = whole_s = bound_s = 0.0
    stays: list[Stay] = []
    chain: list[Link] = []
    for phase in ordered:
        jobs = SimulatedJobs(sweep, phase.plans, store)
        of_phase, of_phase_s = longest_chain(jobs, pace), work_s(jobs, pace)
        chain += of_phase
        whole_s += of_phase_s
        bound_s += max(sum(link.seconds for link in of_phase), of_phase_s / devices)
        simulation = Simulation(jobs, devices, pace, WITHOUT_FAULTS, begins_s=now)
        now = simulation.run()
        stays += simulation.stays
    busy = whole_s / (devices * now) if now else 0.0
    return DeviceCount(devices, now, busy), stays, chain, bound_s


def forecast(
    sweep: Sweep,
    ordered: list[Phase],
    left_out: dict[str, str],
    pace: Callable[[PlannedJob], Pace],
    devices: int,
) -> Forecast:
    """When all is done on these devices, and on others.

    Raises:
        RequestError: a job needs more devices.
    """
    planned_jobs = [(plan, job) for phase in ordered for plan in phase.plans.values() for job in plan.jobs]
    _check_devices(sweep, ordered, pace, devices)
    whole, stays, chain, bound_s = simulate(sweep, ordered, pace, devices)
    ends: dict[str, float] = {stage: 0.0 for phase in ordered for stage in phase.plans}
    for stay in stays:
        stage = stay.planned_job.plan.stage
        ends[stage] = max(ends[stage], stay.ended_s)
    others: dict[int, DeviceCount] = {devices: whole}
    enough = None
    if stays and len(planned_jobs) <= MANY_JOBS:
        least = max(stay.pace.devices for stay in stays)

        def count(number: int) -> DeviceCount:
            if number not in others:
                others[number] = simulate(sweep, ordered, pace, number)[0]
            return others[number]

        near_s = NEAR * sum(link.seconds for link in chain)
        enough = _enough(lambda number: count(number).seconds, near_s, least, len(stays))
        shown = {devices // 2, devices, 2 * devices, enough or devices}
        others = {number: count(number) for number in sorted(shown) if number >= least}
    provisional = {stage: text for phase in ordered for stage, text in phase.provisional.items()}
    return Forecast(whole, ends, stays, chain, bound_s, list(others.values()), enough, left_out, provisional)


def _check_devices(
    sweep: Sweep, ordered: list[Phase], pace: Callable[[PlannedJob], Pace], devices: int
) -> None:
    store = ThoughtStore(sweep.workspace.has_job)
    for phase in ordered:
        for planned_job in SimulatedJobs(sweep, phase.plans, store).by_id.values():
            if pace(planned_job).devices > devices:
                rung = planned_job.plan.rung_of(planned_job.job).name
                least = f"at least {pace(planned_job).devices}, which a job of rung {rung} takes at once"
                raise InvalidValue("--devices", devices, least)


def _enough(seconds: Callable[[int], float], wanted_s: float, least: int, most: int) -> int | None:
    """The least number of devices with which it takes no longer than wanted."""
    low, high = least, least * max(1, most)
    if seconds(high) > wanted_s:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if seconds(middle) <= wanted_s else (middle + 1, high)
    return low


def record(result: Forecast) -> dict[str, object]:
    """As JSON."""
    return {
        "devices": dataclasses.asdict(result.whole),
        "stages_end_s": result.stages,
        "bound_s": result.bound_s,
        "longest_chain": [dataclasses.asdict(link) for link in result.chain],
        "other_devices": [dataclasses.asdict(count) for count in result.others],
        "enough_devices": result.enough,
        "not_counted": result.not_counted,
        "provisional": result.provisional,
        "jobs": [
            {"job": s.planned_job.job.id, "device": s.device, "begins_s": s.begun_s, "ends_s": s.ended_s}
            for s in result.stays
        ],
    }
