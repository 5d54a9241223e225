"""What usually goes wrong, looked for before it costs anything. Each check says what it found and what to do.

Here: what every launcher needs. Each launcher's `examine` puts its own beside it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sweepctl.errors import SweepctlError
from sweepctl.launch import disk
from sweepctl.launch.local import visible_gpus
from sweepctl.launch.machine import ask_torch
from sweepctl.spec.execution import Execution
from sweepctl.store.workspace import HOME_VARIABLE, Workspace

Verdict = Literal["ok", "warning", "failed", "skipped"]
Say = Callable[[str], None]
"""Takes a line on what is being waited for."""

SKEW_S, SKEW_FATAL_S = 5.0, 60.0
"""Clocks further apart are told, or, where a live owner could be taken for dead, refused."""
SLOW_SYNC_S = 2.0
LITTLE_BYTES, TOO_LITTLE_BYTES = 20e9, 0.5e9
SLOW_IMPORT_S = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    """What was checked."""
    verdict: Verdict
    """How it stands."""
    text: str
    """What is so."""
    advice: str = ""
    """What to do, where something is to be done."""


def examine_machine(workspace: Workspace, execution: Execution) -> Iterator[Finding]:
    """The workspace, torch and its GPUs as they are seen from here."""
    with own_folder(workspace) as folder:
        yield workspace_finding(workspace, folder)
        if isinstance(folder, Path):
            yield team_finding(workspace, folder)
            yield from disk_findings(folder / "login")
    torch = ask_torch()
    yield torch_finding(platform.python_version(), torch)
    if "error" not in torch:
        yield gpu_finding(len(visible_gpus()), torch, execution)


@contextlib.contextmanager
def own_folder(workspace: Workspace) -> Iterator[Path | OSError]:
    """A new folder in the workspace, gone afterwards with everything that had to be made for it; where it
    cannot be made, why."""
    folder = workspace.root / ".doctor" / uuid.uuid4().hex[:10]
    above = [parent for parent in folder.parents if not parent.exists()]
    problem: OSError | None = None
    try:
        folder.mkdir(parents=True, mode=0o755)
    except OSError as error:
        problem = error
    try:
        yield problem or folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for parent in dict.fromkeys([folder.parent, *above]):
            with contextlib.suppress(OSError):  # somebody else uses it meanwhile
                parent.rmdir()


def workspace_finding(workspace: Workspace, folder: Path | OSError) -> Finding:
    """Whether the workspace can be written."""
    if isinstance(folder, Path):
        return Finding("workspace", "ok", f"{workspace.root} is writable")
    reason = folder.strerror or str(folder)
    return Finding(
        "workspace",
        "failed",
        f"{workspace.root} cannot be written: {reason}",
        f"Set {HOME_VARIABLE} to a folder of yours on a disk that every node mounts.",
    )


def team_finding(workspace: Workspace, folder: Path) -> Finding:
    """Whether several users can work in the workspace, where its root is meant for that; `folder` is one in
    it."""
    root, probe = workspace.root, folder / "mode"
    os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode, status = root.stat().st_mode, probe.stat()
    if status.st_uid != os.getuid():
        return Finding(
            "team",
            "failed",
            f"a file of user {os.getuid()} in {root} belongs to user {status.st_uid}",
            "Use a file system that keeps owners: by them a launch tells its own tasks from a colleague's.",
        )
    if not mode & stat.S_IWGRP and root.stat().st_uid == os.getuid():
        return Finding("team", "ok", f"only you can write in {root}")
    faults = []
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        faults.append("everybody can write in it, not only a group (chmod o-w)")
    if not mode & stat.S_ISGID:
        faults.append("its folders do not hand on its group (chmod g+s, and of every folder in it)")
    if status.st_mode & stat.S_IWGRP == 0:
        faults.append("what you write is not for the group to change (umask 002, before a launch)")
    if status.st_gid != root.stat().st_gid:
        faults.append("what you write is of another group (chgrp)")
    if faults:
        return Finding("team", "warning", f"{root} is shared; {'; '.join(faults)}", "See docs/team.md.")
    return Finding("team", "ok", f"{root} is shared, and its group can go on with what you write")


def disk_findings(folder: Path) -> Iterator[Finding]:
    """What the file system under a folder is like from here."""
    try:
        tried = disk.try_out(folder)
    except (OSError, SweepctlError) as error:
        yield Finding("disk", "failed", str(error), "Ask for a file system that can be written.")
        return
    yield from judge_disk(tried.faults, tried.sync_s, tried.free_bytes, "disk")
    yield clock_finding(tried.ahead_s, "clock", "here")


def judge_disk(faults: list[str], sync_s: float, free_bytes: float, name: str) -> Iterator[Finding]:
    """The store's needs held against a file system."""
    free = f"{free_bytes / 1e9:,.0f} GB free" if free_bytes >= 10e9 else f"{free_bytes / 1e9:.1f} GB free"
    if faults:
        yield Finding(name, "failed", "; ".join(faults), "Put the workspace on another file system.")
    elif free_bytes < LITTLE_BYTES:
        yield Finding(
            name,
            "failed" if free_bytes < TOO_LITTLE_BYTES else "warning",
            f"only {free}",
            "Make room, or launch with execution.keep=last: checkpoints need it.",
        )
    elif sync_s > SLOW_SYNC_S:
        yield Finding(
            name,
            "warning",
            f"a small durable write takes {sync_s:.1f} s",
            "Use a faster file system, or save less often (execution.checkpoint_every_s).",
        )
    else:
        yield Finding(
            name, "ok", f"renames are atomic, O_EXCL holds, fsync in {1000 * sync_s:.0f} ms, {free}"
        )


def clock_finding(ahead_s: float, name: str, where: str) -> Finding:
    """The file server's clock against a host's."""
    if abs(ahead_s) <= SKEW_S:
        return Finding(name, "ok", f"the file server's clock and the one {where} agree")
    way = "ahead of" if ahead_s > 0 else "behind"
    return Finding(
        name,
        "failed" if abs(ahead_s) > SKEW_FATAL_S else "warning",
        f"the file server's clock is {abs(ahead_s):.0f} s {way} the one {where}",
        "Have the clocks synchronized (NTP): by their difference a job that runs is taken for dead.",
    )


def torch_finding(python: str, torch: dict[str, Any]) -> Finding:
    """Whether torch and what else a job imports is there."""
    if "error" in torch:
        return Finding(
            "torch",
            "failed",
            f"Python {python}: {torch['error']}",
            "Install sweepctl with its dependencies for this interpreter, or name another as `python`.",
        )
    text = f"{torch['torch']} with Python {python}, imported in {torch['import_s']:.1f} s"
    if torch["import_s"] > SLOW_IMPORT_S:
        return Finding("torch", "warning", text, "Put the environment on a disk close to the nodes.")
    return Finding("torch", "ok", text)


def gpu_finding(
    asked: int | None, torch: dict[str, Any], execution: Execution, processes: int = 1, bound: bool = False
) -> Finding:
    """GPUs that torch can use against those that were asked for (None: unknown); `bound`: each process gets
    its own."""
    gpus: list[str] = torch["gpus"]
    kinds = ", ".join(dict.fromkeys(gpus))
    text = f"torch sees {len(gpus)}" + (f" ({kinds})" if kinds else "")
    if asked is not None:
        text += f" of {asked}" if asked else ", none was asked for"
    wrong: Verdict = "warning" if execution.device == "cpu" else "failed"
    if torch["gpu_error"] and execution.device != "cpu":
        return Finding(
            "GPUs", "failed", f"{text}; {torch['gpu_error']}", "Match torch's CUDA build to the driver."
        )
    if bound and gpus:
        return Finding("GPUs", "ok", f"{text}, each process its own")
    if len(gpus) < (asked or 0):
        if execution.device == "cpu":
            return Finding("GPUs", wrong, text, "execution.device=cpu uses none: do not ask for GPUs.")
        if torch["cuda"] is None:
            advice = "This torch is built without CUDA: install one that is, or ask for no GPU."
        else:
            advice = "Jobs would train on the CPU: check the driver, CUDA_VISIBLE_DEVICES and `gres`."
        return Finding("GPUs", wrong, text, advice)
    if execution.device == "cuda" and not gpus:
        return Finding("GPUs", "failed", text, "Ask for a GPU (gpus_per_node), or set execution.device=cpu.")
    if gpus and execution.device != "cpu" and processes > len(gpus):
        return Finding(
            "GPUs",
            "failed",
            f"{text}, for {processes} processes",
            "Set tasks_per_node to the GPUs of a node.",
        )
    if asked is not None and len(gpus) > asked and execution.device != "cpu":
        advice = (
            "Tasks see GPUs of others: ask for GPUs, or set execution.device=cpu."
            if not asked
            else "Slurm does not confine tasks to their GPUs: see ConstrainDevices in cgroup.conf."
        )
        return Finding("GPUs", "warning", text, advice)
    if not gpus:
        text = "torch sees none: jobs train on the CPU"
    return Finding("GPUs", "ok", text)
