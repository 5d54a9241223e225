"""Flat token files as others write them: with headers, of another type, of another kind."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweepctl.data.shards import TokenWindows, open_shard, read_index, verify
from sweepctl.errors import DamagedFile, RequestError
from sweepctl.store.workspace import Workspace
from tests.data.conftest import Prepare

TOKENS = np.random.default_rng(0).integers(1, 50_000, 3000)


def with_header(path: Path, magic: int, version: int, dtype: str, count: int = len(TOKENS)) -> Path:
    header = np.zeros(256, dtype="<i4")
    header[:3] = magic, version, count
    path.write_bytes(header.tobytes() + TOKENS.astype(dtype).tobytes())
    return path


def plain_file(path: Path, tokens: np.ndarray = TOKENS, dtype: str = "<u2") -> Path:
    tokens.astype(dtype).tofile(path)
    return path


def flat(prepared: Prepare, *train: Path, **changes: Any) -> Any:
    return prepared("flat", *train, **{"validation": train[:1], "vocab_size": 50_257, **changes})


@pytest.mark.parametrize(
    ("magic", "version", "dtype", "options"),
    [
        (20240520, 1, "uint16", {}),
        (20240520, 1, "uint16", {"dtype": "uint16"}),
        (20240801, 7, "uint32", {}),
        (20240801, 7, "uint32", {"dtype": "uint32", "vocab_size": 128_256}),
    ],
)
def test_tokens_behind_a_header_are_those_without(
    prepared: Prepare,
    workspace: Workspace,
    tmp_path: Path,
    magic: int,
    version: int,
    dtype: str,
    options: dict,
) -> None:
    index = flat(prepared, with_header(tmp_path / "h.bin", magic, version, dtype), **options)
    folder = workspace.corpus("made")
    assert (index.dtype, index.splits["train"].tokens) == (dtype, len(TOKENS))
    np.testing.assert_array_equal(open_shard(folder, index.splits["train"].shards[0], dtype), TOKENS)
    np.testing.assert_array_equal(
        TokenWindows(folder, index, "train", 10).read(np.array([1]))[0], TOKENS[10:21]
    )
    verify(folder, read_index(folder))
    bare = plain_file(tmp_path / "bare.bin", dtype=dtype)
    assert flat(prepared, bare, name="bare", **{**options, "dtype": dtype}).hash == index.hash
    with_header(tmp_path / "h.bin", magic, version, dtype).write_bytes(
        b"\1" * (tmp_path / "h.bin").stat().st_size
    )
    with pytest.raises(DamagedFile, match="content changed"):
        verify(folder, read_index(folder))


def test_a_numpy_array_is_read(prepared: Prepare, workspace: Workspace, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", TOKENS.astype("uint32"))
    index = flat(prepared, tmp_path / "t.npy")
    np.testing.assert_array_equal(
        open_shard(workspace.corpus("made"), index.splits["train"].shards[0], index.dtype), TOKENS
    )
    assert index.dtype == "uint32"


def test_an_index_of_an_earlier_version_has_no_headers(
    prepared: Prepare, workspace: Workspace, tmp_path: Path
) -> None:
    index = flat(prepared, plain_file(tmp_path / "t.bin"))
    path = workspace.corpus("made") / "index.json"
    text = path.read_text()
    assert '"offset": 0' in text
    lines = [line.replace('64",', '64"') for line in text.splitlines() if "offset" not in line]
    path.write_text("\n".join(line.rstrip(",") if "sha256" in line else line for line in lines))
    assert read_index(path.parent) == index


@pytest.mark.parametrize(
    ("magic", "version", "count", "options", "sentence"),
    [
        (20240899, 3, 3000, {}, "unknown header: int32 20240899, 3, 3000"),
        (20240520, 2, 3000, {}, "magic 20240520 of version 2"),
        (20240520, 1, 2999, {}, "says 2999 uint16 tokens, but holds 3000"),
        (20240520, 1, 3001, {}, "says 3001 uint16 tokens, but holds 3000"),
        (20240520, 1, 3000, {"dtype": "uint32"}, "header that says uint16, not uint32"),
        (20240520, 1, 3000, {"vocab_size": 70_000}, "--vocab-size=70000 .* at most 65536, which uint16"),
        (20240520, 1, 3000, {"vocab_size": 40_000}, "outside a vocabulary of 40000"),
    ],
)
def test_a_header_that_does_not_fit_is_refused(
    prepared: Prepare, workspace: Workspace, tmp_path: Path, magic: int, version: int, count: int,
    options: dict, sentence: str,
) -> None:  # fmt: skip
    path = with_header(tmp_path / "h.bin", magic, version, "uint16", count)
    with pytest.raises(RequestError, match=sentence):
        flat(prepared, path, **options)
    assert not workspace.corpus("made").exists()


@pytest.mark.parametrize(
    ("wider", "dtype"), [("uint16", "uint8"), ("uint32", "uint16"), ("int32", None), ("int64", "uint32")]
)
def test_a_wider_type_than_said_is_noticed(
    prepared: Prepare, tmp_path: Path, wider: str, dtype: str | None
) -> None:
    path = plain_file(tmp_path / "t.bin", TOKENS % 200 + 1, wider)
    with pytest.raises(RequestError, match="every second token is at most 0, as of integers of"):
        flat(prepared, path, dtype=dtype, vocab_size=256)


def test_a_wider_type_is_noticed_by_its_high_halves(prepared: Prepare, tmp_path: Path) -> None:
    path = plain_file(tmp_path / "t.bin", TOKENS * 2, "<u4")
    with pytest.raises(RequestError, match="every second token is at most 1, as of integers of 32 bits"):
        flat(prepared, path, vocab_size=65_536)
    flat(prepared, plain_file(tmp_path / "small.bin", TOKENS % 2), vocab_size=2)


def test_a_narrower_type_than_said_lies_outside_the_vocabulary(prepared: Prepare, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="outside a vocabulary of 50257, when it is read as uint32"):
        flat(prepared, plain_file(tmp_path / "t.bin"), dtype="uint32")
    with pytest.raises(RequestError, match="at most 65536, which uint16 can hold"):
        flat(prepared, plain_file(tmp_path / "t.bin"), vocab_size=128_256)


def test_a_path_that_an_index_cannot_name_is_refused(
    prepared: Prepare, workspace: Workspace, tmp_path: Path
) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    with pytest.raises(RequestError, match="a path that is not UTF-8"):
        flat(prepared, plain_file(folder / "t.bin"))
    assert not workspace.corpus("made").exists()


def test_files_of_two_types_are_no_corpus(prepared: Prepare, tmp_path: Path) -> None:
    narrow = with_header(tmp_path / "a.bin", 20240520, 1, "uint16")
    wide = with_header(tmp_path / "b.bin", 20240801, 7, "uint32")
    with pytest.raises(RequestError, match=r"b\.bin has a header that says uint32, not uint16"):
        flat(prepared, narrow, wide)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (gzip.compress(TOKENS.astype("<u2").tobytes()), "compressed by gzip"),
        (b"PK\3\4" + bytes(100), "zip archive"),
        (b"PAR1" + bytes(100), "Parquet"),
        (b"\x93NUMPY\1\0" + bytes(100), "not a NumPy array"),
        (b"", "0 bytes"),
    ],
)
def test_files_of_another_kind_are_refused(
    prepared: Prepare, tmp_path: Path, content: bytes, sentence: str
) -> None:
    (tmp_path / "t.bin").write_bytes(content)
    with pytest.raises(RequestError, match=sentence):
        flat(prepared, tmp_path / "t.bin")


@pytest.mark.parametrize("array", [TOKENS, TOKENS.astype("uint16").reshape(2, -1), TOKENS.astype(">u2")])
def test_numpy_arrays_of_something_else_are_refused(
    prepared: Prepare, tmp_path: Path, array: np.ndarray
) -> None:
    np.save(tmp_path / "t.npy", array)
    with pytest.raises(RequestError, match="tokens are a row of uint8, uint16, uint32"):
        flat(prepared, tmp_path / "t.npy")
