"""Whether a study's data is what its index says, keeps its held-out text apart, and lasts for its plans."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sweepctl.data.leaks import CHUNK, Leak, leaks
from sweepctl.data.shards import CorpusIndex, Shard, check_context, open_shard
from sweepctl.errors import DamagedFile, InvalidValue, RequestError
from sweepctl.launch.doctor import Finding
from sweepctl.plan.cost import most_passes
from sweepctl.plan.plan import Plan

SHORTEST_WINDOW = 256
"""Shorter windows of text repeat on their own: phrases, licences, indentation."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class DataLimits:
    """What still holds."""

    window: int
    """Tokens of the windows of held-out text that are looked for in the training split."""
    leak: float = 0.05
    """The largest share of a held-out set's windows that may lie there."""
    passes: float = 1.0
    """How often a plan may read the training data."""

    def __post_init__(self) -> None:
        if not 0 <= self.leak <= 1:
            raise InvalidValue("--leak", self.leak, "between 0 and 1")
        if not 0 < self.passes < float("inf"):
            raise InvalidValue("--passes", self.passes, "a finite number above 0")


def window_of(index: CorpusIndex, context: int, asked: int | None) -> int:
    """The tokens of the windows that leaks are looked for in; where none are asked for, the context's, or
    256 where that is shorter, but no more than a split has.

    Raises:
        InvalidValue: no window of so many tokens fits.
    """
    most = min(facts.tokens for facts in index.splits.values())
    if asked is None:
        return max(1, min(max(context, SHORTEST_WINDOW), most))
    if not 1 <= asked <= most:
        raise InvalidValue("--window", asked, f"at least 1 and at most {most}, the smallest split")
    return asked


def examine(
    folder: Path,
    index: CorpusIndex,
    context: int,
    plans: Iterable[Plan],
    waiting: Iterable[str],
    limits: DataLimits,
    say: Say,
) -> Iterator[Finding]:
    """Every finding in turn, of the data and of each stage's plan; stages that wait have none. Shards
    are read in pieces, each twice at most."""
    readable = True
    for name, facts in index.splits.items():
        scan = _SplitScan(folder, index, name, say)
        yield scan.finding()
        readable = readable and scan.whole
        if scan.whole:
            yield scan.vocabulary()
        if facts.tokens != sum(shard.tokens for shard in facts.shards):
            yield Finding("index", "failed", f"{name}: its shards do not add up to {facts.tokens} tokens")
    try:
        check_context(folder, index, context)
        yield Finding("context", "ok", f"every split has a sequence of {context} tokens")
    except RequestError as error:
        yield Finding("context", "failed", str(error).rstrip("."))
    if readable:
        yield from _leaks(folder, index, limits, say)
    else:
        yield Finding("leaks", "skipped", "not every shard can be read")
    for plan in plans:
        yield _enough(plan, limits)
    for stage in waiting:
        yield Finding("tokens", "skipped", f"stage {stage} cannot be planned yet")


class _SplitScan:
    """One split's shards, read once: their hashes, and the largest token."""

    def __init__(self, folder: Path, index: CorpusIndex, split: str, say: Say) -> None:
        self.index, self.split, self.facts = index, split, index.splits[split]
        self.whole, self.wrong, self.top = True, list[str](), -1
        read = 0
        for shard in self.facts.shards:
            say(f"reading {split}, {read / 1e6:.0f}M of {self.facts.tokens / 1e6:.0f}M tokens")
            try:
                if not self._read(folder, shard):
                    self.wrong.append(f"{shard.file} is not what was prepared: its content changed")
            except DamagedFile as error:
                self.whole = False
                self.wrong.append(str(error).rstrip("."))
            read += shard.tokens

    def _read(self, folder: Path, shard: Shard) -> bool:
        """Whether its hash is that of the index."""
        tokens, content = open_shard(folder, shard, self.index.dtype), hashlib.sha256()
        for first in range(0, len(tokens), CHUNK):
            piece = tokens[first : first + CHUNK]
            content.update(piece.tobytes())
            self.top = max(self.top, int(piece.max()))
        return content.hexdigest() == shard.sha256

    def finding(self) -> Finding:
        """Sizes and hashes."""
        if self.wrong:
            more = f", and {len(self.wrong) - 1} more" if len(self.wrong) > 1 else ""
            return Finding("shards", "failed", self.wrong[0] + more, "Restore it, or prepare the data again.")
        shards = f"{len(self.facts.shards)} of {self.facts.tokens:,} tokens"
        return Finding("shards", "ok", f"{self.split}: {shards}, as they were prepared")

    def vocabulary(self) -> Finding:
        """No token lies outside of it."""
        size = self.index.vocab_size
        message = f"{self.split}: the largest token is {self.top}, the vocabulary has {size}"
        return Finding("vocabulary", "ok" if self.top < size else "failed", message)


def _leaks(folder: Path, index: CorpusIndex, limits: DataLimits, say: Say) -> Iterator[Finding]:
    read, whole = 0, index.splits["train"].tokens

    def progress(tokens: int) -> None:
        nonlocal read
        read += tokens
        say(f"looking for held-out text in train, {read / 1e6:.0f}M of {whole / 1e6:.0f}M tokens")

    for leak in leaks(folder, index, limits.window, progress):
        yield _leak_finding(leak, limits.leak)


def _leak_finding(leak: Leak, limit: float) -> Finding:
    if not leak.windows:
        return Finding("leaks", "warning", f"{leak.split} has no window of {leak.window} tokens to look for")
    message = (
        f"{leak.leaked} of {leak.windows:,} windows of {leak.window} tokens of {leak.split} lie in train too,"
        f" {leak.share:.2%}; {limit:.2%} is allowed"
    )
    if leak.share > limit:
        return Finding("leaks", "failed", message, "Hold out whole documents, and drop those that repeat.")
    return Finding("leaks", "warning" if leak.leaked else "ok", message)


def _enough(plan: Plan, limits: DataLimits) -> Finding:
    """Whether the plan's longest run reads the data often enough to repeat it."""
    passes = most_passes(plan)
    needed = passes * plan.corpus_tokens
    message = f"stage {plan.stage}: its longest run takes {needed:,.0f} of {plan.corpus_tokens:,} tokens"
    if passes <= 1:
        return Finding("tokens", "ok", message)
    message += f": it reads them {passes:.3g} times"
    if passes <= limits.passes:
        return Finding("tokens", "warning", f"{message}, {limits.passes:g} is allowed")
    return Finding(
        "tokens",
        "failed",
        message,
        f"Prepare more text, take smaller budgets, or accept it: --passes {passes:.3g}.",
    )
