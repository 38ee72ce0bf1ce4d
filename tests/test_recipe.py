"""A recipe is strict: what is wrong is named with its file, line and key, and with what would be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from openbook.errors import InputError
from openbook.recipe import load_recipe
from tiny import RECIPE, write_recipe

ROOT = Path(__file__).parents[1]


def complaint(path: Path, text: str, *overrides: str) -> str:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as raised:
        load_recipe(path, overrides)
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("steps = 12", "stpes = 12", ["tiny.toml:29", "train.stpes", "'steps'"]),
        ("steps = 12", 'steps = "many"', ["tiny.toml:29", "train.steps = 'many'", "whole number"]),
        ("steps = 12", "steps = 1.5", ["tiny.toml:29", "train.steps", "whole number"]),
        ("steps = 12", "steps = 0", ["tiny.toml:29", "train.steps = 0", "greater than 0"]),
        ("weight = 2.0", "weight = -2.0", ["tiny.toml:11", "corpus.components.prose.weight = -2.0", "greater than 0"]),
        ("weight = 2.0", "weight = nan", ["tiny.toml:11", "corpus.components.prose.weight", "finite number"]),
        ("weight = 2.0\n", "", ["tiny.toml:5", "components.prose gives none of weight, tokens and epochs"]),
        ('source = "files"\npath = "prose"', 'source = "web"\npath = "prose"', ["corpus.components.prose", "'machine'", "'files'"]),
        ("microbatches = 2", "microbatches = 3", ["power of two"]),
        ("[corpus.components.prose]", '[corpus.components."../up"]', ["corpus.components", "lower-case"]),
        ("vocab_size = 300", "vocab_size = 100", ["tokenizer.vocab_size = 100", "258"]),
        ("width = 32", "width = true", ["model.width", "whole number"]),
        ("[evaluate]", "[evaluat]", ["evaluat", "'evaluate'"]),
        ("steps = 12", "steps = = 12", ["not valid TOML", "line 29"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_place(tmp_path: Path, before: str, after: str, expected: list[str]) -> None:
    assert before in RECIPE
    message = complaint(tmp_path / "tiny.toml", RECIPE.replace(before, after, 1))
    assert all(part in message for part in expected), message


def test_overrides_are_as_strict_as_the_file(tmp_path: Path) -> None:
    path = tmp_path / "tiny.toml"
    assert "--set train.stpes=3" in complaint(path, RECIPE, "train.stpes=3")
    assert "did you mean 'steps'" in complaint(path, RECIPE, "train.stpes=3")
    assert "--set train.steps=x" in complaint(path, RECIPE, "train.steps=x")
    assert "KEY=VALUE" in complaint(path, RECIPE, "train.steps")
    assert "'steps' is a value" in complaint(path, RECIPE, "train.steps.more=1")


def test_an_override_reaches_the_recipe(recipe_path: Path) -> None:
    loaded, _ = load_recipe(recipe_path, ["train.steps=99", "corpus.components.prose.weight=0.5", "description=two words"])
    assert (loaded.train.steps, loaded.corpus.components["prose"].weight, loaded.description) == (99, 0.5, "two words")


def test_sizes_that_follow_are_derived_and_told(recipe_path: Path) -> None:
    loaded, derived = load_recipe(recipe_path)
    assert (loaded.model.heads, loaded.model.kv_heads, loaded.model.mlp_width) == (2, 2, 64)
    assert "model.heads = 2" in derived
    kept, told = load_recipe(recipe_path, ["model.mlp_width=80"])
    assert kept.model.mlp_width == 80
    assert not any("mlp_width" in line for line in told)


def test_heads_must_share_keys_evenly(recipe_path: Path) -> None:
    with pytest.raises(InputError, match=r"multiple of model\.kv_heads = 2"):
        load_recipe(recipe_path, ["model.heads=3", "model.kv_heads=2"])


def test_the_hash_is_of_what_is_meant_not_of_how_it_is_written(recipe_path: Path) -> None:
    plain, _ = load_recipe(recipe_path)
    recipe_path.write_text("# a remark\n" + RECIPE.replace("heads", "heads"), encoding="utf-8")
    explicit, _ = load_recipe(recipe_path, ["model.heads=2"])
    other, _ = load_recipe(recipe_path, ["seed=8"])
    assert plain.sha256() == explicit.sha256() != other.sha256()


@pytest.mark.parametrize("name", ["missing.toml", "."])
def test_a_path_that_is_no_recipe(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="recipe"):
        load_recipe(tmp_path / name)


def test_a_recipe_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"name = '\xff'")
    with pytest.raises(InputError, match="not UTF-8"):
        load_recipe(tmp_path / "x.toml")


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_of_the_project_is_valid(path: Path) -> None:
    assert load_recipe(path)[0].name == path.stem.replace(".", "-")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("pue = 0.9", "greater than or equal to 1"),
        ("declared_watts = 0", "greater than 0"),
        ("grid_per_kwh = 5", "did you mean 'grid_g_per_kwh'"),
    ],
)
def test_energy_that_cannot_be_is_refused(tmp_path: Path, line: str, problem: str) -> None:
    path = write_recipe(tmp_path, RECIPE + f"\n[energy]\n{line}\n")
    with pytest.raises(InputError, match=problem):
        load_recipe(path)
