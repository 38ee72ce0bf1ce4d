"""The tiny recipe of the tests, and the text it is trained on."""

from __future__ import annotations

import keyword
import random
from pathlib import Path

WORDS = keyword.kwlist

RECIPE = """
name = "tiny"
seed = 7

[corpus]
holdout = 0.2

[corpus.components.prose]
source = "files"
path = "prose"
weight = 2.0
licence = "CC0-1.0"

[corpus.components.code]
source = "files"
path = "code"
weight = 1.0

[tokenizer]
vocab_size = 300

[model]
layers = 2
width = 32
head_width = 16
context = 32

[train]
steps = 12
microbatch_rows = 2
microbatches = 2
device = "cpu"
validate_every = 6
checkpoint_every = 4

[evaluate]
max_bytes = 4000
sample_tokens = 8
"""


def sentences(seed: int, count: int) -> str:
    source = random.Random(seed)
    return "\n".join(" ".join(source.choices(WORDS, k=source.randint(4, 12))) + "." for _ in range(count)) + "\n"


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """Lays out the recipe and the folders that it names; returns the recipe's path."""
    for index in range(24):
        for part, ending in (("prose", "txt"), ("code", "py")):
            path = folder / part / f"{index:02}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(sentences(index * 2 + (part == "code"), 12), encoding="utf-8")
    recipe = folder / "tiny.toml"
    recipe.write_text(text, encoding="utf-8")
    return recipe
