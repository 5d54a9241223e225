"""Text to shards: every source, nothing in two splits, one hash for one content."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sweepctl.data.command import PrepareRequest, prepare_from
from sweepctl.data.corpora import ensure, prepare_pysrc, python_sources
from sweepctl.data.prepare import Document, by_share, prepare
from sweepctl.data.shards import TokenWindows, read_index, verify
from sweepctl.data.tokenizers import ByteTokenizer
from sweepctl.errors import DamagedFile, RequestError
from sweepctl.spec.study import Data
from sweepctl.store.workspace import Workspace

TEXTS = [f"document {i} " + "abc " * (i % 7 + 3) for i in range(60)]


def request(source: str, train: list[Path], **changes) -> PrepareRequest:
    options = {
        "name": "made", "source": source, "train": tuple(train), "validation": (), "field": "text",
        "tokenizer": "bytes", "validation_share": 0.3, "dtype": "uint16", "vocab_size": None,
    }  # fmt: skip
    return PrepareRequest(**{**options, **changes})


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "w")


def tokens(workspace: Workspace, split: str) -> np.ndarray:
    folder = workspace.corpus("made")
    index = read_index(folder)
    return np.concatenate(
        [np.fromfile(folder / s.file, dtype=index.dtype) for s in index.splits[split].shards]
    )


def test_text_jsonl_and_parquet_give_the_same_documents(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    pd.DataFrame({"body": TEXTS}).to_parquet(tmp_path / "d.parquet")
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, text in enumerate(TEXTS):
        (folder / f"{i}.txt").write_text(text)
    for source, path, field in (
        ("jsonl", "d.jsonl", "text"),
        ("parquet", "d.parquet", "body"),
        ("text", "texts", ""),
    ):
        workspace = Workspace(tmp_path / source)
        prepare_from(workspace, request(source, [tmp_path / path], field=field), None)
        both = b"".join(tokens(workspace, split).tobytes() for split in ("train", "validation"))
        assert sorted(both.split(b"\0")) == sorted([b"", *(t.encode() for t in TEXTS)])


def test_no_document_is_in_both_splits_even_twice_in_the_data(workspace: Workspace) -> None:
    folder = workspace.corpus("made")
    documents = [Document(f"{copy}/{i}", t.encode()) for copy in "ab" for i, t in enumerate(TEXTS)]
    prepare(folder, documents, ByteTokenizer(), by_share(0.4), {})
    train, held_out = (
        set(tokens(workspace, s).tobytes().split(b"\0")) - {b""} for s in ("train", "validation")
    )
    assert train and held_out and not train & held_out
    assert len(train) + len(held_out) == len(TEXTS)


def test_the_hash_is_of_the_content_alone(tmp_path: Path) -> None:
    documents = [Document(str(i), t.encode()) for i, t in enumerate(TEXTS)]
    a = prepare(tmp_path / "a", documents, ByteTokenizer(), by_share(0.3), {"x": 1})
    b = prepare(tmp_path / "elsewhere" / "b", documents, ByteTokenizer(), by_share(0.3), {"x": 2})
    c = prepare(tmp_path / "c", documents[:-1], ByteTokenizer(), by_share(0.3), {})
    assert a.hash == b.hash != c.hash
    assert prepare(tmp_path / "a", documents, ByteTokenizer(), by_share(0.3), {}).hash == a.hash
    with pytest.raises(RequestError, match="already holds other data"):
        prepare(tmp_path / "a", documents[:-1], ByteTokenizer(), by_share(0.3), {})


def test_a_tokenizers_file_works(workspace: Workspace, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    tokenizer.save(str(tmp_path / "t.json"))
    (tmp_path / "d.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    index = prepare_from(
        workspace, request("jsonl", [tmp_path / "d.jsonl"], tokenizer=str(tmp_path / "t.json")), None
    )
    size = tokenizer.get_vocab_size()
    assert (index.vocab_size, index.dtype) == (size + 1, "uint16")
    documents = "".join(f" {token} " for token in tokens(workspace, "train")).split(f" {size} ")
    texts = [
        tokenizer.decode([int(t) for t in d.split()]).replace("Ġ", " ").replace(" ", "")
        for d in documents[:-1]
    ]
    assert set(texts) <= {t.replace(" ", "") for t in TEXTS}
    train = index.splits["train"]
    assert train.tokens < train.bytes


def test_flat_files_are_accepted_where_they_lie(workspace: Workspace, tmp_path: Path) -> None:
    np.arange(500, dtype=np.uint16).tofile(tmp_path / "train.bin")
    np.arange(400, dtype=np.uint16).tofile(tmp_path / "val.bin")
    index = prepare_from(
        workspace,
        request("flat", [tmp_path / "train.bin"], validation=(tmp_path / "val.bin",), vocab_size=500),
        None,
    )
    source = TokenWindows(workspace.corpus("made"), index, "train", 10)
    assert source.size == 49
    assert source.read(np.array([0, 48]))[:, -1].tolist() == [10, 490]
    assert sorted(p.name for p in workspace.corpus("made").iterdir()) == ["index.json"]


def test_windows_do_not_span_shards(workspace: Workspace, tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 1000)):
        np.arange(first, first + 35, dtype=np.uint16).tofile(tmp_path / f"{name}.bin")
    files = [tmp_path / "a.bin", tmp_path / "b.bin"]
    index = prepare_from(
        workspace, request("flat", files, validation=(tmp_path / "a.bin",), vocab_size=2000), None
    )
    source = TokenWindows(workspace.corpus("made"), index, "train", 10)
    rows = source.read(np.arange(source.size))
    assert rows[:, 0].tolist() == [0, 10, 20, 1000, 1010, 1020]
    assert (np.diff(rows, axis=1) == 1).all()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"source": "csv"}, "--source='csv'"),
        ({"train": ()}, "--train is missing"),
        ({"train": (Path("/nowhere"),)}, "no file or folder /nowhere"),
        ({"validation_share": 1.5}, "validation_share=1.5"),
        ({"validation_share": 1e-9}, "validation split of made would be empty"),
        ({"tokenizer": "/nowhere.json"}, "no tokenizer file"),
        ({"field": "body"}, "line 1: not a JSON object with a text under 'body'"),
        ({"name": "a/b"}, "name='a/b'"),
        ({"source": "parquet"}, "not a Parquet file"),
        ({"source": "flat"}, "--vocab-size"),
        ({"source": "flat", "vocab_size": 9}, "--validation is missing"),
        ({"source": "flat", "dtype": "int8"}, "--dtype='int8'"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(
    workspace: Workspace, tmp_path: Path, change: dict, said: str
) -> None:
    (tmp_path / "d.jsonl").write_text(json.dumps({"text": "hello"}) + "\n")
    with pytest.raises(RequestError) as caught:
        asked = {"source": "jsonl", "train": [tmp_path / "d.jsonl"], **change}
        prepare_from(workspace, request(**asked), None)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not any(workspace.root.rglob("*.bin")) and not any(workspace.root.rglob("index.json"))


def test_flat_files_are_checked(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "odd.bin").write_bytes(b"123")
    np.array([1, 99], dtype=np.uint16).tofile(tmp_path / "big.bin")
    for name, said in (("odd.bin", "not a whole number"), ("big.bin", "holds token 99")):
        with pytest.raises(RequestError, match=said):
            prepare_from(
                workspace,
                request("flat", [tmp_path / name], validation=(tmp_path / name,), vocab_size=50),
                None,
            )


def test_a_damaged_index_is_said(tmp_path: Path) -> None:
    for text in ("{", '{"name": 1}'):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(DamagedFile, match="is damaged"):
            read_index(tmp_path)


def test_the_demos_text_is_the_python_source_of_installed_packages(tmp_path: Path) -> None:
    names = {document.name for document in python_sources(["numpy"])}
    assert "numpy/numpy/__init__.py" in names and all(name.endswith(".py") for name in names)
    index = prepare_pysrc(tmp_path / "numpy", ["numpy"], 500_000, 50_000, 0.1)
    assert 400_000 < sum(split.tokens for split in index.splits.values()) <= 510_000
    assert index.source["packages"]["numpy"] == np.__version__
    with pytest.raises(RequestError, match="needs the package nonesuch"):
        prepare_pysrc(tmp_path / "x", ["nonesuch"], 10, 10, 0.1)


def test_a_pinned_hash_is_kept_to(workspace: Workspace) -> None:
    options = {"seed": 0, "train_tokens": 70_000, "validation_tokens": 66_000}
    data = Data("made", "synthetic", options=options)
    index = ensure(workspace, data)
    assert ensure(workspace, Data("made", "synthetic", index.hash, options)).hash == index.hash
    with pytest.raises(RequestError, match=r"data\.hash pins beef"):
        ensure(workspace, Data("made", "synthetic", "beef", options))
    with pytest.raises(RequestError, match=r"data\.options of synthetic are"):
        ensure(workspace, Data("other", "synthetic", options={"seed": 0}))
    with pytest.raises(RequestError, match="No data is prepared"):
        ensure(workspace, Data("other", "prepared"))


def test_shards_replaced_in_place_are_noticed(workspace: Workspace) -> None:
    index = ensure(
        workspace,
        Data("made", "synthetic", options={"seed": 0, "train_tokens": 70_000, "validation_tokens": 66_000}),
    )
    folder = workspace.corpus("made")
    verify(folder, index)
    shard = folder / index.splits["train"].shards[0].file
    before = shard.stat()
    content = shard.read_bytes()
    os.utime(shard)
    verify(folder, index)
    shard.write_bytes(content[::-1])
    with pytest.raises(DamagedFile, match="its content changed"):
        verify(folder, index)
    shard.write_bytes(content)
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    verify(folder, index)


def test_an_index_that_was_edited_is_damage(workspace: Workspace) -> None:
    index = ensure(
        workspace,
        Data("made", "synthetic", options={"seed": 0, "train_tokens": 70_000, "validation_tokens": 66_000}),
    )
    path = workspace.corpus("made") / "index.json"
    path.write_text(path.read_text().replace(index.splits["train"].shards[0].sha256, "0" * 64))
    with pytest.raises(DamagedFile, match="not that of what it lists"):
        read_index(path.parent)
