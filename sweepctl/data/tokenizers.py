"""Bytes, or any tokenizer file of the `tokenizers` library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sweepctl.errors import RequestError
from sweepctl.store.files import file_hash


class Tokenizer(Protocol):
    """Text to tokens, each document closed by one separator token."""

    @property
    def name(self) -> str:
        """By content: two tokenizers of one name give the same tokens."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def dtype(self) -> str: ...

    def encode(self, text: bytes) -> NDArray[Any]: ...


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


class TokenizerFile:
    """A `tokenizers` JSON file. The separator is its end-of-text token where it has one that is known by
    name, else an id of its own after the vocabulary."""

    SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|end|>")

    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer as Backend
        except ImportError:
            raise RequestError(
                "Reading a tokenizer file needs the tokenizers library: pip install 'sweepctl[tokenizers]'."
            ) from None
        if not path.is_file():
            raise RequestError(f"There is no tokenizer file {path}.")
        try:
            self._backend: Any = Backend.from_file(str(path))
        except Exception as error:
            raise RequestError(f"{path} is not a tokenizers file: {error}.") from None
        self.name = f"tokenizers-{file_hash(path)[:32]}"
        ids = (self._backend.token_to_id(token) for token in self.SEPARATORS)
        separators = [token for token in ids if token is not None]
        size = self._backend.get_vocab_size(with_added_tokens=True)
        self._separator = separators[0] if separators else size
        self.vocab_size = size if separators else size + 1
        self.dtype = "uint16" if self.vocab_size <= 1 << 16 else "uint32"

    def encode(self, text: bytes) -> NDArray[Any]:
        ids = self._backend.encode(text.decode("utf-8", "replace"), add_special_tokens=False).ids
        return np.asarray([*ids, self._separator], dtype=np.int64)
