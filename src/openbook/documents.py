"""Documents on disk: parquet files with one row a document, in the layout of docs/formats.md."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from openbook.errors import OpenbookError
from openbook.files import written_aside

Split = Literal["train", "valid"]

SCHEMA = pa.schema(
    [("id", pa.string()), ("text", pa.large_string()), ("component", pa.string()), ("licence", pa.string()), ("origin", pa.string())]
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
    ]
)
ROW_GROUP_BYTES = 16_000_000


@dataclass(frozen=True)
class Document:
    """One text. `licence` is an SPDX expression where known; `origin` says where the text was found."""

    id: str
    text: str
    component: str
    licence: str | None
    origin: str

    @property
    def bytes(self) -> int:
        return len(self.text.encode())


@dataclass(frozen=True)
class Dropped:
    """One text that was left out, and why: `reason` from a short closed list, `detail` for people. `id` is null where there was no text;
    `step` is the step of the recipe that removed it."""

    origin: str
    component: str
    bytes: int
    reason: str
    detail: str
    id: str | None = None
    step: str = "read"


def document_id(text: str) -> str:
    """The first 128 bits of the SHA-256 of the text, in hex: equal texts have equal ids, everywhere and always."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def is_held_out(identifier: str, share: float) -> bool:
    """Whether a document belongs to the held-out split: a function of its text alone, so that a duplicate can never leak."""
    return int(identifier[:8], 16) / 2**32 < share


class DocumentWriter:
    """Writes documents as parquet in bounded memory; `count` and `bytes` say how much so far. A context manager."""

    def __init__(self, path: Path) -> None:
        self.count = self.bytes = 0
        self._stack = ExitStack()
        self._path = path
        self._group: list[dict[str, object]] = []
        self._group_bytes = 0

    def __enter__(self) -> DocumentWriter:
        aside = self._stack.enter_context(written_aside(self._path))
        self._file = self._stack.enter_context(pq.ParquetWriter(aside, SCHEMA, compression="zstd"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None:
            self._flush()
        self._stack.__exit__(kind, error, trace)

    def add(self, document: Document) -> None:
        size = document.bytes
        self._group.append(asdict(document))
        self.count, self.bytes, self._group_bytes = self.count + 1, self.bytes + size, self._group_bytes + size
        if self._group_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        self._file.write_table(pa.Table.from_pylist(self._group, SCHEMA))
        self._group, self._group_bytes = [], 0


def write_dropped(path: Path, dropped: Iterable[Dropped]) -> None:
    with written_aside(path) as aside:
        pq.write_table(pa.Table.from_pylist([asdict(item) for item in dropped], DROPPED_SCHEMA), aside, compression="zstd")


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
