"""Tokenizer files as people save them: every token of the text, once, and ids that the shards hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sweepctl.data.tokenizers import NotEncoded, TokenizerFile
from sweepctl.errors import RequestError
from sweepctl.store.workspace import Workspace
from tests.data.conftest import Prepare, shard_tokens, write_jsonl

TEXT = "the cat sat on the mat and the dog sat on the cat " * 20


def tokenizer_file(path: Path, model: dict[str, Any], **settings: Any) -> Path:
    whole = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": None, "post_processor": None, "decoder": None, "model": model,
    }  # fmt: skip
    path.write_text(json.dumps({**whole, **settings}))
    return path


def bpe(vocab: dict[str, int], merges: tuple[str, ...] = (), **changes: Any) -> dict[str, Any]:
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
        "vocab": vocab, "merges": merges,
    }  # fmt: skip
    return {**model, **changes}


def letters(text: str = TEXT) -> dict[str, int]:
    return {letter: i for i, letter in enumerate(sorted(set(text)))}


def added(content: str, token: int) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token, "content": content, "special": True, **flags}


TWICE = {
    "type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2,
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {},
}  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 2}},
        {
            "padding": {
                "strategy": {"Fixed": 4096}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
                "pad_type_id": 0, "pad_token": "a",
            }
        },
        {"post_processor": TWICE},
        {"dropout": 0.5},
    ],
    ids=lambda settings: next(iter(settings)),
)  # fmt: skip
def test_what_was_saved_of_one_use_does_not_touch_the_tokens(tmp_path: Path, settings: dict) -> None:
    vocab = {**letters(), "th": 40, "the": 41}
    model = bpe(vocab, ("t h", "th e"), dropout=settings.pop("dropout", None))
    saved = TokenizerFile(tokenizer_file(tmp_path / "saved.json", model, **settings))
    plain = TokenizerFile(tokenizer_file(tmp_path / "plain.json", bpe(vocab, ("t h", "th e"))))
    tokens = plain.encode(TEXT.encode())
    assert (tokens == 41).sum() == TEXT.count("the")
    np.testing.assert_array_equal(saved.encode(TEXT.encode()), tokens)


@pytest.mark.parametrize(
    ("top", "size", "dtype"),
    [(40, 42, "uint16"), (65_534, 65_536, "uint16"), (65_535, 65_537, "uint32"), (90_000, 90_002, "uint32")],
)
def test_a_vocabulary_reaches_to_its_largest_id(
    prepared: Prepare, workspace: Workspace, tmp_path: Path, top: int, size: int, dtype: str
) -> None:
    path = tokenizer_file(tmp_path / "gap.json", bpe({**letters("abc "), "d": top}))
    rows = write_jsonl(tmp_path / "d.jsonl", ({"text": f"{'abcd'[i % 4]} {'d' * i}"} for i in range(40)))
    index = prepared("jsonl", rows, tokenizer=str(path))
    assert (index.vocab_size, index.dtype) == (size, dtype)
    tokens = shard_tokens(workspace, "train")
    assert set(tokens.tolist()) == {0, 1, 2, 3, top, size - 1}


def test_a_separator_of_the_vocabulary_is_taken_and_added_tokens_keep_their_ids(tmp_path: Path) -> None:
    vocab = letters("abc")
    path = tokenizer_file(
        tmp_path / "t.json", bpe(vocab), added_tokens=[added("<|endoftext|>", 3), added("<x>", 4)]
    )
    tokenizer = TokenizerFile(path)
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode(b"ab<x>c").tolist() == [0, 1, 4, 2, 3]


def test_ids_that_are_none_of_their_own_are_refused(tmp_path: Path) -> None:
    path = tokenizer_file(tmp_path / "t.json", bpe({"a": 0, "b": 1, "c": 1}))
    with pytest.raises(RequestError, match="two tokens of id 1"):
        TokenizerFile(path)
    path = tokenizer_file(tmp_path / "last.json", bpe({"a": 0, "b": (1 << 32) - 1}))
    with pytest.raises(RequestError, match=r"last\.json has token 4294967295"):
        TokenizerFile(path)
    path = tokenizer_file(tmp_path / "late.json", bpe({"a": 0, "b": 5_000_000_000}))
    with pytest.raises(RequestError, match=r"late\.json is not a tokenizers file: .*5000000000"):
        TokenizerFile(path)


@pytest.mark.parametrize(
    "model",
    [
        bpe(letters("ab ")),
        bpe(letters("ab "), byte_fallback=True),
        bpe(letters("ab "), unk_token="<unk>"),
        {"type": "WordLevel", "vocab": {"ab": 0}, "unk_token": "[UNK]"},
        {
            "type": "WordPiece", "vocab": {"ab": 0}, "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
        {"type": "Unigram", "vocab": [["a", -1.0], ["b", -1.0], [" ", -1.0]], "unk_id": None},
    ],
    ids=["BPE", "BPE-bytes", "BPE-name", "WordLevel", "WordPiece", "Unigram"],
)  # fmt: skip
def test_text_without_a_token_is_one_sentence_with_its_place(
    prepared: Prepare, workspace: Workspace, tmp_path: Path, model: dict
) -> None:
    path = tokenizer_file(tmp_path / "t.json", model)
    rows = write_jsonl(tmp_path / "d.jsonl", [{"text": "ab"}, {"text": "ab漢a"}])
    with pytest.raises(
        RequestError,
        match=r"d\.jsonl, line 2: the tokenizer cannot encode it: .*(no token for '漢'|nknown|UNK|unk)",
    ) as caught:
        prepared("jsonl", rows, tokenizer=str(path))
    assert "\n" not in str(caught.value)
    assert list(workspace.corpus("made").parent.iterdir()) == []


def test_a_text_of_the_alphabet_needs_no_unknown_token(tmp_path: Path) -> None:
    tokenizer = TokenizerFile(tokenizer_file(tmp_path / "t.json", bpe(letters("ab"))))
    assert tokenizer.vocab_size == 3
    assert tokenizer.encode(b"abba").tolist() == [0, 1, 1, 0, 2]
    with pytest.raises(NotEncoded, match="no token for 'c'"):
        tokenizer.encode(b"abc")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"model": 3}', '{"model": {"merges": []}}', "\udcff", "[" * 100_000]
)
def test_what_is_no_tokenizer_file_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(RequestError, match=r"t\.json is not a tokenizers file"):
        TokenizerFile(tmp_path / "t.json")
    with pytest.raises(RequestError, match="it is a folder"):
        TokenizerFile(tmp_path)
