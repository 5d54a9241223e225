"""Where a job was computed otherwise than what it went on from: another attempt of its own, or its trunk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sweepctl.store.attempts import Attempt
from sweepctl.store.facts import Facts


def seams(histories: Mapping[str, list[Attempt]]) -> dict[tuple[str, int], str]:
    """By job and attempt, in words: the attempts on the line that a job's newest stands on which were
    computed otherwise than the one whose checkpoint they took. Of a branch the line ends where it leaves its
    trunk, whose seams are the trunk's. `histories` has the attempts of jobs by their ids."""
    by_number = {job: {a.number: a for a in history} for job, history in histories.items()}
    words: dict[tuple[str, int], str] = {}
    for job, attempts in by_number.items():
        for attempt in _line(job, attempts):
            origin = attempt.facts.started_from
            before = by_number.get(origin.job, {}).get(origin.attempt) if origin else None
            if before is not None and (text := "; ".join(_differences(attempt.facts, before.facts))):
                words[job, attempt.number] = text
    return words


def _line(job: str, attempts: Mapping[int, Attempt]) -> Iterator[Attempt]:
    """From the newest attempt that began to train back to the job's first one."""
    number = max((n for n, a in attempts.items() if a.facts.start_step is not None), default=0)
    while number in attempts:
        yield attempts[number]
        origin = attempts[number].facts.started_from
        if origin is None or origin.job != job or origin.attempt >= number:
            return
        number = origin.attempt


def _differences(now: Facts, before: Facts) -> Iterator[str]:
    """What an older record does not say differs in nothing."""
    if {now.compiled, before.compiled} == {True, False}:
        yield "compiled after eager" if now.compiled else "eager after compiled"
    if bool(now.deterministic) != bool(before.deterministic):
        yield "deterministic after not" if now.deterministic else "not deterministic after deterministic"
    pairs = (
        (now.device, before.device, ""),
        (now.versions.get("torch"), before.versions.get("torch"), "torch "),
    )
    for ours, theirs, of in pairs:
        if ours is not None and theirs is not None and ours != theirs:
            yield f"{of}{ours} after {theirs}"
