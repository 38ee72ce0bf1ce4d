"""Packed token shards: flat little-endian integers, and beside them where each document ends.

`NAME.bin` holds u16 tokens (u32 for a vocabulary beyond 65,536), documents one after another, each followed by the end-of-document
token. `NAME.idx` holds a little-endian u64 for each document: the position after its last token. `NAME.documents.parquet` says which
document each is, so that every token traces back to a document, its component, licence and origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from openbook.errors import InputError, OpenbookError
from openbook.files import written_aside
from openbook.run import Run
from openbook.tokens.encode import Encoded, dtype_for

SPLITS = ("train", "valid")
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


def write_shard(folder: Path, name: str, parts: Iterable[Encoded], dtype: np.dtype[Any]) -> Iterator[int]:
    """Writes one shard, yielding the text bytes done so far; a generator, so that the caller can show progress."""
    position = done = 0
    ends: list[npt.NDArray[np.int64]] = []
    with (
        written_aside(folder / f"{name}.bin") as ids_path,
        written_aside(folder / f"{name}.documents.parquet") as documents_path,
        ids_path.open("wb") as file,
        pq.ParquetWriter(documents_path, INDEX_SCHEMA, compression="zstd") as table,
    ):
        for part in parts:
            part.ids.astype(dtype, copy=False).tofile(file)
            stops = position + np.cumsum(part.lengths, dtype=np.int64)
            starts = stops - np.asarray(part.lengths, dtype=np.int64)
            places = zip(part.facts, starts.tolist(), stops.tolist(), strict=True)
            rows = [{**fact, "start": start, "end": end} for fact, start, end in places]
            table.write_table(pa.Table.from_pylist(rows, INDEX_SCHEMA))
            ends.append(stops)
            position += len(part.ids)
            done += sum(fact["bytes"] for fact in part.facts)
            yield done
    with written_aside(folder / f"{name}.idx") as path:
        np.concatenate([np.empty(0, np.int64), *ends]).astype("<u8").tofile(path)


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


def opened_shards(run: Run) -> dict[str, dict[str, Shard]]:
    """All shards of a run, by split and component, every byte checked. Raises OpenbookError if one is not what the manifest records."""
    record = run.stage_record("tokenize")
    if record is None:
        raise InputError(f"{run.path}: has no tokens yet; `openbook tokenize {run.path}` makes them")
    for name in record["artifacts"]:
        if name.endswith(".idx"):
            run.verified("tokenize", name)
    dtype = dtype_for(run.recipe.tokenizer.vocab_size)
    paths = {split: [name for name in record["artifacts"] if name.startswith(f"tokens/{split}/")] for split in SPLITS}
    found = {split: [run.verified("tokenize", name) for name in names if name.endswith(".bin")] for split, names in paths.items()}
    order = list(run.recipe.corpus.components)
    by_component = {split: sorted(files, key=lambda path: order.index(path.stem)) for split, files in found.items()}
    return {split: {path.stem: Shard(path, dtype) for path in files} for split, files in by_component.items()}
