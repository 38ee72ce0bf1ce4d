"""Files that the user names: found in a fixed order, opened in bounded memory, read by what their format asks for."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from openbook.corpus.raw import RawText, by_hash
from openbook.corpus.sources.archives import members
from openbook.corpus.sources.formats import endings_of, reader_of
from openbook.corpus.sources.licences import spdx
from openbook.corpus.sources.opened import Opened
from openbook.corpus.sources.streams import ARCHIVES, CHUNK, COMPRESSIONS, READ_ERRORS, Counted, bare, nested, unpack
from openbook.documents import Split
from openbook.errors import InputError
from openbook.recipe_corpus import ReadComponent

TRAIN: Split = "train"
VALID: Split = "valid"

_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


@dataclass(frozen=True)
class Part:
    """One file of a component, or why it is not read."""

    origin: str
    path: Path
    problem: tuple[str, str] | None = None


def expand(path: str, where: str) -> str:
    """A path with `${NAME}` and `${NAME:-other}` replaced as a shell would. Raises InputError for a NAME that is nowhere."""

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1]) or match[2]
        if found is None:
            raise InputError(f"{where} = {path!r}: the environment has no {match[1]}; set it, or write ${{{match[1]}:-some/path}}")
        return found

    return _VARIABLE.sub(value, path)


def locate(path: str, folder: Path, where: str) -> Path:
    """The absolute path of what a recipe in `folder` names. Raises InputError if nothing is there."""
    root = (folder / Path(expand(path, where)).expanduser()).resolve()
    if not root.exists():
        raise InputError(f"{where} = {path!r}: no such file or folder ({root})")
    return root


def find_files(root: Path, component: ReadComponent, where: str, within: Path | None = None) -> list[Part]:
    """Every file under `root` that the component's format reads, in by-hash order; hidden ones are passed over.

    A link that leads out of `within` (`root` if not given) is a part with a problem. Raises InputError if there is no file at all.
    """
    if root.is_file():
        if not is_wanted(root.name, component) and component.format == "auto":
            raise InputError(f"{where}: cannot read this kind of file ({root}); known endings are {', '.join(endings_of(component))}")
        return [Part(root.name, root)]
    paths = ((str(path.relative_to(root)), path) for path in root.rglob("*") if path.is_file() and is_wanted(path.name, component))
    found = by_hash((name, path) for name, path in paths if not any(part.startswith(".") for part in Path(name).parts))
    if not found:
        raise InputError(f"{where}: holds no file that ends in {', '.join(endings_of(component)) or 'anything'} ({root})")
    home = within or root
    return [Part(name, path, None if path.resolve().is_relative_to(home) else _OUTSIDE) for name, path in found]


_OUTSIDE = ("outside", "a link that leads out of the folder; name its target as a component of its own")


def is_wanted(name: str, component: ReadComponent) -> bool:
    endings = endings_of(component)
    return not endings or bare(name).endswith((*endings, *ARCHIVES))


def fingerprint(parts: list[Part]) -> list[list[object]]:
    """What a later run compares to see whether the files changed: name, size and time of each."""
    stats = ((part.origin, part.path.stat()) for part in parts)
    return [[origin, stat.st_size, stat.st_mtime_ns] for origin, stat in stats]


def read_part(part: Part, component: ReadComponent, limit: int) -> Iterator[RawText]:
    """Every text of one file; texts longer than `limit` bytes, and what else cannot be taken, come as problems."""
    if part.problem:
        yield RawText(part.origin, problem=part.problem)
        return
    try:
        with part.path.open("rb") as file:
            name = part.path.name
            packed = os.fstat(file.fileno()).st_size
            counted = unpack(file, name, packed)
            compressed = name.endswith((*COMPRESSIONS, ".tgz"))
            stream = io.BufferedReader(counted, CHUNK)
            opened = Opened(part.origin, bare(name), stream, component, limit, None if compressed else part.path)
            yield from _guarded(opened, counted, compressed)
    except OSError as error:
        yield RawText(part.origin, problem=("unreadable", error.strerror or str(error)))


def _guarded(opened: Opened, counted: Counted, compressed: bool) -> Iterator[RawText]:
    try:
        kind = nested(opened.stream) if compressed else None
        if kind and not opened.name.endswith(".zip"):
            yield RawText(opened.origin, problem=("nested archive", f"{kind} inside a compressed file; unpack the outer one"))
        elif opened.name.endswith(ARCHIVES) and opened.component.format != "latex":
            for member in members(opened, lambda name: is_wanted(name, opened.component)):
                yield from [member] if isinstance(member, RawText) else read_opened(member)
        else:
            yield from read_opened(opened)
    except READ_ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        yield RawText(opened.origin, bytes=counted.position, problem=("unreadable", f"{reason} (near byte {counted.position:,})"))


def read_opened(opened: Opened) -> Iterator[RawText]:
    """The texts of an open file, with the licence and the split that the recipe gives them. Raises streams.READ_ERRORS."""
    component = opened.component
    for raw in reader_of(component, opened.name)(opened):
        known = raw if raw.problem else replace(raw, licence=_licence(raw.licence, component), meta=_dated(raw.meta))
        yield from _cut(known, component.holdout_end) if component.holdout_end and not raw.problem else [known]


def _licence(stated: str | None, component: ReadComponent) -> str | None:
    if component.licence or stated is None:
        return component.licence
    return component.licences.get(stated) or spdx(stated) or stated


def _dated(meta: Mapping[str, object]) -> dict[str, object]:
    """Adds the year of a date, unless it is known."""
    facts = dict(meta)
    date = facts.get("date")
    if "year" not in facts and isinstance(date, str) and re.match(r"[12]\d\d\d(?!\d)", date):
        facts["year"] = int(date[:4])
    return facts


def _cut(raw: RawText, share: float) -> Iterator[RawText]:
    """A text's beginning, to train on, and the share of its characters at its end, to hold out."""
    place = int(len(raw.text) * (1 - share))
    for text, split in ((raw.text[:place], TRAIN), (raw.text[place:], VALID)):
        yield replace(raw, origin=f"{raw.origin}#{split}", text=text, bytes=len(text.encode()), split=split)
