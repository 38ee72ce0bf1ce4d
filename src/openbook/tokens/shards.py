"""Packed token shards: flat little-endian integers, and beside them where each document ends.

`NAME.bin` holds u16 tokens (u32 for a vocabulary beyond 65,536), documents one after another, each followed by the end-of-document
token. `NAME.idx` holds a little-endian u64 for each document: the position after its last token. `NAME.documents.parquet` says which
document each is, so that every token traces back to a document, its component, licence and origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from openbook.documents import Document
from openbook.errors import OpenbookError
from openbook.files import written_aside
from openbook.model.tokenizer import Tokenizer

INDEX_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("component", pa.string()),
        ("licence", pa.string()),
        ("origin", pa.string()),
        ("bytes", pa.int64()),
        ("start", pa.int64()),
        ("end", pa.int64()),
    ]
)
BATCH = 64


def dtype_for(vocab_size: int) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
    return np.dtype("<u2") if vocab_size <= 65_536 else np.dtype("<u4")


def write_shard(folder: Path, name: str, documents: Iterable[Document], tokenizer: Tokenizer, threads: int) -> Iterator[int]:
    """Writes one shard, yielding the text bytes done so far; a generator, so that the caller can show progress."""
    dtype = dtype_for(tokenizer.vocab_size)
    rows: list[dict[str, object]] = []
    position = done = 0
    with written_aside(folder / f"{name}.bin") as aside, aside.open("wb") as file:
        source = iter(documents)
        while batch := list(islice(source, BATCH)):
            encoded = tokenizer.encode_batch([document.text for document in batch], threads)
            for document, ids in zip(batch, encoded, strict=True):
                ids.append(tokenizer.end_of_document)
                np.asarray(ids, dtype=dtype).tofile(file)
                facts = {"id": document.id, "component": document.component, "licence": document.licence, "origin": document.origin}
                rows.append({**facts, "bytes": document.bytes, "start": position, "end": position + len(ids)})
                position += len(ids)
                done += document.bytes
            yield done
    with written_aside(folder / f"{name}.idx") as aside:
        np.asarray([row["end"] for row in rows], dtype="<u8").tofile(aside)
    with written_aside(folder / f"{name}.documents.parquet") as aside:
        pq.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA), aside, compression="zstd")


class Shard:
    """One shard, mapped into memory."""

    def __init__(self, path: Path, dtype: np.dtype[np.uint16] | np.dtype[np.uint32]) -> None:
        self.path = path
        if path.stat().st_size % dtype.itemsize:
            raise OpenbookError(f"{path}: {path.stat().st_size} bytes is no whole number of {dtype.itemsize}-byte tokens")
        self.tokens: npt.NDArray[np.integer] = np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.empty(0, dtype)

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def ends(self) -> npt.NDArray[np.int64]:
        """The position after each document's last token. Raises OpenbookError if they are not those of this shard."""
        path = self.path.with_suffix(".idx")
        try:
            ends = np.fromfile(path, dtype="<u8").astype(np.int64)
        except OSError as error:
            raise OpenbookError(f"{path}: cannot be read ({error.strerror})") from None
        if (np.diff(ends, prepend=0) <= 0).any() or (ends[-1] if len(ends) else 0) != len(self):
            raise OpenbookError(f"{path}: is not the index of the {len(self):,} tokens beside it")
        return ends

    @cached_property
    def documents(self) -> pa.Table:
        return pq.read_table(self.path.with_suffix(".documents.parquet"))

    def document_of(self, position: int) -> dict[str, object]:
        """The row of `documents.parquet` for the document that a token position lies in. Raises IndexError outside the shard."""
        if not 0 <= position < len(self):
            raise IndexError(f"{self.path}: holds {len(self)} tokens; there is no position {position}")
        row = int(np.searchsorted(self.ends, position, side="right"))
        found: dict[str, object] = self.documents.slice(row, 1).to_pylist()[0]
        return found
