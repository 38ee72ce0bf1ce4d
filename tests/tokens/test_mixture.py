"""A mixture is given in weights, tokens or epochs; the table says what the other two are, and what is not as asked."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.cli_tokens import mixture_lines
from openbook.errors import InputError
from openbook.files import sha256_file
from openbook.mixture import by_language, table
from openbook.pipeline import update
from openbook.recipe import load_recipe
from openbook.run import Run, open_run
from openbook.tokens import Order
from openbook.tokens.order import Mixture, Targets, key, permute, webster
from tiny import RECIPE, write_recipe


@settings(max_examples=80, deadline=None)
@given(targets=st.lists(st.integers(1, 400), min_size=1, max_size=8))
def test_targets_are_spread_evenly_and_met_exactly(targets: list[int]) -> None:
    total = sum(targets)
    before = [0] * len(targets)
    for count in range(total + 1):
        counts = webster(targets, count)
        assert sum(counts) == count
        assert all(now - then >= 0 for now, then in zip(counts, before, strict=True))
        assert all(abs(now - count * target / total) < len(targets) for now, target in zip(counts, targets, strict=True))
        before = counts
    assert before == targets


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(st.integers(1, 200), min_size=2, max_size=4), epochs=st.lists(st.floats(0.1, 3.5), min_size=4, max_size=4))
def test_whole_epochs_visit_every_row_and_a_fraction_is_the_beginning_of_one(rows: list[int], epochs: list[float]) -> None:
    names = [f"c{index}" for index in range(len(rows))]
    targets = {name: max(1, round(count * share)) for name, count, share in zip(names, rows, epochs, strict=False)}
    there = dict(zip(names, rows, strict=True))
    order = Order(Targets(there, targets), seed=5)
    seen = Counter(order.locate(sample) for sample in range(order.mixture.samples))
    for name, target in targets.items():
        whole, rest = divmod(target, there[name])
        often = set(permute(np.arange(rest), there[name], key(5, "epoch", name, whole)).tolist())
        assert [seen[name, row] for row in range(there[name])] == [whole + (row in often) for row in range(there[name])]
    assert order.drawn(order.mixture.samples) == targets


def test_what_was_drawn_is_counted_at_any_sample() -> None:
    for plan in (Targets({"a": 40, "b": 9}, {"a": 90, "b": 13}), Mixture({"a": 90, "b": 30}, {"a": 3.0, "b": 2.0}, {"a": 2.0, "b": 1.0})):
        order = Order(plan, seed=1)
        counts = Counter[str]()
        for sample in range(plan.samples):
            assert order.drawn(sample) == {name: counts[name] for name in plan.names}
            counts[order.locate(sample)[0]] += 1


def test_after_the_last_target_the_same_proportions_come_again() -> None:
    order = Order(Targets({"a": 40, "b": 9}, {"a": 90, "b": 13}), seed=1)
    assert Counter(order.locate(103 + sample)[0] for sample in range(103)) == {"a": 90, "b": 13}


def test_a_small_share_has_its_place_in_a_larger_block() -> None:
    plan = Mixture({"large": 90_000, "small": 900}, {"large": 2000.0, "small": 1.0}, {"large": 4.0, "small": 4.0})
    assert plan.block == 1024
    assert plan.spans[0].quotas == (1023, 1)


def changed(run: Run, folder: Path, text: str, *overrides: str) -> Run:
    """A copy of a tokenized run, under another mixture."""
    shutil.copytree(run.path, folder / "run")
    recipe = run.recipe_folder / f"{folder.name}.toml"
    recipe.write_text(text)
    return open_run(folder / "run", load_recipe(recipe, overrides)[0], recipe)


IN_EPOCHS = RECIPE.replace("weight = 2.0", "epochs = 0.5").replace("weight = 1.0", "epochs = 1.25")
IN_TOKENS = RECIPE.replace("weight = 2.0", "tokens = 2_048").replace("weight = 1.0", "tokens = 1_024")


def test_the_other_measures_follow_from_the_one_given(tokenized: Run, tmp_path: Path) -> None:
    by_weight = table(tokenized)
    assert by_weight["all"]["tokens_read"] == 12 * 4 * 32
    assert [part["weight"] for part in by_weight["components"].values()] == [pytest.approx(2 / 3), pytest.approx(1 / 3)]
    prose = by_weight["components"]["prose"]
    assert prose["epochs"] == pytest.approx(prose["rows_read"] / prose["rows"], abs=1e-4)
    assert prose["effective_bytes"] == pytest.approx(prose["bytes"] * prose["epochs"], rel=1e-3)
    assert by_weight["notes"] == []
    by_epochs = table(changed(tokenized, tmp_path, IN_EPOCHS, "train.steps=40"))
    rows = {name: part["rows"] for name, part in by_epochs["components"].items()}
    assert by_epochs["notes"] == [by_epochs["notes"][0]] and "of the mixture's" in by_epochs["notes"][0]
    whole = round(rows["prose"] * 0.5 + rows["code"] * 1.25)
    assert f"160 of the mixture's {whole} rows" in by_epochs["notes"][0]
    lines = mixture_lines(by_epochs)
    assert "mean document" in lines[0] and lines[1].startswith("prose") and lines[-1].startswith("note: training reads 160")


def test_tokens_are_met_to_the_row(tokenized: Run, tmp_path: Path) -> None:
    run = changed(tokenized, tmp_path, IN_TOKENS, "train.steps=24")
    assert [part["rows_read"] for part in table(run)["components"].values()] == [64, 32]


@pytest.mark.parametrize(
    ("text", "overrides", "said"),
    [
        (IN_TOKENS, ["corpus.components.code.tokens=900_000"], "code.tokens = 900,000 is .* times the .* max_epochs = 4"),
        (IN_TOKENS, ["train.steps=5000"], "training needs 20,000 rows, but the mixture asks for 96 in all"),
        (RECIPE, ["train.steps=5000"], "training needs 20,000 rows, but the corpus holds"),
    ],
)
def test_what_cannot_be_met_is_an_error(tokenized: Run, tmp_path: Path, text: str, overrides: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        table(changed(tokenized, tmp_path, text, *overrides))


def test_what_is_redistributed_is_said(tokenized: Run, tmp_path: Path) -> None:
    notes = table(changed(tokenized, tmp_path, RECIPE, "corpus.components.prose.max_epochs=0.2"))["notes"]
    assert "prose has" in notes[0] and "at its max_epochs after 67% of the training" in notes[0]
    assert "code has" in notes[1] and "takes their place" in notes[1]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("weight = 1.0", "epochs = 1.0", "a mixture has one measure, and this one gives weight for prose; epochs for code"),
        ("weight = 1.0", "", "components.code gives none of weight, tokens and epochs"),
        ("weight = 1.0", "weight = 1.0\nepochs = 2.0", "components.code gives weight and epochs"),
    ],
)
def test_a_mixture_has_one_measure(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_recipe(write_recipe(tmp_path, RECIPE.replace(old, new)))


def test_another_weight_makes_the_table_anew_and_no_token(tokenized: Run, tmp_path: Path) -> None:
    run = changed(tokenized, tmp_path, RECIPE, "corpus.components.prose.weight=5.0")
    before = sha256_file(run.path / "tokens" / "train" / "prose.bin")
    done = list(update(run, ["corpus", "tokenize", "mixture"]))
    assert [item.skipped for item in done] == [True, True, False]
    assert done[2].record["summary"]["components"]["prose"]["weight"] == pytest.approx(5 / 6, abs=0.02)
    assert sha256_file(run.path / "tokens" / "train" / "prose.bin") == before


def test_bytes_per_token_by_language(tokenized: Run) -> None:
    """Every document is looked at here, so the parts add up to the whole."""
    found = by_language(tokenized, lambda text: ("even" if len(text) % 2 else "odd", 1.0))
    summary = (tokenized.stage_record("tokenize") or {})["summary"]["components"]
    corpus = (tokenized.stage_record("corpus") or {})["summary"]["components"]
    for name, languages in found.items():
        assert set(languages) <= {"even", "odd"}
        assert sum(figure["documents"] for figure in languages.values()) == corpus[name]["train"]["documents"]
        assert sum(figure["tokens"] for figure in languages.values()) == summary[name]["train"]["tokens"]
        assert sum(figure["bytes"] for figure in languages.values()) == corpus[name]["train"]["bytes"]
    assert "bytes/token of prose by language: " in "\n".join(mixture_lines({**table(tokenized), "languages": found}))
