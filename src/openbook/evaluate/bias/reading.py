"""Data sets of the audit from their files, plain or .gz. Whatever is wrong in one is an InputError that names file and line."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from openbook.errors import InputError


def text_of(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None


def table_rows(path: Path, columns: Sequence[str], delimiter: str = ",") -> Iterator[tuple[str, dict[str, str]]]:
    """Each row with its place, "file:line". Columns that are named have to be there and filled."""
    reader = csv.DictReader(io.StringIO(text_of(path), newline=""), delimiter=delimiter)
    try:
        for row in reader:
            where = f"{path}:{reader.line_num}"
            yield where, {**row, **{name: full(row, name, where) for name in columns}}
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: not a table: {error}") from None


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each object of a file of JSON lines with its place, "file:line"."""
    for number, line in enumerate(text_of(path).split("\n"), 1):
        if line.strip():
            where = f"{path}:{number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{where}: not JSON: {error}") from None
            yield where, an_object(row, where)


def json_of(path: Path) -> Any:
    try:
        return json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None


def an_object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where}: {str(value)[:60]!r}: should be an object")
    return value


def a_list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{where}: {str(value)[:60]!r}: should be a list")
    return value


def full(row: Any, name: str, where: str) -> str:
    """A field that is a text with something in it."""
    value = an_object(row, where).get(name)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: {name} = {value!r}: should be a text that is not empty")
    return value


def one_of(row: Any, name: str, known: Sequence[str], where: str) -> str:
    value = full(row, name, where)
    if value not in known:
        raise InputError(f"{where}: {name} = {value!r}: should be one of {', '.join(known)}")
    return value
