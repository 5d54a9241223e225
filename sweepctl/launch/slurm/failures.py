"""Whether a job that failed is taken up again."""

from __future__ import annotations

from sweepctl.launch.slurm.settings import Retries
from sweepctl.store import attempts
from sweepctl.store.attempts import Attempt
from sweepctl.store.job import JobFolder


def exhausted(folder: JobFolder, last: Attempt | None, retries: Retries, forgiven: int = 0) -> bool:
    """Whether the job's newest attempt failed and its class has no retry left. Attempts up to number
    `forgiven` do not count, nor do those before a checkpoint was gained: a long job may fail now and then."""
    if last is None or last.number <= forgiven:
        return False
    if last.facts.out_of_retries:
        return True
    why = last.facts.why
    if why is None or not why.has_retries:
        return False
    alike = 0
    for attempt in reversed(attempts.every(folder)):
        if attempt.number <= forgiven or attempt.facts.start_step != last.facts.start_step:
            break
        alike += attempt.facts.why is why
    return alike > retries.of(why)
