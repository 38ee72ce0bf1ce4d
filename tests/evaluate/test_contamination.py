"""Planted leaks are found, commonplaces and short items are told apart, and the scores are split."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from toymodels import Uniform

from openbook.documents import Document, DocumentWriter
from openbook.errors import InputError
from openbook.evaluate.contamination import corpus_files, overlaps
from openbook.evaluate.runner import Settings, evaluate
from openbook.evaluate.suite import table
from openbook.evaluate.task import Task

DICE = random.Random(5)
WORDS = [f"{start}{end}" for start in "bcdfgklmnprst" for end in ("ana", "eli", "oru", "ith", "umb", "ask")]


def _sentence(words: int) -> str:
    return " ".join(DICE.choices(WORDS, k=words))


def _corpus(path: Path, texts: list[str]) -> Path:
    with DocumentWriter(path) as writer:
        for number, text in enumerate(texts):
            writer.add(Document(f"{number:064x}", text, "prose", None, str(number)))
    return path


def test_planted_leaks_are_found_and_nothing_else(tmp_path: Path) -> None:
    items = [{"question": _sentence(20), "options": ["one", "two"], "right": 0} for _ in range(40)]
    common = _sentence(14)
    items.append({"question": common, "options": ["one", "two"], "right": 0})
    items.append({"question": "too short", "options": ["one", "two"], "right": 1})
    leak = items[3]["question"].upper().replace(" ", ", ")  # type: ignore[attr-defined]
    part = " ".join(items[7]["question"].split()[4:17])  # type: ignore[attr-defined]
    near = " ".join(items[9]["question"].split()[:12])  # type: ignore[attr-defined]
    plain = [_sentence(60) for _ in range(30)]
    texts = [
        *plain,
        f"{_sentence(9)} {leak} {_sentence(9)}",
        f"x {part} y",
        f"x {near} y",
        *[f"{common} {_sentence(5)}" for _ in range(11)],
    ]
    file = _corpus(tmp_path / "train.parquet", texts)
    found = overlaps({"mine": items}, [file])["mine"]
    assert (found.ngram, found.dirty, found.short) == (13, {4, 8}, {42})
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    form = {"context": "{{ question }}", "choices": "options", "gold": "right"}
    facts = {"name": "mine", "version": 1, "title": "mine", "source": "a test", "kind": "choice", "metric": "accuracy"}
    task = Task.model_validate({**facts, "data": {"file": "mine.jsonl"}, "form": form})
    result = evaluate(Uniform(), task, Settings(), tmp_path, tmp_path / "out", [file])
    split = result["contamination"]
    assert [split[name]["count"] for name in ("all", "clean", "dirty")] == [42, 39, 2]
    assert split["all"]["value"] == result["metrics"]["accuracy"]["value"]
    assert "dirty 50.0% (2 items); runs of 13 words; 1 items too short" in table([result], {})


def test_a_corpus_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a run directory"):
        corpus_files(tmp_path)
