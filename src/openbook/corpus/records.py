"""Looking into a corpus that was built: where its documents lie, and those that a question is about."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from openbook.documents import rows_at
from openbook.errors import InputError, OpenbookError
from openbook.run import Run

KEPT = ("train", "valid")
DROPPED = "dropped"
SHOWN = 5


@dataclass(frozen=True)
class Part:
    """One file of a corpus: the documents of a component that are in one of its splits, or were dropped."""

    component: str
    kind: str
    path: Path


@dataclass(frozen=True)
class Record:
    """A row of a corpus: a document that is in, or one that was left out."""

    part: Part
    row: int
    id: str | None
    origin: str

    @property
    def key(self) -> str:
        """What all rows of one document have in common, its pieces included."""
        return self.id.partition("-")[0] if self.id else self.origin

    def whole(self, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """All that the row says."""
        return rows_at(self.part.path, [self.row], columns)[0]


def parts(run: Run, kinds: Sequence[str] = (*KEPT, DROPPED)) -> Iterator[Part]:
    """The files of a run's corpus. Raises InputError if there is none."""
    record = run.stage_record("corpus")
    if record is None:
        raise InputError(f"{run.path}: has no corpus yet; `openbook corpus {run.path}` builds it")
    for name in record["summary"]["components"]:
        for kind in kinds:
            yield Part(name, kind, run.path / "corpus" / name / f"{kind}.parquet")


def column_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Columns of a file. Raises OpenbookError that names a file which lacks them or is damaged."""
    try:
        return pq.read_table(path, columns=list(columns), partitioning=None)
    except (pa.ArrowException, OSError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error).splitlines()[0]
        raise OpenbookError(f"{path}: cannot be read ({reason}); `openbook corpus {path.parents[2]} --again` makes it anew") from None


def find(run: Run, asked: str) -> list[Record]:
    """The rows of the one document that `asked` names: by its id, the beginning of its id, or its origin.

    Raises InputError if there is none, or more than one.
    """
    found: list[Record] = []
    looks_like_id = re.fullmatch(r"[0-9a-f]{4,32}(-\d+)*", asked) is not None
    for part in parts(run):
        table = column_table(part.path, ["id", "origin"])
        wanted = pc.equal(table["origin"], asked)
        if looks_like_id:
            wanted = pc.or_(wanted, pc.fill_null(pc.starts_with(table["id"], asked), False))
        rows = pc.indices_nonzero(wanted.combine_chunks() if isinstance(wanted, pa.ChunkedArray) else wanted)
        for row, one in zip(rows.to_pylist(), table.take(rows).to_pylist(), strict=True):
            found.append(Record(part, row, one["id"], one["origin"]))
    keys = sorted({record.key for record in found})
    if not keys:
        raise InputError(f"{asked}: no document of {run.path} has this id or origin; `openbook corpus show {run.path}` lists them")
    if len(keys) > 1:
        listed = ", ".join(keys[:SHOWN]) + (" …" if len(keys) > SHOWN else "")
        raise InputError(f"{asked}: {len(keys)} documents of {run.path} have this id or origin; say more of the id: {listed}")
    return found if not found[0].id or asked == keys[0] else find(run, keys[0])  # by its id, its copies elsewhere are found as well
