"""Corpora that need no network: sources of numpy as the demo's text, random tokens of large vocabularies."""

from __future__ import annotations

import contextlib
from pathlib import Path

BYTES = 256
"""The vocabulary of what is to be large in rows and small in everything else."""
DEMO_TEXT_BYTES = 3_000_000


def vocabularies(quick: bool = False) -> tuple[int, ...]:
    """Those that speed is measured with: GPT-2's, padded as nanoGPT pads it, and Llama 3's."""
    return (BYTES,) if quick else (50304, 128256)


def data(home: Path) -> Path:
    """Where a workspace keeps its corpora."""
    return home / "data"


def demo_text(home: Path) -> Path:
    """The demo's corpus, of one package instead of three: reading many small files takes long."""
    from sweepctl.data.corpora import prepare_pysrc

    folder = data(home) / "pysrc"
    if not (folder / "index.json").exists():
        prepare_pysrc(folder, ["numpy"], DEMO_TEXT_BYTES, 50_000, 0.03)
    return folder


def synthetic_text(home: Path) -> Path:
    """Drawn text under the same name."""
    from sweepctl.data.corpora import prepare_synthetic

    folder = data(home) / "pysrc"
    if not (folder / "index.json").exists():
        prepare_synthetic(folder, seed=0, train_tokens=300_000, validation_tokens=60_000)
    return folder


def random_tokens(home: Path, vocabulary: int, tokens: int = 20_000_000) -> Path:
    """Tokens drawn evenly from a vocabulary: speed does not depend on what they say."""
    import numpy as np

    from sweepctl.data.prepare import accept_flat

    folder = data(home) / f"tokens-{vocabulary}"
    if (folder / "index.json").exists():
        return folder
    kind = "uint16" if vocabulary <= 2**16 else "uint32"
    draw, files = np.random.default_rng(0), []
    for name, size in (("train", tokens), ("held_out", 200_000)):
        files.append(home / f"{name}-{vocabulary}.bin")
        draw.integers(0, vocabulary, size, dtype=kind).tofile(files[-1])
    with contextlib.suppress(FileExistsError):
        data(home).mkdir()
    accept_flat(folder, files[:1], files[1:], kind, vocabulary)
    return folder
