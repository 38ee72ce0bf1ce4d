"""A tiny recipe over a tiny folder of text: every stage for real, in seconds."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from openbook.recipe import Recipe, load_recipe
from openbook.run import Run, open_run

WORDS = [
    "def",
    "return",
    "class",
    "import",
    "self",
    "value",
    "index",
    "list",
    "of",
    "the",
    "a",
    "to",
    "and",
    "in",
    "model",
    "token",
    "byte",
    "text",
    "line",
    "file",
    "print",
    "for",
    "if",
    "else",
]

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


@pytest.fixture
def recipe_path(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


@pytest.fixture
def recipe(recipe_path: Path) -> Recipe:
    return load_recipe(recipe_path)[0]


@pytest.fixture
def run(recipe_path: Path, recipe: Recipe, tmp_path: Path) -> Run:
    """A new run directory of the tiny recipe, with nothing made yet."""
    return open_run(tmp_path / "run", recipe, recipe_path)


@pytest.fixture(scope="session")
def tokenized(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the tiny recipe up to tokens, shared: look, do not touch."""
    from openbook.pipeline import up_to, update

    folder = tmp_path_factory.mktemp("tokenized")
    path = write_recipe(folder)
    shared = open_run(folder / "run", load_recipe(path)[0], path)
    list(update(shared, up_to("tokenize")))
    return shared


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of the tiny recipe with every stage done, shared: look, do not touch."""
    from openbook.pipeline import up_to, update

    folder = tmp_path_factory.mktemp("finished")
    path = write_recipe(folder)
    shared = open_run(folder / "run", load_recipe(path)[0], path)
    list(update(shared, up_to(None)))
    return shared
