"""A recipe as written: its file, and the files it extends.

`extends = "pile.toml"` at the top of a recipe takes from another one in the same folder every table and every value at the top that the
recipe does not have itself. Tables are taken whole, never merged: a recipe with a `[train]` has nothing of the other's. What comes out is
again a recipe, in one text, and each of its lines knows where it was written.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openbook.errors import InputError

HEADER = re.compile(r"\s*\[\[?\s*([\w-]+|\"[^\"]*\")\s*[.\]]")
VALUE = re.compile(r"\s*([\w-]+|\"[^\"]*\")\s*=")


@dataclass(frozen=True)
class Line:
    text: str
    path: Path
    number: int
    """From 1, in its file."""


@dataclass(frozen=True)
class Written:
    """A whole recipe as text."""

    lines: tuple[Line, ...]
    document: dict[str, Any]

    @property
    def text(self) -> str:
        return "".join(line.text for line in self.lines)

    def place(self, number: int) -> str:
        """FILE:LINE of a line of the text (from 1)."""
        line = self.lines[min(number, len(self.lines)) - 1]
        return f"{line.path}:{line.number}"


def read(path: Path, extended_by: tuple[Path, ...] = ()) -> Written:
    """Reads a recipe and what it extends. Raises InputError, one line that names the file."""
    if path in extended_by:
        raise InputError(
            f"{extended_by[-1]}: extends = {path.name!r}: these recipes extend each other in a circle; leave one `extends` out"
        )
    text = _text(path, extended_by)
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    lines = tuple(Line(line, path, number) for number, line in enumerate(text.splitlines(keepends=True) or [""], 1))
    extends = document.pop("extends", None)
    if extends is None:
        return Written(lines, document)
    if not isinstance(extends, str) or Path(extends).name != extends or not extends:
        raise InputError(f"{path}: extends = {extends!r}: should be the file name of another recipe in the same folder, in quotes")
    base = read(path.parent / extends, (*extended_by, path))
    return _with(lines, document, base)


def _text(path: Path, extended_by: tuple[Path, ...]) -> str:
    asker = f"{extended_by[-1]}: extends: " if extended_by else ""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = "" if extended_by else "; give the path of a TOML file such as recipes/pocket.toml"
        raise InputError(f"{asker}{path}: no such recipe{hint}") from None
    except IsADirectoryError:
        raise InputError(f"{asker}{path}: is a folder; a recipe is a TOML file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{asker}{path}: not UTF-8 text (byte {error.start}); a recipe is a TOML file") from None


def _with(own: tuple[Line, ...], document: dict[str, Any], base: Written) -> Written:
    """One recipe of both: the values at the top before the first table, as TOML wants them, then the tables."""
    inherited = base.document.keys() - document.keys()
    head, tables = _split(own)
    base_head, base_tables = _split(base.lines)
    head = [Line(f"# {line.text}", line.path, line.number) if _key(VALUE, line) == "extends" else line for line in head]
    lines = [*head, *(line for line in base_head if _key(VALUE, line) in inherited)]
    lines += [*tables, Line("\n", own[-1].path, own[-1].number)]
    taken = False
    for line in base_tables:
        name = _key(HEADER, line)
        taken = taken if name is None else name in inherited
        lines += [line] if taken else []
    lines = [line if line.text.endswith("\n") else Line(line.text + "\n", line.path, line.number) for line in lines]
    whole = Written(tuple(lines), {**{key: base.document[key] for key in base.document if key in inherited}, **document})
    if _parsed(whole.text) != whole.document:
        where = base.lines[0].path
        raise InputError(f"{where}: cannot be extended: each [table] and each value at the top has to begin on a line of its own")
    return whole


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None


def _split(lines: tuple[Line, ...]) -> tuple[list[Line], list[Line]]:
    """What is at the top, and the tables."""
    first = next((index for index, line in enumerate(lines) if _key(HEADER, line)), len(lines))
    return list(lines[:first]), list(lines[first:])


def _key(pattern: re.Pattern[str], line: Line) -> str | None:
    match = pattern.match(line.text)
    return match[1].strip('"') if match else None
