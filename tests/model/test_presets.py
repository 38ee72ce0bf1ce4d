"""The published models: every row is a model with the published number of parameters, and every recipe of one trains as published."""

from __future__ import annotations

import json
import subprocess
import sys
from csv import DictReader
from pathlib import Path

import pytest
import torch

from openbook.errors import InputError
from openbook.model.count import active_parameters, total_parameters
from openbook.model.presets import Preset, number, preset, presets
from openbook.model.published import facts, shape_of, table
from openbook.model.transformer import Transformer
from openbook.recipe import AdamWSection, Recipe, load_recipe
from openbook.recipe_model import config_of
from shared_data import DATA, needs_data

ROOT = Path(__file__).parent.parent.parent
EVERY = list(presets().values())


def of(name: str) -> Recipe:
    return load_recipe(ROOT / "recipes" / f"{name}.toml")[0]


@pytest.mark.parametrize("found", EVERY, ids=lambda found: found.name)
def test_a_row_and_its_recipe_are_the_published_model(found: Preset) -> None:
    config = shape_of(found)
    assert abs(total_parameters(config) / found.published - 1) <= found.within
    if found.printed_active:
        assert abs(active_parameters(config) / number(found.printed_active) - 1) <= 0.02
    recipe = of(found.name)
    assert config_of(recipe.model, recipe.tokenizer.vocab_size) == config
    if "rate" in found.training:
        optimizer = recipe.train.optimizer
        assert isinstance(optimizer, AdamWSection) and optimizer.rate == found.training["rate"]
    if "batch_tokens" in found.training:
        batch = recipe.train.microbatch_rows * recipe.train.microbatches * config.context
        assert batch == pytest.approx(found.training["batch_tokens"], rel=0.02)


@pytest.mark.parametrize("found", EVERY, ids=lambda found: found.name)
def test_the_model_itself_has_as_many_parameters_as_the_formula(found: Preset) -> None:
    config = shape_of(found)
    with torch.device("meta"):
        model = Transformer(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == total_parameters(config)


def test_counts_known_to_the_unit() -> None:
    assert total_parameters(shape_of(preset("gpt-neox-20b"))) == 20_554_567_680
    assert sum(found.within == 0 for found in EVERY) == 13


@needs_data("reference")
def test_gpt3_is_its_table_but_for_the_misprints() -> None:
    """Table 2.1: XL has 24 heads of 128 on a width of 2048, and 13B a width of 5140 with 40 heads of 128."""
    ours = [found for found in EVERY if found.family == "GPT-3"]
    with (DATA / "reference" / "gpt3_models.csv").open() as file:
        rows = list(DictReader(file))
    misprints = []
    for found, row in zip(ours, rows, strict=True):
        config = shape_of(found)
        told = {"n_layers": config.layers, "d_model": config.width, "n_heads": config.heads, "d_head": config.head_width}
        misprints += [(found.name, key, row[key]) for key, value in told.items() if int(row[key]) != value]
        assert config.heads * config.head_width == config.width
        assert found.training["rate"] == float(row["learning_rate"])
        assert found.training["batch_tokens"] == pytest.approx(number(row["batch_size_tokens"]), rel=0.05)
    assert misprints == [("gpt3-1.3b", "n_heads", "24"), ("gpt3-13b", "d_model", "5140")]


@needs_data("reference")
def test_opt_is_its_table() -> None:
    with (DATA / "reference" / "opt_models.csv").open() as file:
        rows = {row["name"].lower(): row for row in DictReader(file)}
    ours = {found.name: found for found in EVERY if found.family == "OPT"}
    assert ours.keys() == rows.keys()
    for name, row in rows.items():
        config, training = shape_of(ours[name]), ours[name].training
        assert [config.layers, config.width, config.heads, config.head_width] == [int(row[key]) for key in list(row)[1:5]]
        assert [training["batch_tokens"], training["rate"]] == [int(row["batch_size_tokens"]), float(row["learning_rate"])]


@pytest.mark.parametrize(("name", "steps"), [("gpt-neox-20b", 150_000), ("pythia-160m", 143_000), ("pythia-12b", 143_000)])
def test_steps_are_those_published(name: str, steps: int) -> None:
    assert of(name).train.steps == steps


def test_gpt3_trains_as_its_appendix_says() -> None:
    train, context = of("gpt3-175b").train, 2048
    assert isinstance(train.optimizer, AdamWSection) and train.ramp is not None
    assert (train.optimizer.beta1, train.optimizer.beta2, train.optimizer.weight_decay, train.optimizer.clip) == (0.9, 0.95, 0.1, 1.0)
    tokens = train.batches.total * train.microbatch_rows * context
    assert tokens == pytest.approx(300e9, rel=1e-3)
    assert train.schedule.warmup * tokens == pytest.approx(375e6, rel=1e-3)
    assert train.schedule.end * tokens == pytest.approx(260e9, rel=1e-3)
    assert train.ramp.start * train.microbatch_rows * context == pytest.approx(32_000, rel=0.3)


RECIPE = 'name = "try"\nextends = "pile.toml"\n[model]\npreset = "opt-125m"\n[train]\npreset = "opt-125m"\n'


def written(folder: Path, text: str) -> Path:
    (folder / "pile.toml").write_text((ROOT / "recipes" / "pile.toml").read_text(encoding="utf-8"), encoding="utf-8")
    path = folder / "try.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_the_recipe_sets_goes_before_the_preset_and_all_else_is_told(tmp_path: Path) -> None:
    text = RECIPE.replace('[train]\npreset = "opt-125m"\n', 'layers = 3\n[train]\npreset = "opt-125m"\ntokens = "1B"\n')
    recipe, derived = load_recipe(written(tmp_path, text), ["train.optimizer.rate=0.5"])
    assert recipe.model.layers == 3 and recipe.model.width == 768
    assert isinstance(recipe.train.optimizer, AdamWSection) and recipe.train.optimizer.rate == 0.5
    assert recipe.train.steps == round(1e9 / 524_288)
    assert "model.width = 768 of opt-125m" in derived and "train.schedule.kind = linear of opt-125m" in derived


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (
            'preset = "opt-125m"\n[train]',
            'preset = "opt-125mm"\n[train]',
            "try.toml:4: model.preset: opt-125mm: no such preset; did you mean opt-125m",
        ),
        (
            '[train]\npreset = "opt-125m"',
            '[train]\npreset = "qwen3-8b"',
            "try.toml:6: train.preset: how long qwen3-8b was trained is not published",
        ),
        ("[train]", 'size = "1B"\n[train]', "try.toml:5: model.size: is that of preset opt-125m"),
    ],
)
def test_a_preset_that_does_not_fit_is_named_with_its_line(tmp_path: Path, old: str, new: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint.replace(".", r"\.")):
        load_recipe(written(tmp_path, RECIPE.replace(old, new, 1)))


def test_the_commands_print_what_the_table_holds() -> None:
    command = [sys.executable, "-m", "openbook.cli", "models"]
    one = json.loads(subprocess.run([*command, "mixtral-8x7b", "--json"], check=True, capture_output=True, text=True).stdout)
    assert one == facts(preset("mixtral-8x7b"))
    assert one["active"] < one["parameters"] and one["weight_bytes"]["bf16"] == 2 * one["parameters"]
    wrong = subprocess.run([*command, "gpt-5"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and wrong.stderr.startswith("openbook: gpt-5: no such preset")


def test_the_documents_table_is_the_presets() -> None:
    assert table([facts(found) for found in EVERY]) in (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
