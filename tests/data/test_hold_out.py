"""Which documents are held out, and what a preparation leaves behind."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sweepctl.data import prepare as preparing
from sweepctl.data.prepare import Document, by_share
from sweepctl.data.scratch import Scratch
from sweepctl.data.shards import read_index
from sweepctl.errors import RequestError, StorageError
from sweepctl.store.files import file_hash
from sweepctl.store.workspace import Workspace
from tests.data.conftest import Prepare, documents, write_jsonl

TEXTS = [f"document {i} of some words" for i in range(80)]


def rows(texts: list[str]) -> list[dict[str, str]]:
    return [{"text": text} for text in texts]


def test_a_document_is_held_out_wherever_it_stands(
    prepared: Prepare, workspace: Workspace, tmp_path: Path
) -> None:
    prepared("jsonl", write_jsonl(tmp_path / "a.jsonl", rows(TEXTS)))
    held_out = documents(workspace, "validation")
    prepared("jsonl", write_jsonl(tmp_path / "renamed.jsonl", rows(TEXTS)), name="renamed")
    prepared("jsonl", write_jsonl(tmp_path / "shuffled.jsonl", rows(TEXTS[::-1])), name="shuffled")
    (tmp_path / "texts").mkdir()
    for i, text in enumerate(TEXTS):
        (tmp_path / "texts" / f"{i}").write_text(text)
    prepared("text", tmp_path / "texts", name="texts")
    assert 10 < len(held_out) < 40
    for name in ("renamed", "shuffled", "texts"):
        assert documents(workspace, "validation", name) == held_out
    prepared("jsonl", tmp_path / "a.jsonl", name="more", validation_share=0.6)
    assert documents(workspace, "validation", "more") > held_out


@given(text=st.binary(), names=st.tuples(st.text(), st.text()))
def test_a_name_has_no_part_in_it(text: bytes, names: tuple[str, str]) -> None:
    hold_out = by_share(0.5)
    first, second = (hold_out(Document(name, text)) for name in names)
    assert first == second


def test_shards_end_with_documents(
    prepared: Prepare, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "SHARD_TOKENS", 200)
    index = prepared("jsonl", write_jsonl(tmp_path / "a.jsonl", rows(TEXTS)))
    folder = workspace.corpus("made")
    for shard in index.splits["train"].shards:
        content = (folder / shard.file).read_bytes()
        assert content.endswith(b"\0") and len(content) == shard.tokens < 230
        assert file_hash(folder / shard.file) == shard.sha256
    assert len(index.splits["train"].shards) > 5
    train, held_out = documents(workspace, "train"), documents(workspace, "validation")
    assert train | held_out == {text.encode() for text in TEXTS} and not train & held_out


@pytest.mark.parametrize("source", ["jsonl", "text"])
def test_held_out_files_of_ones_own_are_kept_from_training(
    prepared: Prepare, workspace: Workspace, tmp_path: Path, source: str
) -> None:
    if source == "jsonl":
        train, held_out = (
            write_jsonl(tmp_path / f"{name}.jsonl", rows(texts))
            for name, texts in (("train", TEXTS), ("v", TEXTS[:20]))
        )
    else:
        train, held_out = tmp_path / "train.txt", tmp_path / "v"
        train.write_text("\n\n".join(TEXTS))
        held_out.mkdir()
        (held_out / "v.txt").write_text("\n\n".join(TEXTS[:20]))
    options = {"separator": r"\n\n"} if source == "text" else {}
    index = prepared(source, train, validation=(held_out,), **options)
    assert documents(workspace, "validation") == {text.encode() for text in TEXTS[:20]}
    assert documents(workspace, "train") == {text.encode() for text in TEXTS[20:]}
    assert index.source["left_out"] == {"exact duplicates": 20}
    assert "validation_share" not in index.source
    with pytest.raises(RequestError, match="with --validation there is none"):
        prepared(source, train, validation=(held_out,), validation_share=0.1)


def test_a_corpus_of_an_earlier_rule_is_read_and_not_replaced(
    prepared: Prepare, workspace: Workspace, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", rows(TEXTS))
    index = prepared("jsonl", path)
    place = workspace.corpus("made") / "index.json"
    raw = json.loads(place.read_text())
    raw["source"] = {"kind": "jsonl", "validation_share": 0.3}
    place.write_text(json.dumps(raw))
    assert read_index(place.parent).hash == index.hash
    with pytest.raises(RequestError, match="earlier version, which held documents out by file name"):
        prepared("jsonl", path, validation_share=0.5)
    assert json.loads(place.read_text()) == raw


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("pysrc", {}),
        ("jsonl", {"separator": "x"}),
        ("text", {"separator": ""}),
        ("parquet", {"vocab_size": 9}),
        ("flat", {"tokenizer": "t.json", "vocab_size": 9}),
    ],
)
def test_an_option_of_another_source_is_refused(
    prepared: Prepare, workspace: Workspace, tmp_path: Path, source: str, changes: dict
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", rows(TEXTS))
    with pytest.raises(RequestError, match=r"--(train|separator|vocab-size|tokenizer)"):
        prepared(source, path, **changes)
    assert not workspace.corpus("made").exists()


def test_what_stands_in_the_place_is_not_replaced(
    prepared: Prepare, workspace: Workspace, tmp_path: Path
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", rows(TEXTS))
    workspace.corpus("made").mkdir(parents=True)
    (workspace.corpus("file")).write_text("x")
    prepared("jsonl", path)
    (workspace.corpus("mine")).mkdir()
    (workspace.corpus("mine") / "notes.txt").write_text("x")
    os.mkfifo(workspace.corpus("pipe"))
    for name in ("mine", "file", "pipe"):
        with pytest.raises(RequestError, match=f"{name} is there and is no prepared corpus"):
            prepared("jsonl", path, name=name)


KILLED = """
import os, signal
from pathlib import Path
from sweepctl.data import prepare as preparing
from sweepctl.data.prepare import Document, by_share, prepare
from sweepctl.data.tokenizers import ByteTokenizer

def documents():
    yield from (Document(str(i), str(i).encode()) for i in range(100))
    os.kill(os.getpid(), signal.SIGKILL)

prepare(Path(os.environ["CORPUS"]), documents(), ByteTokenizer(), by_share(0.5), {})
"""


def test_what_a_killed_preparation_left_is_removed_by_the_next(
    prepared: Prepare, workspace: Workspace, tmp_path: Path
) -> None:
    folder = workspace.corpus("killed")
    killed = subprocess.run(
        [sys.executable, "-c", KILLED], env={**os.environ, "CORPUS": str(folder)}, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    [left] = folder.parent.iterdir()
    assert list(left.glob("*.bin"))
    young, old = (folder.parent / f".earlier.0123456{i}" for i in range(2))
    for path in (young, old):
        path.mkdir()
        (path / "train-00000.bin").write_bytes(b"x")
    mine = folder.parent / ".notes.20240101"
    mine.mkdir()
    (mine / "todo.txt").write_text("x")
    for path in (old / "train-00000.bin", old, mine / "todo.txt", mine):
        os.utime(path, (0, 0))
    with Scratch(workspace.corpus("lives")) as lives:
        prepared("jsonl", write_jsonl(tmp_path / "a.jsonl", rows(TEXTS)))
        assert sorted(folder.parent.iterdir()) == sorted([mine, young, lives.path, workspace.corpus("made")])
    assert not (workspace.corpus("made") / "lock").exists()


def test_a_lock_is_held_as_long_as_the_scratch_is_there(workspace: Workspace) -> None:
    with Scratch(workspace.corpus("made")) as scratch, open(scratch.path / "lock") as lock:
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        scratch.put_at(workspace.corpus("made"))
    assert list(workspace.corpus("made").parent.iterdir()) == [workspace.corpus("made")]
    assert list(workspace.corpus("made").iterdir()) == []


FULL = """
import resource, signal, sys
from sweepctl.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
main()
"""


def test_a_disk_that_refuses_is_one_sentence(workspace: Workspace, tmp_path: Path) -> None:
    texts = [f"{i} " * 100 for i in range(2000)]
    path = write_jsonl(tmp_path / "a.jsonl", rows(texts))
    command = ["data", "prepare", "made", "--source", "jsonl", "--train", str(path)]
    ended = subprocess.run(
        [sys.executable, "-c", FULL, *command],
        env={**os.environ, "SWEEPCTL_HOME": str(workspace.root)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == StorageError.exit_code
    assert "Cannot write" in ended.stderr and "Traceback" not in ended.stderr
    assert list((workspace.root / "data").iterdir()) == []


def test_what_is_left_out_is_printed(workspace: Workspace, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", rows([*TEXTS, *TEXTS[:7], ""]))
    command = ["data", "prepare", "made", "--source", "jsonl", "--train", str(path)]
    ended = subprocess.run(
        [sys.executable, "-m", "sweepctl", *command, "--validation-share", "0.3"],
        env={**os.environ, "SWEEPCTL_HOME": str(workspace.root)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ended.stdout.splitlines()[2] == "left out: 7 exact duplicates, 1 empty documents"
