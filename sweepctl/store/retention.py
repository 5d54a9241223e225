"""Which checkpoints stay. Rolling here and `sweepctl clean` are the only things that delete.

A checkpoint that an unfinished branch needs always stays. Then the policy decides: `all` keeps every cut of
a trunk and every branch's final weights, `last` a trunk's newest cut and the final weights, `none` nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from sweepctl.store import checkpoints
from sweepctl.store.job import JobFolder, Wish

Keep = Literal["none", "last", "all"]
RESUME = 2
"""Rolling checkpoints kept while a job runs: the newest, and the one before it should that be damaged."""


def open_wishes(trunk: JobFolder) -> list[Wish]:
    """The wishes whose branch has no result yet."""
    return [wish for wish in trunk.wishes() if not trunk.sibling(wish.branch).has_result()]


def roll(folder: JobFolder, keep_newest: int = RESUME) -> None:
    """Delete rolling checkpoints but the newest ones; a trunk's cuts are not rolling."""
    cuts = {wish.step for wish in folder.wishes()}
    rolling = [step for step in checkpoints.steps(folder) if step not in cuts]
    for step in rolling[: max(0, len(rolling) - keep_newest)]:
        checkpoints.remove(checkpoints.at(folder, step))


def settle(job: JobFolder, trunk: JobFolder | None, keep: Keep, needed: Mapping[str, int]) -> None:
    """After a branch's or run's result: drop its rolling checkpoints, and what its trunk need not keep by the
    policies of every sweep that made wishes there. `needed` are the cuts of branches of its launch, some of
    which may be done by now."""
    saved = checkpoints.steps(job)
    for step in saved if keep == "none" else saved[:-1]:
        checkpoints.remove(checkpoints.at(job, step))
    if trunk is not None:
        cuts = [cut for branch, cut in needed.items() if not trunk.sibling(branch).has_result()]
        for step in surplus(trunk, {keep, *trunk.keeps()}, cuts):
            checkpoints.remove(checkpoints.at(trunk, step))


def surplus(trunk: JobFolder, policies: set[str], needed: Iterable[int] = ()) -> list[int]:
    """Steps of the trunk's checkpoints that neither an unfinished branch nor the strongest policy keeps.

    `needed` are cuts that matter besides the open wishes. Of a cut that was passed unsaved, the checkpoint
    before it is kept, and the newest one, by which the trunk is known to have passed it. Empty while a branch
    still waits for a later cut: the trunk resumes from its newest checkpoint.
    """
    saved = checkpoints.steps(trunk)
    cuts = {wish.step for wish in open_wishes(trunk)} | set(needed)
    if "all" in policies or any(step > max(saved, default=0) for step in cuts):
        return []
    kept = {max((step for step in saved if step <= cut), default=0) for cut in cuts}
    if saved and ("last" in policies or cuts - set(saved)):
        kept.add(saved[-1])
    return [step for step in saved if step not in kept]
