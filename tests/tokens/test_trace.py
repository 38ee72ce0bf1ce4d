"""From a training position back to the document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from openbook.documents import read_documents
from openbook.errors import InputError
from openbook.model.tokenizer import load_tokenizer
from openbook.recipe import load_recipe
from openbook.run import Run
from openbook.tokens import Rows
from openbook.tokens.shards import opened_shards
from openbook.tokens.trace import passed_over, pointed_at, trace


@pytest.mark.parametrize("packing", ["stream", "best-fit"])
def test_every_position_of_a_row_is_some_document_that_says_so(tokenized: Run, packing: str) -> None:
    overrides = [f"train.packing={packing}", "model.context=700", "train.microbatches=4"]
    recipe, _ = load_recipe(tokenized.recipe_folder / "tiny.toml", overrides)
    rows = Rows(opened_shards(tokenized)["train"], recipe)
    tokenizer = load_tokenizer(tokenized.path / "tokenizer" / "tokenizer.json")
    documents = {
        document.id: document
        for name in ("prose", "code")
        for document in read_documents(tokenized.path / "corpus" / name / "train.parquet")
    }
    several = 0
    for row in range(8):
        found = trace(rows, tokenizer, 1, row)
        assert found["ids"] == rows(0, row // 2)[row % 2].tolist()
        places = [place for part in found["stretches"] for place in range(part["positions"][0], part["positions"][1] + 1)]
        assert places == list(range(701))
        several += len(found["stretches"]) > 1
        for part in found["stretches"]:
            document = documents[part["id"]]
            assert part["text"].replace("<|endoftext|>", "") in document.text
            assert (part["component"], part["origin"], part["licence"]) == (document.component, document.origin, document.licence)
            one = pointed_at(found, tokenizer, part["positions"][1])
            assert one["stretches"] == [part] and one["token"]["id"] == found["ids"][part["positions"][1]]
    assert several


def test_a_step_or_row_or_position_that_there_is_not_is_told(tokenized: Run) -> None:
    rows, tokenizer = Rows.open(tokenized), load_tokenizer(tokenized.path / "tokenizer" / "tokenizer.json")
    with pytest.raises(InputError, match="--step 13: the training has the steps 1 to 12"):
        trace(rows, tokenizer, 13, 0)
    with pytest.raises(InputError, match="--row 4: step 12 has the rows 0 to 3"):
        trace(rows, tokenizer, 12, 4)
    with pytest.raises(InputError, match="--position 33"):
        pointed_at(trace(rows, tokenizer, 12, 3), tokenizer, 33)


def test_data_that_a_training_passed_over_count() -> None:
    def event(kind: str, **facts: object) -> Mapping[str, object]:
        return {"event": kind, **facts}

    begin, steps = event("stage.begin", stage="train"), [event("step", step=number) for number in range(6)]
    events = [
        begin,
        *steps[1:3],
        event("action", skipped=2),
        *steps[3:5],
        begin,
        event("resume", step=2),
        event("action", skipped=1),
        steps[3],
    ]
    assert [passed_over(events, step) for step in (1, 3, 5)] == [(0, True), (1, True), (1, False)]


def test_the_run_directory_stays_as_it_was(tokenized: Run) -> None:
    before = sorted(path for path in Path(tokenized.path).rglob("*"))
    trace(Rows.open(tokenized), load_tokenizer(tokenized.path / "tokenizer" / "tokenizer.json"), 1, 0)
    assert sorted(path for path in Path(tokenized.path).rglob("*")) == before
