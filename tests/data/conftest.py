"""Asking for a corpus, and reading what was prepared."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweepctl.data.command import PrepareRequest, prepare_from
from sweepctl.data.shards import CorpusIndex, read_index
from sweepctl.store.workspace import Workspace

Prepare = Callable[..., CorpusIndex]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w")


@pytest.fixture
def prepared(workspace: Workspace) -> Prepare:
    """Prepares the corpus `made` of files, with a third of the documents held out."""

    def prepare(source: str, *train: Path, **changes: Any) -> CorpusIndex:
        options = {
            "name": "made", "source": source, "train": train, "validation": (), "field": "text",
            "tokenizer": "bytes", "validation_share": None if "validation" in changes else 0.3,
            "dtype": None, "vocab_size": None,
        }  # fmt: skip
        return prepare_from(workspace, PrepareRequest(**{**options, **changes}), None)

    return prepare


def shard_tokens(workspace: Workspace, split: str, name: str = "made") -> np.ndarray:
    folder = workspace.corpus(name)
    index = read_index(folder)
    return np.concatenate(
        [np.fromfile(folder / s.file, dtype=index.dtype, offset=s.offset) for s in index.splits[split].shards]
    )


def documents(workspace: Workspace, split: str, name: str = "made") -> set[bytes]:
    """Of a corpus of bytes."""
    return set(shard_tokens(workspace, split, name).tobytes().split(b"\0")) - {b""}


def write_jsonl(path: Path, rows: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
