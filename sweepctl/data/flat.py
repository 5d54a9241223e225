"""Flat token files where they lie: their headers, their type, and whether the vocabulary has their tokens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import numpy as np

from sweepctl.data.inputs import other_kind
from sweepctl.data.shards import DTYPES, Shard, SplitFacts
from sweepctl.errors import InvalidValue, RequestError
from sweepctl.store.files import file_hash

HEADERS = {(20240520, 1): "uint16", (20240801, 7): "uint32"}
"""Magic and version of 256 int32, the third of which counts the tokens: llm.c's for GPT-2, also of
modded-nanogpt, and llm.c's for Llama 3."""
DEFAULT_DTYPE = "uint16"
_HEADER_BYTES = 1024
_SOME, _SMALL, _LARGE = 64, 16, 128
"""Of so many tokens not every second is small by chance, where others are large."""


def flat_shards(
    files: dict[str, list[Path]], dtype: str | None, vocab_size: int
) -> tuple[str, dict[str, SplitFacts]]:
    """The tokens' type, and each split's files as shards, in order.

    Raises:
        RequestError: a file is missing, is not of tokens of that type, or has one outside the vocabulary.
    """
    headers = {path: _read_header(path) for paths in files.values() for path in paths}
    for path, (of_header, _) in headers.items():
        if of_header and (dtype or of_header) != of_header:
            raise RequestError(f"{path} has a header that says {of_header}, not {dtype}.")
        dtype = dtype or of_header
    dtype = dtype or DEFAULT_DTYPE
    most = 1 << 8 * np.dtype(dtype).itemsize
    if vocab_size > most:
        raise InvalidValue("--vocab-size", vocab_size, f"at most {most}, which {dtype} can hold (--dtype)")
    splits = {}
    for split, paths in files.items():
        shards = []
        for path in paths:
            offset = headers[path][1]
            tokens = _count(path, dtype, offset, vocab_size)
            shards.append(Shard(str(path.resolve()), tokens, file_hash(path, offset), offset))
        splits[split] = SplitFacts(tuple(shards), sum(shard.tokens for shard in shards), 0)
    return dtype, splits


def _read_header(path: Path) -> tuple[str | None, int]:
    """The type that a header says, if there is one, and its bytes.

    Raises:
        RequestError: the file cannot be read, or begins as one of another kind.
    """
    try:
        str(path.resolve()).encode()  # it stands in the index
    except UnicodeEncodeError:
        raise RequestError(f"{path} has a path that is not UTF-8, which an index cannot name.") from None
    try:
        with open(path, "rb") as file:
            start = file.read(_HEADER_BYTES)
            if start.startswith(b"\x93NUMPY"):
                return _numpy_header(path, file)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}.") from None
    if kind := other_kind(start):
        raise RequestError(f"{path} is {kind}, not a flat file of tokens.")
    values = np.frombuffer(start[: len(start) // 4 * 4], dtype="<i4")
    if len(values) < 3:
        return None, 0
    first, version, count = (int(value) for value in values[:3])
    if first not in {magic for magic, _ in HEADERS}:
        if len(start) == _HEADER_BYTES and values[:3].any() and not values[8:].any():
            raise RequestError(
                f"{path} begins like an unknown header: int32 {first}, {version}, {count}, ... 0."
            )
        return None, 0
    dtype = HEADERS.get((first, version))
    if dtype is None:
        raise RequestError(
            f"{path} has a header with magic {first} of version {version}, which is not known."
        )
    present = (size - _HEADER_BYTES) / np.dtype(dtype).itemsize
    if count != present:
        raise RequestError(f"{path} has a header that says {count} {dtype} tokens, but holds {present:g}.")
    return dtype, _HEADER_BYTES


def _numpy_header(path: Path, file: IO[bytes]) -> tuple[str, int]:
    file.seek(0)
    try:
        version = np.lib.format.read_magic(file)
        read: Any = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, dtype = read(file)
    except ValueError as error:
        raise RequestError(f"{path} is not a NumPy array: {error}.") from None
    if len(shape) != 1 or dtype.name not in DTYPES or dtype.byteorder == ">":
        listed = ", ".join(DTYPES)
        raise RequestError(
            f"{path} is a NumPy array of {dtype} and shape {shape}; tokens are a row of {listed}."
        )
    return dtype.name, file.tell()


def _count(path: Path, dtype: str, offset: int, vocab_size: int) -> int:
    """How many tokens there are, all of them looked at."""
    width = np.dtype(dtype).itemsize
    size = path.stat().st_size - offset
    if size <= 0 or size % width:
        raise RequestError(f"{path} has {size} bytes, which is not a whole number of {dtype} tokens.")
    tokens = np.memmap(path, dtype=np.dtype(dtype).newbyteorder("<"), mode="r", offset=offset)
    tops = [0, 0]
    for first in range(0, len(tokens), 1 << 24):
        block = tokens[first : first + (1 << 24)]
        top = int(block.max())
        if top >= vocab_size:
            raise RequestError(
                f"{path} holds token {top}, outside a vocabulary of {vocab_size}, when it is read as {dtype}."
            )
        tops = [max(tops[i], int(block[i::2].max(initial=0))) for i in range(2)]
    is_wider = tops[1] == 0 < tops[0] or (tops[1] < _SMALL and tops[0] >= _LARGE)
    if is_wider and len(tokens) >= _SOME:
        raise RequestError(
            f"{path} is not of {dtype}: every second token is at most {tops[1]}, as of integers of "
            f"{8 * width * 2} bits."
        )
    return len(tokens)
