"""Reads files as a component of a corpus would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openbook.corpus.raw import RawText
from openbook.corpus.sources import read
from openbook.recipe_corpus import FilesComponent

LIMIT = 100_000
NOTES = """
[corpus]
holdout = 0.2
[corpus.components.notes]
source = "files"
path = "notes"
weight = 1.0
licence = "CC0-1.0"
"""
"""The beginning of a recipe whose corpus is a folder of notes."""
BESIDE = """
[tokenizer]
vocab_size = 300
[model]
layers = 1
width = 32
head_width = 16
context = 32
[train]
steps = 1
microbatch_rows = 2
"""
"""The other tables of a recipe whose corpus is tested."""

MIT = (
    "Copyright (c) 2020 A\n\nPermission is hereby granted, free of charge, to any person obtaining a copy\nof this software, to deal. "
    'The above copyright notice and this permission notice shall be included.\nTHE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY.\n'
)


def texts(path: Path, limit: int = LIMIT, **settings: Any) -> list[RawText]:
    component = FilesComponent(weight=1.0, source="files", path=str(path), **settings)
    return list(read(component, Path("/"), "corpus.components.c", limit))


def the_text(path: Path, **settings: Any) -> RawText:
    """The only text of a file, which has no problem."""
    (raw,) = texts(path, **settings)
    assert raw.problem is None
    return raw


def problem(path: Path, **settings: Any) -> tuple[str, str]:
    """The problem with the only text of a file."""
    (raw,) = texts(path, **settings)
    assert raw.problem is not None
    assert raw.text == ""
    return raw.problem
