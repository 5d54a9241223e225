"""torch.compile as it is used here: sizes are constants, and nothing in a process depends on what ran before.

The compiler keeps what it has made by the code of a function, for all models that call it, up to a limit
beyond which it falls back to eager without an error. So a program that is another than the last one begins
with nothing in memory; what it needs is on disk, where an earlier process of this user left it.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sweepctl.store.protocol import WORKERS_VARIABLE

CACHE_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
MOST_HELPERS = 8
"""Processes at most that compile kernels for one worker."""
_last_program: list[object] = [None]


def begin(program: object, cuda_graphs: bool = False, deterministic: bool = False) -> None:
    """Forget what was compiled for another program. Two are the same where they are equal: whoever asks
    states all that his model's code and sizes depend on. CUDA graphs hold the addresses of one model. A
    deterministic compiler chooses kernels by no clock."""
    from torch._inductor import config

    if CACHE_VARIABLE not in os.environ:
        os.environ[CACHE_VARIABLE] = str(_cache_folder())
    if "TORCHINDUCTOR_COMPILE_THREADS" not in os.environ:
        config.compile_threads = _helpers()
    if hasattr(config, "deterministic"):  # torch 2.10 and later
        config.deterministic = deterministic
    if program != _last_program[0] or cuda_graphs:
        torch.compiler.reset()
        _last_program[0] = program


def compiled(module: nn.Module, cuda_graphs: bool = False) -> Any:
    """The module as a function that is compiled when it is first called, for every size anew."""
    return torch.compile(module, dynamic=False, mode="reduce-overhead" if cuda_graphs else None)


def can_compile() -> bool:
    """Whether kernels can be compiled for this machine's GPU: it takes Triton, and a C compiler."""
    from torch.utils._triton import has_triton

    compilers = (os.environ.get("CC"), "gcc", "clang", "cc")
    return any(shutil.which(name) for name in compilers if name) and bool(has_triton())


def compilations() -> int:
    """How often this process's compiler has set to work, whether or not something came of it. Where the
    number rises after the first steps, something that changes is a constant to the compiler."""
    from torch._dynamo.utils import counters

    return int(counters["frames"]["total"])


def _helpers() -> int:
    """Processes that compile for this worker: its part of the cores, beside other workers of its launcher and
    other processes of its job."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for variable in (WORKERS_VARIABLE, "LOCAL_WORLD_SIZE"):
        cores //= int(os.environ.get(variable) or 1)
    return max(1, min(MOST_HELPERS, cores))


def _cache_folder() -> Path:
    """Where compiled code is kept between processes: it is run, so in a folder that nobody but this user can
    write. Where that cannot be had, one that ends with the process."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
        folder = base / "sweepctl" / f"torch-{torch.__version__}"
        if base.is_absolute():
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            if _is_own(folder.parent) and _is_own(folder):
                return folder
    except (OSError, RuntimeError):  # the latter of a user without a home, as containers have them
        pass
    folder = Path(tempfile.mkdtemp(prefix="sweepctl-compiled-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _is_own(folder: Path) -> bool:
    """Whether it is this user's folder, which nobody else can write."""
    facts = folder.lstat()
    others = stat.S_IWGRP | stat.S_IWOTH
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & others
