"""Schedules and optimizers in plans that earlier versions wrote: with the keys of every kind in one record,
or, before there were kinds of schedules, with the decay alone."""

from __future__ import annotations

from typing import Any

from sweepctl.spec.kinds import key_paths
from sweepctl.spec.optimizers.optimizer import Optimizer
from sweepctl.spec.schedules.schedule import Schedule

RENAMED = {"schedule.decay.end": "schedule.decay.end_lr_share"}
"""Settings of points: the old name -> today's."""


def schedule(plan: dict[str, Any]) -> dict[str, Any]:
    """The schedule's record in a plan's JSON, as this version writes it."""
    record = dict(plan.pop("schedule", None) or _of_decay(plan))
    if "end" in record.get("decay", {}):
        decay = dict(record["decay"])
        record["decay"] = decay | {"end_lr_share": decay.pop("end")}
    return Schedule.own_keys(record)


def settings(settings: dict[str, Any], schedule: str, optimizer: str) -> dict[str, Any]:
    """A point's settings with today's names, without those of its schedule and optimizer that the kind does
    not have."""
    own = {
        "schedule": key_paths(Schedule.named(settings.get("schedule.kind", schedule), "schedule.kind")),
        "optimizer": key_paths(Optimizer.named(settings.get("optimizer.name", optimizer), "optimizer.name")),
    }
    names = {path: RENAMED.get(path, path) for path in settings}
    return {
        name: settings[path]
        for path, name in names.items()
        for group, _, key in [name.partition(".")]
        if group not in own or key in own[group]
    }


def _of_decay(plan: dict[str, Any]) -> dict[str, Any]:
    """Of a plan from when there were wsd and cosine and only the decay was kept."""
    decay = plan.pop("decay")
    forks = any(row[1] == "trunk" for row in plan["jobs"])
    kind = "cosine" if not forks and decay["shape"] == "cosine" and decay["fraction"] == 1 else "wsd"
    return {"kind": kind, "warmup_steps": plan["base"].warmup_steps, "decay": decay, "fork": forks}
