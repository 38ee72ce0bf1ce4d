"""A tiny recipe over a tiny folder of text: every stage for real, in seconds."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from openbook.recipe import Recipe, load_recipe
from openbook.run import Run, open_run
from tiny import write_recipe

# A shell starts what runs in its background with Ctrl-C ignored, and so would be all programs that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
