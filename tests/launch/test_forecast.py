"""When it will be done: the feed in simulated time, beside the feed on real files."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from sweepctl.errors import InvalidValue, RequestError
from sweepctl.launch.feed import Feed
from sweepctl.launch.forecast import forecast, paces, phases
from sweepctl.launch.simulation import (
    Faults,
    Pace,
    SimulatedJobs,
    Simulation,
    ThoughtStore,
    longest_chain,
    work_s,
)
from sweepctl.launch.waking import Awake
from sweepctl.plan.expand import expand
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.store import attempts
from sweepctl.store.ends import End
from sweepctl.store.result import Result
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs
from sweepctl.store.throughput import Rate
from sweepctl.store.workspace import Workspace
from tests.conftest import Planner, run_all, tiny, tree
from tests.launch.settings import retries

CORPUS = CorpusFacts("0" * 16, 64, 10**9, ("validation",))
NOWHERE = Workspace(Path("/nowhere"))
RATES = {"grid": {"axes": {"optimizer.lr": [0.01, 0.02]}}}


def simulated(depths: int = 2, **changes: Any) -> SimulatedJobs:
    """The jobs of a tiny study that nobody has begun."""
    study = tiny(ladder__depths=list(range(1, depths + 1)), **changes)
    plans = {stage: expand(study, stage, CORPUS) for stage in study.all_stages}
    return SimulatedJobs(NOWHERE.sweep(study.name), plans, ThoughtStore(lambda job: False))


def by_flops(planned_job: PlannedJob) -> Pace:
    return Pace(planned_job.flops / planned_job.steps_to_train / 1e6, 0.01)


def real_starts(sweep_jobs: SweepJobs, workers: int, pace: Callable[[PlannedJob], Pace]) -> list[str]:
    """The order in which the feed hands out jobs of a real store, whose files appear when workers would have
    written them."""
    now = [0.0]
    sweep_jobs.make_wishes()
    feed = Feed(sweep_jobs, sweep_jobs.unfinished(), retries(), lambda decision: None, clock=lambda: now[0])
    events: list[tuple[float, int, PlannedJob, int]] = []
    starts: list[str] = []
    free = workers
    while True:
        while free and (planned_job := feed.next()) is not None:
            free -= 1
            feed.started(planned_job)
            claimed = attempts.claim(planned_job.folder, {"start_step": 0})
            assert claimed is not None
            job = planned_job.job
            cuts = {b.job.cut or 0 for b in sweep_jobs.branches.get(job.id, ())} or {job.end}
            for step in sorted(cuts):
                at_s = now[0] + pace(planned_job).seconds(step - planned_job.first_step)
                heapq.heappush(events, (at_s, len(starts), planned_job, step))
            starts.append(job.id)
        if not events:
            return starts
        now[0], _, planned_job, step = heapq.heappop(events)
        job, folder = planned_job.job, planned_job.folder
        if job.kind == "trunk":
            (folder.checkpoints / f"step-{step:08d}").mkdir(parents=True)
            feed.saved(job.id)
        else:
            folder.write_result(Result(End.DONE, step, 1, {"validation": 1.0}))
        if step == job.end:
            last = attempts.newest(folder)
            assert last is not None
            last.end(End.DONE)
            feed.ended(planned_job, End.DONE, "")
            free += 1


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_order_is_that_of_the_feed_on_real_files(planned: Planner, workers: int) -> None:
    sweep_jobs = planned(ladder__depths=[1, 2, 3], grid=RATES["grid"], budget__tokens=[1280, 1920, 2560])
    jobs = SimulatedJobs(sweep_jobs.sweep, sweep_jobs.plans, ThoughtStore(lambda job: False))
    simulation = Simulation(jobs, workers, by_flops, retries())
    simulation.run()
    assert [stay.planned_job.job.id for stay in simulation.stays] == real_starts(
        sweep_jobs, workers, by_flops
    )
    assert not list(jobs.unfinished())


@settings(deadline=None, max_examples=30)
@for_all(st.integers(1, 9), st.integers(1, 3), st.floats(0, 5), st.lists(st.floats(0.01, 10), min_size=3))
def test_no_schedule_beats_the_bound_nor_is_far_from_it(
    devices: int, depths: int, beside_s: float, step_s: list[float]
) -> None:
    def pace(planned_job: PlannedJob) -> Pace:
        return Pace(step_s[planned_job.plan.points[planned_job.job.point].rung % len(step_s)], beside_s)

    def makespan_s(number: int) -> float:
        return Simulation(simulated(depths, grid=RATES["grid"]), number, pace, retries()).run()

    jobs = simulated(depths, grid=RATES["grid"])
    chain_s, whole_s = sum(link.seconds for link in longest_chain(jobs, pace)), work_s(jobs, pace)
    took_s = makespan_s(devices)
    assert took_s >= max(chain_s, whole_s / devices) * (1 - 1e-9)
    assert took_s <= (whole_s / devices + chain_s) * (1 + 1e-9), "nobody idles while something can start"
    assert makespan_s(2 * devices) <= 1.5 * took_s


def trained_steps(simulation: Simulation) -> int:
    return sum(stay.step_at(stay.ended_s) - stay.first_step for stay in simulation.stays)


def wanted_steps(jobs: SimulatedJobs) -> int:
    return sum(planned_job.steps_to_train for planned_job in jobs.by_id.values())


@pytest.mark.parametrize("seed", range(5))
def test_what_is_preempted_loses_nothing(seed: int) -> None:
    jobs = simulated(3, grid=RATES["grid"])
    faults = Faults(preemptions_per_hour=40.0, seed=seed)
    simulation = Simulation(jobs, 3, lambda p: Pace(10.0), retries(), faults=faults)
    simulation.run()
    assert simulation.preempted > 0 and not list(jobs.unfinished())
    assert len(simulation.stays) == len(jobs.by_id) + simulation.preempted
    assert trained_steps(simulation) == wanted_steps(jobs)


@pytest.mark.parametrize("seed", range(5))
def test_what_dies_loses_what_is_since_its_last_checkpoint(seed: int) -> None:
    jobs = simulated(3, grid=RATES["grid"])
    faults = Faults(failures_per_hour=20.0, repair_s=100.0, checkpoint_every_s=60.0, seed=seed)
    simulation = Simulation(jobs, 3, lambda p: Pace(10.0), retries(died=99), faults=faults)
    simulation.run()
    assert simulation.died > 0 and not list(jobs.unfinished()) and not simulation.failed
    assert simulation.lost_s <= 60.0 * simulation.died
    assert 0 <= trained_steps(simulation) - wanted_steps(jobs) <= 7 * simulation.died
    repaired = [stay for stay in simulation.stays if stay.ended_s < simulation.now]
    assert len(repaired) >= simulation.died


def test_who_dies_at_one_place_again_and_again_is_given_up_as_by_any_feed() -> None:
    jobs = simulated(1)
    faults = Faults(failures_per_hour=3600.0, repair_s=1.0, seed=1)
    simulation = Simulation(jobs, 2, lambda p: Pace(100.0), retries(died=2), faults=faults)
    simulation.run()
    assert simulation.died == 3 and len(simulation.failed) == 1 and list(jobs.unfinished())


STAGES = {
    "budget": {"tokens": [1280, 2560]},
    "stages": {
        "lr": {"rungs": [0], "grid": {"axes": {"optimizer.lr": [0.01, 0.02, 0.04]}}},
        "main": {"rungs": [0, 1], "take": {"optimizer.lr": {"stage": "lr"}}},
        "top": {
            "rungs": [1],
            "budget": {"tokens": [3840]},
            "take": {"optimizer.lr": {"stage": "lr"}},
            "predict_first": True,
        },
    },
}


def test_stages_wait_for_the_values_and_predictions_that_they_need(workspace: Workspace) -> None:
    study = tiny(name="staged", **STAGES)
    plans = {"lr": expand(study, "lr", CORPUS)}
    sweep = workspace.sweep("staged")
    ordered, left_out = phases(sweep, study, CORPUS, plans)
    assert [list(phase.plans) for phase in ordered] == [["lr"], ["main"], ["top"]] and not left_out
    assert [phase.provisional for phase in ordered[1:]] == [
        {"main": "optimizer.lr = 0.02"},
        {"top": "optimizer.lr = 0.02"},
    ]
    pace = paces(ordered, lambda every: {"8x1": Rate(1e6), "16x2": Rate(2e6)}, lambda rung: 1)
    when = forecast(sweep, ordered, left_out, pace, 2)
    begins_s = {s: min(x.begun_s for x in when.stays if x.planned_job.plan.stage == s) for s in when.stages}
    assert begins_s["main"] == when.stages["lr"] and begins_s["top"] == when.stages["main"]
    assert when.whole.seconds == when.stages["top"] >= when.bound_s >= sum(x.seconds for x in when.chain)
    assert [link.stage for link in when.chain] == ["lr", "lr", "main", "main", "top", "top"]
    assert 0 < when.whole.busy <= 1 and [count.devices for count in when.others] == sorted(
        {1, 2, 4, when.enough}
    )
    enough_s = next(count.seconds for count in when.others if count.devices == when.enough)
    assert enough_s <= 1.05 * sum(link.seconds for link in when.chain)


def test_what_is_there_is_not_trained_again_and_nothing_is_written(planned: Planner) -> None:
    sweep_jobs = planned(name="half", ladder__depths=[1])
    run_all(sweep_jobs)
    both = planned(name="half", ladder__depths=[1, 2])
    before = tree(both.sweep.workspace.root)
    ordered, _ = phases(both.sweep, tiny(name="half", ladder__depths=[1, 2]), CORPUS, both.plans)
    pace = paces(ordered, lambda every: {"8x1": Rate(1e6), "16x2": Rate(2e6)}, lambda rung: 1)
    when = forecast(both.sweep, ordered, {}, pace, 2)
    assert {stay.planned_job.plan.rung_of(stay.planned_job.job).name for stay in when.stays} == {"16x2"}
    assert tree(both.sweep.workspace.root) == before


def test_a_job_of_several_devices_waits_until_they_are_free() -> None:
    jobs = simulated(2, grid=RATES["grid"])

    def pace(planned_job: PlannedJob) -> Pace:
        return Pace(1.0, devices=2 if planned_job.plan.rung_of(planned_job.job).name == "16x2" else 1)

    simulation = Simulation(jobs, 3, pace, retries())
    simulation.run()
    for at in simulation.stays:
        beside = [s for s in simulation.stays if s.begun_s <= at.begun_s < s.ended_s]
        assert sum(stay.pace.devices for stay in beside) <= 3
    assert not list(jobs.unfinished())
    [phase], _ = phases(jobs.sweep, tiny(), CORPUS, jobs.plans)
    with pytest.raises(InvalidValue, match=r"at least 2, which a job of rung 16x2"):
        forecast(jobs.sweep, [phase], {}, pace, 1)
    with pytest.raises(RequestError, match="How fast 16x2 train is not known"):
        paces([phase], lambda every: {"8x1": Rate(1e6)}, lambda rung: 1)


def test_who_sleeps_is_passed_over_until_the_time_or_a_word() -> None:
    now = [0.0]
    awake = Awake("abcd", lambda: now[0])
    awake.sleep("b", 5.0)
    awake.sleep("c")
    assert list(awake) == ["a", "d"]
    now[0] = 5.0
    assert list(awake) == ["a", "b", "d"]
    awake.wake("c")
    awake.put_first("e")
    awake.remove("d")
    awake.sleep("a", 9.0)
    awake.sleep("a", 7.0)
    assert list(awake) == ["e", "b", "c"]
    now[0] = 8.0
    assert list(awake) == ["e", "a", "b", "c"]
    awake.sleep("e")
    awake.sleep("a")
    awake.wake_all(but={"a"})
    assert list(awake) == ["e", "b", "c"]
    going = iter(awake)
    assert next(going) == "e"
    awake.sleep("e")
    awake.sleep("b")
    assert list(going) == ["c"]
