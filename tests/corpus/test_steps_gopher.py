"""Gopher's rules: the vectorised repetition against a plain reading of its definition, and each quality rule on its own."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.corpus.steps import gopher
from openbook.corpus.steps.step import table_rules
from openbook.parts import Batch
from openbook.recipe_steps import GopherQualityStep, GopherRepetitionStep

QUALITY, REPETITION = GopherQualityStep(step="gopher-quality"), GopherRepetitionStep(step="gopher-repetition")
PROSE = "The people of the town have to be told that it is time, and so they went with their lamps to look at the river. "


def top(words: list[str], length: int) -> int:
    runs = [" ".join(words[at : at + length]) for at in range(len(words) - length + 1)]
    if not runs:
        return 0
    run, count = Counter(runs).most_common(1)[0]
    return len(run) * count


def duplicate(words: list[str], length: int) -> int:
    seen: set[tuple[str, ...]] = set()
    chars = at = 0
    while at + length <= len(words):
        run = tuple(words[at : at + length])
        if run in seen:
            chars, at = chars + sum(map(len, run)), at + length
        else:
            seen.add(run)
            at += 1
    return chars


texts = st.lists(st.lists(st.sampled_from(["a", "bb", "ccc", "\n", "\n\n"]), min_size=1, max_size=80).map(" ".join), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(texts)
def test_repetition_is_what_its_definition_says(batch: list[str]) -> None:
    columns = gopher.measure_repetition(Batch(batch), {}, REPETITION, None)
    for row, text in enumerate(batch):
        words, size = text.split(), max(1, len(text))
        for length in gopher.TOP_GRAMS:
            assert columns[f"top_{length}_grams"][row] == pytest.approx(top(words, length) / size)
        for length in gopher.DUPLICATE_GRAMS:
            assert columns[f"duplicate_{length}_grams"][row] == pytest.approx(duplicate(words, length) / size)


def reason(text: str) -> str | None:
    columns = gopher.measure_quality(Batch([text, PROSE * 9]), {}, QUALITY, None)
    removals = table_rules(gopher.QUALITY, QUALITY, columns, ["x", "y"])
    return next((removal.reason for removal in removals if removal.row == 0), None)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (PROSE * 9, None),
        ("To be and have that.", "short"),
        ("word " * 100_001, "long"),
        ("a to b of c " * 50, "word length"),
        (PROSE * 3 + "# " * 10, "hashes"),
        (PROSE * 3 + "... " * 10, "ellipses"),
        (f"- {PROSE}\n" * 9, "bullet lines"),
        (f"{PROSE.strip()}...\n" * 2 + PROSE * 3, "ellipsis lines"),
        (PROSE * 3 + "1234 " * 40, "alphabetic words"),
        ("seven green bottles hanging " * 20, "stop words"),
    ],
)
def test_each_rule_of_quality(text: str, wanted: str | None) -> None:
    assert reason(text) == wanted


def test_annotations_do_not_depend_on_how_texts_are_batched() -> None:
    batch = [PROSE * 2, "", "x\n\nx\n\nx", PROSE + "a b " * 40]
    together = gopher.measure_repetition(Batch(batch), {}, REPETITION, None)
    for row, text in enumerate(batch):
        alone = gopher.measure_repetition(Batch([text]), {}, REPETITION, None)
        assert {name: float(values[0]) for name, values in alone.items()} == {
            name: float(np.asarray(v)[row]) for name, v in together.items()
        }
