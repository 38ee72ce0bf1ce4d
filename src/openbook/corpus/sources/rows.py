"""Rows that hold a text in one of their fields, and facts about it in others: JSON lines, parquet, CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from openbook.corpus.raw import RawText, text_of, too_long
from openbook.corpus.sources.opened import Opened
from openbook.corpus.sources.streams import FREE_BYTES, MOST_SWOLLEN, Swollen, lines, seekable

LONGEST_FACT = 1000
"""Characters; a longer string beside the text is another text, not a fact about it."""
TABLES = ("meta", "metadata")
"""Fields that hold further facts."""


def read_json_lines(file: Opened) -> Iterator[RawText]:
    for number, (line, size) in enumerate(lines(file.stream, file.most_markup), 1):
        here = f"{file.origin}:{number}"
        if not line:
            yield too_long(here, size, file.limit)
        elif line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield RawText(here, bytes=len(line), problem=("not JSON", str(error).splitlines()[0]))
                continue
            yield _from_row(row, here, file)


def _from_row(row: object, origin: str, file: Opened) -> RawText:
    key = file.component.text_key
    text = row.get(key) if isinstance(row, dict) else None
    if not isinstance(row, dict) or not isinstance(text, str):
        return RawText(origin, problem=("no text", f"no string under {key!r}"))
    facts = _facts(row, key)
    licence = facts.pop("licence", None) or facts.pop("license", None)
    return text_of(origin, text, file.limit, licence if isinstance(licence, str) else None, facts)


def _facts(row: Mapping[str, object], text_key: str) -> dict[str, object]:
    """What a row says about its text: the plain values at its top, and those in a table of facts, which count for more."""
    facts: dict[str, object] = {}
    for table in (row, *(inner for name in TABLES if isinstance(inner := row.get(name), dict))):
        for key, value in table.items():
            plain = isinstance(value, bool | int | float) or (isinstance(value, str) and 0 < len(value) <= LONGEST_FACT)
            if plain and key != text_key:
                facts["language" if key == "lang" else str(key)] = value
    return facts


def read_parquet(file: Opened) -> Iterator[RawText]:
    with seekable(file.stream, file.path) as source:
        try:
            yield from _table_rows(pq.ParquetFile(source), file)
        except pa.ArrowException as error:
            raise OSError(str(error).splitlines()[0]) from None


def _table_rows(table: pq.ParquetFile, file: Opened) -> Iterator[RawText]:
    for group in range(table.num_row_groups):
        facts = table.metadata.row_group(group)
        packed = sum(facts.column(index).total_compressed_size for index in range(facts.num_columns))
        if facts.total_byte_size > max(FREE_BYTES, MOST_SWOLLEN * packed):
            raise Swollen(f"row group {group} would swell from {packed:,} to {facts.total_byte_size:,} bytes")
    wanted = [column.name for column in table.schema_arrow if _is_plain(column.type) or column.name in TABLES]
    number = 0
    for batch in table.iter_batches(batch_size=256, columns=wanted):
        for row in batch.to_pylist():
            number += 1
            yield _from_row(row, f"{file.origin}:{number}", file)


def _is_plain(kind: pa.DataType) -> bool:
    types = pa.types
    return any(test(kind) for test in (types.is_string, types.is_large_string, types.is_integer, types.is_floating, types.is_boolean))


def read_csv(file: Opened) -> Iterator[RawText]:
    """Rows of a table with a head line; `.tsv` has tabs. What follows a row that cannot be read is lost: nothing tells where it ends."""
    csv.field_size_limit(file.most_markup)  # the module knows one limit for all; its own is 131,072
    rows = csv.DictReader(_decoded(file), delimiter="\t" if file.name.endswith(".tsv") else ",", restkey="", strict=True)
    try:
        if file.component.text_key not in (rows.fieldnames or ()):
            columns = ", ".join(map(repr, rows.fieldnames or ()))[:LONGEST_FACT]
            yield RawText(file.origin, problem=("no text", f"no column {file.component.text_key!r}; columns are {columns}"))
            return
        for number, row in enumerate(rows, 2):
            yield _from_row(row, f"{file.origin}:{number}", file)
    except csv.Error as error:
        yield RawText(file.origin, problem=("not CSV", f"line {rows.line_num}: {error}"))
    except UnicodeDecodeError as error:
        yield RawText(file.origin, problem=("invalid UTF-8", f"line {rows.line_num + 1}: 0x{error.object[error.start]:02x}"))


def _decoded(file: Opened) -> Iterator[str]:
    for number, (line, size) in enumerate(lines(file.stream, file.most_markup)):
        if not line:
            raise csv.Error(f"a line of {size:,} bytes")
        yield line.decode("utf-8" if number else "utf-8-sig")
