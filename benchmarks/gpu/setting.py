"""What every line is told, and how it says what it saw."""

from __future__ import annotations

import dataclasses
import json
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["holds", "fails", "figure", "skipped", "crashed"]
SENTENCE = 400
"""Characters of an error that are shown."""


@dataclass(frozen=True, slots=True)
class Row:
    """One verdict or figure."""

    what: str
    """What was looked at."""
    verdict: Verdict
    """How it came out; a figure is no verdict."""
    says: str
    """The same in words, or why it was skipped."""
    figures: dict[str, Any] = field(default_factory=dict)
    """The numbers, for JSON."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What one process of a line is told."""

    device: Literal["cuda", "cpu"]
    """Where to train."""
    depths: tuple[int, ...]
    """Rungs whose speed and memory are measured: layers of 64 times as many units."""
    quick: bool
    """Whether everything is cut to a few small steps, to see that it runs."""
    folder: str
    """Where corpora are and everything is written."""
    peer: str | None
    """A checkout of nanoGPT."""
    seconds: float
    """No case is begun later than this after the start."""
    part: int = 0
    """Which of the processes of its line this is."""
    parts: int = 1
    """How many there are."""

    @classmethod
    def read(cls, text: str) -> Setting:
        raw = json.loads(text)
        return cls(**{**raw, "depths": tuple(raw["depths"])})

    def line(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @property
    def home(self) -> Path:
        return Path(self.folder)

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"

    @property
    def modes(self) -> tuple[bool, ...]:
        """Whether models are compiled: both, but where a look must be quick."""
        return (False,) if self.quick else (True, False)


Case = tuple[str, Callable[[], Iterable[Row]]]
"""What is looked at, and what looks."""
_STARTED = time.monotonic()


def each(setting: Setting, cases: Iterable[Case]) -> Iterator[Row]:
    """The rows of this process's share of the cases. One that raises is a row; after an error that leaves
    the device unusable, and once the time is over, the rest are skipped together."""
    stopped, left = "", list[str]()
    for number, (what, look) in enumerate(cases):
        if number % setting.parts != setting.part:
            continue
        if not stopped and time.monotonic() - _STARTED > setting.seconds:
            stopped = "no time was left"
        if stopped:
            left.append(what)
            continue
        try:
            yield from look()
        except Exception as error:
            traceback.print_exc()
            yield Row(what, "crashed", sentence(error))
            if unusable(error):
                stopped = "the device failed before"
    if left:
        yield Row("the rest", "skipped", f"{stopped}: {'; '.join(left)}")


def sentence(error: BaseException) -> str:
    """An error in a line."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"[:SENTENCE]


def unusable(error: BaseException) -> bool:
    """Whether nothing more can be done on the device in this process."""
    text = str(error)
    return "CUDA error" in text and "out of memory" not in text


def mode_name(compiled: bool) -> str:
    return "compiled" if compiled else "eager"
