"""Files as streams of bytes: decompressed, counted, and stopped when they swell beyond reason. Nothing is ever held as a whole."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeAlias

import zstandard

FREE_BYTES = 1 << 28
"""So many bytes may come out of any file, however small it is."""
MOST_SWOLLEN = 250
"""Beyond that, so many bytes for each compressed one: text shrinks 3 to 30 times, log files up to 100."""
XZ_MEMORY = 256 << 20
"""Bytes of memory that a .xz file may ask for; `xz -9` asks for 65 MiB."""
CHUNK = 1 << 16
ARCHIVES = (".tar", ".tgz", ".zip")
NESTED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "Zstandard", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
NESTED |= {b"PK\x03\x04": "zip", b"7z\xbc\xaf": "7z"}
"""What archives and compressed files begin with."""


Stream: TypeAlias = "io.BufferedReader[Any]"
"""Bytes that can be peeked at."""


class Swollen(Exception):
    """A compressed file holds more than any text does."""


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def needs_input(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Zstd:
    """A Zstandard frame unpacked piece by piece, as the standard library does with others. The library's own stream takes a file that
    was cut in two for a whole one, and its object for pieces puts out all that a piece holds: so the pieces are small."""

    PIECE = 1024
    """Bytes; what they hold is at most 33 MB."""

    def __init__(self) -> None:
        self._engine = zstandard.ZstdDecompressor().decompressobj()
        self._in = self._out = b""
        self._taken = self._given = 0

    @property
    def eof(self) -> bool:
        return self._engine.eof and self._given == len(self._out)

    @property
    def unused_data(self) -> bytes:
        return self._engine.unused_data + self._in[self._taken :]

    @property
    def needs_input(self) -> bool:
        return self._given == len(self._out) and self._taken == len(self._in) and not self._engine.eof

    def decompress(self, data: bytes, max_length: int) -> bytes:
        if data:
            self._in, self._taken = self._in[self._taken :] + data, 0
        while self._given == len(self._out) and self._taken < len(self._in) and not self._engine.eof:
            piece = self._in[self._taken : self._taken + self.PIECE]
            self._taken += len(piece)
            self._out, self._given = self._engine.decompress(piece), 0
        found = self._out[self._given : self._given + max_length]
        self._given += len(found)
        return found


class _Unpacked(io.RawIOBase):
    """bzip2, xz or Zstandard streams, one after the other, unpacked in small pieces."""

    def __init__(self, file: BinaryIO, make: Callable[[], _Decompressor]) -> None:
        self._file, self._make, self._engine = file, make, make()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while True:
            if self._engine.eof:
                rest = self._engine.unused_data or self._file.read(CHUNK)
                if not rest.strip(b"\0"):  # xz pads with zeros
                    return 0
                self._engine = self._make()
                data = self._engine.decompress(rest, len(buffer))
            else:
                rest = self._file.read(CHUNK) if self._engine.needs_input else b""
                if self._engine.needs_input and not rest:
                    raise EOFError("the file ends before its compressed data does")
                data = self._engine.decompress(rest, len(buffer))
            if data:
                buffer[: len(data)] = data
                return len(data)


class Counted(io.RawIOBase):
    """A stream that knows how far it was read. `packed` is the compressed size, if any: it bounds what comes out (Swollen)."""

    def __init__(self, file: BinaryIO, packed: int | None = None) -> None:
        self.position = 0
        self._file = file
        self._most = None if packed is None else max(FREE_BYTES, MOST_SWOLLEN * packed)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        if self._most is not None and self.position > self._most:
            raise Swollen(f"more than {self._most:,} bytes come out of it, {MOST_SWOLLEN} for each byte that went in")
        return len(data)


def unpack(file: BinaryIO, name: str, packed: int) -> Counted:
    """The bytes behind a file's compression, if its name says that there is one. The file stays the caller's to close."""
    if name.endswith((".gz", ".tgz")):
        return Counted(gzip.GzipFile(fileobj=file), packed)  # type: ignore[arg-type]
    if name.endswith(".zst"):
        return Counted(_Unpacked(file, _Zstd), packed)  # type: ignore[arg-type]
    if name.endswith(".bz2"):
        return Counted(_Unpacked(file, bz2.BZ2Decompressor), packed)  # type: ignore[arg-type]
    if name.endswith(".xz"):
        return Counted(_Unpacked(file, lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY)), packed)  # type: ignore[arg-type]
    return Counted(file)


READ_ERRORS: tuple[type[Exception], ...]
READ_ERRORS = (OSError, EOFError, zlib.error, zstandard.ZstdError, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile, Swollen)
READ_ERRORS += (NotImplementedError,)  # a compression that zipfile does not know
"""What reading a damaged or hostile file raises."""

COMPRESSIONS = (".gz", ".zst", ".bz2", ".xz")


def bare(name: str) -> str:
    """A file's name without the ending of its compression."""
    return next((name.removesuffix(ending) for ending in COMPRESSIONS if name.endswith(ending)), name)


def nested(stream: Stream) -> str | None:
    """The kind of archive or compression that a stream begins with; None for anything else."""
    start = stream.peek(8)[:8]
    return next((kind for magic, kind in NESTED.items() if start.startswith(magic)), None)


def lines(file: BinaryIO, longest: int) -> Iterator[tuple[bytes, int]]:
    """Each line with its size; a line longer than `longest` bytes comes empty, and is never in memory as a whole."""
    while line := file.readline(longest + 1):
        size = len(line)
        if size <= longest:
            yield line, size
            continue
        while not line.endswith(b"\n") and (line := file.readline(longest)):
            size += len(line)
        yield b"", size


def seekable(stream: BinaryIO, path: Path | None) -> BinaryIO:
    """The same bytes in a file that can be read at any place: the file itself, or a copy on disk that goes when it is closed."""
    if path is not None:
        return path.open("rb")
    copy = tempfile.TemporaryFile()  # noqa: SIM115
    shutil.copyfileobj(stream, copy, 1 << 20)
    copy.seek(0)
    return copy
