"""Text files as documents: one a file, or, of a longer one, its parts."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from sweepctl.data.inputs import LONGEST, unpacked
from sweepctl.data.prepare import Document
from sweepctl.errors import RequestError

WHOLE = 1 << 20
"""Bytes up to which a file is one document."""
PART = 1 << 14
"""Bytes, about, of the parts of a longer one; each ends at a line."""
_BLOCK = 1 << 20
_utf8_decoder = codecs.getincrementaldecoder("utf-8")


def texts(
    files: Iterable[Path], separator: bytes | None, left_out: Counter[str] | None
) -> Iterator[Document]:
    """The documents of text files; `separator` stands between those of a file.

    A file that is not UTF-8 text, as a picture, is left out and counted; where there is no count for it,
    because it was named itself, it is refused.

    Raises:
        RequestError: a file cannot be read, or is not text.
    """
    for file in files:
        with unpacked(file) as stream:
            start = _read(stream, WHOLE + 1)
            cause = _not_text(start, whole=len(start) <= WHOLE)
            if cause and left_out is not None:
                left_out["files that are not UTF-8 text"] += 1
                continue
            parts = _split(file, start, stream, separator) if separator else _parts(start, stream)
            for number, text in enumerate(parts, 1):
                name = str(file) if number == 1 else f"{file}, part {number}"
                if cause := _not_text(text):
                    raise RequestError(f"{name} is not UTF-8 text: {cause}.")
                yield Document(name, text)


def _not_text(text: bytes, whole: bool = True) -> str | None:
    """Why it is not text; a character may be cut off where it is not whole."""
    zero = text.find(b"\0")
    if zero >= 0:
        return f"byte {zero} is 0"
    try:
        _utf8_decoder().decode(text, whole)
    except UnicodeDecodeError as error:
        return f"byte {error.start} is {text[error.start]:#x}"
    return None


def _parts(text: bytes, stream: IO[bytes]) -> Iterator[bytes]:
    """The whole of a file that begins with `text`, or parts of about PART bytes."""
    if len(text) <= WHOLE:
        yield text
        return
    first, more = 0, True
    while first < len(text):
        if more and len(text) - first < 2 * PART:
            block = _read(stream, _BLOCK)
            text, first, more = text[first:] + block, 0, bool(block)
        end = _part_end(text, first) if len(text) - first > PART else len(text)
        yield text[first:end]
        first = end


def _part_end(text: bytes, first: int) -> int:
    """After the last line that ends within PART bytes, else after the first later, else at a character."""
    end = text.rfind(b"\n", first, first + PART) + 1 or text.find(b"\n", first, first + 2 * PART) + 1
    if not end:
        end = min(first + 2 * PART, len(text))
        while end < len(text) and end > first + PART and text[end] & 0xC0 == 0x80:
            end -= 1
    return end


def _split(file: Path, block: bytes, stream: IO[bytes], separator: bytes) -> Iterator[bytes]:
    """What stands between separators, without the line ends beside them; the file begins with `block`."""
    text = b""
    while block:
        *whole, text = (text + block).split(separator)
        yield from (document.strip(b"\r\n") for document in whole)
        if len(text) > LONGEST:
            raise RequestError(f"{file} has {LONGEST >> 20} MiB without the separator {separator!r}.")
        block = _read(stream, _BLOCK)
    yield text.strip(b"\r\n")


def _read(stream: IO[bytes], size: int) -> bytes:
    """So many bytes, fewer only at the end."""
    blocks = []
    while size and (block := stream.read(size)):
        blocks.append(block)
        size -= len(block)
    return b"".join(blocks)
