"""The feed of jobs: which job is next, and what follows from the end of an attempt. Launchers are its
transports: they hand jobs to workers and say what came of it."""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from sweepctl.errors import StorageError, SweepctlError, WorkFailed
from sweepctl.launch.retries import Retries, exhausted, tries_alike
from sweepctl.launch.waking import Awake
from sweepctl.store.attempts import Attempt
from sweepctl.store.ends import End
from sweepctl.store.facts import Dispatch
from sweepctl.store.retention import Keep
from sweepctl.store.state import JobFilesCache, State
from sweepctl.store.sweep_jobs import PlannedJob, SweepJobs

ELSEWHERE_S = 2.0
"""How long a job that another process owns is left alone; each time twice as long as before."""
ELSEWHERE_MAX_S = 20.0
IDLE_S = 20.0
"""How long a job that could not start is not looked at again, unless its trunk is heard of."""
REST_S = 5.0
"""How long nothing is started after a machine or a network failed."""
REST_MAX_S = 60.0
"""The longest pause after a file system has refused."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the feed has decided about a job."""

    planned_job: PlannedJob
    """The job."""
    state: State
    """Where it stands now: interrupted where it is taken up again, running where another process has it."""
    end: End | None = None
    """Why the attempt ended; None where there was none."""
    message: str = ""
    """What people are told."""

    @property
    def words(self) -> str:
        """The whole of it in one line or more."""
        word = self.state.value if self.end is None or self.state.is_final else self.end.words
        if self.state is State.FAILED and self.end is not End.FAILED:
            word = f"failed: {word}"
        return f"{word}. {self.message}" if self.message else word


class Feed:
    """The jobs of a sweep, the most urgent first, until nothing is left that can be trained.

    `tell` is told every decision. `forgiven` says up to which number the attempts of a job do not count
    against its retries, `gone` of an owner whether its process has lost its place whatever its heartbeat
    says. With `for_all_sweeps` a trunk is trained as long as anybody's branch wants it further, else as long
    as one of the sweep does.
    """

    def __init__(
        self,
        sweep_jobs: SweepJobs,
        jobs: Iterable[PlannedJob],
        retries: Retries,
        tell: Callable[[Decision], None],
        forgiven: Callable[[str], int] = lambda job: 0,
        gone: Callable[[Dispatch], bool] = lambda owner: False,
        keep: Keep = "all",
        for_all_sweeps: bool = False,
        clock: Callable[[], float] = time.monotonic,
        idle_s: float = IDLE_S,
    ) -> None:
        self.sweep_jobs, self.retries = sweep_jobs, retries
        self._tell, self._forgiven, self._gone = tell, forgiven, gone
        self._keep, self._for_all_sweeps, self._clock = keep, for_all_sweeps, clock
        self.open = {
            planned_job.job.id: planned_job
            for planned_job in sorted(jobs, key=lambda e: -sweep_jobs.urgency(e))
        }
        """Jobs that may have something left to train, the most urgent first."""
        self.in_hand: set[str] = set()
        """Jobs that were handed to workers."""
        self.given_up: set[str] = set()
        """Jobs that are not tried again whatever their records say."""
        self.dropped: set[str] = set()
        """Jobs that no current plan wants any more. One that is in hand is trained on; a plan that wants it
        again takes it up again."""
        self._awake, self._idle_s = Awake(self.open, clock), idle_s
        self._elsewhere: dict[str, float] = {}
        self._alone_for_s: dict[str, float] = {}
        self._rests_until: float | None = None
        self._refusals = 0
        self._stillborn = 0
        self._ended_at: dict[str, int] = {}
        self._failed_at: dict[str, int] = {}
        self._unreadable: dict[str, int] = {}
        self._blind_looks = 0
        self._refused: set[str] = set()
        self._reopened: set[str] = set()

    @property
    def cancelled(self) -> set[str]:
        """Jobs that the sweep has given up."""
        return self.sweep_jobs.cancelled

    # Which job

    def saved(self, job: str) -> None:
        """A checkpoint of this job is there: what waits for it may start."""
        self._look_again(job)

    def look_anew(self) -> None:
        """Look at every job's files when it is asked for next, whatever was seen of them before."""
        self._awake.wake_all(but=self.in_hand)

    def _look_again(self, job: str) -> None:
        """Something has become of a job: look at it and its branches when they are asked for next."""
        for other in (job, *(branch.job.id for branch in self.sweep_jobs.branches.get(job, ()))):
            if other not in self.in_hand:
                self._awake.wake(other)

    def next(self) -> PlannedJob | None:
        """The most urgent job that can start now."""
        return next(self.startable(), None)

    def startable(
        self, fits: Callable[[PlannedJob], bool] = lambda planned_job: True
    ) -> Iterator[PlannedJob]:
        """Jobs that can start now, the most urgent first, of those that fit; last those to whom the
        file system refused something before. One that could not start a moment ago, and of which nothing was
        heard since, is not looked at again yet."""
        files = self.sweep_jobs.look(once=True)
        last = self._unreadable.keys() | self._refused
        first = (job for job in self._awake if job not in last)
        for job in itertools.chain(first, (job for job in self._awake if job in last) if last else ()):
            planned_job = self.open.get(job)
            if planned_job is None or not fits(planned_job):
                continue
            if self.can_start(planned_job, files):
                yield planned_job
            elif self.rest_s() > 0:
                return
            elif job in self.open and not self._is_left(job) and job not in self._elsewhere:
                self._awake.sleep(job, self._clock() + self._idle_s)

    def can_start(self, planned_job: PlannedJob, files: JobFilesCache | None = None) -> bool:
        """Whether this job can start now, by its files. `files` keeps what was read of trunks before."""
        job, files = planned_job.job.id, files or self.sweep_jobs.look(once=True)
        if self.rest_s() > 0 or self._is_left(job):
            return False
        if job in self._elsewhere and self._clock() < self._elsewhere[job]:
            return False
        if self._elsewhere.pop(job, None) is not None:
            self._look_again(job)
        try:
            is_free = self._is_free(planned_job, files)
        except StorageError as error:
            self._could_not_look(planned_job, str(error))
            return False
        self._unreadable.pop(job, None)
        self._blind_looks = 0
        return is_free

    def _is_free(self, planned_job: PlannedJob, files: JobFilesCache) -> bool:
        """Whether there is something left to train that nobody has, by the job's files."""
        job = planned_job.job.id
        if not self._may_have_begun(planned_job, files) or not self._has_work(planned_job, files):
            return False
        if not self.sweep_jobs.can_start(planned_job, files):
            return False
        owner = self.sweep_jobs.newest_attempt(planned_job.folder)
        if owner is not None and owner.alive() and not self._gone(owner.facts):
            self._elsewhere[job] = self._clock() + ELSEWHERE_S
            return False
        return not self._is_exhausted(planned_job, owner)

    def _is_left(self, job: str) -> bool:
        """Whether it is not to be started whatever its files say."""
        return any(job in jobs for jobs in (self.in_hand, self.cancelled, self.given_up, self.dropped))

    def _may_have_begun(self, planned_job: PlannedJob, files: JobFilesCache) -> bool:
        """False of a branch that waits for its trunk: a single look says that it never began."""
        if planned_job.trunk is None or files.of(planned_job.trunk).reaches(planned_job.job.cut or 0):
            return True
        trunk = files.of(planned_job.trunk)
        return trunk.result is not None or self.sweep_jobs.has_begun(planned_job)

    def started(self, planned_job: PlannedJob) -> None:
        """A worker has it in hand."""
        self.in_hand.add(planned_job.job.id)
        self._awake.sleep(planned_job.job.id)

    @property
    def elsewhere(self) -> int:
        """How many jobs other processes were found to have."""
        return len(self._elsewhere.keys() - self.cancelled - self.dropped)

    def rest_s(self) -> float:
        """For how long nothing may be started."""
        return 0.0 if self._rests_until is None else max(0.0, self._rests_until - self._clock())

    def wake(self) -> None:
        """Rest no longer."""
        self._rests_until = None

    def _has_work(self, planned_job: PlannedJob, files: JobFilesCache) -> bool:
        if planned_job.job.kind == "trunk" and self._for_all_sweeps:
            return _is_wished_for(planned_job, files)
        if self.sweep_jobs.finished(planned_job, files):
            self._finish(planned_job, None, files)
            return False
        return True

    def _is_exhausted(self, planned_job: PlannedJob, last: Attempt | None) -> bool:
        """The number that is forgiven is asked for only where it matters: it may lie in a file."""
        every = self.sweep_jobs.every_attempt
        return exhausted(planned_job.folder, last, self.retries, every=every) and exhausted(
            planned_job.folder, last, self.retries, self._forgiven(planned_job.job.id), every
        )

    def look_for_cancels(self) -> None:
        """Give up what `sweepctl cancel` has named, and take up again what a launch has asked for anew. Leave
        alone what no plan wants since."""
        try:
            cancelled = self.sweep_jobs.marked_cancelled()
        except StorageError:  # it is looked again soon
            return
        if self.cancelled - cancelled:
            self.look_anew()
        new = cancelled - self.cancelled
        self.sweep_jobs.cancelled = cancelled
        for job in new & self.open.keys():
            self._elsewhere.pop(job, None)
            self._tell(Decision(self.open[job], State.CANCELLED))
        with contextlib.suppress(SweepctlError, OSError):  # on doubt it is wanted
            self.dropped = self.sweep_jobs.unwanted()

    def reopen(self) -> bool:
        """Take up trunks whose checkpoints are gone, deleted by another sweep's policy, before their branches
        started; False where there is none. Once a trunk."""
        left = self.open.keys() - self.cancelled - self.dropped
        trunks = {self.open[job].job.trunk for job in left} - {None} - self.open.keys() - self._reopened
        lost = {
            trunk for trunk in trunks if trunk and not self.sweep_jobs.finished(self.sweep_jobs.by_id[trunk])
        }
        self._reopened |= lost
        self.open = {trunk: self.sweep_jobs.by_id[trunk] for trunk in lost} | self.open
        for trunk in lost:
            self._awake.put_first(trunk)
        if lost:
            self.look_anew()
            self.sweep_jobs.make_wishes(self._keep)
        return bool(lost)

    # How it ended

    def ended(self, planned_job: PlannedJob, end: End, message: str) -> None:
        """A worker's attempt is over.

        Raises:
            StorageError: the file system has refused too often.
        """
        self.in_hand.discard(planned_job.job.id)
        self._look_again(planned_job.job.id)
        self._stillborn = 0
        if end is End.STORAGE:
            self.refused(planned_job, message)
            return
        self._refused.discard(planned_job.job.id)
        try:
            self._judge(planned_job, end, message)
        except StorageError as error:
            self.refused(planned_job, str(error))

    def _judge(self, planned_job: PlannedJob, end: End, message: str) -> None:
        match end:
            case End.DONE | End.DIVERGED:
                self._refusals = 0
                self._alone_for_s.pop(planned_job.job.id, None)
                self._came_to_its_end(planned_job, end)
            case End.STOPPED:
                self._tell(Decision(planned_job, State.INTERRUPTED, end, message))
            case End.SUPERSEDED | End.BUSY:
                self._leave_alone(planned_job, end, message)
            case End.INFRASTRUCTURE:
                self._rests_until = self._clock() + REST_S
                self._retry_or_fail(planned_job, end, message)
            case End.FAILED | End.REQUEST | End.OUT_OF_MEMORY | End.DIED | End.STORAGE:
                self._retry_or_fail(planned_job, end, message)
            case _:
                assert_never(end)

    def died(
        self, planned_job: PlannedJob, pid: int, reason: str, log: Path, fault: str | None = None
    ) -> None:
        """A worker's process is gone with this job in hand: say so on its attempt, so that the job is taken
        up again, or given up where it keeps dying at one place. `log` is where it may have left word, `fault`
        why its launcher has ended it: then it is the machine's.

        Raises:
            WorkFailed: workers end again and again before they begin.
        """
        self.in_hand.discard(planned_job.job.id)
        self._look_again(planned_job.job.id)
        end = End.DIED if fault is None else End.INFRASTRUCTURE
        try:
            last = self.sweep_jobs.newest_attempt(planned_job.folder)
        except StorageError as error:
            self.refused(planned_job, str(error))
            return
        if last is None or last.ended or (last.facts.host, last.facts.pid) != (socket.gethostname(), pid):
            self._tell(
                Decision(planned_job, State.INTERRUPTED, End.DIED, f"{fault or reason}, before it began")
            )
            self.stillborn(log)
            return
        self._stillborn = 0
        try:
            last.end(end, error=fault or f"its process ended with {reason}")
            self._retry_or_fail(planned_job, end, fault or reason)
        except StorageError as error:
            self.refused(planned_job, str(error))

    def stillborn(self, log: Path) -> None:
        """A worker's process is gone before it began anything.

        Raises:
            WorkFailed: that happens again and again.
        """
        self._stillborn += 1
        if self._stillborn > self.retries.died:
            raise WorkFailed(f"Workers end before they begin; {log} says why.")

    def refused(self, planned_job: PlannedJob, message: str) -> None:
        """The file system would not have something written: rest, ever longer. What comes while it rests is
        of the same trouble.

        Raises:
            StorageError: it was tried as often as retries allow.
        """
        self._refused.add(planned_job.job.id)
        if self.rest_s() == 0:
            self._refusals += 1
            if self._refusals > self.retries.storage:
                raise StorageError(f"{message} It was tried {self._refusals} times.")
            self._rests_until = self._clock() + min(REST_MAX_S, 2.0 ** (self._refusals - 1))
        with contextlib.suppress(StorageError):  # what cannot be read now is judged when it is looked at next
            if self._is_exhausted(planned_job, self.sweep_jobs.newest_attempt(planned_job.folder)):
                self._tell(Decision(planned_job, State.FAILED, End.STORAGE, message))
                return
        message = f"{message} Trying again in {self.rest_s():.0f} s."
        self._tell(Decision(planned_job, State.INTERRUPTED, End.STORAGE, message))

    def _could_not_look(self, planned_job: PlannedJob, message: str) -> None:
        """A job's files cannot be read: rest, ever longer, then look at the others first; at last give this
        one up."""
        job, first = planned_job.job.id, not self._unreadable
        times = self._unreadable[job] = self._unreadable.get(job, 0) + 1
        self._blind_looks += 1
        self._rests_until = self._clock() + min(REST_MAX_S, 2.0 ** min(10, self._blind_looks - 1))
        if times > self.retries.storage:
            self.given_up.add(job)
            message = f"{message} It was tried {times} times."
            self._tell(Decision(planned_job, State.FAILED, End.STORAGE, message))
        elif first:
            message = f"{message} Trying again in {self.rest_s():.0f} s."
            self._tell(Decision(planned_job, State.INTERRUPTED, End.STORAGE, message))

    def _leave_alone(self, planned_job: PlannedJob, end: End, message: str) -> None:
        job = planned_job.job.id
        pause_s = self._alone_for_s.get(job, ELSEWHERE_S)
        self._alone_for_s[job] = min(ELSEWHERE_MAX_S, 2 * pause_s)
        self._elsewhere[job] = self._clock() + pause_s
        self._tell(Decision(planned_job, State.RUNNING, end, message))

    def _retry_or_fail(self, planned_job: PlannedJob, end: End, message: str) -> None:
        last = self.sweep_jobs.newest_attempt(planned_job.folder)
        failed = self._is_exhausted(planned_job, last) or self._left_no_attempt(planned_job.job.id, end, last)
        if end is End.DIED:
            message = self._of_the_dead(planned_job, last, message, failed)
        elif not failed:
            half = " with half the micro-batch" if end is End.OUT_OF_MEMORY else ""
            message = f"{message.strip().rstrip('.')}; it is tried again{half}"
        self._tell(Decision(planned_job, State.FAILED if failed else State.INTERRUPTED, end, message))

    def _left_no_attempt(self, job: str, end: End, last: Attempt | None) -> bool:
        """Whether a failure came before the job was claimed, so that no record counts how often."""
        number = last.number if last is not None else 0
        if end is not End.DIED and self._failed_at.get(job, 0) == number:
            self.given_up.add(job)
            return True
        self._failed_at[job] = number
        return False

    def _of_the_dead(self, planned_job: PlannedJob, last: Attempt | None, reason: str, failed: bool) -> str:
        if not failed or last is None:
            return f"{reason}; it goes on from its last checkpoint"
        times = tries_alike(
            planned_job.folder, last, self._forgiven(planned_job.job.id), self.sweep_jobs.every_attempt
        )
        step = max(self.sweep_jobs.look().of(planned_job.folder).saved, default=0)
        message = f"its process died {times} times at step {step} ({reason})"
        with contextlib.suppress(StorageError):
            last.update(out_of_retries=True, error=message)
        return message

    def _came_to_its_end(self, planned_job: PlannedJob, end: End) -> None:
        """With a result, or, a trunk, at its last wish."""
        if planned_job.job.kind == "trunk" and self._for_all_sweeps:
            state = State.DIVERGED if end is End.DIVERGED else State.DONE
            self._tell(Decision(planned_job, state, end))
        elif self.sweep_jobs.finished(planned_job):
            self._finish(planned_job, end)
        else:
            self._lacks_what_is_wanted(planned_job)

    def _finish(self, planned_job: PlannedJob, end: End | None, files: JobFilesCache | None = None) -> None:
        if self.open.pop(planned_job.job.id, None) is not None:
            self._awake.remove(planned_job.job.id)
        self._look_again(planned_job.job.id)
        self._elsewhere.pop(planned_job.job.id, None)
        result = self.sweep_jobs.outcome(planned_job, files)
        state = State.DONE if result is None or result.is_done else State.DIVERGED
        self._tell(Decision(planned_job, state, end, result.reason if result else ""))

    def _lacks_what_is_wanted(self, planned_job: PlannedJob) -> None:
        """A trunk at its last wish, and yet a branch waits: somebody withdrew the wish meanwhile. Wish again,
        and take it up again where it then gets further."""
        self.look_for_cancels()
        if self.sweep_jobs.finished(planned_job):
            self._finish(planned_job, End.DONE)
            return
        job, step = planned_job.job.id, self.sweep_jobs.state(planned_job).step
        if step <= self._ended_at.get(job, -1):
            self.given_up.add(job)
            message = f"it ended at step {step} without what its branches want"
            self._tell(Decision(planned_job, State.FAILED, End.FAILED, message))
            return
        self._ended_at[job] = step
        self.sweep_jobs.make_wishes(self._keep)
        self._tell(Decision(planned_job, State.INTERRUPTED, End.STOPPED))


def _is_wished_for(trunk: PlannedJob, files: JobFilesCache) -> bool:
    """Whether anybody's branch wants the trunk further than it is: the store knows of more sweeps and later
    plans than this feed."""
    of_trunk = files.of(trunk.folder)
    reached = max(of_trunk.saved, default=0)
    later = [wish for wish in trunk.folder.wishes() if wish.step > reached]
    wished = any(not trunk.folder.sibling(wish.branch).has_result() for wish in later)
    return wished and of_trunk.result is None
