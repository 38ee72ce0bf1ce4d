"""The items of a task: read from files, or generated from a seed where the task says how."""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openbook.errors import InputError
from openbook.evaluate.generated import COUNT, generate_items
from openbook.evaluate.task import DataSection, Examples, Task
from openbook.evaluate.templates import evaluated
from openbook.files import sha256_file, sha256_json

VARIABLE = "OPENBOOK_DATA"
USUAL = (Path("shared/data"), Path("../shared/data"))
"""Where the data folder is looked for if neither --data nor the variable names one."""
REMEDY = f"--data or ${VARIABLE} may name another folder; `openbook data` says where the built-in tasks' sets come from"
"""What helps whoever lacks a file."""


@dataclass(frozen=True)
class ItemSource:
    """Items as dictionaries of fields; where they come from, for error messages; and a digest of what was read."""

    items: Sequence[Mapping[str, Any]]
    place: str
    digest: str


def data_folder(given: Path | None) -> Path:
    """The folder that tasks' files lie below. It need not exist: generated tasks need none."""
    if given is not None:
        if not given.is_dir():
            raise InputError(f"--data {given}: no such folder")
        return given
    if VARIABLE in os.environ:
        return Path(os.environ[VARIABLE])
    return next((path for path in USUAL if path.is_dir()), USUAL[0])


def items_of(task: Task, folder: Path, generated: bool, seed: int) -> ItemSource:
    """The items to answer. With `generated`, those that the task's generator makes of the seed."""
    if generated or not task.data.file:
        if task.data.generator is None:
            raise InputError(f"{task.name}: --generated: the task has no generator; leave the flag out")
        raw = generate_items(task.data.generator, seed, COUNT)
        return ItemSource(_with_fields(raw, task.data.fields, task.name), f"{task.name} (generated)", f"generated {seed}")
    return _read(task.data, task.name, folder, task.data.generator is not None)


def examples_of(task: Task, folder: Path, items: ItemSource) -> ItemSource:
    """The items that demonstrations are drawn from: the task's own where it names no others."""
    return _read(task.examples, task.name, folder, False) if task.examples else items


def path_of(section: DataSection | Examples, folder: Path) -> Path:
    return folder / section.file


def _read(section: DataSection | Examples, name: str, folder: Path, has_generator: bool) -> ItemSource:
    path = path_of(section, folder)
    if not path.is_file():
        instead = "; or --generated makes items from the seed" if has_generator else ""
        raise InputError(f"{path}: no such file, which the task {name} needs; {REMEDY}{instead}")
    try:
        items = _beside(path, section.beside, folder) if section.beside else _parsed(path, section.split)
        if section.labels:
            labels = _text(folder / section.labels).split()
            items = [{**item, "label": int(label)} for item, label in zip(items, labels, strict=True)]
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path}: cannot be read as {''.join(path.suffixes)}: {error}") from None
    digests = [sha256_file(folder / name) for name in (section.file, *section.beside.values())]
    digest = digests[0] if len(digests) == 1 else sha256_json(digests)
    whole = _with_fields(items, section.fields, str(path))
    kept = whole if section.keep is None else [item for item in whole if evaluated(section.keep, item, f"{path}: keep")]
    return ItemSource(kept, str(path), digest)


def _beside(path: Path, others: Mapping[str, str], folder: Path) -> list[dict[str, Any]]:
    """Parallel files: items of a line each."""
    columns = {name: _text(where).removesuffix("\n").split("\n") for name, where in {"text": path, **_paths(others, folder)}.items()}
    counts = {name: len(lines) for name, lines in columns.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"the files have different numbers of lines: {counts}")
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _paths(names: Mapping[str, str], folder: Path) -> dict[str, Path]:
    return {name: folder / file for name, file in names.items()}


def _text(path: Path) -> str:
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes()).decode()
    return path.read_text(encoding="utf-8")


def _parsed(path: Path, split: str | None) -> list[dict[str, Any]]:
    text = _text(path)
    kind = path.with_suffix("").suffix if path.suffix == ".gz" else path.suffix
    if kind == ".json":
        parsed = json.loads(text)
    elif kind == ".jsonl":
        parsed = [json.loads(line) for line in text.split("\n") if line.strip()]
    else:
        return [{"text": part} for part in re.split(split, text) if part.strip()] if split else _sections(text.split("\n"))
    if not isinstance(parsed, list) or not all(isinstance(item, dict) for item in parsed):
        raise ValueError("not a list of objects")
    return parsed


def _sections(lines: list[str]) -> list[dict[str, Any]]:
    """Lines as items with their words; a line ": name" begins a section, as in word2vec's question-words.txt."""
    items, section = [], ""
    for line in lines:
        if line.startswith(": "):
            section = line[2:].strip()
        elif line.strip():
            items.append({"text": line, "words": line.split(), "section": section})
    return items


def _with_fields(items: Sequence[dict[str, Any]], fields: Mapping[str, str], place: str) -> list[dict[str, Any]]:
    made = []
    for number, item in enumerate(items, 1):
        own = dict(item)
        for name, expression in fields.items():
            own[name] = evaluated(expression, own, f"{place}: item {number}: fields.{name}")
        made.append(own)
    return made
