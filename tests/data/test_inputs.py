"""Files as they lie about: JSONL, Parquet and text, compressed, in folders, damaged, or no files at all."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import socket
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from sweepctl.data import inputs
from sweepctl.errors import RequestError
from sweepctl.store.workspace import Workspace
from tests.data.conftest import Prepare, documents, write_jsonl

TEXTS = [f"document {i} of some words, é and 漢" for i in range(50)]
ALL = {text.encode() for text in TEXTS}
ROWS = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, "zstd", asbytes=True))


PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress, ".zst": zstd, ".bz2": bz2.compress, ".xz": lzma.compress,
}  # fmt: skip


def both(workspace: Workspace) -> set[bytes]:
    train, held_out = documents(workspace, "train"), documents(workspace, "validation")
    assert train and held_out and not train & held_out
    return train | held_out


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("place", ["d.json{}", "d.jsonl", "folder/part-0.json{}", "folder/deep/c4.ndjson{}"])
def test_jsonl_is_unpacked_by_what_it_holds(
    prepared: Prepare, workspace: Workspace, tmp_path: Path, ending: str, place: str
) -> None:
    path = tmp_path / place.format(ending)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = len(ROWS) // 2
    path.write_bytes(
        PACKED[ending](ROWS[:half]) + PACKED[ending](ROWS[half:])
    )  # two members, as pigz and pzstd
    prepared("jsonl", tmp_path / place.split("/")[0] if "/" in place else path)
    assert both(workspace) == ALL


@pytest.mark.parametrize("ending", PACKED)
def test_a_file_that_was_cut_off_is_refused(
    prepared: Prepare, workspace: Workspace, tmp_path: Path, ending: str
) -> None:
    (tmp_path / f"d.jsonl{ending}").write_bytes(PACKED[ending](ROWS)[:-20])
    with pytest.raises(RequestError, match=r"d\.jsonl.* cannot be read: "):
        prepared("jsonl", tmp_path / f"d.jsonl{ending}")
    assert list((workspace.root / "data").iterdir()) == []


def test_null_is_no_text_and_counted_as_for_parquet(
    prepared: Prepare, workspace: Workspace, tmp_path: Path
) -> None:
    rows = [
        *({"m": {"text": text}} for text in TEXTS),
        {"m": {"text": None}},
        {"m": None},
        {"m": {"text": ""}},
    ]
    index = prepared("jsonl", write_jsonl(tmp_path / "d.jsonl", [*rows, rows[0]]), field="m.text")
    assert both(workspace) == ALL
    assert index.source["left_out"] == {"empty documents": 3, "exact duplicates": 1}
    parquet.write_table(pa.Table.from_pylist([*rows, rows[0]]), tmp_path / "d.parquet")
    again = prepared("parquet", tmp_path / "d.parquet", field="m.text")
    assert again.hash == index.hash and again.source["left_out"] == index.source["left_out"]


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ('{"text": "half \\ud83d."}', r"character 5 of the text, \\ud83d, is half of a surrogate pair"),
        ('{"body": "x"}', "no 'text'; it has 'body'"),
        ("{}", "no 'text'"),
        ('{"text": 3}', "it is a number there"),
        ('{"text": ["x"]}', "it is a list there"),
        ('[{"text": "x"}]', "it is a list .*jq"),
        ("null", "it is null"),
        ('{"text": "x"', r"ends within a value.*jq -c '\.'"),
        ("[", r"ends within a value.*jq -c '\.\[\]'"),
        ('{"text": x}', "Expecting value at character 9"),
        ('{"text": "\x01"}', "control character"),
        ('{"text": ' + "[" * 100_000, "nested too deeply"),
        ('{"text": 1' + "0" * 5000 + "}", "digits"),
        ("\udcff", "decode"),
    ],
)
def test_a_line_without_text_is_named_with_its_cause(
    prepared: Prepare, workspace: Workspace, tmp_path: Path, line: str, cause: str
) -> None:
    (tmp_path / "d.jsonl").write_bytes(ROWS + b"\n" + line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(RequestError, match=rf"d\.jsonl, line {len(TEXTS) + 2}: .*{cause}") as caught:
        prepared("jsonl", tmp_path / "d.jsonl")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400
    assert list((workspace.root / "data").iterdir()) == []


def test_a_line_without_end_is_refused_in_bounded_memory(
    prepared: Prepare, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "LONGEST", 1000)
    (tmp_path / "d.json").write_text(json.dumps([{"text": text} for text in TEXTS]))
    with pytest.raises(RequestError, match="line 1 is longer than"):
        prepared("jsonl", tmp_path / "d.json")


def columns() -> dict[str, pa.Array]:
    text = pa.array([*TEXTS, None])
    return {
        "string": text,
        "large": text.cast(pa.large_string()),
        "view": text.cast(pa.string_view()),
        "binary": text.cast(pa.binary()),
        "binary_view": text.cast(pa.binary_view()),
        "dictionary": text.dictionary_encode(),
        "dictionary_large": text.cast(pa.large_string()).dictionary_encode(),
        "dictionary_binary": text.cast(pa.binary()).dictionary_encode(),
        "struct": pa.StructArray.from_arrays([text.dictionary_encode(), text], ["text", "other"]),
    }


@pytest.mark.parametrize("kind", columns())
def test_every_column_of_text_is_read(
    prepared: Prepare, workspace: Workspace, tmp_path: Path, kind: str
) -> None:
    parquet.write_table(pa.table({"id": range(51), "t": columns()[kind]}), tmp_path / "d.parquet")
    index = prepared("parquet", tmp_path / "d.parquet", field="t.text" if kind == "struct" else "t")
    assert both(workspace) == ALL
    assert index.source["left_out"] == {"empty documents": 1}


def test_a_column_with_a_dot_in_its_name_is_itself(
    prepared: Prepare, workspace: Workspace, tmp_path: Path
) -> None:
    nested = pa.StructArray.from_arrays([pa.array(["other"] * 50)], ["text"])
    parquet.write_table(pa.table({"m": nested, "m.text": TEXTS}), tmp_path / "d.parquet")
    prepared("parquet", tmp_path / "d.parquet", field="m.text")
    assert both(workspace) == ALL


@pytest.mark.parametrize(
    ("array", "field", "cause"),
    [
        (pa.array([1]), "t", "holds int64, not text"),
        (pa.array([["x"]]), "t", "holds list"),
        (pa.array([{"a": "x"}]), "t", "holds struct"),
        (pa.array([{"a": "x"}]), "t.b", "no column 'b' in 't'; it has a"),
        (pa.array(["x"]), "u", "no column 'u'; it has t"),
        (pa.array(["x"]), "t.u", "no column 'u' in 't'; it holds string"),
        (pa.array([[{"u": "x"}]]), "t.u", "no column 'u' in 't'; it holds list"),
        (pa.array([b"ok", b"\xff\xd8"]), "t", "row 2: 't' is not UTF-8 text: byte 0 is 0xff"),
    ],
)
def test_a_column_without_text_is_refused(
    prepared: Prepare, tmp_path: Path, array: pa.Array, field: str, cause: str
) -> None:
    parquet.write_table(pa.table({"t": array}), tmp_path / "d.parquet")
    with pytest.raises(RequestError, match=cause):
        prepared("parquet", tmp_path / "d.parquet", field=field)


def test_damaged_parquet_is_one_sentence(prepared: Prepare, workspace: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    parquet.write_table(pa.table({"text": TEXTS}), path, use_dictionary=False, compression="gzip")
    whole = path.read_bytes()
    for content in (b"", whole[:-30], whole[:10] + bytes(200) + whole[210:]):
        path.write_bytes(content)
        with pytest.raises(RequestError, match=r"d\.parquet is not a Parquet file") as caught:
            prepared("parquet", path)
        assert "\n" not in str(caught.value)
    assert list((workspace.root / "data").iterdir()) == []


def test_of_a_folder_text_is_taken_and_the_rest_counted(
    prepared: Prepare, workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "f"
    for i, text in enumerate(TEXTS):
        (folder / f"{i % 3}").mkdir(parents=True, exist_ok=True)
        name = folder / f"{i % 3}" / f"{i}.txt"
        name.write_bytes(text.encode()) if i % 2 else name.with_suffix(".gz").write_bytes(
            gzip.compress(text.encode())
        )
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("[core]")
    (folder / ".DS_Store").write_text("x")
    (folder / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(range(256)))
    (folder / "latin1.txt").write_bytes("né".encode("latin-1"))
    (folder / "utf16.txt").write_bytes("text".encode("utf-16"))
    (folder / "empty.txt").touch()
    (folder / "again.txt").write_text(TEXTS[0])
    (folder / "up").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    index = prepared("text", folder)
    assert both(workspace) == ALL
    assert index.source["left_out"] == {
        "hidden files and folders": 2, "linked folders": 1, "pipes, sockets and devices": 1,
        "files that are not UTF-8 text": 3, "empty documents": 1, "exact duplicates": 1,
    }  # fmt: skip
    assert index.source["documents"] == len(TEXTS)


def test_text_may_begin_as_a_compressed_file_does(
    prepared: Prepare, workspace: Workspace, tmp_path: Path
) -> None:
    texts = ["BZh91 is text", "P*M\x18 too", *TEXTS]
    for i, text in enumerate(texts):
        (tmp_path / f"{i}.txt").write_text(text)
    prepared("text", *sorted(tmp_path.glob("*.txt")))
    assert both(workspace) == {text.encode() for text in texts}


def test_byte_0_is_no_text_and_parts_no_equal_documents(
    prepared: Prepare, workspace: Workspace, tmp_path: Path
) -> None:
    rows = [*TEXTS, TEXTS[0].replace(" ", "\0 "), "\0"]
    index = prepared("jsonl", write_jsonl(tmp_path / "d.jsonl", ({"text": text} for text in rows)))
    assert both(workspace) == ALL
    zeros = TEXTS[0].count(" ") + 1
    assert index.source["left_out"] == {
        "bytes that are 0": zeros, "exact duplicates": 1, "empty documents": 1,
    }  # fmt: skip
    assert sum(split.bytes for split in index.splits.values()) == sum(map(len, ALL)) + len(ALL)


@pytest.mark.parametrize(("start", "kind"), [(b"PAR1", "a Parquet file"), (b"PK\3\4", "a zip archive")])
def test_records_of_another_kind_are_named(
    prepared: Prepare, tmp_path: Path, start: bytes, kind: str
) -> None:
    (tmp_path / "d.jsonl").write_bytes(start + os.urandom(100))
    with pytest.raises(RequestError, match=rf"d\.jsonl is {kind}.*, not one of lines"):
        prepared("jsonl", tmp_path / "d.jsonl")


def test_the_workspace_is_no_text(prepared: Prepare, workspace: Workspace, tmp_path: Path) -> None:
    for i, text in enumerate(TEXTS):
        (tmp_path / f"{i}.txt").write_text(text)
    first = prepared("text", tmp_path)
    again = prepared("text", tmp_path, name="again")
    assert again.hash == first.hash and again.source["left_out"] == {"files of the workspace": 3}
    inside = workspace.root / "raw"
    inside.mkdir()
    for i, text in enumerate(TEXTS):
        (inside / f"{i}.txt").write_text(text)
    assert prepared("text", inside, name="inside").source["documents"] == len(TEXTS)


def test_a_large_file_that_is_no_text_is_left_out_as_a_small_one_is(
    prepared: Prepare, workspace: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        (folder / f"{i}.txt").write_text(text)
    (folder / "shard.bin").write_bytes((b"words " * 50_000 + b"\0") * 5)
    (folder / "large.txt").write_text("é" * 700_000)
    index = prepared("text", folder)
    assert index.source["left_out"]["files that are not UTF-8 text"] == 1
    (folder / "late.bin").write_bytes(b"words\n" * 300_000 + b"\0")
    with pytest.raises(RequestError, match=r"late\.bin, part \d+ is not UTF-8 text: byte \d+ is 0"):
        prepared("text", folder, name="late")


@pytest.mark.parametrize("name", ["picture.png", "latin1.txt", "d.zip.gz"])
def test_a_file_that_was_named_must_be_text(prepared: Prepare, tmp_path: Path, name: str) -> None:
    content = b"\x89PNG\r\n\x1a\n\0" if name != "latin1.txt" else "né".encode("latin-1")
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    with pytest.raises(RequestError, match=f"{name} is not UTF-8 text: byte"):
        prepared("text", tmp_path / name)


def test_a_large_text_file_is_read_in_parts_and_bounded_memory(
    prepared: Prepare, workspace: Workspace, tmp_path: Path
) -> None:
    lines = [f"line {i} " + "漢字 " * 30 + "\n" for i in range(250_000)]
    path = tmp_path / "large.txt"
    path.write_text("".join(lines))
    size = path.stat().st_size
    del lines
    tracemalloc.start()
    prepared("text", path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 24_000_000 > 2 * peak
    parts = documents(workspace, "train") | documents(workspace, "validation")
    assert sum(map(len, parts)) == size
    assert all(part.startswith(b"line ") and part.endswith(b"\n") for part in parts)
    assert max(map(len, parts)) <= 1 << 15


def test_a_large_file_of_one_line_is_cut_between_characters(
    prepared: Prepare, workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "large.txt").write_text("".join(f"{i}漢字é" for i in range(600_000)))
    prepared("text", tmp_path / "large.txt")
    parts = documents(workspace, "train") | documents(workspace, "validation")
    assert sum(map(len, parts)) == (tmp_path / "large.txt").stat().st_size
    assert all(part.decode() for part in parts)


@pytest.mark.parametrize(
    ("between", "separator"),
    [("\n<|endoftext|>\n", "<|endoftext|>"), ("\n\n", r"\n\n"), ("\n\n\n", "\n\n")],
)
def test_a_separator_divides_a_file_into_documents(
    prepared: Prepare, workspace: Workspace, tmp_path: Path, between: str, separator: str
) -> None:
    (tmp_path / "stories.txt").write_text(between.join(TEXTS) + between)
    prepared("text", tmp_path / "stories.txt", separator=separator)
    assert both(workspace) == ALL


def test_what_one_file_is_split_by_is_said(prepared: Prepare, tmp_path: Path) -> None:
    (tmp_path / "single.txt").write_text("\n\n".join(TEXTS))
    with pytest.raises(RequestError, match=r"1 documents in all.*--validation.*--separator"):
        prepared("text", tmp_path / "single.txt")


@pytest.mark.parametrize("source", ["text", "jsonl", "parquet", "flat"])
def test_what_is_no_file_is_refused_at_once(prepared: Prepare, tmp_path: Path, source: str) -> None:
    vocab_size = 300 if source == "flat" else None
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "missing").symlink_to(tmp_path / "nowhere")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for name, kind in (("pipe", "a pipe"), ("socket", "a socket"), ("missing", "a link to")):
            with pytest.raises(RequestError, match=kind):
                prepared(source, tmp_path / name, vocab_size=vocab_size, validation=(tmp_path / name,))
        with pytest.raises(RequestError, match="/dev/zero is a device"):
            prepared(source, Path("/dev/zero"), vocab_size=vocab_size, validation=(tmp_path / "pipe",))


def test_what_describes_records_is_not_read_as_records(
    prepared: Prepare, workspace: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "d.jsonl").write_bytes(ROWS)
    (tmp_path / "f" / "dataset_info.json").write_text(json.dumps({"rows": 50}, indent=1))
    (tmp_path / "f" / "d.jsonl.lz4").write_bytes(b"x")
    index = prepared("jsonl", tmp_path / "f")
    assert both(workspace) == ALL
    assert index.source["left_out"] == {"files of other endings": 2}


def test_a_folder_of_other_files_is_refused(prepared: Prepare, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "readme.md").write_text("x")
    with pytest.raises(RequestError, match=r"No \*\.jsonl, \*\.ndjson, \*\.json file in .*f\."):
        prepared("jsonl", tmp_path / "f")
