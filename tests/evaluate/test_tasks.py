"""Every built-in task, asked of a model that knows nothing and of one that knows all; and what a bad task or item is answered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toymodels import Oracle, Uniform

from openbook.errors import InputError
from openbook.evaluate.data import data_folder, examples_of, items_of
from openbook.evaluate.questions import Question, Questions
from openbook.evaluate.runner import Settings, evaluate
from openbook.evaluate.suite import absent
from openbook.evaluate.task import Task, builtin, load_task, task_named

LIMIT = 20

TASK = """
version = 1
title = "Mine"
kind = "choice"
source = "a test"
metric = "accuracy_per_token"

[data]
file = "mine.jsonl"

[form]
context = "{{ question }}"
choices = "options"
gold = "answer"
"""


def _task(name: str) -> tuple[Task, Path]:
    task, folder = task_named(name), data_folder(None)
    if missing := absent(task, folder):
        pytest.skip(f"{missing[0]}: no such file; set OPENBOOK_DATA")
    return task, folder


def _questions(task: Task, folder: Path, shots: int, numbers: set[int]) -> list[Question]:
    """Those of some items, numbered from 1."""
    items = items_of(task, folder, False, 0)
    questions = Questions(task, items, examples_of(task, folder, items), shots, 0)
    return [questions.question(index, 0) for index in range(len(items.items)) if index + 1 in numbers]


@pytest.mark.parametrize("name", builtin())
def test_knowing_nothing_gives_chance_and_eight_bits_and_knowing_all_gives_everything(name: str, tmp_path: Path) -> None:
    task, folder = _task(name)
    shots = 0 if task.kind == "rolling" else 1
    settings = Settings(shots=shots, limit=LIMIT)
    nothing = evaluate(Uniform(), task, settings, folder, tmp_path / "nothing")
    assert nothing["metrics"]["bits_per_byte"]["value"] == pytest.approx(8.0, abs=1e-12)
    if task.kind == "rolling":
        assert nothing["metrics"]["byte_perplexity"]["value"] == pytest.approx(256.0, rel=1e-12)
        return
    assert nothing["metrics"][task.metric]["value"] == pytest.approx(nothing["chance"] or 0.0, abs=1e-12)
    numbers = {record["item"] for record in nothing["items"]}
    everything = evaluate(Oracle(_questions(task, folder, shots, numbers)), task, settings, folder, tmp_path / "all")
    name = "f1" if task.metric == "f1_coqa" else task.metric  # CoQA holds one person's answer against the others'
    assert everything["metrics"][name]["value"] == pytest.approx(100.0 if name == "bleu" else 1.0, abs=1e-9)
    assert everything["metrics"]["bits_per_byte"]["value"] == 0.0
    if task.kind == "choice":
        assert everything["metrics"]["brier"]["value"] == everything["metrics"]["calibration_error"]["value"] == 0.0


@pytest.mark.parametrize("name", ["two_digit_addition", "single_digit_three_ops", "random_insertion_in_word", "mid_word_2_anagrams"])
def test_generated_items_look_like_the_published_ones(name: str, tmp_path: Path) -> None:
    task, folder = _task(name)
    made, published = items_of(task, tmp_path, True, 5), items_of(task, folder, False, 5)
    assert made.items == items_of(task, tmp_path, True, 5).items != items_of(task, tmp_path, True, 6).items
    assert len(made.items) == 2000
    for source in (made, published):
        for item in source.items[:200]:
            assert _solve(name, item["context"]) == item["completion"].strip() or name.startswith("mid_word")
    assert len({item["context"] for item in made.items}) == 2000


def _solve(name: str, context: str) -> str:
    if name == "random_insertion_in_word":
        return context.strip()[:-2][::2]
    question = context.strip().removeprefix("Q: What is ").split("?")[0].replace("plus", "+")
    return str(eval(question)) if name in ("two_digit_addition", "single_digit_three_ops") else ""


def _own(folder: Path, lines: list[dict[str, object]], text: str = TASK) -> Task:
    (folder / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    (folder / "mine.toml").write_text(text, encoding="utf-8")
    return load_task(folder / "mine.toml")


GOOD = {"question": "Is it?", "options": ["yes", "no"], "answer": 0}


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"question": "Is it?", "answer": 0}, "item 17: choices: 'options' is undefined; the item has question, answer"),
        ({**GOOD, "answer": 2}, "item 17: form.gold = 2: should be the place of one of its 2 choices, from 0"),
        ({**GOOD, "options": ["yes", " "]}, "item 17: choices: number 2 is empty: there would be nothing to score"),
        ({**GOOD, "options": "yes"}, "item 17: choices = 'yes': should be a list of at least two texts"),
    ],
)
def test_a_bad_item_is_named(bad: dict[str, object], told: str, tmp_path: Path) -> None:
    task = _own(tmp_path, [GOOD] * 16 + [bad, GOOD])
    with pytest.raises(InputError) as error:
        evaluate(Uniform(), task, Settings(), tmp_path, tmp_path / "out")
    assert str(error.value) == f"{tmp_path / 'mine.jsonl'}: {told}"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('metric = "accuracy_per_token"', 'metric = "f2"', "mine.toml:6: metric"),
        ('metric = "accuracy_per_token"', 'metrics = "accuracy"', "mine.toml:6: metrics"),
        ("version = 1", "version = 'one'", "mine.toml:2: version = 'one': should be a whole number"),
        ('gold = "answer"', "", "needs form.gold"),
        ("[form]", "[form", "not valid TOML"),
    ],
)
def test_a_bad_task_file_is_named_with_line_and_key(old: str, new: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        _own(tmp_path, [GOOD], TASK.replace(old, new))
    assert told in str(error.value)


def test_a_task_cannot_run_code(tmp_path: Path) -> None:
    task = _own(tmp_path, [GOOD] * 2, TASK.replace('"options"', "\"''.__class__.__mro__[1].__subclasses__()\""))
    with pytest.raises(InputError, match="unsafe"):
        evaluate(Uniform(), task, Settings(), tmp_path, tmp_path / "out")


def test_demonstrations_are_the_seed_s_and_never_the_item_itself(tmp_path: Path) -> None:
    lines = [{"question": f"Q{number}", "options": ["a", f"b{number}"], "answer": 1} for number in range(9)]
    task = _own(tmp_path, lines)
    items = items_of(task, tmp_path, False, 0)
    seen = {seed: [Questions(task, items, items, 8, seed).question(index, 0).prefix for index in range(9)] for seed in (1, 2)}
    for index, prefix in enumerate(seen[1]):
        shown = prefix.split("\n\n")[:-1]
        assert sorted(shown) == [f"Q{number} b{number}" for number in range(9) if number != index]
    assert seen[1] != seen[2]
    assert seen[1] == [Questions(task, items, items, 8, 1).question(index, 0).prefix for index in range(9)]
    with pytest.raises(InputError, match="9 demonstrations wanted, only 8 items to draw from"):
        Questions(task, items, items, 9, 1)
