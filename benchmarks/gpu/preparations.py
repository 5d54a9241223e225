"""What all lines stand on: the machine, what is installed, corpora."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.gpu.setting import Case, Row, Setting, each

NEEDED = {
    "torch": "trains; no line can do without",
    "numpy": "reads tokens; no line can do without",
    "hydra": "composes every study (hydra-core 1.3.8); no line can do without",
    "omegaconf": "is a part of that (omegaconf 2.3.1)",
    "antlr4": "is a part of that (antlr4-python3-runtime 4.9.3)",
    "yaml": "is a part of that (PyYAML)",
    "safetensors": "writes checkpoints; the built-in trainer imports it",
    "typer": "is the command line, through which `faults` launches",
    "rich": "is what the command line shows",
}
"""Modules that the lines import, and what for. submitit, pandas, scipy and pyarrow are not needed."""


def rows(setting: Setting) -> Iterator[Row]:
    yield _modules()
    cases: list[Case] = [("corpora", partial(_corpora, setting)), ("machine", partial(_machine, setting))]
    yield from each(setting, cases)


def _modules() -> Row:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if not missing:
        return Row("installed", "holds", f"{', '.join(NEEDED)} are there")
    why = "; ".join(f"{name} {NEEDED[name]}" for name in missing)
    return Row("installed", "fails", f"missing: {why}", {"missing": missing})


def _machine(setting: Setting) -> Iterator[Row]:
    import torch

    facts = {"torch": torch.__version__, "python": platform.python_version(), "cores": _cores()}
    if setting.on_gpu:
        properties = torch.cuda.get_device_properties(0)
        facts |= {"card": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)}
        facts |= {"cuda": torch.version.cuda, "capability": list(torch.cuda.get_device_capability(0))}
        a = torch.randn(256, 256, device="cuda", dtype=torch.bfloat16)
        assert bool(torch.isfinite(a @ a).all())
    else:
        from sweepctl.train.device import cpu_name

        facts["card"] = f"none: {cpu_name()}"
    from sweepctl.train.compilation import can_compile

    facts["compiles"] = can_compile() if setting.on_gpu else shutil.which("g++") is not None
    yield Row("machine", "figure", f"{facts['card']}, torch {facts['torch']}, {sys.executable}", facts)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _corpora(setting: Setting) -> Iterator[Row]:
    from benchmarks.gpu import corpora

    began, home = time.monotonic(), Path(setting.folder)
    if setting.quick:
        corpora.synthetic_text(home)
    else:
        try:
            corpora.demo_text(home)
        except Exception:  # e.g. numpy without a list of its files
            corpora.synthetic_text(home)
    for vocabulary in {*corpora.vocabularies(setting.quick), corpora.BYTES}:
        corpora.random_tokens(home, vocabulary, 300_000 if setting.quick else 20_000_000)
    yield Row("corpora", "figure", f"made in {time.monotonic() - began:.1f} s")
