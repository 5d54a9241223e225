"""Schedules and optimizers in plans that earlier versions wrote: with the keys of every kind in one record,
or, before there were kinds of schedules, with the decay alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sweepctl.spec.build import plain
from sweepctl.spec.kinds import Kinds
from sweepctl.spec.science import with_field

RENAMED = {"schedule.decay.end": "schedule.decay.end_lr_share"}
"""Settings of points: the old name -> today's."""


def schedule(plan: dict[str, Any]) -> dict[str, Any]:
    """The schedule's record in a plan's JSON, by today's names."""
    record = dict(plan.pop("schedule", None) or _of_decay(plan))
    if "end" in record.get("decay", {}):
        decay = dict(record["decay"])
        record["decay"] = decay | {"end_lr_share": decay.pop("end")}
    return record


def settings(
    points: Iterable[dict[str, Any]], own: Kinds, record: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Settings of points by today's names: without those of the schedule (or optimizer) that the point's kind
    does not have, and with what the plan's record of its `own` one held for a kind that is not its own."""
    of_kinds: dict[str, tuple[set[str], dict[str, Any]]] = {}
    for values in points:
        word = values.get(f"{own.at}.{own.by}", own.word())
        if word not in of_kinds:
            held = {**record, own.by: word}
            foreign = {f"{own.at}.{key}" for key in own.of(held).foreign_keys()}
            of_kinds[word] = foreign, _carried(own, held)
        foreign, carried = of_kinds[word]
        renamed = {RENAMED.get(path, path): value for path, value in values.items()}
        yield carried | {path: value for path, value in renamed.items() if path not in foreign}


def _carried(own: Kinds, held: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan's record held for another kind, where that would now begin with other values."""
    begins = plain(with_field(own, own.by, held[own.by]))
    return {f"{own.at}.{key}": value for key, value in own.own_keys(held).items() if value != begins[key]}


def _of_decay(plan: dict[str, Any]) -> dict[str, Any]:
    """Of a plan from when there were wsd and cosine and only the decay was kept."""
    decay = plan.pop("decay")
    forks = any(row[1] == "trunk" for row in plan["jobs"])
    kind = "cosine" if not forks and decay["shape"] == "cosine" and decay["fraction"] == 1 else "wsd"
    return {"kind": kind, "warmup_steps": plan["base"].warmup_steps, "decay": decay, "fork": forks}
