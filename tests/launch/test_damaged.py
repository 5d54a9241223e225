"""A wrong type in what launchers wrote down is one sentence about that file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from sweepctl.errors import SweepctlError
from sweepctl.launch.backends.slurm import SlurmLauncher
from sweepctl.launch.slurm.records import Array, Records, SlurmOrder, author, new_token
from sweepctl.spec.build import plain
from sweepctl.spec.hashing import canonical, digest
from sweepctl.store.workspace import Workspace
from tests.launch.settings import resources, slurm

WRONG: tuple[Any, ...] = (True, -1, 2.5, 10**400, "../../x", [[1]], {"a": {"b": []}}, None)


def is_told(records: Records, order: str, token: str) -> None:
    for look in (lambda: records.order(order).settings, lambda: records.own_array(token), records.arrays):
        try:
            look()
        except SweepctlError as error:
            assert "\n" not in str(error) and len(str(error)) < 500
    SlurmLauncher.notes(records.sweep)
    records.forgiven()


def test_records_of_slurm_are_checked(tmp_path: Path) -> None:
    records = Records(Workspace(tmp_path).sweep("team"))
    order = SlurmOrder({}, (), plain(slurm()), "code")
    records.write_order(order)
    array = Array(new_token(), order.hash, "a.name", "memory", ("0" * 16,), resources(), by=author())
    path = records.intend(array) / "array.json"
    good = json.loads(path.read_text())
    for key in good:
        for value in WRONG:
            path.write_text(json.dumps({**good, key: value}))
            is_told(records, order.hash, array.token)
    path.write_text(json.dumps(good))
    for name in ("forgiven.json", f"unsubmitted.{os.getuid()}.json"):
        for value in WRONG:
            (records.folder / name).write_text(json.dumps({"jobs": value, "why": value, "0" * 16: value}))
            is_told(records, order.hash, array.token)
    for key in plain(order):
        for value in WRONG:
            raw = {**plain(order), key: value}
            file = records.folder / "orders" / str(author()["user"]) / f"{digest(canonical(raw))}.json"
            file.write_text(json.dumps(raw))
            is_told(records, file.stem, array.token)
