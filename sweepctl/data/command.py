"""`sweepctl data prepare`: the request, and which function serves it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from sweepctl.data import corpora
from sweepctl.data.inputs import list_files
from sweepctl.data.prepare import BY_TEXT, Document, accept_flat, by_share, prepare
from sweepctl.data.records import jsonl, parquet
from sweepctl.data.shards import DTYPES, CorpusIndex
from sweepctl.data.texts import texts
from sweepctl.data.tokenizers import ByteTokenizer, Tokenizer, TokenizerFile
from sweepctl.errors import InvalidValue, RequestError
from sweepctl.spec.study import check_name
from sweepctl.store.workspace import Workspace

VALIDATION_SHARE = 0.01
SOURCES = ("text", "jsonl", "parquet", "flat", "pysrc", "synthetic")


@dataclass(frozen=True, slots=True)
class PrepareRequest:
    """What was asked for on the command line."""

    name: str
    """Of the corpus."""
    source: str
    """One of SOURCES."""
    train: tuple[Path, ...]
    """Files or folders that are read."""
    validation: tuple[Path, ...]
    """Held-out files or folders, in place of a share of the documents."""
    field: str
    """Where the text of a line of JSONL or a row of Parquet stands."""
    tokenizer: str
    """`bytes`, or the path of a tokenizer file."""
    validation_share: float | None
    """The share of documents that is held out; where it is None and no held-out files are named,
    VALIDATION_SHARE."""
    dtype: str | None
    """Of flat files; None for what their headers say, else uint16."""
    vocab_size: int | None
    """Of flat files."""
    separator: str | None = None
    """What stands between the documents of a text file, with \\n and \\t as escapes; None where it is one."""


def prepare_from(workspace: Workspace, request: PrepareRequest, out: Console | None) -> CorpusIndex:
    """Prepare a corpus; the index.

    Raises:
        RequestError: an option or a file is wrong; the message says which.
        StorageError: the file system refused.
    """
    check_name("name", request.name)
    if request.source not in SOURCES:
        raise InvalidValue("--source", request.source, "one of " + ", ".join(SOURCES))
    _check_options(request)
    folder = workspace.corpus(request.name)
    if request.source == "pysrc":
        return corpora.prepare_pysrc(folder, ["torch", "sympy", "numpy"], 40_000_000, 50_000, 0.03)
    if request.source == "synthetic":
        return corpora.prepare_synthetic(folder, 0, 20_000_000, 1_000_000)
    if not request.train:
        raise RequestError(f"--train is missing: which {request.source} files?")
    if request.source == "flat":
        return _flat(folder, request)
    tokenizer: Tokenizer = (
        ByteTokenizer() if request.tokenizer == "bytes" else TokenizerFile(Path(request.tokenizer))
    )
    if out is None or not out.is_terminal:
        return _of_documents(workspace, request, tokenizer, lambda done: None)
    with out.status("reading") as line:
        return _of_documents(
            workspace, request, tokenizer, lambda done: line.update(f"{done / 1e6:.0f} MB read")
        )


def _check_options(request: PrepareRequest) -> None:
    """What says which text is read is not ignored where the source does not take it."""
    of_files, of_text = ("text", "jsonl", "parquet", "flat"), ("text", "jsonl", "parquet")
    for option, value, sources in (
        ("--train", request.train, of_files),
        ("--validation", request.validation, of_files),
        ("--tokenizer", request.tokenizer != "bytes", of_text),
        ("--separator", request.separator is not None, ("text",)),
        ("--vocab-size", request.vocab_size is not None, ("flat",)),
    ):
        if value and request.source not in sources:
            raise RequestError(f"{option} is for --source {', '.join(sources)}, not {request.source}.")
    if request.validation and request.validation_share is not None and request.source != "flat":
        raise RequestError("--validation-share is of documents of --train; with --validation there is none.")


def _of_documents(
    workspace: Workspace, request: PrepareRequest, tokenizer: Tokenizer, progress: Callable[[int], None]
) -> CorpusIndex:
    folder = workspace.corpus(request.name)
    left_out: Counter[str] = Counter()
    facts: dict[str, Any] = {"kind": request.source}
    documents = _documents(workspace, request, request.train, left_out)
    if request.validation:
        held_out = _documents(workspace, request, request.validation, left_out)
        # Held-out files are read first: of equal texts the held-out one stays.
        documents = itertools.chain((replace(document, held_out=True) for document in held_out), documents)
        facts["held_out_by"] = "files"
        return prepare(
            folder, documents, tokenizer, lambda document: document.held_out, facts, left_out, progress
        )
    share = VALIDATION_SHARE if request.validation_share is None else request.validation_share
    facts |= {"validation_share": share, "held_out_by": BY_TEXT}
    return prepare(folder, documents, tokenizer, by_share(share), facts, left_out, progress)


def _documents(
    workspace: Workspace, request: PrepareRequest, paths: tuple[Path, ...], left_out: Counter[str]
) -> Iterator[Document]:
    if request.source == "text":
        separator = _separator(request)
        listed = [(path, _texts_under(path, workspace.root.resolve(), left_out)) for path in paths]
        return itertools.chain.from_iterable(
            texts(files, separator, left_out if path.is_dir() else None) for path, files in listed
        )
    if request.source == "jsonl":
        return jsonl(list_files(paths, (".jsonl", ".ndjson"), left_out, (".json",)), request.field)
    return parquet(list_files(paths, (".parquet", ".pq"), left_out, compressed=False), request.field)


def _texts_under(path: Path, workspace: Path, left_out: Counter[str]) -> list[Path]:
    """The files of a folder but for those of a workspace in it, which are no text of anybody's."""
    files = list_files([path], (), left_out)
    if path.resolve().is_relative_to(workspace):
        return files
    outside = [file for file in files if not file.resolve().is_relative_to(workspace)]
    left_out["files of the workspace"] += len(files) - len(outside)
    return outside


def _separator(request: PrepareRequest) -> bytes | None:
    if request.separator is None:
        return None
    separator = request.separator.replace("\\n", "\n").replace("\\t", "\t")
    if not separator:
        raise InvalidValue("--separator", request.separator, "at least one character")
    return separator.encode()


def _flat(folder: Path, request: PrepareRequest) -> CorpusIndex:
    if request.dtype is not None and request.dtype not in DTYPES:
        raise InvalidValue("--dtype", request.dtype, "one of " + ", ".join(DTYPES))
    if request.vocab_size is None or request.vocab_size < 2:
        raise InvalidValue("--vocab-size", request.vocab_size, "at least 2, for flat files")
    if not request.validation:
        raise RequestError("--validation is missing: flat files have no documents to hold out.")
    left_out: Counter[str] = Counter()
    train, held_out = (
        list_files(paths, (".bin", ".npy"), left_out, compressed=False)
        for paths in (request.train, request.validation)
    )
    return accept_flat(folder, train, held_out, request.dtype, request.vocab_size)
