"""Prepared data: flat token files with an index of sizes and hashes.

    <corpus>/index.json          tokenizer, splits, shards, sha256 of each, and the hash of it all
    <corpus>/train-00000.bin     little-endian uint8, uint16 or uint32 tokens

The corpus is known by its content hash; names and paths are not part of it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweepctl.errors import DamagedFile, RequestError, StorageError
from sweepctl.spec.build import build
from sweepctl.spec.corpus import CorpusFacts
from sweepctl.spec.hashing import canonical, digest
from sweepctl.store.files import file_hash, read_json, reading, write_json

DTYPES = ("uint8", "uint16", "uint32")
VERIFIED = "verified.json"
_verified_here: dict[Path, dict[str, list[Any]]] = {}
"""What this process has verified: a folder that it may not write in is not read whole for every job."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A flat file."""

    file: str
    """Relative to the index, or absolute for a file accepted where it lies."""
    tokens: int
    """How many it holds."""
    sha256: str
    """Of its tokens."""
    offset: int = 0
    """Bytes of a header before them."""


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """`train`, or a held-out set."""

    shards: tuple[Shard, ...]
    """In the order in which they are read."""
    tokens: int
    """Of all shards."""
    bytes: int
    """Of the text that the tokens stand for; 0 where that is not known."""


@dataclass(frozen=True, slots=True)
class CorpusIndex:
    """index.json."""

    name: str
    """Of the corpus."""
    tokenizer: str
    """Its name, which stands for its content."""
    vocab_size: int
    """Tokens are below it."""
    dtype: str
    """One of DTYPES."""
    splits: dict[str, SplitFacts]
    """`train`, and the held-out sets."""
    hash: str
    """Of the tokenizer and every shard's content, in order."""
    source: dict[str, Any]
    """Where the text is from, for people."""

    @property
    def held_out(self) -> list[str]:
        """Names of the evaluation sets."""
        return [name for name in self.splits if name != "train"]

    @property
    def facts(self) -> CorpusFacts:
        """What a plan needs to know of it."""
        return CorpusFacts(self.hash, self.vocab_size, self.splits["train"].tokens, tuple(self.held_out))


def content_hash(tokenizer: str, vocab_size: int, dtype: str, splits: dict[str, SplitFacts]) -> str:
    """The corpus by content: 32 hex digits."""
    shards = {name: [[s.tokens, s.sha256] for s in split.shards] for name, split in splits.items()}
    return digest(canonical([tokenizer, vocab_size, dtype, shards]), 32)


def read_index(folder: Path) -> CorpusIndex:
    """The index of a prepared corpus.

    Raises:
        RequestError: nothing is prepared there.
        DamagedFile: the index is not one.
    """
    try:
        raw = read_json(folder / "index.json")
    except FileNotFoundError:
        raise RequestError(
            f"No data is prepared in {folder}; run `sweepctl data prepare {folder.name} ...`."
        ) from None
    try:
        index = build(CorpusIndex, raw)
    except RequestError as error:
        raise DamagedFile(f"{folder / 'index.json'} is damaged: {error}") from None
    shards = [shard for split in index.splits.values() for shard in split.shards]
    if index.dtype not in DTYPES or "train" not in index.splits or any(shard.tokens < 0 for shard in shards):
        raise DamagedFile(f"{folder / 'index.json'} is damaged: it is no index of token shards.")
    if content_hash(index.tokenizer, index.vocab_size, index.dtype, index.splits) != index.hash:
        raise DamagedFile(f"{folder / 'index.json'} is damaged: its hash is not that of what it lists.")
    return index


def check_context(folder: Path, index: CorpusIndex, context: int) -> None:
    """Raises RequestError where a split holds not even one sequence of `context` tokens."""
    for split, facts in index.splits.items():
        if max((shard.tokens for shard in facts.shards), default=0) <= context:
            raise RequestError(
                f"Split {split!r} of {folder} has no shard longer than one sequence of {context} tokens; "
                "prepare more text, or take a shorter batch.context."
            )


def verify(folder: Path, index: CorpusIndex) -> None:
    """Check every shard's content against the index. A shard whose size and times are as when its hash was
    last taken is not read again. One of them is the file system's own, which nobody can set back.

    Raises:
        DamagedFile: a shard is missing or holds something else than when it was prepared.
        StorageError: one cannot be read now.
    """
    verified = _verified_here.get(folder)
    if verified is None:
        try:
            verified = read_json(folder / VERIFIED)
        except (FileNotFoundError, DamagedFile):
            verified = {}
    present: dict[str, list[Any]] = {}
    for split in index.splits.values():
        for shard in split.shards:
            path = folder / shard.file
            try:
                with reading(path):
                    facts = path.stat()
                    times = facts.st_mtime_ns, facts.st_ctime_ns
                    present[shard.file] = [facts.st_size, *times, shard.sha256]
                    unchanged = verified.get(shard.file) == present[shard.file]
                    if not unchanged and file_hash(path, shard.offset) != shard.sha256:
                        raise DamagedFile(f"{path} is not what was prepared: its content changed.")
            except (FileNotFoundError, IsADirectoryError):
                raise DamagedFile(f"{path} is missing.") from None
    _verified_here[folder] = present
    if present != verified:
        with contextlib.suppress(StorageError):
            write_json(folder / VERIFIED, present)


class TokenWindows:
    """Windows of `context` + 1 tokens of one split, memory-mapped. Window i starts at a multiple of `context`
    inside its shard; no window spans two shards."""

    def __init__(self, folder: Path, index: CorpusIndex, split: str, context: int) -> None:
        if split not in index.splits:
            raise RequestError(f"{folder} has no split {split!r}; it has {', '.join(index.splits)}.")
        self.context = context
        self._maps = [open_shard(folder, shard, index.dtype) for shard in index.splits[split].shards]
        counts = [(len(tokens) - 1) // context for tokens in self._maps]
        self._starts = np.concatenate(([0], np.cumsum(counts)))
        self.size = int(self._starts[-1])
        if self.size < 1:
            raise RequestError(
                f"Split {split!r} of {folder} is shorter than one sequence of {context} tokens."
            )

    def read(self, windows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens [len(windows), context + 1]."""
        span = np.arange(self.context + 1)
        if len(self._maps) == 1:
            rows: NDArray[np.int64] = self._maps[0][(windows * self.context)[:, None] + span].astype(np.int64)
            return rows
        out = np.empty((len(windows), self.context + 1), dtype=np.int64)
        owners = np.searchsorted(self._starts, windows, side="right") - 1
        for owner in np.unique(owners):
            mine = owners == owner
            first = (windows[mine] - self._starts[owner]) * self.context
            out[mine] = self._maps[owner][first[:, None] + span]
        return out


def open_shard(folder: Path, shard: Shard, dtype: str) -> NDArray[Any]:
    """A shard's tokens, memory-mapped.

    Raises:
        DamagedFile: it is missing, or has another size than its index says.
    """
    path = folder / shard.file
    try:
        with reading(path):
            tokens = np.memmap(path, dtype=np.dtype(dtype).newbyteorder("<"), mode="r", offset=shard.offset)
    except (FileNotFoundError, IsADirectoryError):
        raise DamagedFile(f"{path} is missing; prepare the data again.") from None
    except ValueError as error:
        raise DamagedFile(f"{path} cannot be read: {error}.") from None
    if len(tokens) != shard.tokens:
        raise DamagedFile(
            f"{path} has {len(tokens)} tokens where its index says {shard.tokens}; prepare the data again."
        )
    return tokens
