"""Documents on disk: parquet files with one row a document, in the layout of docs/formats.md."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from openbook.errors import OpenbookError
from openbook.files import written_aside

Split = Literal["train", "valid"]

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("component", pa.string()),
        ("licence", pa.string()),
        ("origin", pa.string()),
        ("meta", pa.string()),
    ]
)
DROPPED_SCHEMA = pa.schema(
    [
        ("origin", pa.string()),
        ("component", pa.string()),
        ("bytes", pa.int64()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("id", pa.string()),
        ("step", pa.string()),
        ("licence", pa.string()),
        ("meta", pa.string()),
        ("text", pa.large_string()),
    ]
)
TRACE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("origin", pa.string()),
        ("step", pa.string()),
        ("number", pa.int64()),
        ("what", pa.string()),
        ("detail", pa.string()),
        ("replacements", pa.int64()),
        ("text", pa.large_string()),
    ]
)
ROW_GROUP_BYTES = 16_000_000


@dataclass(frozen=True)
class Document:
    """One text. `licence` is an SPDX expression where known; `origin` says where the text was found; `meta` is JSON of what else its source
    says of it."""

    id: str
    text: str
    component: str
    licence: str | None
    origin: str
    meta: str | None = None

    @property
    def bytes(self) -> int:
        return len(self.text.encode())


@dataclass(frozen=True)
class Dropped:
    """One text that was left out, and why: `reason` from a short closed list, `detail` for people. `id` is null where there was no text;
    `step` is the step of the recipe that removed it; `text` is null where another document has the same or none could be read."""

    origin: str
    component: str
    bytes: int
    reason: str
    detail: str
    id: str | None = None
    step: str = "read"
    licence: str | None = None
    meta: str | None = None
    text: str | None = None


@dataclass(frozen=True)
class Trace:
    """What happened to a document that was not left out by it: a step or a decision (`step` = "decision") changed its text, or a decision
    kept it against what `detail` names. `number` (from 1) is the place in the recipe. The first change by a decision has the text as it
    was read."""

    id: str
    origin: str
    step: str
    number: int
    what: Literal["changed", "kept"] = "changed"
    detail: str | None = None
    replacements: int | None = None
    text: str | None = None

    @property
    def bytes(self) -> int:
        return len((self.text or "").encode())


def document_id(text: str) -> str:
    """The first 128 bits of the SHA-256 of the text, in hex: equal texts have equal ids, everywhere and always."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def is_held_out(identifier: str, share: float) -> bool:
    """Whether a document belongs to the held-out split: a function of its text alone, so that a duplicate can never leak."""
    return int(identifier[:8], 16) / 2**32 < share


class DocumentWriter:
    """Writes documents, dropped ones or traces as parquet in bounded memory; `count` and `bytes` say how much so far. A context
    manager."""

    def __init__(self, path: Path, schema: pa.Schema = SCHEMA, group_bytes: int = ROW_GROUP_BYTES) -> None:
        self.count = self.bytes = 0
        self._limit = group_bytes
        self._schema = schema
        self._stack = ExitStack()
        self._path = path
        self._group: list[dict[str, object]] = []
        self._group_bytes = 0

    def __enter__(self) -> DocumentWriter:
        aside = self._stack.enter_context(written_aside(self._path))
        self._file = self._stack.enter_context(pq.ParquetWriter(aside, self._schema, compression="zstd"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._flush()
        self._stack.__exit__(kind, error, trace)

    def add(self, document: Document | Dropped | Trace) -> None:
        size = document.bytes
        self._group.append(asdict(document))
        self.count, self.bytes, self._group_bytes = self.count + 1, self.bytes + size, self._group_bytes + size
        if self._group_bytes >= self._limit:
            self._flush()

    def _flush(self) -> None:
        self._file.write_table(pa.Table.from_pylist(self._group, self._schema))
        self._group, self._group_bytes = [], 0


def rows_at(path: Path, rows: Sequence[int], columns: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Some rows of a parquet file, given in ascending order; reads no more of the file than it must."""
    found: list[dict[str, Any]] = []
    with pq.ParquetFile(path) as file:
        start = place = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            first = place
            while place < len(rows) and rows[place] < stop:
                place += 1
            if place > first:
                here = pa.array([row - start for row in rows[first:place]], pa.int64())
                found += file.read_row_group(group, columns).take(here).to_pylist()
            start = stop
    return found


def groups_in(path: Path) -> int:
    """Row groups of a file of documents. Raises OpenbookError that names a damaged file."""
    with _readable(path), pq.ParquetFile(path) as file:
        return int(file.num_row_groups)


def read_group(path: Path, number: int) -> Iterator[Document]:
    """The documents of one row group. Raises OpenbookError that names a damaged file."""
    with _readable(path), pq.ParquetFile(path) as file:
        for row in file.read_row_group(number).to_pylist():
            yield Document(**row)


def read_documents(path: Path) -> Iterator[Document]:
    """The documents of one file, a row group at a time. Raises OpenbookError that names a damaged file."""
    for number in range(groups_in(path)):
        yield from read_group(path, number)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, TypeError) as error:
        raise OpenbookError(f"{path}: cannot be read as documents ({str(error).splitlines()[0]})") from None
