"""Decontamination: every planted leak is found, at its exact offsets."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from openbook.corpus.steps import decontaminate
from openbook.corpus.steps.step import Joined, Sketch
from openbook.errors import InputError
from openbook.parts import Batch
from openbook.recipe_steps import DecontaminateStep

FILLER = [f"filler{number}" for number in range(3000)]


@pytest.fixture
def settings(tmp_path: Path) -> DecontaminateStep:
    source = random.Random(3)
    items = [{"question": " ".join(f"q{source.randrange(10**6)}" for _ in range(20)), "choices": ["yes", "no"]} for _ in range(40)]
    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "quiz.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return DecontaminateStep(step="decontaminate", data=str(tmp_path / "sets"), window=0, min_piece=1)


def questions(settings: DecontaminateStep) -> list[str]:
    return [json.loads(line)["question"] for line in (Path(str(settings.data)) / "quiz.jsonl").read_text().splitlines()]


def judged(texts: list[str], settings: DecontaminateStep, folder: Path) -> Joined:
    path = folder / "index"
    decontaminate.prepare(None, settings).write(path)  # type: ignore[arg-type]
    index = decontaminate.load(path)
    columns = pa.table(dict(decontaminate.annotate(Batch(texts), {}, settings, index)))
    return decontaminate.join([Sketch(lambda: columns, [], np.ones(len(texts), bool))], settings, index)


def test_every_planted_leak_is_cut_out_at_its_exact_offsets(settings: DecontaminateStep, tmp_path: Path) -> None:
    source, texts, wanted = random.Random(5), [], []
    for number, question in enumerate(questions(settings)):
        before, after = (" ".join(source.choices(FILLER, k=source.randrange(30))) for _ in range(2))
        if number % 4 == 1:
            after = ""  # the last run of a text
        if number % 4 == 2:
            before = ""  # the first
        words = question.split()
        leak = " ".join(words[7:]) if number % 2 else " ".join(words[:13])  # the item's last run, and its first alone
        shown = leak.replace(" ", ",  ").upper() if number % 3 == 0 else leak
        texts.append(f"{before} (« {shown} ») {after}")
        wanted.append([f"{before} (« ", f" ») {after}"])
    joined = judged(texts, settings, tmp_path)
    edits = joined.verdicts[0].edits
    assert edits is not None and sorted(edits) == list(range(40)), "all of them"
    for row, text in enumerate(texts):
        assert decontaminate.pieces(text, edits[row], settings) == wanted[row]
    assert joined.report and joined.report["contaminated"] == {"quiz.jsonl": {"items": 40, "leaked": list(range(40))}}


def test_twelve_words_are_no_leak_and_fields_are_not_joined(settings: DecontaminateStep, tmp_path: Path) -> None:
    question = questions(settings)[0].split()
    texts = [" ".join(question[:12]) + " and more words", " ".join(question[8:]) + " yes no"]
    assert judged(texts, settings, tmp_path).verdicts[0].edits == {}


def test_a_run_in_many_texts_is_a_commonplace(settings: DecontaminateStep, tmp_path: Path) -> None:
    question = questions(settings)[0]
    joined = judged([f"{question} {number}" for number in range(11)], settings, tmp_path)
    assert joined.verdicts[0].edits == {} and joined.report and joined.report["commonplaces"] == 8


def test_windows_pieces_and_texts_in_too_many(settings: DecontaminateStep) -> None:
    text = "a" * 300 + " " + " ".join(f"w{number}" for number in range(13)) + " " + "b" * 500
    wide = settings.model_copy(update={"window": 200, "min_piece": 200})
    assert decontaminate.pieces(text, [1], wide) == ["b" * 301], "99 characters before it are too short a piece"
    long = " ".join(["x" * 8] * 400)
    assert len(decontaminate.pieces(long, [20, 60], settings)) == 3
    assert decontaminate.pieces(long, list(range(20, 380, 20)), settings) == []


def test_no_evaluation_sets_is_an_error_that_says_where(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        decontaminate.folder_of(DecontaminateStep(step="decontaminate", data=str(tmp_path / "nowhere")))
