"""One dial and a budget: what follows is sane at every size, is told, and never replaces what the recipe sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from openbook import scaling
from openbook.errors import InputError
from openbook.recipe import Recipe, load_recipe
from tiny import RECIPE

DIALLED = RECIPE.replace("layers = 2\nwidth = 32\nhead_width = 16\n", 'size = "1M"\n').replace(
    "steps = 12\nmicrobatch_rows = 2\nmicrobatches = 2\n", "tokens_per_parameter = 20\n"
)


def load(folder: Path, *overrides: str, text: str = DIALLED) -> tuple[Recipe, list[str]]:
    path = folder / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return load_recipe(path, overrides)


def complaint(folder: Path, *overrides: str, text: str = DIALLED) -> str:
    with pytest.raises(InputError) as raised:
        load(folder, *overrides, text=text)
    return str(raised.value)


@pytest.mark.parametrize(
    ("size", "vocab_size", "context", "layers", "width", "batch"),
    [
        ("1M", 512, 256, (3, 8), (64, 192), (8e3, 4e4)),
        ("124M", 50_257, 1024, (10, 14), (640, 832), (2.5e5, 1e6)),  # GPT-2 small: 12 layers of 768, half a million tokens in nanoGPT
        ("1.3B", 50_257, 2048, (18, 30), (1792, 2304), (1e6, 2.1e6)),  # GPT-3 XL: 24 layers of 2048, a million tokens
        ("175B", 50_257, 2048, (80, 160), (9600, 13_000), (3.2e6, 1.7e7)),  # GPT-3: 96 layers of 12,288, 3.2 million; Llama 3: 16 million
    ],
)
def test_what_follows_is_sane_at_every_size(
    tmp_path: Path,
    size: str,
    vocab_size: int,
    context: int,
    layers: tuple[int, int],
    width: tuple[int, int],
    batch: tuple[float, float],
) -> None:
    sizes = [f"model.size={size}", f"model.context={context}", f"tokenizer.vocab_size={vocab_size}", "model.tied_head=true"]
    recipe, derived = load(tmp_path, *sizes)
    model, train = recipe.model, recipe.train
    assert layers[0] <= model.layers <= layers[1]
    assert width[0] <= model.width <= width[1]
    assert model.heads is not None and model.mlp_width is not None
    assert model.heads * model.head_width == model.width
    parameters = model.layers * model.width * (4 * model.width + 3 * model.mlp_width) + vocab_size * model.width
    wanted = float(size[:-1]) * {"M": 1e6, "B": 1e9}[size[-1]]
    assert parameters == pytest.approx(wanted, rel=0.1)
    a_step = train.microbatch_rows * train.microbatches * context
    assert batch[0] <= a_step <= batch[1]
    assert train.steps * a_step == pytest.approx(20 * parameters, rel=0.1)
    optimizer = train.optimizer
    assert optimizer.kind == "muon"
    assert 0.01 < optimizer.matrix_rate < 0.03
    assert 0.0005 < optimizer.head_rate < 0.02
    assert "train.steps = " in "\n".join(derived)


def test_the_pocket_recipe_comes_out_of_its_size_and_tokens() -> None:
    assert scaling.rows_and_microbatches(scaling.batch_tokens(2.25e6), 256, None, None) == (16, 1)
    assert scaling.muon_rates(128, 4096, 2.25e6) == {"matrix_rate": 0.02, "embedding_rate": 0.2, "head_rate": 0.012, "norm_rate": 0.01}


@pytest.mark.parametrize(("size", "batch", "rate"), [(125e6, 5e5, 6e-4), (1.3e9, 1e6, 2e-4), (13e9, 2e6, 1e-4), (175e9, 3.2e6, 6e-5)])
def test_adamw_is_near_gpt3s_table(size: float, batch: float, rate: float) -> None:
    """At the batch of the rule; GPT-3's was 1.3 to 8 times smaller (Brown et al. 2020, table 2.1)."""
    tokens = 300e9
    assert scaling.adamw_rate(size, scaling.batch_tokens(tokens), tokens) == pytest.approx(rate, rel=0.4)
    assert scaling.weight_decay(rate, round(tokens / batch), size, tokens) == pytest.approx(0.2, rel=0.7)


def test_nothing_that_is_set_is_overridden(tmp_path: Path) -> None:
    kept = ["model.width=128", "train.microbatch_rows=4", "train.optimizer.matrix_rate=0.5", "train.schedule.warmup=0.2", "model.heads=4"]
    recipe, derived = load(tmp_path, *kept)
    optimizer = recipe.train.optimizer
    assert optimizer.kind == "muon"
    assert (recipe.model.width, recipe.train.microbatch_rows, optimizer.matrix_rate, recipe.train.schedule.warmup) == (128, 4, 0.5, 0.2)
    assert not [line for line in derived if line.split(" = ")[0] in {item.split("=")[0] for item in kept}]
    assert load(tmp_path, *kept)[0].sha256() == recipe.sha256()


def test_what_is_derived_is_the_recipe_that_spells_it_out(tmp_path: Path) -> None:
    recipe, derived = load(tmp_path)
    spelt = RECIPE.replace("layers = 2\nwidth = 32\nhead_width = 16\n", "").replace(
        "steps = 12\nmicrobatch_rows = 2\nmicrobatches = 2\n", ""
    )
    values = [" = ".join(line.split(" ")[0:3:2]).replace(" = ", "=") for line in derived]
    assert load(tmp_path, *values, text=spelt)[0].sha256() == recipe.sha256()


def test_a_budget_counts_the_small_batches_of_a_ramp(tmp_path: Path) -> None:
    text = DIALLED.replace("tokens_per_parameter = 20", 'tokens = "1M"\nmicrobatches = 8\nramp = {start = 1, over = 0.3}')
    recipe, _ = load(tmp_path, text=text)
    tokens = recipe.train.batches.total * recipe.train.microbatch_rows * recipe.model.context
    assert tokens == pytest.approx(1e6, rel=0.03)


def test_rates_follow_adamw_and_a_size_without_a_budget(tmp_path: Path) -> None:
    recipe, _ = load(tmp_path, "train.optimizer.kind=adamw")
    assert recipe.train.optimizer.kind == "adamw"
    assert recipe.train.optimizer.rate == pytest.approx(6e-4 * 125 ** (1 / 3), rel=0.1)
    text = DIALLED.replace("tokens_per_parameter = 20", "steps = 50\nmicrobatch_rows = 3")
    recipe, derived = load(tmp_path, text=text)
    assert (recipe.train.steps, recipe.train.microbatch_rows, recipe.train.microbatches) == (50, 3, 1)
    assert any(line.startswith("train.optimizer.matrix_rate = ") for line in derived)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model.size=big"], ["--set model.size=big", '"124M"']),
        (["model.layers=2", "model.width=64"], ["tiny.toml:23: model.size", "leave one"]),
        (["train.steps=5"], ["tiny.toml:27: train.tokens_per_parameter", "train.steps", "keep one"]),
        (["train.tokens=5M"], ["train.tokens_per_parameter", "keep one"]),
        (["train.tokens_per_parameter=-1"], ["train.tokens_per_parameter", "above 0"]),
        (["train.optimizer.matrix_rate=fast"], ["--set", "train.optimizer.matrix_rate", "should be a number"]),
        (["train.microbatches=3"], ["tiny.toml:26: train", "power of two"]),
        (["train.optimizer.kind=sgd"], ["train.optimizer", "'muon', 'adamw'"]),
        (["train.optimizer.kind=adamw", "train.optimizer.matrix_rate=1.0"], ["train.optimizer.matrix_rate", "unknown key"]),
        (["train.ramp={start = 64, over = 0.1}", "train.microbatches=4"], ["train.ramp.start", "at most"]),
        (["train.schedule={kind = 'cosine', warmup = 0.6, cooldown = 0.5}"], ["train.schedule", "at most end"]),
    ],
)
def test_a_dial_that_is_wrong_is_told_with_its_place(tmp_path: Path, overrides: list[str], expected: list[str]) -> None:
    message = complaint(tmp_path, *overrides)
    assert "\n" not in message
    assert all(part in message for part in expected), message


def test_neither_steps_nor_tokens(tmp_path: Path) -> None:
    assert "train.steps: is missing; or give train.tokens" in complaint(tmp_path, text=DIALLED.replace("tokens_per_parameter = 20\n", ""))
    assert "did you mean 'tokens'" in complaint(tmp_path, text=RECIPE.replace("steps = 12", "token = 12"))
