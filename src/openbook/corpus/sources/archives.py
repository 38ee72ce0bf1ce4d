"""Tar and zip files as a row of files. Nothing is written to disk, links are not followed, an archive in an archive is refused."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO, cast

from openbook.corpus.raw import RawText
from openbook.corpus.sources.opened import Opened
from openbook.corpus.sources.streams import ARCHIVES, COMPRESSIONS, Counted, nested, seekable

LONG_KINDS = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
LONGEST_HEADER = 1 << 20
"""Bytes of a tar member's name and attributes, which are read as a whole."""


class _Member(tarfile.TarInfo):
    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in LONG_KINDS and self.size > LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {self.size:,} bytes")
        return cast("tarfile.TarInfo", super()._proc_member(archive))  # type: ignore[misc]


def members(archive: Opened, wanted: Callable[[str], bool]) -> Iterator[Opened | RawText]:
    """The files in an archive whose names are wanted, in the archive's order, or the problem with one. Raises READ_ERRORS."""
    found = _zipped(archive) if archive.name.endswith(".zip") else _tarred(archive)
    for name, file, packed in found:
        if not wanted(name):
            continue
        origin = f"{archive.origin}!{name}"
        if file is None:
            yield RawText(origin, problem=("unreadable", "it is encrypted"))
            continue
        stream = io.BufferedReader(Counted(file, packed))
        kind = nested(stream)
        if kind or name.endswith((*ARCHIVES, *COMPRESSIONS)):
            yield RawText(origin, problem=("nested archive", f"{kind or 'an archive'} inside {archive.name}; unpack the outer one"))
        else:
            yield replace(archive, origin=origin, name=name.rsplit("/", 1)[-1], stream=stream, path=None)


def tar_files(stream: BinaryIO) -> Iterator[tuple[str, BinaryIO]]:
    """Name and bytes of each plain file in a tar stream. Raises READ_ERRORS."""
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as archive:
        for member in archive:
            archive.members = []  # type: ignore[attr-defined]  # tarfile would remember each of millions
            if member.isreg():
                yield member.name, cast("BinaryIO", archive.extractfile(member))


def _tarred(archive: Opened) -> Iterator[tuple[str, BinaryIO | None, int | None]]:
    return ((name, file, None) for name, file in tar_files(archive.stream))


def _zipped(archive: Opened) -> Iterator[tuple[str, BinaryIO | None, int | None]]:
    with seekable(archive.stream, archive.path) as file, zipfile.ZipFile(file) as container:
        for info in container.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & 1:
                yield info.filename, None, None
                continue
            with container.open(info) as opened:
                yield info.filename, cast("BinaryIO", opened), info.compress_size
