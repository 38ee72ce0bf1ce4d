"""pass@k, BLEU and the measures of a rewrite against what their papers and peers say."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
from sacrebleu.metrics import BLEU
from toymodels import Uniform

from openbook.evaluate.bleu import corpus_bleu, statistics
from openbook.evaluate.hidden import DOCUMENTS, KINDS, TURNS, documents, held_out, hidden_items
from openbook.evaluate.models import Request, Written
from openbook.evaluate.programs import pass_at
from openbook.evaluate.runner import Settings, evaluate
from openbook.evaluate.style import change, content_overlap
from openbook.evaluate.suite import table
from openbook.evaluate.task import Task, task_named


@pytest.mark.parametrize(("samples", "passed", "k"), [(6, 2, 1), (6, 2, 3), (6, 0, 3), (6, 6, 2), (5, 1, 5), (7, 3, 4)])
def test_pass_at_k_is_the_mean_over_all_choices_of_k_samples(samples: int, passed: int, k: int) -> None:
    drawn = list(combinations([True] * passed + [False] * (samples - passed), k))
    assert pass_at(k, samples, passed) == pytest.approx(sum(map(any, drawn)) / len(drawn))


class Careless(Uniform):
    """Every second program that it writes is right."""

    def generate_until(self, requests: list[Request]) -> list[Written]:
        return [Written("return 4" if place % 2 else "return 5") for place in range(len(requests))]


def test_several_samples_of_a_program_give_pass_at_k(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").write_text('{"ask": "def two_and_two():\\n    "}\n{"ask": "def two_and_two():\\n    "}\n')
    form = {
        "context": "{{ ask }}",
        "delimiter": "",
        "answers": "['return 4']",
        "program": "{{ ask }}{{ written }}\nassert two_and_two() == 4",
    }
    facts = {"name": "mine", "version": 1, "title": "mine", "source": "a test", "kind": "generate", "metric": "pass@1", "stop": ["\n"]}
    task = Task.model_validate({**facts, "data": {"file": "mine.jsonl"}, "form": form})
    result = evaluate(Careless(), task, Settings(samples=10), tmp_path, tmp_path / "out")
    assert result["metrics"]["pass@1"]["value"] == pytest.approx(0.5)
    assert result["metrics"]["pass@10"]["value"] == 1.0
    assert [sample["passed"] for sample in result["items"][0]["samples"]] == [False, True] * 5
    assert result["items"][0]["samples"][0]["why"] == "AssertionError"
    result["items"][1]["samples"][0]["apart"] = False
    assert "note      mine: this system allows no namespaces" in table([result], {})


@pytest.mark.parametrize("tokenize", ["13a", "zh"])
def test_bleu_is_sacrebleu_s_own(tokenize: str) -> None:
    said = ["The cat sat on the mat.", "我 喜欢 这本书，很好。", "There is nothing more to say about it today.", ""]
    right = ["The cat sat upon the mat.", "我喜欢这本书，真的很好。", "There is nothing more to say about this today.", "Nothing."]
    items = [statistics(text, [answer], tokenize) for text, answer in zip(said, right, strict=True)]
    found = corpus_bleu(items, 0)
    assert found["value"] == pytest.approx(BLEU(tokenize=tokenize).corpus_score(said, [right]).score, abs=1e-9)
    assert found["low"] <= found["value"] <= found["high"]  # type: ignore[operator]


def test_a_copy_changes_nothing_and_keeps_everything() -> None:
    text = "The old dog slept in front of the fire."
    assert (change(text, text), content_overlap(text, [text])) == (0.0, 1.0)
    assert (change("", text), content_overlap("", [text])) == (1.0, 0.0)
    assert change("The old dog slept.", text) == pytest.approx(4 / 7)  # articles do not count
    assert content_overlap("By the fire an ancient dog slept.", [text]) == pytest.approx(2 * 2 / (3 + 3))


def test_a_style_s_word_is_looked_for_and_the_rewrite_s_perplexity_told(tmp_path: Path) -> None:
    class Balloonist(Uniform):
        def generate_until(self, requests: list[Request]) -> list[Written]:
            return [Written("A balloon." if place % 2 else "") for place in range(len(requests))]

    metrics = evaluate(Balloonist(), task_named("style_transfer"), Settings(), tmp_path, tmp_path)["metrics"]
    assert metrics["fluency"]["value"] == pytest.approx(256)
    assert metrics["word"]["value"] == pytest.approx(0.25)  # of the styles that ask for a word, every second asks for a balloon
    assert set(metrics) >= {"content_overlap", "change", "bits_per_byte"}


def test_what_is_asked_never_stands_in_the_training_text() -> None:
    texts = list(documents(1, 3_000))
    for kind in KINDS:
        trained = {
            line.split(":")[0] for place, text in enumerate(texts) if TURNS[place % len(TURNS)] == kind for line in text.splitlines()
        }
        items = hidden_items(kind, 0, DOCUMENTS)
        assert len({(item["rule"], item["question"]) for item in items}) == len(items) > 500
        if kind == "hidden_code":
            assert all(held_out(item["rule"]) for item in items)
        else:
            assert len(trained) > 700
            assert not {item["question"] for item in items} & trained


def test_a_document_of_sums_adds_one_number_everywhere() -> None:
    added = []
    for place, text in enumerate(documents(1, 400)):
        if TURNS[place % len(TURNS)] == "hidden_sum":
            pairs = [line.split(":") for line in text.splitlines()]
            assert all(len(number) == 3 for pair in pairs for number in pair)
            (by,) = {int(answer) - int(question) for question, answer in pairs}
            added.append(by)
    assert (min(added), max(added) > 90, len(set(added)) > 50) == (1, True, True)
    for item in hidden_items("hidden_sum", 0, 300):
        assert int(item["answer"]) - int(item["question"]) == int(item["rule"].removeprefix("0123456789"))
