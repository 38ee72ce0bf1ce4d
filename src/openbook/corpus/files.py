"""Source `files`: a folder or a file that the user names."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from openbook.corpus.raw import RawText, by_hash, decode, read_limited, too_long
from openbook.documents import Split
from openbook.errors import InputError
from openbook.recipe import FilesComponent

TEXT = (".txt", ".md", ".py")
LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
TABLES = (".parquet",)
ENDINGS = TEXT + LINES + TABLES

TRAIN: Split = "train"
VALID: Split = "valid"

JSON_OVERHEAD = 8
"""A line of JSON is refused unread beyond this many times the longest document: escapes lengthen a text by 6 at the most."""


def find_files(component: FilesComponent, folder: Path, where: str) -> list[tuple[str, Path]]:
    """(origin, path) of every file the component names, in by-hash order. Raises InputError if there is none."""
    root = (folder / Path(component.path).expanduser()).resolve()
    if not root.exists():
        raise InputError(f"{where}.path = {component.path!r}: no such file or folder ({root})")
    if root.is_file():
        if not root.name.endswith(ENDINGS):
            raise InputError(f"{where}.path = {component.path!r}: cannot read this kind of file; known endings are {', '.join(ENDINGS)}")
        return [(root.name, root)]
    found = [(str(path.relative_to(root)), path) for path in root.rglob("*") if path.name.endswith(ENDINGS) and path.is_file()]
    if not found:
        raise InputError(f"{where}.path = {component.path!r}: holds no file that ends in {', '.join(ENDINGS)} ({root})")
    return by_hash(found)


def fingerprint(component: FilesComponent, folder: Path, where: str) -> list[list[object]]:
    """What a later run compares to see whether the files changed: name, size and time of each."""
    stats = ((origin, path.stat()) for origin, path in find_files(component, folder, where))
    return [[origin, stat.st_size, stat.st_mtime_ns] for origin, stat in stats]


def read_files(component: FilesComponent, folder: Path, where: str, limit: int) -> Iterator[RawText]:
    """Every text of the component; texts longer than `limit` bytes come as problems, not as text."""
    for origin, path in find_files(component, folder, where):
        try:
            for raw in _read(path, origin, component, limit):
                yield from _cut(raw, component.holdout_end) if component.holdout_end and not raw.problem else [raw]
        except (OSError, EOFError, zlib.error, zstandard.ZstdError, pa.ArrowException) as error:
            yield RawText(origin, bytes=path.stat().st_size, problem=("unreadable", str(error).splitlines()[0]))


def _cut(raw: RawText, share: float) -> Iterator[RawText]:
    """A text's beginning, to train on, and the share of its characters at its end, to hold out."""
    place = int(len(raw.text) * (1 - share))
    for text, split in ((raw.text[:place], TRAIN), (raw.text[place:], VALID)):
        yield replace(raw, origin=f"{raw.origin}#{split}", text=text, bytes=len(text.encode()), split=split)


def _read(path: Path, origin: str, component: FilesComponent, limit: int) -> Iterator[RawText]:
    if path.name.endswith(LINES):
        return _json_lines(path, origin, component, limit)
    if path.name.endswith(TABLES):
        return _table_rows(path, origin, component, limit)
    if component.split_bytes:
        return _pieces(path, origin, component.split_bytes, component.licence, limit)
    return iter([read_limited(path, limit, origin, component.licence)])


def _open(path: Path) -> io.BufferedIOBase:
    if path.name.endswith(".gz"):
        return gzip.open(path)
    if path.name.endswith(".zst"):
        stream = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True, read_across_frames=True)
        return io.BufferedReader(stream)
    return path.open("rb")


def _lines(file: io.BufferedIOBase, longest: int) -> Iterator[tuple[bytes, int]]:
    """Each line with its size; a line longer than `longest` bytes comes empty, and is never in memory as a whole."""
    while line := file.readline(longest + 1):
        size = len(line)
        if size <= longest:
            yield line, size
            continue
        while not line.endswith(b"\n") and (line := file.readline(longest)):
            size += len(line)
        yield b"", size


def _pieces(path: Path, origin: str, size: int, licence: str | None, limit: int) -> Iterator[RawText]:
    """A text file as documents of about `size` bytes, cut at line ends."""
    held: list[bytes] = []
    number = 1
    with path.open("rb") as file:
        for line, length in _lines(file, limit):
            if not line:
                yield too_long(f"{origin}#{number}", length, limit)
                number += 1
            held.append(line)
            if sum(map(len, held)) >= size:
                yield decode(b"".join(held), f"{origin}#{number}", licence)
                held, number = [], number + 1
    if any(held):
        yield decode(b"".join(held), f"{origin}#{number}", licence)


def _json_lines(path: Path, origin: str, component: FilesComponent, limit: int) -> Iterator[RawText]:
    with _open(path) as file:
        for number, (line, size) in enumerate(_lines(file, limit * JSON_OVERHEAD), 1):
            here = f"{origin}:{number}"
            if not line:
                yield too_long(here, size, limit)
            elif line.strip():
                yield _from_json(line, here, component, limit)


def _from_json(line: bytes, origin: str, component: FilesComponent, limit: int) -> RawText:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return RawText(origin, bytes=len(line), problem=("not JSON", str(error).splitlines()[0]))
    return _from_row(row, origin, component, limit)


def _from_row(row: object, origin: str, component: FilesComponent, limit: int) -> RawText:
    text = row.get(component.text_key) if isinstance(row, dict) else None
    if not isinstance(row, dict) or not isinstance(text, str):
        return RawText(origin, problem=("no text", f"no string under {component.text_key!r}"))
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return RawText(origin, bytes=len(text), problem=("invalid UTF-8", "a lone surrogate in a JSON escape"))
    if size > limit:
        return too_long(origin, size, limit)
    if "\0" in text:
        return RawText(origin, bytes=size, problem=("binary", f"NUL character at {text.index(chr(0))}"))
    return RawText(origin, text, size, component.licence or _licence(row))


def _licence(row: dict[str, object]) -> str | None:
    """The licence a row states for itself, at its top or under "meta", in either spelling."""
    meta = row.get("meta")
    for table in (row, meta if isinstance(meta, dict) else {}):
        for key in ("licence", "license"):
            if isinstance(table.get(key), str):
                return str(table[key])
    return None


def _table_rows(path: Path, origin: str, component: FilesComponent, limit: int) -> Iterator[RawText]:
    with pq.ParquetFile(path) as file:
        number = 0
        for batch in file.iter_batches(batch_size=256):
            for row in batch.to_pylist():
                number += 1
                yield _from_row(row, f"{origin}:{number}", component, limit)
