"""Shards: at most 64 MB of one component's text in a file, the unit of work and of resume.

A file is named by what it is a function of, is written whole or not at all, and never changes. Whatever already lies there need not be
computed again, by whoever and whenever it was computed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from openbook.documents import Document, Split, document_id, rows_at
from openbook.files import sha256_json, written_aside

SHARD_BYTES = 64_000_000
BATCH_BYTES = 4_000_000
"""Text that is looked at together: a row group of the file."""
BATCH_ROWS = 4_000

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("licence", pa.string()),
        ("origin", pa.string()),
        ("meta", pa.string()),
        ("split", pa.string()),
        ("bytes", pa.int64()),
        ("parent", pa.int64()),
    ]
)
"""`parent` is the row of the shard that this one was rewritten from."""
FACTS = b"openbook"


class ShardFile:
    """Writes one shard in bounded memory. A context manager; `facts` are kept in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, Any] = {}
        self._rows: list[Mapping[str, Any]] = []
        self._bytes = 0

    def __enter__(self) -> ShardFile:
        self._aside = written_aside(self.path)
        self._file = pq.ParquetWriter(self._aside.__enter__(), SCHEMA, compression="zstd")
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is None:
            self._flush()
            self._file.add_key_value_metadata({FACTS: json.dumps(self.facts).encode()})
        self._file.close()
        self._aside.__exit__(kind, error, trace)

    def add(self, row: Mapping[str, Any]) -> None:
        self._rows.append(row)
        self._bytes += row["bytes"]
        if self._bytes >= BATCH_BYTES or len(self._rows) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        self._file.write_table(pa.Table.from_pylist(self._rows, SCHEMA))
        self._rows, self._bytes = [], 0


class ShardWriter:
    """Cuts a component's documents into shards; `keys` names them, `bytes` says how much text there is so far."""

    def __init__(self, folder: Path, component: str) -> None:
        self.folder, self.component = folder, component
        self.keys: list[str] = []
        self.bytes = 0
        self._held: list[dict[str, Any]] = []
        self._held_bytes = 0

    def add(self, document: Document, split: Split) -> None:
        size = document.bytes
        row = {"id": document.id, "text": document.text, "licence": document.licence, "origin": document.origin}
        row |= {"meta": document.meta, "split": split}
        self._held.append(row | {"bytes": size, "parent": len(self._held)})
        self.bytes, self._held_bytes = self.bytes + size, self._held_bytes + size
        if self._held_bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        if not self._held:
            return
        facts = [[row[key] for key in ("id", "licence", "origin", "meta", "split")] for row in self._held]
        texts = [document_id(row["text"]) for row in self._held]  # a decision may have made another text of it than its id says
        key = sha256_json({"component": self.component, "documents": facts, "texts": texts})
        path = shard_path(self.folder, key)
        if not path.exists():
            with ShardFile(path) as file:
                for row in self._held:
                    file.add(row)
        self.keys.append(key)
        self._held, self._held_bytes = [], 0


def shard_path(folder: Path, key: str) -> Path:
    return folder / f"{key}.parquet"


def batches(path: Path, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """A shard's rows, a few megabytes at a time."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group, columns)


def texts_of(path: Path, rows: Sequence[int]) -> list[str]:
    """The texts of some rows, given in ascending order."""
    return [row["text"] for row in rows_at(path, rows, ["text"])]


def about(path: Path) -> pa.Table:
    """All of a shard but its text."""
    return pq.read_table(path, columns=[name for name in SCHEMA.names if name != "text"])


def facts_of(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(pq.read_metadata(path).metadata[FACTS])
    return facts
