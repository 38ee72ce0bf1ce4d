"""What a source yields before anything is decided about it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from openbook.documents import Split


@dataclass(frozen=True)
class RawText:
    """A text as found. `problem`, if set, is (reason, detail) for not being able to take it; `split`, if set, decides where it goes.

    `meta` holds what else is known: strings, numbers, booleans; under `title`, `author`, `language`, `url`, `date`, `year` (a number)
    wherever the source says so.
    """

    origin: str
    text: str = ""
    bytes: int = 0
    licence: str | None = None
    problem: tuple[str, str] | None = None
    split: Split | None = None
    meta: Mapping[str, object] = field(default_factory=dict)


def text_of(origin: str, text: str, limit: int, licence: str | None = None, meta: Mapping[str, object] | None = None) -> RawText:
    """A text made of characters, or the problem that it cannot be written down or is longer than `limit` bytes."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return RawText(origin, bytes=len(text), problem=("invalid UTF-8", "a lone surrogate in an escape"))
    if size > limit:
        return too_long(origin, size, limit)
    if "\0" in text:
        return RawText(origin, bytes=size, problem=("binary", f"NUL character at {text.index(chr(0))}"))
    return RawText(origin, text, size, licence, meta=meta or {})


def decode(data: bytes, origin: str, licence: str | None = None) -> RawText:
    """Bytes to text: UTF-8 only, and no NUL byte, which text never holds and binary files nearly always do."""
    nul = data.find(b"\0")
    if nul >= 0:
        return RawText(origin, bytes=len(data), problem=("binary", f"NUL byte at {nul}"))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return RawText(origin, bytes=len(data), problem=("invalid UTF-8", f"byte {error.start} is 0x{data[error.start]:02x}"))
    return RawText(origin, text.replace("\r\n", "\n"), len(data), licence)


def read_limited(path: Path, limit: int, origin: str, licence: str | None = None) -> RawText:
    """A whole file as one text, without reading one that is larger than `limit` bytes."""
    try:
        size = path.stat().st_size
        if size > limit:
            return too_long(origin, size, limit)
        return decode(path.read_bytes(), origin, licence)
    except OSError as error:
        return RawText(origin, problem=("unreadable", error.strerror or str(error)))


def read_whole(stream: BinaryIO, limit: int, origin: str, licence: str | None = None) -> RawText:
    """What is left of a stream as one text; of one that is longer than `limit` bytes, only the length."""
    data = stream.read(limit + 1)
    if len(data) <= limit:
        return decode(data, origin, licence)
    size = len(data)
    while piece := stream.read(1 << 20):
        size += len(piece)
    return too_long(origin, size, limit)


def too_long(origin: str, size: int, limit: int) -> RawText:
    return RawText(origin, bytes=size, problem=("too long", f"{size:,} bytes; corpus.max_document_bytes is {limit:,}"))


def by_hash(paths: Iterable[tuple[str, Path]]) -> list[tuple[str, Path]]:
    """(name, path) pairs in an order that is random but the same everywhere: taking a prefix takes a fair sample."""
    return sorted(paths, key=lambda pair: hashlib.sha256(pair[0].encode(errors="surrogateescape")).digest())
