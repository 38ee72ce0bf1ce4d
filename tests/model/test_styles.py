"""What a recipe's `model.style` gives: sizes, refusals, and a model that draws the same tokens with a cache as without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from openbook.errors import InputError
from openbook.model.config import Window
from openbook.model.generate import Sampling, generate
from openbook.model.initialise import initialise
from openbook.model.transformer import Transformer
from openbook.recipe import load_recipe
from openbook.train.step import config_of

RECIPE = """
name = "small"
[corpus.components.licences]
source = "machine"
select = "licences"
weight = 1
[tokenizer]
vocab_size = 300
[model]
layers = 4
width = 32
context = 40
head_width = 16
[train]
steps = 1
microbatch_rows = 1
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def test_gpt_sizes_follow_gpt2(recipe: Path) -> None:
    loaded, derived = load_recipe(recipe, ["model.style=gpt", "model.windows=[0, 256]"])
    config = config_of(loaded.model, 300)
    assert (config.norm, config.mlp_width, config.norm_eps, config.tied_head, config.kv_heads) == ("layer", 128, 1e-5, True, 2)
    assert [config.window(layer) for layer in range(4)] == [None, Window(256), None, Window(256)]
    assert loaded.model.embedding_std == 0.02
    assert "model.tied_head = true" in derived


@pytest.mark.parametrize(("tied", "deviation"), [("true", 0.02), ("false", 1.0)])
def test_a_table_that_is_also_the_head_starts_small(recipe: Path, tied: str, deviation: float) -> None:
    assert load_recipe(recipe, [f"model.tied_head={tied}"])[0].model.embedding_std == deviation


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.style=gpt", "model.rotary.theta=5.0"], 'positions are "learned"; leave it out'),
        (["model.style=gpt", "model.kv_heads=1"], "model.kv_heads = 1 should be model.heads = 2"),
        (["model.style=gpt", "model.heads=3"], "model.heads = 3 times model.head_width = 16 should be model.width = 32"),
        (["model.style=bert"], "should be one of 'modern', 'gpt'"),
    ],
)
def test_contradictions_are_named(recipe: Path, settings: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        load_recipe(recipe, settings)
    assert message in str(error.value)


@pytest.mark.parametrize("settings", [[], ["model.windows=[0, 8]"]])
def test_the_gpt_style_draws_the_likeliest_tokens(recipe: Path, settings: list[str]) -> None:
    loaded, _ = load_recipe(recipe, ["model.style=gpt", *settings])
    model = Transformer(config_of(loaded.model, 300)).eval()
    initialise(model, 1, 0.3)
    ids = list(range(10, 20))
    drawn = [token.id for token in generate(model, ids, Sampling(max_tokens=20, temperature=0), end=None)]
    for token in drawn:
        with torch.no_grad():
            assert int(model.logits(model(torch.tensor([ids]))[0, -1]).argmax()) == token
        ids.append(token)
