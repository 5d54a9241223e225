"""Documents to shards: tokenize, hold out whole documents by their hash, write, index."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweepctl.data.shards import CorpusIndex, Shard, SplitFacts, content_hash, read_index
from sweepctl.data.tokenizers import Tokenizer
from sweepctl.errors import InvalidValue, RequestError
from sweepctl.spec.build import plain
from sweepctl.spec.hashing import key
from sweepctl.store.files import file_hash, storage, sync_file, write_json

SHARD_TOKENS = 100_000_000


@dataclass(frozen=True, slots=True)
class Document:
    """A piece of text."""

    name: str
    """Decides which split it falls in."""
    text: bytes
    """As it is read, not decoded."""


def prepare(
    folder: Path,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    hold_out: Callable[[str], bool],
    source: dict[str, Any],
    progress: Callable[[int], None] = lambda done: None,
) -> CorpusIndex:
    """Tokenize documents into `folder`, whole or not at all; the index.

    `hold_out` says by a document's name whether it is validation; documents of equal text are kept once,
    so that none is in both splits. `progress` takes the bytes read so far.

    Raises:
        RequestError: a split would be empty.
        StorageError: the file system refused.
    """
    with _scratch(folder) as scratch:
        writers = {name: _Writer(scratch, name, tokenizer.dtype) for name in ("train", "validation")}
        hashes: set[bytes] = set()
        done = 0
        for document in documents:
            done += len(document.text)
            text_hash = hashlib.sha256(document.text).digest()
            if not document.text or text_hash in hashes:
                continue
            hashes.add(text_hash)
            writer = writers["validation" if hold_out(document.name) else "train"]
            writer.add(tokenizer.encode(document.text), len(document.text) + 1)
            progress(done)
        splits = {name: writer.close() for name, writer in writers.items()}
        for name, split in splits.items():
            if not split.tokens:
                raise RequestError(
                    f"The {name} split of {folder.name} would be empty ({len(hashes)} documents in all); "
                    "give more documents or another validation share."
                )
        return _finish(folder, scratch, tokenizer.name, tokenizer.vocab_size, tokenizer.dtype, splits, source)


def accept_flat(
    folder: Path, train: list[Path], validation: list[Path], dtype: str, vocab_size: int
) -> CorpusIndex:
    """An index over flat token files that lie elsewhere; they are hashed, not copied.

    Raises:
        RequestError: a file is missing, has half a token, or a token outside the vocabulary.
    """
    splits = {}
    for name, files in (("train", train), ("validation", validation)):
        shards = []
        for file in files:
            tokens = _flat_tokens(file, dtype, vocab_size)
            shards.append(Shard(str(file.resolve()), tokens, file_hash(file)))
        total = sum(shard.tokens for shard in shards)
        splits[name] = SplitFacts(tuple(shards), total, 0)
    with _scratch(folder) as scratch:
        return _finish(folder, scratch, f"flat-{dtype}", vocab_size, dtype, splits, {"kind": "flat"})


def _flat_tokens(file: Path, dtype: str, vocab_size: int) -> int:
    width = np.dtype(dtype).itemsize
    try:
        size = file.stat().st_size
    except OSError as error:
        raise RequestError(f"{file} cannot be read: {error.strerror}.") from None
    if size == 0 or size % width:
        raise RequestError(f"{file} has {size} bytes, which is not a whole number of {dtype} tokens.")
    tokens = np.memmap(file, dtype=np.dtype(dtype).newbyteorder("<"), mode="r")
    for first in range(0, len(tokens), 1 << 24):
        top = int(tokens[first : first + (1 << 24)].max())
        if top >= vocab_size:
            raise RequestError(f"{file} holds token {top}, outside a vocabulary of {vocab_size}.")
    return len(tokens)


class _Writer:
    """One split's shards."""

    def __init__(self, folder: Path, split: str, dtype: str) -> None:
        self.folder, self.split, self.dtype = folder, split, dtype
        self.shards: list[Shard] = []
        self.bytes = 0
        self._held: list[NDArray[Any]] = []
        self._count = 0

    def add(self, tokens: NDArray[Any], text_bytes: int) -> None:
        self._held.append(tokens.astype(self.dtype))
        self._count += len(tokens)
        self.bytes += text_bytes
        if self._count >= SHARD_TOKENS:
            self._write()

    def close(self) -> SplitFacts:
        self._write()
        return SplitFacts(tuple(self.shards), sum(s.tokens for s in self.shards), self.bytes)

    def _write(self) -> None:
        if not self._count:
            return
        path = self.folder / f"{self.split}-{len(self.shards):05d}.bin"
        with storage(path):
            np.concatenate(self._held).astype(np.dtype(self.dtype).newbyteorder("<")).tofile(path)
            sync_file(path)
        self.shards.append(Shard(path.name, self._count, file_hash(path)))
        self._held, self._count = [], 0


class _scratch:
    """A folder beside the target that is renamed over it at the end, or removed."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")

    def __enter__(self) -> Path:
        with storage(self.path):
            self.path.mkdir(parents=True)
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def _finish(
    folder: Path,
    scratch: Path,
    tokenizer: str,
    vocab_size: int,
    dtype: str,
    splits: dict[str, SplitFacts],
    source: dict[str, Any],
) -> CorpusIndex:
    content = content_hash(tokenizer, vocab_size, dtype, splits)
    index = CorpusIndex(folder.name, tokenizer, vocab_size, dtype, splits, content, source)
    write_json(scratch / "index.json", plain(index))
    with storage(folder):
        if (folder / "index.json").exists():
            present = read_index(folder)
            if present.hash == content:
                return present
            raise RequestError(
                f"{folder} already holds other data ({present.hash[:12]}, not {content[:12]}), which runs "
                "may depend on; choose another name."
            )
        os.rename(scratch, folder)
    return index


def by_share(share: float) -> Callable[[str], bool]:
    """Holds out a document when the hash of its name falls below `share`.

    Raises:
        InvalidValue: the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise InvalidValue("validation_share", share, "above 0 and below 1")
    return lambda name: key("split", name) / 2**64 < share


def files_as_documents(paths: Iterable[Path], root: Path) -> Iterator[Document]:
    """Text files, named by their path under `root`, in the order of their names."""
    for path in sorted(paths):
        try:
            yield Document(path.relative_to(root).as_posix(), path.read_bytes())
        except OSError as error:
            raise RequestError(f"{path} cannot be read: {error.strerror}.") from None
