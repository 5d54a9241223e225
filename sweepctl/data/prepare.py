"""Documents to shards: tokenize, hold out whole documents by their hash, write, index."""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sweepctl.data.flat import flat_shards
from sweepctl.data.scratch import Scratch
from sweepctl.data.shards import CorpusIndex, Shard, SplitFacts, content_hash, read_index
from sweepctl.data.tokenizers import NotEncoded, Tokenizer
from sweepctl.errors import InvalidValue, RequestError
from sweepctl.spec.build import plain
from sweepctl.spec.hashing import key
from sweepctl.store.files import storage, write_json

SHARD_TOKENS = 100_000_000
BY_TEXT = "hash of the text"
"""How documents are held out; earlier versions went by the hash of file name and line."""
_DIVIDED = "; --separator divides text files into documents"
_EARLIER = " It was prepared by an earlier version, which held documents out by file name and line."


@dataclass(frozen=True)
class Document:
    """A piece of text."""

    name: str
    """Where it stands, for people."""
    text: bytes
    """UTF-8."""
    held_out: bool = False
    """It was read as held-out text."""

    @cached_property
    def text_hash(self) -> str:
        """Of its text alone, wherever that stands."""
        return hashlib.sha256(self.text).hexdigest()


HoldOut = Callable[[Document], bool]
"""Whether a document is validation."""


def prepare(
    folder: Path,
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    hold_out: HoldOut,
    source: dict[str, Any],
    left_out: Counter[str] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> CorpusIndex:
    """Tokenize documents into `folder`, whole or not at all; the index.

    Documents of equal text are kept once, so that none is in both splits. How many are not kept is added to
    `left_out`, which the index repeats. `progress` takes the bytes read so far.

    Raises:
        RequestError: a split would be empty, or a document cannot be encoded.
        StorageError: the file system refused.
    """
    _check_place(folder)
    left_out = Counter() if left_out is None else left_out
    with Scratch(folder) as scratch:
        writers = {name: _Writer(scratch.path, name, tokenizer.dtype) for name in ("train", "validation")}
        hashes: set[bytes] = set()
        done = 0
        for document in documents:
            done += len(document.text)
            progress(done)
            if zeros := document.text.count(0):
                left_out["bytes that are 0"] += zeros
                document = replace(document, text=document.text.replace(b"\0", b""))
            text_hash = bytes.fromhex(document.text_hash[:32])
            if not document.text:
                left_out["empty documents"] += 1
            elif text_hash in hashes:
                left_out["exact duplicates"] += 1
            else:
                hashes.add(text_hash)
                writer = writers["validation" if hold_out(document) else "train"]
                writer.add(_encoded(tokenizer, document), len(document.text) + 1)
        splits = {name: writer.close() for name, writer in writers.items()}
        for name, split in splits.items():
            if not split.tokens:
                raise RequestError(
                    f"The {name} split of {folder.name} would be empty ({len(hashes)} documents in all); "
                    "give more documents or another validation share, or held-out files of your own "
                    f"(--validation){_DIVIDED if source.get('kind') == 'text' else ''}."
                )
        counted = {reason: count for reason, count in left_out.items() if count}
        source = {**source, "documents": len(hashes), "left_out": counted}
        return _finish(folder, scratch, tokenizer.name, tokenizer.vocab_size, tokenizer.dtype, splits, source)


def _encoded(tokenizer: Tokenizer, document: Document) -> NDArray[Any]:
    try:
        return tokenizer.encode(document.text)
    except NotEncoded as error:
        raise RequestError(f"{document.name}: the tokenizer cannot encode it: {error}.") from None


def accept_flat(
    folder: Path, train: list[Path], validation: list[Path], dtype: str | None, vocab_size: int
) -> CorpusIndex:
    """An index over flat token files that lie elsewhere; they are hashed, not copied. Where `dtype` is None
    their headers say it, else it is uint16.

    Raises:
        RequestError: a file is missing, is not of tokens of that type, or has one outside the vocabulary.
    """
    _check_place(folder)
    dtype, splits = flat_shards({"train": train, "validation": validation}, dtype, vocab_size)
    with Scratch(folder) as scratch:
        return _finish(folder, scratch, f"flat-{dtype}", vocab_size, dtype, splits, {"kind": "flat"})


class _Writer:
    """One split's shards, written as tokens come."""

    def __init__(self, folder: Path, split: str, dtype: str) -> None:
        self.folder, self.split = folder, split
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.shards: list[Shard] = []
        self.bytes = 0
        self._file: IO[bytes] | None = None
        self._count = 0

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.split}-{len(self.shards):05d}.bin"

    def add(self, tokens: NDArray[Any], text_bytes: int) -> None:
        with storage(self._path):
            if self._file is None:
                self._file, self._hash = open(self._path, "wb"), hashlib.sha256()
            content = tokens.astype(self.dtype).tobytes()
            self._file.write(content)
        self._hash.update(content)
        self._count += len(tokens)
        self.bytes += text_bytes
        if self._count >= SHARD_TOKENS:
            self._end_shard()

    def close(self) -> SplitFacts:
        self._end_shard()
        return SplitFacts(tuple(self.shards), sum(s.tokens for s in self.shards), self.bytes)

    def _end_shard(self) -> None:
        if self._file is None:
            return
        with storage(self._path), self._file:
            self._file.flush()
            os.fsync(self._file.fileno())
        self.shards.append(Shard(self._path.name, self._count, self._hash.hexdigest()))
        self._file, self._count = None, 0


def _check_place(folder: Path) -> None:
    """What stands where a corpus shall be is one, or nothing.

    Raises:
        RequestError: it is something else, which is not ours to replace.
        DamagedFile: it is a damaged one.
    """
    if (folder / "index.json").exists():
        read_index(folder)
    elif folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise RequestError(
            f"{folder} is there and is no prepared corpus; choose another name, or move it away."
        )


def _finish(
    folder: Path,
    scratch: Scratch,
    tokenizer: str,
    vocab_size: int,
    dtype: str,
    splits: dict[str, SplitFacts],
    source: dict[str, Any],
) -> CorpusIndex:
    content = content_hash(tokenizer, vocab_size, dtype, splits)
    index = CorpusIndex(folder.name, tokenizer, vocab_size, dtype, splits, content, source)
    write_json(scratch.path / "index.json", plain(index))
    if not (folder / "index.json").exists():
        try:
            scratch.put_at(folder)
            return index
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another process was first
                with storage(folder):
                    raise
    present = read_index(folder)
    if present.hash == content:
        return present
    raise RequestError(
        f"{folder} already holds other data ({present.hash[:12]}, not {content[:12]}), which runs "
        f"may depend on; choose another name.{_EARLIER if _held_out_by_name(present, source) else ''}"
    )


def _held_out_by_name(present: CorpusIndex, source: dict[str, Any]) -> bool:
    """Whether an earlier version prepared it, which held documents out by file name and line."""
    return source.get("held_out_by") == BY_TEXT and "held_out_by" not in present.source


def by_share(share: float, part: Callable[[Document], str] = lambda document: document.text_hash) -> HoldOut:
    """Holds out a document when the hash of its text, or of another part, falls below `share`.

    Raises:
        InvalidValue: the share is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise InvalidValue("validation_share", share, "above 0 and below 1")
    return lambda document: key("split", part(document)) / 2**64 < share
