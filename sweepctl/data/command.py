"""`sweepctl data prepare`: the request, and which function serves it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sweepctl.data import corpora
from sweepctl.data.prepare import Document, accept_flat, by_share, files_as_documents, prepare
from sweepctl.data.shards import DTYPES, CorpusIndex
from sweepctl.data.tokenizers import ByteTokenizer, Tokenizer, TokenizerFile
from sweepctl.errors import InvalidValue, RequestError
from sweepctl.spec.study import check_name
from sweepctl.store.workspace import Workspace

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
    """Files of held-out tokens, for flat files."""
    field: str
    """Where the text of a line of JSONL or a row of Parquet stands."""
    tokenizer: str
    """`bytes`, or the path of a tokenizer file."""
    validation_share: float
    """The share of documents that is held out."""
    dtype: str
    """Of flat files."""
    vocab_size: int | None
    """Of flat files."""


def prepare_from(workspace: Workspace, request: PrepareRequest, out: Console | None) -> CorpusIndex:
    """Prepare a corpus; the index.

    Raises:
        RequestError: an option or a file is wrong; the message says which.
        StorageError: the file system refused.
    """
    check_name("name", request.name)
    if request.source not in SOURCES:
        raise InvalidValue("--source", request.source, "one of " + ", ".join(SOURCES))
    folder = workspace.corpus(request.name)
    if request.source == "pysrc":
        return corpora.prepare_pysrc(folder, ["torch", "sympy", "numpy"], 40_000_000, 50_000, 0.03)
    if request.source == "synthetic":
        return corpora.prepare_synthetic(folder, 0, 20_000_000, 1_000_000)
    if not request.train:
        raise RequestError(f"--train is missing: which {request.source} files?")
    if request.source == "flat":
        return _flat(folder, request)
    if request.validation or request.vocab_size is not None:
        option = "--validation" if request.validation else "--vocab-size"
        raise RequestError(
            f"{option} is for --source flat; of {request.source} a share of documents is held out."
        )
    hold_out = by_share(request.validation_share)
    tokenizer: Tokenizer = (
        ByteTokenizer() if request.tokenizer == "bytes" else TokenizerFile(Path(request.tokenizer))
    )
    facts = {"kind": request.source, "validation_share": request.validation_share}
    documents = _documents(request)
    if out is None or not out.is_terminal:
        return prepare(folder, documents, tokenizer, hold_out, facts)
    with out.status("reading") as line:

        def show(done: int) -> None:
            line.update(f"{done / 1e6:.0f} MB read")

        return prepare(folder, documents, tokenizer, hold_out, facts, show)


def _documents(request: PrepareRequest) -> Iterator[Document]:
    files = _files(request.train, {"text": "*", "jsonl": "*.jsonl*", "parquet": "*.parquet"}[request.source])
    if request.source == "jsonl":
        yield from corpora.jsonl(files, request.field)
    elif request.source == "parquet":
        yield from corpora.parquet(files, request.field)
    else:
        for path in request.train:
            root = path if path.is_dir() else path.parent
            yield from files_as_documents(_files([path], "*"), root)


def _flat(folder: Path, request: PrepareRequest) -> CorpusIndex:
    if request.dtype not in DTYPES:
        raise InvalidValue("--dtype", request.dtype, "one of " + ", ".join(DTYPES))
    if request.vocab_size is None or request.vocab_size < 2:
        raise InvalidValue("--vocab-size", request.vocab_size, "at least 2, for flat files")
    if not request.validation:
        raise RequestError("--validation is missing: flat files have no documents to hold out.")
    train, held_out = _files(request.train, "*.bin"), _files(request.validation, "*.bin")
    return accept_flat(folder, train, held_out, request.dtype, request.vocab_size)


def _files(paths: Iterable[Path], pattern: str) -> list[Path]:
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += sorted(file for file in path.rglob(pattern) if file.is_file())
        elif path.is_file():
            files.append(path)
        else:
            raise RequestError(f"There is no file or folder {path}.")
    if not files:
        raise RequestError(f"No {pattern} file in {', '.join(map(str, paths))}.")
    return files
