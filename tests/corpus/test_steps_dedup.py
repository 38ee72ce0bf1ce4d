"""Deduplication: recall and precision as the theory has them, and exact cuts."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from openbook.corpus.steps import dedup, minhash
from openbook.corpus.steps.step import Sketch, Step
from openbook.parts import Batch
from openbook.recipe_steps import ExactStep, LinesStep, MinHashStep, SubstringStep

WORDS = [f"w{number}" for number in range(5000)]


def sketch(step: Step, texts: list[str], settings: object, alive: list[bool] | None = None) -> Sketch:
    assert step.annotate
    columns = {
        name: value if isinstance(value, pa.Array) else pa.array(np.asarray(value))
        for name, value in step.annotate(Batch(texts), {}, settings, None).items()
    }
    return Sketch(lambda: pa.table(columns), [f"{hash(text):x}" for text in texts], np.array(alive or [True] * len(texts)))


def mutated(source: random.Random, share: float, words: int = 400) -> tuple[str, str]:
    """Two texts of which the second has this share of its words replaced."""
    first = source.choices(WORDS, k=words)
    second = [source.choice(WORDS) if source.random() < share else word for word in first]
    return " ".join(first), " ".join(second)


def jaccard(one: str, other: str) -> float:
    sets = [{tuple(words[at : at + 5]) for at in range(len(words) - 4)} for words in (one.split(), other.split())]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_recall_and_precision_of_minhash_lie_in_the_interval_of_theory() -> None:
    settings, source = MinHashStep(step="minhash"), random.Random(1)
    bands, rows = minhash.banding(settings.hashes, settings.threshold)
    assert (bands, rows) == (14, 8)
    pairs = [mutated(source, share) for share in np.linspace(0, 0.2, 300)]
    found, chances, errors = [], [], []
    for one, other in pairs:
        removed = minhash.join([sketch(minhash.STEP, [one, other], settings)], settings, None).verdicts[0].removals
        found.append(len(removed))
        similarity = jaccard(one, other)
        chances.append(minhash.found(similarity, bands, rows))
        signatures = [
            minhash.signature(minhash.shingles(Batch([text]).words("whitespace"), 5)[0], *minhash.coefficients(settings))
            for text in (one, other)
        ]
        errors.append(
            (float((signatures[0] == signatures[1]).mean()) - similarity) / max(1e-9, (similarity * (1 - similarity) / 112) ** 0.5)
        )
    spread = np.sqrt(sum(chance * (1 - chance) for chance in chances))
    assert abs(sum(found) - sum(chances)) < 3 * spread + 1e-9, "as many pairs are found as 1 - (1 - s^rows)^bands says"
    assert 0.85 < np.std([error for error in errors if abs(error) < 50]) < 1.15, "a signature errs as much as a binomial draw"
    near = [hit for hit, (one, other) in zip(found, pairs, strict=True) if jaccard(one, other) >= 0.9]
    assert near and np.mean(near) > 0.98
    different = [" ".join(source.choices(WORDS, k=300)) for _ in range(300)]
    assert not minhash.join([sketch(minhash.STEP, different, settings)], settings, None).verdicts[0].removals


def test_the_first_of_a_cluster_stays_across_shards_and_the_removed_lead_to_it() -> None:
    settings = MinHashStep(step="minhash")
    text = " ".join(WORDS[:300])
    shards = [sketch(minhash.STEP, ["other words here", text], settings), sketch(minhash.STEP, [text + " end", text + " more"], settings)]
    verdicts = minhash.join(shards, settings, None).verdicts
    assert not verdicts[0].removals
    assert [(removal.row, removal.evidence) for removal in verdicts[1].removals] == [
        (row, f"of document {shards[0].ids[1]}") for row in (0, 1)
    ]
    dead = [sketch(minhash.STEP, ["other words here", text], settings, [True, False]), shards[1]]
    assert [removal.row for removal in minhash.join(dead, settings, None).verdicts[1].removals] == [1], "what is gone keeps nothing out"


def cut(step: Step, shards: list[list[str]], settings: object) -> list[list[list[str]]]:
    assert step.join and step.rewrite
    verdicts = step.join([sketch(step, texts, settings) for texts in shards], settings, None).verdicts
    return [
        [
            step.rewrite(text, (verdict.edits or {})[row], settings) if row in (verdict.edits or {}) else [text]
            for row, text in enumerate(texts)
        ]
        for texts, verdict in zip(shards, verdicts, strict=True)
    ]


@pytest.mark.parametrize("passes", [1, 7])
def test_lines_that_stood_before_go(monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
    monkeypatch.setattr(dedup, "PASS_ITEMS", 100 if passes == 1 else 1)
    settings = LinesStep(step="lines", min_chars=10)
    notice = "All rights reserved, whatever they are."
    shards = [["A first line of text.\n" + notice + "\nend", notice], [f"{notice}\n}}\nA line that is new.\n  {notice}"]]
    assert cut(dedup.LINES, shards, settings) == [[[shards[0][0]], []], [["}\nA line that is new."]]]


@pytest.mark.parametrize("passes", [1, 5])
def test_runs_of_words_are_cut_exactly(monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
    monkeypatch.setattr(dedup, "PASS_ITEMS", 10_000 if passes == 1 else 40)
    settings = SubstringStep(step="substring", words=10)
    passage = " ".join(WORDS[:25])
    shards = [[f"one two {passage} three", "short"], [f"alpha  {passage}\tomega", " ".join(WORDS[:9]) + " nine words are not ten"]]
    assert cut(dedup.SUBSTRING, shards, settings) == [[[shards[0][0]], ["short"]], [["alpha  \tomega"], [shards[1][1]]]]


def test_equal_but_for_case_and_space() -> None:
    settings = ExactStep(step="exact")
    joined = dedup.join_exact(
        [sketch(dedup.EXACT, ["Some  text", "another"], settings), sketch(dedup.EXACT, ["some text\n"], settings)], settings, None
    )
    assert [len(verdict.removals) for verdict in joined.verdicts] == [0, 1]
