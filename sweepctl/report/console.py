"""How things are shown: numbers with units, tables, JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweepctl.store.files import finite

_STYLES = {"b": "bold", "d": "dim", "r": "red", "g": "green", "y": "yellow"}
BOLD, DIM, RED, GREEN, YELLOW = (f"\x0e{letter}" for letter in _STYLES)
"""What begins a style in a line that is printed. Nothing else is markup: names, errors and paths from outside
are text, whatever brackets they hold."""
END = "\x0f"
"""Ends the style that began last."""
_STYLED = re.compile(f"\x0e[{''.join(_STYLES)}]|\x0f")
_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours, the cursor
    r"|(?:\x1b[\]PX^_]|[\x9d\x90])[^\n\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # titles, links
    r"|\x1b[ -/]*[0-~]?"
)
_UNPRINTED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class TextConsole(Console):
    """The one door to a terminal: what is printed is text, but for the styles above."""

    def render_str(self, text: str, *, style: Any = "", **options: Any) -> Text:
        """A string as rich shows it, wherever it comes from: a line, a cell, a title."""
        justify, overflow = options.get("justify"), options.get("overflow")
        shown, styles, at = Text(style=style, justify=justify, overflow=overflow), list[str](), 0
        for mark in _STYLED.finditer(text):
            shown.append(printable(text[at : mark.start()]), " ".join(styles) or None)
            at = mark.end()
            if mark.group() != END:
                styles.append(_STYLES[mark.group()[1]])
            elif styles:
                styles.pop()
        return shown.append(printable(text[at:]), " ".join(styles) or None)


def console(stderr: bool = False, quiet: bool = False) -> Console:
    """Standard output, or standard error; 120 columns where it is not a terminal, so that logs and pipes keep
    whole lines."""
    stream = sys.stderr if stderr else sys.stdout
    return TextConsole(highlight=False, stderr=stderr, quiet=quiet, width=None if stream.isatty() else 120)


def printable(text: str) -> str:
    """Text from outside without what a terminal would obey: escape sequences, control characters but for line
    ends and tabs, marks that turn the direction of writing, halves of characters."""
    return _UNPRINTED.sub("", _ESCAPE.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))


def show_json(value: Any) -> None:
    """One JSON document on standard output."""
    every_letter = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    text = json.dumps(finite(value), indent=1, ensure_ascii=not every_letter, allow_nan=False)
    print(_UNPRINTED.sub(lambda match: f"\\u{ord(match.group()):04x}", text))


def table(
    title: str,
    columns: Iterable[str],
    rows: Iterable[Iterable[str]],
    left: int = 1,
    width: int | None = None,
    spare: Iterable[str] = (),
) -> Table:
    """A table whose first `left` columns are words and whose others are numbers. Where it would not fit into
    `width`, columns of `spare` are left out, in that order: a number is shown whole or not at all."""
    names, cells = list(columns), [list(row) for row in rows]
    for name in spare:
        if width is None or _natural_width(names, cells) <= width:
            break
        if name in names:
            gone = names.index(name)
            del names[gone]
            for row in cells:
                del row[gone]
    grid = Table(
        title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False
    )
    for number, name in enumerate(names):
        grid.add_column(name, justify="left" if number < left else "right", no_wrap=number < left)
    for row in cells:
        grid.add_row(*row)
    return grid


def _natural_width(names: list[str], cells: list[list[str]]) -> int:
    """Columns with every cell on one line, headings broken between words."""
    cells = [[_STYLED.sub("", cell) for cell in row] for row in cells]
    widest = [max([len(word) for word in name.split()] + [len(row[i]) for row in cells], default=0)
              for i, name in enumerate(names)]  # fmt: skip
    return sum(widest) + 3 * len(widest)


def place(path: Path) -> str:
    """A path as one would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def count(value: float) -> str:
    """12300 -> 12.3k, by thousands to T."""
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def size(value: float) -> str:
    """Bytes with a decimal unit."""
    for unit, bytes_ in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= bytes_:
            return f"{value / bytes_:.3g} {unit}"
    return f"{value:.0f} B"


def flops(value: float) -> str:
    """1.2e12 in the three digits that FLOPs are read with."""
    if not value:
        return "0"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{mantissa}e{int(exponent)}"


def many(number: int, noun: str) -> str:
    """1 job, 2 jobs."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def shown(value: Any) -> str:
    """A setting's value: numbers in four digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(value: float) -> str:
    return f"{100 * value:+.2f} %"


def interval(bounds: Sequence[float], digits: int = 3) -> str:
    return f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}"


def duration(seconds: float) -> str:
    """5400 -> 1.5 h."""
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.1f} days"
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 90:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s"
