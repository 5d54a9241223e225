"""Which jobs that came to an end a launch takes up again."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from sweepctl.errors import RequestError
from sweepctl.launch.logs import find_job
from sweepctl.store import attempts
from sweepctl.store.board import Board, Entry
from sweepctl.store.files import storage

WORDS = ("failed", "diverged", "none")


@dataclass(frozen=True, slots=True)
class Retry:
    """What becomes of failed and diverged jobs."""

    forgiven: dict[str, int] = field(default_factory=dict)
    """Failed jobs that get a new start -> the number of their last attempt."""
    left: dict[str, str] = field(default_factory=dict)
    """Failed jobs that are left alone -> what they failed of."""
    diverged: list[Entry] = field(default_factory=list)
    """Those that are trained again."""

    def apply(self) -> None:
        """Set the results of diverged jobs aside, into the attempts that wrote them."""
        for entry in self.diverged:
            result = entry.folder.result()
            assert result is not None
            folder = entry.folder.attempts / f"{result.attempt or 0:04d}"
            with storage(folder):
                folder.mkdir(parents=True, exist_ok=True)
                os.rename(entry.folder.path / "result.json", folder / "result.json")


def choose(board: Board, words: list[str]) -> Retry:
    """What `--retry` names: failed (the default), diverged, none, or jobs by id.

    Raises:
        RequestError: a word is none of these, or a job has nothing to retry.
    """
    jobs = {find_job(board, word).job.id for word in words if word not in WORDS}
    retry = Retry()
    for entry in board.entries.values():
        job, result = entry.job.id, entry.folder.result()
        if result is not None:
            if not result.is_done and (job in jobs or "diverged" in words):
                retry.diverged.append(entry)
            elif job in jobs:
                raise RequestError(f"Job {job} is {result.end}: there is nothing to retry.")
            continue
        last = attempts.newest(entry.folder)
        if last is None or last.facts.why is None or not last.facts.why.has_retries:
            continue
        if job in jobs or "failed" in words:
            retry.forgiven[job] = last.number
        elif last.facts.failure is not None:
            retry.left[job] = last.facts.error or last.facts.failure.words
    return retry
