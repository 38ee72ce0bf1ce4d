"""Recipes that extend another: tables are taken whole, and every error names the file and line where a key was written."""

from __future__ import annotations

from pathlib import Path

import pytest

from openbook.errors import InputError
from openbook.recipe import load_recipe
from openbook.run import open_run
from openbook.written import read
from tiny import RECIPE


def wrote(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    return folder / "child.toml"


CHILD = 'name = "child"\nextends = "base.toml"\n\n[train]\nsteps = 3\nmicrobatch_rows = 1\n'


def test_tables_are_taken_whole_and_what_the_recipe_has_is_its_own(tmp_path: Path) -> None:
    recipe, _ = load_recipe(wrote(tmp_path, base=RECIPE, child=CHILD))
    base, _ = load_recipe(tmp_path / "base.toml")
    assert recipe.name == "child" and recipe.train.steps == 3
    assert (recipe.corpus, recipe.model, recipe.tokenizer) == (base.corpus, base.model, base.tokenizer)
    assert recipe.train.microbatches == 1 != base.train.microbatches


def test_a_run_keeps_a_recipe_that_needs_no_other_file(tmp_path: Path) -> None:
    path = wrote(tmp_path, base=RECIPE, child=CHILD)
    recipe, _ = load_recipe(path)
    run = open_run(tmp_path / "run", recipe, path)
    assert load_recipe(run.path / "recipe.toml")[0] == recipe
    plain = tmp_path / "base.toml"
    assert read(plain).text == plain.read_text(encoding="utf-8")


def test_through_several_files(tmp_path: Path) -> None:
    middle = 'extends = "base.toml"\n[train]\nsteps = 5\nmicrobatch_rows = 1\n'
    child = 'name = "child"\nextends = "middle.toml"\n'
    assert load_recipe(wrote(tmp_path, base=RECIPE, middle=middle, child=child))[0].train.steps == 5


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ({"child": 'extends = "child.toml"\n'}, r"child.toml: extends = 'child.toml': these recipes extend each other in a circle"),
        ({"child": 'extends = "b.toml"\n', "b": 'extends = "child.toml"\n'}, r"b.toml: extends = 'child.toml': .* in a circle"),
        ({"child": 'extends = "no.toml"\n'}, r"child.toml: extends: .*no.toml: no such recipe"),
        ({"child": 'extends = "../base.toml"\n'}, r"child.toml: extends = '../base.toml': should be the file name of another recipe"),
        ({"child": CHILD.replace("extends", "extend"), "base": RECIPE}, r"child.toml:2: extend: unknown key; did you mean 'extends'"),
        ({"child": "extends = 3\n"}, r"child.toml: extends = 3: should be the file name"),
        ({"child": CHILD, "base": RECIPE.replace("width = 32", "width = -32")}, r"base.toml:\d+: model.width = -32"),
        ({"child": CHILD.replace("steps = 3", "steps = 0"), "base": RECIPE}, r"child.toml:5: train.steps = 0"),
        ({"child": CHILD, "base": 'corpus.x = """\n[train]\n"""\n'}, r"base.toml: cannot be extended"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(tmp_path: Path, texts: dict[str, str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        load_recipe(wrote(tmp_path, **texts))
