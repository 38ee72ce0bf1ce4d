"""The documents of a corpus one after another, as they are read by people and by programs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from openbook.corpus.records import DROPPED, KEPT, Part, parts
from openbook.errors import InputError, OpenbookError
from openbook.run import Run
from openbook.words import printable


@dataclass(frozen=True)
class Choice:
    """Which documents to show. `reason` is the beginning of a reason for which one was left out; `grep` is found in the text."""

    component: str | None = None
    dropped: bool = False
    reason: str | None = None
    split: str | None = None
    grep: str | None = None


def documents(run: Run, choice: Choice) -> Iterator[dict[str, Any]]:
    """The chosen documents in the order of the corpus, a few megabytes in memory at a time. Raises InputError for a choice of nothing."""
    if choice.reason and not choice.dropped:
        raise InputError("--reason is about documents that were left out; add --dropped")
    if choice.split and (choice.dropped or choice.split not in KEPT):
        raise InputError(f"--split {choice.split}: should be train or valid, and documents that were left out are in neither")
    try:
        pattern = re.compile(choice.grep) if choice.grep else None
    except re.error as error:
        raise InputError(f"--grep {choice.grep}: should be a regular expression; {error}") from None
    kinds = [DROPPED] if choice.dropped else [choice.split] if choice.split else list(KEPT)
    found = list(parts(run, kinds))
    if choice.component:
        found = [part for part in found if part.component == choice.component]
        if not found:
            known = ", ".join(run.recipe.corpus.components)
            raise InputError(f"--component {choice.component}: no such component; there are {known}")
    return (row for part in found for row in _rows(part, choice, pattern))


def _rows(part: Part, choice: Choice, pattern: re.Pattern[str] | None) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(part.path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                if choice.reason:
                    table = table.filter(pc.starts_with(table["reason"], choice.reason))
                for row in table.to_pylist():
                    if pattern is None or pattern.search(row["text"] or ""):
                        yield _told(part, row)
    except (pa.ArrowException, OSError) as error:
        raise OpenbookError(f"{part.path}: cannot be read ({str(error).splitlines()[0]})") from None


def _told(part: Part, row: dict[str, Any]) -> dict[str, Any]:
    text, meta = row.pop("text"), row.pop("meta")
    where = {"component": part.component} if part.kind == DROPPED else {"component": part.component, "split": part.kind}
    size = row.get("bytes", len((text or "").encode()))
    return where | row | {"bytes": size, "meta": json.loads(meta) if meta else {}, "text": text}


def in_words(row: Mapping[str, Any]) -> str:
    """A document with a line above it that says what it is."""
    head = [row["component"], row["id"] or "no id", row.get("split") or f"left out by {row['step']}: {row['detail']}"]
    head += [f"{row['bytes']:,} bytes", row["licence"] or "licence unknown", row["origin"]]
    body = "(its text is that of the document named above)" if row.get("reason") == "duplicate" else "(no text)"
    return f"──── {printable(' · '.join(head))}\n\n{printable(row['text']) if row['text'] is not None else body}\n\n"
