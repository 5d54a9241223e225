"""Jobs that were computed in more than one way, or otherwise than their trunk: said with their results."""

from __future__ import annotations

import pandas as pd
from rich.console import Console

from sweepctl.report.console import END, YELLOW, many


def seams_of(attempts: pd.DataFrame) -> dict[str, int]:
    """What changed on the way -> in how many jobs, most first, by the table of attempts."""
    if "seam" not in attempts:
        return {}
    counts = attempts.dropna(subset=["seam"]).groupby("seam")["job"].nunique()
    ranked = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))
    return {str(words): int(number) for words, number in ranked}


def show_seams(out: Console, seams: dict[str, int]) -> None:
    """A line for each."""
    for words, number in seams.items():
        out.print(
            f"{YELLOW}mixed{END}: {many(number, 'job')} went on otherwise than computed before: {words}. "
            "`check fork` says what that changes; attempts.parquet has them (seam).",
            soft_wrap=True,
        )
