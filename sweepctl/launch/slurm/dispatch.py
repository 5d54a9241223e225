"""What the plans want held against store and queue, and the job arrays that make up the difference.

A job needs a task unless it is finished, cancelled, out of retries, trained this moment, or a task that is
meant for it is in the queue. So dispatching twice submits nothing twice; whoever dispatches takes turns.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from sweepctl.errors import RequestError, SweepctlError, WorkFailed
from sweepctl.launch.outcome import Submission, Submitted, ToSubmit
from sweepctl.launch.retries import exhausted
from sweepctl.launch.rungs import idle_patterns
from sweepctl.launch.slurm import commands
from sweepctl.launch.slurm.commands import Limits, SlurmError
from sweepctl.launch.slurm.queue_state import late_tasks, read_queue
from sweepctl.launch.slurm.records import Array, Records, SlurmOrder, author, new_token
from sweepctl.launch.slurm.script import script, submit
from sweepctl.launch.slurm.settings import SlurmSettings
from sweepctl.launch.slurm.task_ends import bad_nodes
from sweepctl.launch.tasks import Task
from sweepctl.launch.variables import are_the_same, handed_on, names_only
from sweepctl.spec import hashing
from sweepctl.spec.build import plain
from sweepctl.store import attempts
from sweepctl.store.ends import End
from sweepctl.store.job import JobFolder
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs

TURN_S = attempts.LEASE_S + 30
_OVER_LIMIT = re.compile(r"SubmitJob|temporarily una")


@dataclass(slots=True)
class TasksNeeded:
    """What the jobs of a sweep lack in the queue."""

    now: list[PlannedJob] = field(default_factory=list)
    """Jobs without a task that can start."""
    later: list[PlannedJob] = field(default_factory=list)
    """Jobs without a task that wait for a trunk."""
    release: list[str] = field(default_factory=list)
    """Held tasks whose job can start."""
    surplus: list[str] = field(default_factory=list)
    """Pending tasks whose job is over."""
    replaced: dict[str, list[str]] = field(default_factory=dict)
    """Job -> its pending tasks, whose settings are not the order's."""
    colleagues: dict[str, str] = field(default_factory=dict)
    """Tasks of other users that would be released or cancelled, and what they are."""
    gone: set[str] = field(default_factory=set)
    """Tasks that Slurm says are gone, though their attempts look alive."""
    queued: int = 0
    """Jobs that have a task, or are trained this moment."""
    exhausted: list[str] = field(default_factory=list)
    """Jobs that failed and have no retry left."""

    def drop(self, tasks: Iterable[Task]) -> None:
        """Of tasks with nothing left to do those that wait are to go."""
        for task in tasks:
            if task.word == "PENDING" and task.owner:
                self.colleagues[task.name] = f"{task.owner}'s, with nothing left to do"
            elif task.word == "PENDING":
                self.surplus.append(task.name)

    def let_go(self, tasks: Iterable[Task]) -> None:
        """Of tasks whose job can start those that are held are to run."""
        for task in tasks:
            if task.held and task.owner:
                self.colleagues[task.name] = f"{task.owner}'s, held though its job can start"
            elif task.held:
                self.release.append(task.name)


def dispatch(
    records: Records,
    order: SlurmOrder,
    sweep_jobs: SweepJobs,
    ending: int = 0,
    settings: SlurmSettings | None = None,
) -> Submitted:
    """Submit what has no task yet, release what can start, cancel what has become superfluous. `ending` tasks
    that are still in the queue make room in a moment. `settings`: those of the order with the values of its
    variables; without them the values are this process's own.

    Raises:
        RequestError: Slurm does not know a partition, account or option.
        SlurmError: it does not answer. What was submitted until then is on record.
    """
    launcher = settings or order.settings
    with _turn(records):
        queue = read_queue(records, adopt=True)
        changed = _changed(records, order, sweep_jobs, queue, settings)
        needed = tasks_needed(sweep_jobs, order, queue, records.forgiven(), changed)
        _add_what_no_plan_wants(needed, records, sweep_jobs, queue)
        needed.surplus += late_tasks(records)
        done = Submitted(queued=needed.queued, exhausted=needed.exhausted, left_alone=needed.colleagues)
        _release(needed.release, done)
        if needed.surplus:
            refused = commands.scancel(needed.surplus)
            done.cancelled = [task for task in needed.surplus if task not in refused]
            done.left_alone |= refused
        if needed.now or needed.later:
            limits = commands.limits(launcher.max_submitted, len(needed.now) + len(needed.later))
            if limits.room is not None:
                limits = replace(limits, room=limits.room + ending)
            arrays = _arrays(records, order, needed, limits)
            _submit_all(records, launcher, arrays, needed, limits, done, _arrays_of_trunks(needed, queue))
            _release_what_came_meanwhile(sweep_jobs, done)
            _replace(records, needed, sweep_jobs, queue, done)
        done.idle_patterns = idle_patterns(launcher.rungs, sweep_jobs.rungs)
        records.note_unsubmitted(done.unsubmitted, done.why)
    return done


def _release(tasks: list[str], done: Submitted) -> None:
    if tasks:
        refused = commands.release(tasks)
        done.released += [task for task in tasks if task not in refused]
        done.left_alone |= refused


def _changed(
    records: Records,
    order: SlurmOrder,
    sweep_jobs: SweepJobs,
    queue: dict[str, list[Task]],
    settings: SlurmSettings | None,
) -> set[str]:
    """Our tasks that wait in the queue with settings that are not the order's for their job's rung; with
    `settings` also those whose variables have other values."""
    changed: set[str] = set()
    launcher = order.settings
    orders = {order.hash: launcher}
    of_rungs = {rung: _of_tasks(launcher.of_rung(rung)) for rung in sweep_jobs.rungs}
    variables = {rung: handed_on(settings.of_rung(rung).environment) for rung in of_rungs} if settings else {}
    for array in records.arrays():
        array_id = records.id(array.token)
        if array_id is None or not array.is_own:
            continue
        try:
            if array.order not in orders:  # many arrays come of few orders
                orders[array.order] = records.order(array.order).settings
        except SweepctlError:  # nothing is known of it
            continue
        before = orders[array.order].of_rung(array.rung)
        theirs = _of_tasks(replace(before, resources=array.resources))
        values = records.variables(array.token)
        for index, job in enumerate(array.jobs):
            planned_job = sweep_jobs.by_id.get(job) if job in queue else None
            if planned_job is None:
                continue
            rung = planned_job.plan.rung_of(planned_job.job).name
            other_values = values and rung in variables and not are_the_same(variables[rung], values)
            if theirs != of_rungs[rung] or other_values:
                changed.add(f"{array_id}_{index}")
    return changed


def _of_tasks(settings: SlurmSettings) -> str:
    """What of settings a task is like: all but what is about the whole queue, and what only plans go by."""
    alike = replace(settings, max_submitted=None, price_per_device_hour=None, gpu_memory=None)
    return hashing.canonical(names_only(plain(alike)))


def _replace(
    records: Records,
    needed: TasksNeeded,
    sweep_jobs: SweepJobs,
    queue: dict[str, list[Task]],
    done: Submitted,
) -> None:
    """Cancel the tasks that others have taken the place of, unless they have begun meanwhile: first these,
    then those, so that a refusal leaves a job the task that it had."""
    submitted = {job for array in done.submissions for job in array.jobs}
    old = [task for job, tasks in needed.replaced.items() if job in submitted for task in tasks]
    if old:
        live = commands.squeue({task.partition("_")[0] for task in old}, records.names())
        waiting = [task for task in old if task in live and live[task].word == "PENDING"]
        refused = commands.scancel(waiting) if waiting else {}
        done.replaced = [task for task in waiting if task not in refused]
        done.left_alone |= refused
    kept = needed.replaced.keys() - submitted
    done.kept = [task for job in kept for task in needed.replaced[job]]
    done.unsubmitted -= len(kept)
    done.queued += len(kept)
    ready = {job for job in kept if sweep_jobs.can_start(sweep_jobs.by_id[job])}
    _release([q.name for job in ready for q in queue[job] if q.held and not q.owner], done)


def _add_what_no_plan_wants(
    needed: TasksNeeded, records: Records, sweep_jobs: SweepJobs, queue: dict[str, list[Task]]
) -> None:
    """Pending tasks that are meant for jobs which no current plan of the sweep wants."""
    strange = set(queue) - set(sweep_jobs.by_id)
    strange -= records.sweep.job_ids() if strange else set()
    for job in strange:
        needed.drop(queue[job])


def _release_what_came_meanwhile(sweep_jobs: SweepJobs, done: Submitted) -> None:
    """A trunk may have reached a cut after we looked and before its branch's task was on record."""
    ready = [
        f"{array.id}_{index}"
        for array in done.submissions
        if array.held
        for index, job in enumerate(array.jobs)
        if sweep_jobs.can_start(sweep_jobs.by_id[job])
    ]
    _release(ready, done)


def _arrays_of_trunks(needed: TasksNeeded, queue: dict[str, list[Task]]) -> list[str]:
    """Arrays in the queue that train what the waiting branches wait for."""
    trunks = {
        planned_job.job.trunk: planned_job.trunk
        for planned_job in needed.later
        if planned_job.job.trunk and planned_job.trunk
    }
    tasks = {q.name for trunk in trunks for q in queue.get(trunk, []) if not q.held}
    for folder in trunks.values():
        last = attempts.newest(folder)
        if last is not None and last.alive() and last.facts.scheduler_id:
            tasks.add(last.facts.scheduler_id)
    return sorted({task.partition("_")[0] for task in tasks})


def rehearse(records: Records, order: SlurmOrder, sweep_jobs: SweepJobs, settings: SlurmSettings) -> ToSubmit:
    """What `dispatch` would submit now, with its scripts. Nothing is written or submitted; where Slurm does
    not answer, as if the queue were empty."""
    try:
        queue, limits = read_queue(records), commands.limits(settings.max_submitted, 1)
    except SlurmError:
        queue, limits = {}, Limits(1001, None)
    changed = _changed(records, order, sweep_jobs, queue, settings)
    needed = tasks_needed(sweep_jobs, order, queue, records.forgiven(), changed)
    trunks = _arrays_of_trunks(needed, queue) or ["IDS_OF_THE_TRUNKS_ARRAYS"]
    later = {planned_job.job.id for planned_job in needed.later}
    arrays = [
        _after(array, trunks, settings) if array.jobs[0] in later else array
        for array in _arrays(records, order, needed, limits)
    ]
    submissions = [_submission(a, script=script(a, records.array_folder(a.token), settings)) for a in arrays]
    return ToSubmit(submissions, needed.queued, needed.exhausted)


def _submission(array: Array, array_id: str = "", script: str = "") -> Submission:
    wanted = array.resources
    return Submission(array_id, array.jobs, str(wanted), plain(wanted), array.held, script)


def tasks_needed(
    sweep_jobs: SweepJobs,
    order: SlurmOrder,
    queue: dict[str, list[Task]],
    forgiven: dict[str, int] | None = None,
    changed: Set[str] = frozenset(),
) -> TasksNeeded:
    """What the jobs of a sweep lack, the most urgent first. `changed`: tasks whose settings are others than
    the order's."""
    needed, forgiven = TasksNeeded(), forgiven or {}
    launcher, cancelled = order.settings, sweep_jobs.sweep.cancelled()
    lost = _lost(sweep_jobs)
    for planned_job in sweep_jobs.by_id.values():
        job = planned_job.job.id
        tasks = queue.get(job, [])
        if job in cancelled or sweep_jobs.finished(planned_job):
            needed.drop(tasks)
            continue
        last = attempts.newest(planned_job.folder)
        if last is not None and not last.ended:
            if job in lost:
                needed.gone.add(lost[job])
            elif last.alive():
                needed.queued += 1
                continue
        if exhausted(planned_job.folder, last, launcher.retries, forgiven.get(job, 0)):
            needed.exhausted.append(job)
            needed.drop(tasks)
            continue
        can_start = sweep_jobs.can_start(planned_job)
        if not can_start and not launcher.commands_on_nodes:  # nobody would release it
            needed.drop(q for q in tasks if q.held)
            tasks = [q for q in tasks if not q.held]
        old = [q for q in tasks if q.name in changed and q.word == "PENDING"]
        if any(_covers(q, last) for q in tasks if q not in old):
            needed.queued += 1
            needed.drop(old)
            needed.let_go(q for q in tasks if can_start and q not in old)
            continue
        needed.let_go(q for q in tasks if can_start and q.owner)
        if old:
            needed.replaced[job] = [q.name for q in old]
        (needed.now if can_start else needed.later).append(planned_job)
    for planned_jobs in (needed.now, needed.later):  # whoever has a task comes after who has none
        planned_jobs.sort(key=lambda e: (e.job.id in needed.replaced, -sweep_jobs.urgency(e)))
    return needed


def _lost(sweep_jobs: SweepJobs) -> dict[str, str]:
    """Job -> the task that trained it, where Slurm no longer has that task though the attempt did not end: it
    was cancelled, or its node failed. Whoever's task it is, its id, name and cluster are on the attempt."""
    open_: dict[str, tuple[str, str]] = {}
    here = None
    for planned_job in sweep_jobs.by_id.values():
        last = attempts.newest(planned_job.folder)
        if last is not None and not last.ended and last.facts.scheduler_id:
            here = here or commands.cluster()
            # Slurm may not show us another user's: then the heartbeat alone tells.
            if last.facts.cluster == here and last.facts.user in (None, os.getuid()):
                open_[planned_job.job.id] = (last.facts.scheduler_id, str(last.facts.job_name))
    if not open_:
        return {}
    names = {task.partition("_")[0]: name for task, name in open_.values()}
    live = commands.squeue(names, names)
    return {job: task for job, (task, _) in open_.items() if task not in live}


def _covers(task: Task, last: attempts.Attempt | None) -> bool:
    """Whether a task in the queue will take the job: one that runs and has given it up does not, nor one that
    a colleague holds, whom nothing of ours may tell to let it go."""
    if task.owner and task.held:
        return False
    if task.word == "PENDING" or last is None or not last.ended:
        return True
    return not (last.facts.scheduler_id == task.name and last.facts.failure is not None)


def _arrays(records: Records, order: SlurmOrder, needed: TasksNeeded, limits: Limits) -> list[Array]:
    """The arrays of what is needed: by resources, startable jobs apart from those that are held."""
    launcher = order.settings
    cluster = _cluster()
    excluded = bad_nodes(records, launcher.exclude_node_after)
    arrays = []
    of_rungs: dict[str, tuple[str, SlurmSettings]] = {}
    for held, planned_jobs in ((False, needed.now), (True, needed.later)):
        classes: dict[str, tuple[str, SlurmSettings, list[str]]] = {}
        for planned_job in planned_jobs:
            rung = planned_job.plan.rung_of(planned_job.job).name
            if rung not in of_rungs:
                settings = launcher.of_rung(rung)
                of_rungs[rung] = (hashing.canonical(plain(settings)), settings)
            key, settings = of_rungs[rung]
            classes.setdefault(key, (rung, settings, []))[2].append(planned_job.job.id)
        for rung, settings, jobs in classes.values():
            for first in range(0, len(jobs), limits.array):
                token = new_token()
                arrays.append(
                    Array(
                        token=token,
                        order=order.hash,
                        name=f"{records.sweep.name}.{token}",
                        cluster=cluster,
                        jobs=tuple(jobs[first : first + limits.array]),
                        resources=settings.resources,
                        rung=rung,
                        held=held and launcher.commands_on_nodes,
                        gone=tuple(sorted(needed.gone)),
                        excluded=excluded,
                    )
                )
    return arrays


def _cluster() -> str:
    try:
        return commands.cluster()
    except SlurmError:
        return ""


def _submit_all(
    records: Records,
    launcher: SlurmSettings,
    arrays: list[Array],
    needed: TasksNeeded,
    limits: Limits,
    done: Submitted,
    trunks: list[str],
) -> None:
    """`trunks`: the arrays whose end branches are submitted after where nobody may release them."""
    room = limits.room
    later = {planned_job.job.id for planned_job in needed.later}
    for array in arrays:
        waits = array.jobs[0] in later
        if waits:
            array = _after(array, trunks, launcher)
        rest = array
        while rest.jobs:
            take = len(rest.jobs) if room is None else min(len(rest.jobs), room)
            sent = _submit_some(records, launcher, replace(rest, jobs=rest.jobs[:take]), done) if take else 0
            room = None if room is None else room - sent
            if sent == 0:
                done.unsubmitted += len(rest.jobs)
                done.why = done.why or limits.why
                break
            if not waits:
                trunks.append(done.submissions[-1].id)
            rest = _part(records, rest, rest.jobs[sent:])


def _part(records: Records, array: Array, jobs: tuple[str, ...]) -> Array:
    """Another array like this one, for some of its jobs."""
    token = new_token()
    return replace(array, jobs=jobs, token=token, name=f"{records.sweep.name}.{token}")


def _after(array: Array, trunks: list[str], launcher: SlurmSettings) -> Array:
    """An array of branches behind their trunks, where nobody may release it."""
    if launcher.commands_on_nodes or not trunks:
        return array
    word = "after" if launcher.wait_min else "afterany"
    return replace(array, dependency=f"{word}:" + ":".join(trunks))


def _submit_some(records: Records, launcher: SlurmSettings, array: Array, done: Submitted) -> int:
    """Submit an array, or, where Slurm refuses so many, half of it, and half of that; how many it took."""
    while array.jobs:
        array = replace(array, by=author())
        folder = records.intend(array)
        try:
            array_id = submit(array, folder, launcher)
        except SlurmError as error:
            if error.no_answer:  # it may have arrived: the next dispatch looks for it by name
                raise WorkFailed(f"{error}. Launch again: what has arrived is found.") from None
            records.close(array.token, str(error))
            if not _OVER_LIMIT.search(str(error)):
                raise RequestError(f"Slurm refused the jobs. {error}") from None
            done.why = str(error)
            array = _part(records, array, array.jobs[: len(array.jobs) // 2])
            continue
        records.write_id(array.token, array_id)
        done.submissions.append(_submission(array, array_id))
        return len(array.jobs)
    return 0


@contextmanager
def _turn(records: Records) -> Iterator[None]:
    """One dispatch at a time, claimed as jobs are."""
    folder = JobFolder(Path(records.folder) / "turn", "turn")
    deadline = time.monotonic() + TURN_S
    while (turn := attempts.claim(folder, {})) is None:
        if time.monotonic() > deadline:
            raise WorkFailed(f"Another launch of {records.sweep.name} is submitting; try again in a minute.")
        time.sleep(0.2)
    try:
        with attempts.renewed(turn):
            yield
    finally:
        turn.end(End.DONE)
        attempts.prune(folder)
