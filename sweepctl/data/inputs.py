"""Files that are read: which of those named on the command line, and what they hold once unpacked."""

from __future__ import annotations

import contextlib
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from sweepctl.errors import RequestError

LONGEST = 1 << 28
"""Bytes of one line or document; beyond, a file is not what it was taken for."""
_COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
_NO_FILE = {
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}
_OTHER_KINDS = {
    b"PK\x03\x04": "a zip archive, as PyTorch saves them",
    b"\x1f\x8b\x08\x00": "compressed by gzip",
    b"\x1f\x8b\x08\x08": "compressed by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"\xfd7zXZ\x00": "compressed by xz",
    b"BZh91AY": "compressed by bzip2",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"\x89HDF": "an HDF5 file",
    b"MMIDIDX": "an index of Megatron",
    b"LITPKDS": "a packed data set of LitGPT",
}
_ZSTD, _ZSTD_SKIPPED = b"\x28\xb5\x2f\xfd", b"\x2a\x4d\x18"


def list_files(
    paths: Iterable[Path],
    endings: tuple[str, ...],
    left_out: Counter[str],
    otherwise: tuple[str, ...] = (),
    compressed: bool = True,
) -> list[Path]:
    """Files as they are named, and of folders those of the endings (of `otherwise` where there are none),
    sorted; none is opened.

    Other, hidden and linked ones, and what is no file, are left out and counted.

    Raises:
        RequestError: there is no such file, it is a pipe or a device, or nothing is left.
    """
    packed = ("", *_COMPRESSED) if compressed else ("",)
    wanted, second = (tuple(end + more for end in ends for more in packed) for ends in (endings, otherwise))
    paths, files = list(paths), list[Path]()
    for path in paths:
        kind = _kind(path)
        if kind == "folder":
            inside = _inside(path, left_out)
            chosen = [file for file in inside if not wanted or file.name.lower().endswith(wanted)]
            if second and not chosen:
                chosen = [file for file in inside if file.name.lower().endswith(second)]
            left_out["files of other endings"] += len(inside) - len(chosen)
            files += [file for file in chosen if _is_file(file, left_out)]
        elif kind == "file":
            files.append(path)
        else:
            raise RequestError(f"{path} is {kind}, not a file that can be read again.")
    if not files:
        listed = ", ".join(f"*{end}" for end in (*endings, *otherwise)) or "*"
        raise RequestError(f"No {listed} file in {', '.join(map(str, paths))}.")
    return files


def _inside(folder: Path, left_out: Counter[str]) -> list[Path]:
    """What lies in a folder and those in it, but for what is hidden or another folder by a link."""

    def refuse(error: OSError) -> None:
        raise RequestError(f"{error.filename} cannot be read: {error.strerror}.")

    files: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        linked = {name for name in folders if os.path.islink(os.path.join(place, name))}
        hidden = {name for name in (*folders, *names) if name.startswith(".")}
        left_out["hidden files and folders"] += len(hidden)
        left_out["linked folders"] += len(linked - hidden)
        folders[:] = set(folders) - linked - hidden
        files += (Path(place, name) for name in set(names) - hidden)
    return sorted(files)


def _is_file(path: Path, left_out: Counter[str]) -> bool:
    is_file = _kind(path) == "file"
    left_out["pipes, sockets and devices"] += not is_file
    return is_file


def _kind(path: Path) -> str:
    """`file`, `folder`, or what it is in their place."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if path.is_symlink():
            raise RequestError(f"{path} is a link to {os.readlink(path)}, which is not there.") from None
        raise RequestError(f"There is no file or folder {path}.") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}.") from None
    if stat.S_ISDIR(mode):
        return "folder"
    return next((name for test, name in _NO_FILE.items() if test(mode)), "file")


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[IO[bytes]]:
    """A file's content; where it is compressed, which its first bytes say, what was compressed.

    Raises:
        RequestError: it cannot be read, or is damaged.
    """
    from lzma import LZMAError

    try:
        with open(path, "rb") as raw:
            start = raw.read(8)
            raw.seek(0)
            with _decompressed(raw, start) as stream:
                yield stream
    except (OSError, EOFError, zlib.error, LZMAError) as error:
        raise RequestError(f"{path} cannot be read: {sentence(error)}.") from None


def _decompressed(raw: IO[bytes], start: bytes) -> IO[bytes]:
    if start.startswith(b"\x1f\x8b"):
        import gzip

        return gzip.open(raw)  # type: ignore[return-value]
    if start.startswith(b"BZh") and start[4:8] in (b"1AY&", b"\x17rE8"):  # a block, or the end of none
        import bz2

        return bz2.open(raw)
    if start.startswith(b"\xfd7zXZ\0"):
        import lzma

        return lzma.open(raw)
    if start.startswith(_ZSTD) or (start[1:4] == _ZSTD_SKIPPED and start[7:] == b"\0"):
        import io

        import pyarrow

        packed: Any = pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, "r"), "zstd")
        return io.BufferedReader(packed, 1 << 20)
    return raw


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1 on.

    Raises:
        RequestError: the file cannot be read, or is not one of lines.
    """
    with unpacked(path) as stream:
        number = 0
        while line := stream.readline(LONGEST):
            number += 1
            if number == 1 and (kind := other_kind(line)):
                raise RequestError(f"{path} is {kind}, not one of lines.")
            if len(line) == LONGEST:
                raise RequestError(f"{path}, line {number} is longer than {LONGEST >> 20} MiB.")
            if line.strip():
                yield number, line


def other_kind(start: bytes) -> str | None:
    """What a file is that begins so, where that is neither text nor tokens."""
    return next((kind for magic, kind in _OTHER_KINDS.items() if start.startswith(magic)), None)


def sentence(error: BaseException) -> str:
    """An error of a library as part of a sentence."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split()).rstrip(".")
