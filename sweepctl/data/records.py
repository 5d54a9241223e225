"""Documents of records: a line of JSONL, a row of Parquet, with the text in one of its fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sweepctl.data.inputs import lines, sentence
from sweepctl.data.prepare import Document
from sweepctl.errors import RequestError

_ROWS = 1024
_TEXT_TYPES = (
    "string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null",
)  # fmt: skip
_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}


def jsonl(paths: Iterable[Path], field: str) -> Iterator[Document]:
    """One document a line, its text under `field`, which may be a path (`meta.text`); null is no text.

    Raises:
        RequestError: a line is not a JSON object with a text there; the message says which and why.
    """
    for path in sorted(paths):
        for number, line in lines(path):
            name = f"{path}, line {number}"
            try:
                yield Document(name, _text(json.loads(line), field))
            except RecursionError:
                raise RequestError(f"{name}: {_not_text(field)}: it is nested too deeply.") from None
            except json.JSONDecodeError as error:
                raise RequestError(f"{name}: {_not_text(field)}: {_not_json(error)}.") from None
            except ValueError as error:
                raise RequestError(f"{name}: {_not_text(field)}: {sentence(error)}.") from None


def _not_text(field: str) -> str:
    return f"not a JSON object with a text under {field!r}"


def _not_json(error: json.JSONDecodeError) -> str:
    start = error.doc.lstrip()[:1]
    if start in "[{" and error.pos >= len(error.doc.rstrip()):
        way = ".[]" if start == "[" else "."
        return (
            f"it ends within a value, where every object needs a line of its own (jq -c '{way}' makes it so)"
        )
    return f"{error.msg} at character {error.pos}"


def _text(value: Any, field: str) -> bytes:
    """Raises ValueError, whose text is the cause."""
    if not isinstance(value, dict):
        hint = (
            " (a file of one list is not JSONL: jq -c '.[]' makes it so)" if isinstance(value, list) else ""
        )
        raise ValueError(f"it is {_kind(value)}{hint}")
    value = value[field] if field in value else _under(value, field.split("."))
    if value is None:
        return b""
    if not isinstance(value, str):
        raise ValueError(f"it is {_kind(value)} there")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        half = f"\\u{ord(value[error.start]):04x}"
        raise ValueError(
            f"character {error.start} of the text, {half}, is half of a surrogate pair, which is no text"
        ) from None


def _under(value: Any, path: list[str]) -> Any:
    for name in path:
        if value is None:
            return None
        if not isinstance(value, dict) or name not in value:
            names = (
                f"it has {', '.join(map(repr, value))}"
                if isinstance(value, dict)
                else f"it is {_kind(value)}"
            )
            raise ValueError(f"no {name!r}; {names or 'nothing'}")
        value = value[name]
    return value


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


def parquet(paths: Iterable[Path], field: str) -> Iterator[Document]:
    """One document a row, its text in the column `field`, which may be a path (`meta.text`); null is no text.

    Raises:
        RequestError: a file is not Parquet, or has no text there; the message says which and why.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile

    for path in sorted(paths):
        number = 0
        try:
            file = ParquetFile(path)
            names = _column(path, file.schema_arrow, field)
            for batch in file.iter_batches(batch_size=_ROWS, columns=[field]):
                for value in _values(batch, names):
                    number += 1
                    yield Document(f"{path}, row {number}", _checked(value))
        except UnicodeDecodeError as error:
            byte = f"byte {error.start} is {error.object[error.start]:#x}"
            raise RequestError(f"{path}, row {number}: {field!r} is not UTF-8 text: {byte}.") from None
        except (ArrowException, OSError) as error:
            raise RequestError(f"{path} is not a Parquet file: {sentence(error)}.") from None


def _checked(value: bytes | None) -> bytes:
    text = value or b""
    text.decode()
    return text


def _column(path: Path, schema: Any, field: str) -> list[str]:
    """The names that lead to the text.

    Raises:
        RequestError: there is no such column, or not of text.
    """
    from pyarrow import types as arrow_types

    names = [field] if field in schema.names else field.split(".")
    fields = {name: schema.field(i).type for i, name in enumerate(schema.names)}
    kind: Any = None
    for depth, name in enumerate(names):
        if name not in fields:
            has = f"has {', '.join(fields)}" if fields or kind is None else f"holds {kind}"
            within = f" in {'.'.join(names[:depth])!r}" if depth else ""
            raise RequestError(f"{path} has no column {name!r}{within}; it {has}.")
        if not depth and schema.names.count(name) > 1:
            raise RequestError(f"{path} has {schema.names.count(name)} columns {name!r}.")
        kind = fields[name]
        is_struct = arrow_types.is_struct(kind)
        fields = {kind.field(i).name: kind.field(i).type for i in range(kind.num_fields)} if is_struct else {}
    inner = kind.value_type if arrow_types.is_dictionary(kind) else kind
    if str(inner) not in _TEXT_TYPES:
        raise RequestError(f"Column {field!r} of {path} holds {kind}, not text.")
    return names


def _values(batch: Any, names: list[str]) -> list[bytes | None]:
    from pyarrow import compute, large_binary
    from pyarrow import types as arrow_types

    column = batch.column(batch.schema.get_field_index(names[0]))
    for name in names[1:]:
        column = compute.struct_field(column, name)
    if arrow_types.is_dictionary(column.type):
        column = column.dictionary_decode()
    values: list[bytes | None] = column.cast(large_binary()).to_pylist()
    return values
