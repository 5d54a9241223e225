"""Bytes, or any tokenizer file of the `tokenizers` library."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sweepctl.errors import RequestError
from sweepctl.store.files import file_hash

_UNKNOWN, _UNKNOWN_ID = "\0unknown\0", (1 << 32) - 1


class Tokenizer(Protocol):
    """Text to tokens, each document closed by one separator token."""

    @property
    def name(self) -> str:
        """By content: two tokenizers of one name give the same tokens."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def dtype(self) -> str: ...

    def encode(self, text: bytes) -> NDArray[Any]:
        """Raises NotEncoded where it has no tokens for the text."""


@dataclass(frozen=True, slots=True)
class ByteTokenizer:
    """One token a byte; byte 0, which text does not use, closes a document."""

    name: str = "bytes"
    """As of every tokenizer."""
    vocab_size: int = 256
    """Every byte is a token."""
    dtype: str = "uint8"
    """Of the shards."""

    def encode(self, text: bytes) -> NDArray[Any]:
        return np.frombuffer(text.replace(b"\0", b"") + b"\0", dtype=np.uint8)


class NotEncoded(ValueError):
    """A text has no tokens; says why."""


class TokenizerFile:
    """A `tokenizers` JSON file. The separator is its end-of-text token where it has one that is known by
    name, else an id of its own after the largest."""

    SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|end|>")

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer as Backend
        except ImportError:
            raise RequestError(
                "Reading a tokenizer file needs the tokenizers library: pip install 'sweepctl[tokenizers]'."
            ) from None
        if not path.is_file():
            raise RequestError(f"There is no tokenizer file {path}{', it is a folder' * path.is_dir()}.")
        try:
            with _said():
                settings = _plain_settings(json.loads(path.read_bytes()))
                backend = Backend.from_str(json.dumps(settings))
                self._vocabulary: dict[str, int] = backend.get_vocab(with_added_tokens=True)
                self._backend: Any = Backend.from_str(json.dumps(_with_unknown(settings)))
        except NotEncoded as error:
            raise RequestError(f"{path} is not a tokenizers file: {error}.") from None
        self.name = f"tokenizers-{file_hash(path)[:32]}"
        texts = {token: text for text, token in self._vocabulary.items()}
        shared = next(((t, i) for t, i in self._vocabulary.items() if texts[i] != t), None)
        if shared:
            raise RequestError(
                f"{path} has two tokens of id {shared[1]}: {shared[0]!r}, {texts[shared[1]]!r}."
            )
        separators = [self._vocabulary[text] for text in self.SEPARATORS if text in self._vocabulary]
        size = max(texts, default=-1) + 1
        self._separator = separators[0] if separators else size
        self.vocab_size = max(size, self._separator + 1)
        if self.vocab_size > _UNKNOWN_ID:
            raise RequestError(f"{path} has token {size - 1}: no separator after it fits into uint32.")
        self.dtype = "uint16" if self.vocab_size <= 1 << 16 else "uint32"
        self._of_backend = self._translation()

    def _translation(self) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Ids of the backend, sorted, and what they are in the file (-1 for the unknown token), which moves
        those of added tokens; None where nothing differs."""
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        if vocabulary == self._vocabulary:
            return None
        pairs = sorted((token, self._vocabulary.get(text, -1)) for text, token in vocabulary.items())
        before, after = np.asarray(pairs, dtype=np.int64).T
        return before, after

    def encode(self, text: bytes) -> NDArray[Any]:
        with _said():
            encoding = self._backend.encode(text.decode(), add_special_tokens=False)
        ids = np.asarray(encoding.ids, dtype=np.int64)
        if self._of_backend is not None:
            before, after = self._of_backend
            ids = after[np.searchsorted(before, ids)]
            if (ids < 0).any():
                first, last = encoding.offsets[int(np.argmax(ids < 0))]
                part = text.decode()[first:last]
                raise NotEncoded(f"it has no token for {part!r}, and no unknown token")
        return np.append(ids, self._separator)


def _plain_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer file without what was saved of one use of it: truncation, padding, tokens put around a
    text, random merges."""
    plain = {**settings, "truncation": None, "padding": None, "post_processor": None}
    if "merges" in plain["model"]:
        plain["model"] = {**plain["model"], "dropout": None}
    return plain


def _with_unknown(settings: dict[str, Any]) -> dict[str, Any]:
    """BPE without an unknown token drops what it has no token for. Here it has one, so that this shows."""
    model = settings["model"]
    if "merges" not in model or model.get("unk_token") is not None:
        return settings
    vocabulary = {**model["vocab"], _UNKNOWN: _UNKNOWN_ID}
    return {**settings, "model": {**model, "vocab": vocabulary, "unk_token": _UNKNOWN}}


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Turns what the library raises, its panics too, into NotEncoded."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:  # a panic is no Exception
        raise NotEncoded(" ".join(str(error).split()).rstrip(".") or type(error).__name__) from None
