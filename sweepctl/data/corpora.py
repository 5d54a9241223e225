"""The corpora that are built in: installed Python packages, and a seeded generator."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sweepctl.data.prepare import Document, by_share, prepare
from sweepctl.data.shards import CorpusIndex, read_index
from sweepctl.data.synthetic import Language
from sweepctl.data.tokenizers import ByteTokenizer
from sweepctl.errors import RequestError
from sweepctl.spec.hashing import key
from sweepctl.spec.study import Data
from sweepctl.store.workspace import Workspace


def ensure(workspace: Workspace, data: Data) -> CorpusIndex:
    """The corpus of a study: as prepared, or, where it is built in and missing, made now.

    Raises:
        RequestError: it is not prepared and not built in, or its content is not the pinned one.
    """
    folder = workspace.corpus(data.name)
    if (folder / "index.json").exists() or data.source == "prepared":
        index = read_index(folder)
    elif data.source == "pysrc":
        names = ("packages", "max_bytes", "max_document_bytes", "validation_share")
        index = prepare_pysrc(folder, **_options(data, *names))
    else:
        options = _options(data, "seed", "train_tokens", "validation_tokens")
        index = prepare_synthetic(folder, **options)
    if data.hash is not None and data.hash != index.hash:
        raise RequestError(
            f"data.hash pins {data.hash}, but {folder} holds {index.hash}: the same packages in other "
            "versions give other text. Set data.name to a new name, or data.hash=null to use what is there."
        )
    return index


def prepare_pysrc(
    folder: Path, packages: list[str], max_bytes: int, max_document_bytes: int, validation_share: float
) -> CorpusIndex:
    """The Python sources that installed packages bring, one document a file, up to `max_bytes`.

    Files that are not ASCII or longer than `max_document_bytes` are tables and generated code more often
    than text, and one of them would be a good part of the held-out split: they are left out. Which files
    are kept when `max_bytes` cuts is decided by the hash of their names, so it is a fair sample; so is which
    are held out, as packages do not rename them.
    """
    documents = [
        document
        for document in python_sources(packages)
        if document.text.isascii() and len(document.text) <= max_document_bytes
    ]
    documents.sort(key=lambda document: key("keep", document.name))
    kept, total = [], 0
    for document in documents:
        if total + len(document.text) <= max_bytes:
            kept.append(document)
            total += len(document.text)
    versions = {name: importlib.metadata.version(name) for name in packages}
    source = {"kind": "pysrc", "packages": versions}
    hold_out = by_share(validation_share, lambda document: document.name)
    return prepare(folder, kept, ByteTokenizer(), hold_out, source)


def python_sources(packages: Iterable[str]) -> Iterator[Document]:
    """Every .py file the packages installed, by the package's own record of its files.

    Raises:
        RequestError: a package is not installed.
    """
    for package in packages:
        try:
            files = importlib.metadata.files(package) or []
        except importlib.metadata.PackageNotFoundError:
            raise RequestError(f"The corpus needs the package {package}, which is not installed.") from None
        for file in sorted(files, key=str):
            if file.suffix == ".py":
                try:
                    yield Document(f"{package}/{file.as_posix()}", Path(str(file.locate())).read_bytes())
                except OSError:
                    continue


def prepare_synthetic(folder: Path, seed: int, train_tokens: int, validation_tokens: int) -> CorpusIndex:
    """Text of a seeded language. The two splits are different samples of the same language."""
    language = Language(seed)
    document_bytes = 1 << 16

    def documents() -> Iterator[Document]:
        for split, tokens in (("train", train_tokens), ("validation", validation_tokens)):
            texts = language.documents(split, -(-tokens // document_bytes), document_bytes - 1)
            for number, text in enumerate(texts):
                yield Document(f"{split}/{number}", text, split == "validation")

    source = {"kind": "synthetic", "seed": seed}
    return prepare(folder, documents(), ByteTokenizer(), lambda document: document.held_out, source)


def _options(data: Data, *names: str) -> dict[str, Any]:
    unknown = set(data.options) - set(names)
    missing = set(names) - set(data.options)
    if unknown or missing:
        raise RequestError(
            f"data.options of {data.source} are {', '.join(names)}; got {', '.join(data.options) or 'none'}."
        )
    return {name: data.options[name] for name in names}
