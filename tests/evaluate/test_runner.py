"""A run of a task: what is on disk after a crash is never asked again; more items, other draws, cut prompts."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from toymodels import Uniform, make_folder

from openbook.errors import InputError, OpenbookError
from openbook.evaluate.data import REMEDY
from openbook.evaluate.journal import UNIT
from openbook.evaluate.models import LanguageModel, Request, Score, Written, open_model
from openbook.evaluate.runner import Settings, evaluate
from openbook.evaluate.suite import evaluate_all, table
from openbook.evaluate.task import Task, task_named
from openbook.files import sha256_file

TASK = task_named("two_digit_addition")
MADE = {"generated": True, "shots": 1}


class Counting(Uniform):
    """Fails after so many calls; counts what it was asked."""

    def __init__(self, calls: int = 10**9) -> None:
        self.left, self.asked = calls, 0

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        self.left -= 1
        if self.left < 0:
            raise OpenbookError("the endpoint is gone")
        self.asked += len(pairs)
        return super().loglikelihood(pairs)


def test_what_is_answered_is_not_asked_again(tmp_path: Path) -> None:
    settings = Settings(limit=5 * UNIT, **MADE)
    first = Counting(calls=2)
    with pytest.raises(OpenbookError, match="is gone"):
        evaluate(first, TASK, settings, tmp_path, tmp_path)
    with (tmp_path / "two_digit_addition.items.jsonl").open("a") as file:
        file.write('{"item": 17, "draw"')  # as a process leaves it that dies while it writes
    second = Counting()
    result = evaluate(second, TASK, settings, tmp_path, tmp_path)
    assert (first.asked, second.asked) == (2 * UNIT, 3 * UNIT)
    assert [path.name for path in tmp_path.iterdir()] == ["two_digit_addition.json"]
    kept = sha256_file(tmp_path / "two_digit_addition.json")
    assert evaluate(Counting(0), TASK, settings, tmp_path, tmp_path) == result
    assert sha256_file(tmp_path / "two_digit_addition.json") == kept
    more = Counting()
    assert evaluate(more, TASK, Settings(limit=6 * UNIT, **MADE), tmp_path, tmp_path)["count"] == 6 * UNIT
    assert more.asked == UNIT
    others = Counting()
    others.identity = "other weights"
    evaluate(others, TASK, settings, tmp_path, tmp_path)
    assert others.asked == 5 * UNIT


SUMS = """
version = 1
title = "Sums"
kind = "completion"
source = "a test"
metric = "accuracy"

[data]
file = "none.jsonl"
generator = "two_digit_addition"

[form]
context = "{{ context | trim }}"
target = "{{ completion }}"
"""


DYING = """
import os, signal, sys
from openbook.evaluate.models.tokens import TokenModel

left, score = int(sys.argv.pop(1)), TokenModel.loglikelihood

def loglikelihood(self, pairs):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return score(self, pairs)

TokenModel.loglikelihood = loglikelihood
from openbook.cli import main
main()
"""
"""The command line, killed when it asks for one unit of questions too many."""


class Watched:
    """A model that remembers how many questions it was asked."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.identity, self.scored, self.written = model, model.identity, 0, 0

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        self.scored += len(pairs)
        return self.model.loglikelihood(pairs)

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[Score]:
        return self.model.loglikelihood_rolling(texts)

    def generate_until(self, requests: Sequence[Request]) -> list[Written]:
        self.written += len(requests)
        return self.model.generate_until(requests)


def test_a_suite_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    folder, out, whole = make_folder(tmp_path / "weights", "qwen3"), tmp_path / "out", tmp_path / "whole"
    (tmp_path / "sums.toml").write_text(SUMS, encoding="utf-8")
    (tmp_path / "more.toml").write_text(SUMS.replace("two", "three"), encoding="utf-8")
    names, count = [str(tmp_path / "sums.toml"), "two_digit_addition", str(tmp_path / "more.toml")], 2 * UNIT
    command = [sys.executable, "-c", DYING, "3", "evaluate", str(folder), "--generated", "--shots", "1", "--limit", str(count)]
    command += ["--out", str(out), *(part for name in names for part in ("--task", name))]
    died = subprocess.run(command, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert {path.name for path in out.iterdir()} == {"sums.json", "two_digit_addition.items.jsonl"}
    assert (out / "two_digit_addition.items.jsonl").read_bytes().count(b"\n") == 1 + UNIT

    tasks, model = [task_named(name) for name in names], Watched(open_model(str(folder)))
    evaluate_all(model, tasks, Settings(limit=count, **MADE), tmp_path, out)
    assert (model.scored, model.written) == (2 * count - UNIT, count - UNIT)  # what was on the disk is not asked again
    evaluate_all(model.model, tasks, Settings(limit=count, **MADE), tmp_path, whole)
    assert {path.name: sha256_file(path) for path in out.iterdir()} == {path.name: sha256_file(path) for path in whole.iterdir()}


def test_several_draws_show_what_demonstrations_matter(tmp_path: Path) -> None:
    model = open_model(str(make_folder(tmp_path / "weights", "gpt2")))
    result = evaluate(model, TASK, Settings(limit=4, draws=3, **MADE), tmp_path, tmp_path)
    assert len(result["draws"]["values"]) == 3
    assert (result["count"], len(result["items"])) == (4, 12)
    bits = {record["draw"]: record["logprobs"] for record in result["items"] if record["item"] == result["items"][0]["item"]}
    assert len({tuple(value) for value in bits.values()}) == 3


def test_a_prompt_longer_than_the_window_loses_its_beginning_and_that_is_told(tmp_path: Path) -> None:
    model = open_model(str(make_folder(tmp_path / "weights", "qwen3")))
    short = evaluate(model, TASK, Settings(limit=3, shots=2, generated=True), tmp_path, tmp_path / "short")
    long = evaluate(model, TASK, Settings(limit=3, shots=40, generated=True), tmp_path, tmp_path / "long")
    assert short["truncated"] == {"prompts": 0, "tokens": 0}
    assert long["truncated"]["prompts"] == 3
    assert long["truncated"]["tokens"] > 3 * 100
    assert "3" in table([long], {}).splitlines()[1].split()


def test_a_continuation_longer_than_the_window_is_scored_in_windows(tmp_path: Path) -> None:
    model = open_model(str(make_folder(tmp_path / "weights", "qwen3")))
    text = " the man said that it is true, she has no dog" * 30
    (short,), (long,) = model.loglikelihood([("A dog.", " no")]), model.loglikelihood([("A dog." * 50, text)])
    assert (short.dropped, long.dropped) == (0, len(model.encode("A dog." * 50)) - 1)
    assert long.tokens == len(model.encode("A dog." * 50 + text)) - len(model.encode("A dog." * 50)) > model.window
    assert long.logprob == pytest.approx(_by_hand(model, model.encode("A dog." * 50 + text)[-long.tokens - 1 :]), abs=1e-3)


@torch.no_grad()
def _by_hand(model: Any, ids: list[int]) -> float:
    """The sum over windows that follow each other, the last one reaching back."""
    total, stop = 0.0, 0
    while stop < len(ids) - 1:
        first, stop = stop, min(stop + model.window, len(ids) - 1)
        read = torch.tensor([ids[max(0, stop - model.window) : stop]])
        logits = model.model.logits(model.model(read))[0].log_softmax(-1)[first - stop :]
        total += float(logits[range(stop - first), ids[first + 1 : stop + 1]].sum())
    return total


def test_a_suite_leaves_out_what_has_no_data_and_says_so(tmp_path: Path) -> None:
    results, left_out = evaluate_all(Uniform(), [TASK, task_named("piqa")], Settings(limit=2, **MADE), tmp_path, tmp_path)
    assert [result["task"] for result in results] == [TASK.name]
    assert left_out == {"piqa": f"{tmp_path / 'eval/piqa_valid.jsonl'}: no such file; {REMEDY}"}
    assert "left out  piqa" in table(results, left_out)
    with pytest.raises(InputError, match="none of 2 tasks could be evaluated; piqa: "):
        evaluate_all(Uniform(), [task_named("piqa"), task_named("copa")], Settings(), tmp_path, tmp_path)
    with pytest.raises(InputError, match=r"no such file, which the task two_digit_addition needs; .* or --generated makes items"):
        evaluate(Uniform(), TASK, Settings(), tmp_path, tmp_path)
    with pytest.raises(InputError, match="the task has no generator"):
        evaluate(Uniform(), task_named("piqa"), Settings(generated=True), tmp_path, tmp_path)


def test_perplexities_are_ratios_of_sums(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("one two\n\nthree four five\n", encoding="utf-8")
    form = {"kind": "rolling", "metric": "word_perplexity", "data": {"file": "mine.txt"}, "form": {"text": "{{ text }}"}}
    task = Task.model_validate({"name": "mine", "version": 1, "title": "mine", "source": "a test", **form})
    metrics = evaluate(Uniform(), task, Settings(), tmp_path, tmp_path)["metrics"]
    assert metrics["word_perplexity"]["value"] == pytest.approx(256 ** (22 / 5))
    assert metrics["byte_perplexity"]["value"] == pytest.approx(256)
