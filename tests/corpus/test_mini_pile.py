"""The mini-pile holds none of the evaluation sets: shown by a plain second look, which shares no code with the step."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from openbook.documents import read_documents
from openbook.pipeline import update
from openbook.recipe import load_recipe
from openbook.run import Run, open_run
from shared_data import DATA, needs_data

RECIPE = Path(__file__).parents[2] / "recipes" / "mini-pile.toml"
pytestmark = needs_data("corpus")
KEPT = ("wikipedia", "uspto", "github", "recipes")
"""Three components that hold items of evaluation sets, and one that holds none."""
SETS = ("coqa_dev.jsonl.gz", "boolq_val.jsonl.gz", "mbpp.jsonl", "HumanEval.jsonl.gz")
RUN_OF_WORDS = 13


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from strings(inner)


def runs(text: str) -> Iterator[str]:
    words = re.findall(r"[^\W_]+", text.lower())
    return (" ".join(words[start : start + RUN_OF_WORDS]) for start in range(len(words) - RUN_OF_WORDS + 1))


def held(run: Run) -> Iterator[str]:
    for name in KEPT:
        for split in ("train", "valid"):
            yield from (document.text for document in read_documents(run.path / f"corpus/{name}/{split}.parquet"))


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Some components of the mini-pile, with the steps that change what they hold, against some of the sets."""
    folder = tmp_path_factory.mktemp("mini")
    (folder / "eval").mkdir()
    for name in SETS:
        (folder / "eval" / name).symlink_to(DATA / "eval" / name)
    recipe, _ = load_recipe(RECIPE)
    *steps, last = [step for step in recipe.corpus.steps if step.step in ("unicode", "exact", "decontaminate")]
    assert last.step == "decontaminate"
    corpus = recipe.corpus.model_copy(
        update={
            "components": {name: recipe.corpus.components[name] for name in KEPT},
            "decisions": [],
            "steps": [*steps, last.model_copy(update={"data": str(folder / "eval")})],
        }
    )
    run = open_run(folder / "run", recipe.model_copy(update={"corpus": corpus}), RECIPE)
    list(update(run, ["corpus"]))
    return run


def test_no_item_of_an_evaluation_set_is_left(mini: Run) -> None:
    known: set[str] = set()
    for name in SETS:
        data = (Path(DATA or "") / "eval" / name).read_bytes()
        lines = (gzip.decompress(data) if name.endswith(".gz") else data).decode().split("\n")
        known |= {found for line in lines if line for text in strings(json.loads(line)) for found in runs(text)}
    assert len(known) > 100_000
    assert not [found for text in held(mini) for found in runs(text) if found in known]


def test_the_known_overlaps_were_there_and_are_on_record(mini: Run) -> None:
    told = json.loads((mini.path / "corpus/steps.json").read_bytes())[-1]
    found = {name: len(part["leaked"]) for name, part in told["report"]["contaminated"].items()}
    assert found == {
        "coqa_dev.jsonl.gz": 19,
        "boolq_val.jsonl.gz": 3,
        "mbpp.jsonl": 10,
        "HumanEval.jsonl.gz": 3,
    }
    assert told["report"]["commonplaces"] == 0 and told["changed"] > 0


def test_the_recipe_decides_with_reasons() -> None:
    recipe, told = load_recipe(RECIPE)
    actions = [decision.action for decision in recipe.corpus.decisions]
    assert set(actions) == {"exclude", "include", "reweight", "rewrite"}
    assert all(decision.why and decision.evidence for decision in recipe.corpus.decisions)
    assert any("corpus.components.multilingual.weight = 1 * 0.5" in line for line in told)
