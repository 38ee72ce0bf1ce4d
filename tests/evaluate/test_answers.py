"""Measures of answers on cases worked out by hand after the official scripts, and figures of known sets of scores."""

from __future__ import annotations

import pytest

from openbook.evaluate.answers import exact_match, exact_match_drop, extracted, f1, f1_coqa, f1_drop, number_match
from openbook.evaluate.metrics import calibration_error, choice_scores, credit, probabilities
from openbook.evaluate.models import Score


@pytest.mark.parametrize(
    ("said", "answers", "exact", "overlap"),
    [
        ("The Tower of London!", ["tower of london"], 1.0, 1.0),
        ("tower", ["tower of london", "a tower bridge"], 0.0, 2 / 3),
        ("red red", ["red"], 0.0, 2 / 3),
        ("", ["red"], 0.0, 0.0),
        ("the", ["a"], 1.0, 1.0),
    ],
)
def test_exact_match_and_f1_are_squad_s(said: str, answers: list[str], exact: float, overlap: float) -> None:
    assert exact_match(said, answers) == exact
    assert f1(said, answers) == pytest.approx(overlap)


def test_coqa_leaves_each_answer_out_in_turn() -> None:
    assert f1_coqa("white", ["white", "grey", "black"]) == pytest.approx(2 / 3)
    assert f1_coqa("white", ["white"]) == 1.0


@pytest.mark.parametrize(
    ("said", "answers", "exact", "overlap"),
    [
        ("4", [["4"]], 1.0, 1.0),
        ("4.0 years", [["4"]], 0.0, 0.67),
        ("5 years", [["4 years"]], 0.0, 0.0),
        ("Swedish people", [["swedish"], ["the Swedish-people"]], 1.0, 1.0),
        ("March", [["March", "May"]], 0.0, 0.5),
    ],
)
def test_drop_counts_numbers_and_spans(said: str, answers: list[list[str]], exact: float, overlap: float) -> None:
    assert exact_match_drop(said, answers) == exact
    assert f1_drop(said, answers) == pytest.approx(overlap)


def test_numbers_are_found_and_compared() -> None:
    pattern = r"-?\$?[0-9][0-9,]*(?:\.[0-9]+)?"
    assert extracted("She has 3 + 4 = $1,070.50 now.", pattern) == "$1,070.50"
    assert number_match("$1,070.50", ["1070.5"]) == 1.0
    assert number_match("none", ["1070.5"]) == number_match("1070", ["1070.5"]) == 0.0
    assert extracted(" no number ", pattern) == "no number"


def test_a_tie_shares_the_credit() -> None:
    assert [credit([-1.0, -1.0 + 1e-12, -3.0], gold) for gold in range(3)] == [0.5, 0.5, 0.0]
    assert credit([-1.0, -0.5], 1) == 1.0


def test_each_accuracy_compares_its_own_quantity() -> None:
    scores = [Score(-6.0, False, 2, 5), Score(-8.0, False, 4, 8)]
    alone = [Score(-5.0, False, 2, 5), Score(-9.0, False, 4, 8)]
    compared = choice_scores([" naïv", " longish"], scores, alone)
    assert compared == {
        "accuracy": [-6.0, -8.0],
        "accuracy_per_character": [-6 / 4, -8 / 7],
        "accuracy_per_byte": [-6 / 5, -8 / 7],
        "accuracy_per_token": [-3.0, -2.0],
        "accuracy_unconditional": [-1.0, 1.0],
    }


def test_calibration_error_of_a_model_that_is_sure_and_half_right() -> None:
    sure = [{"probabilities": [1.0, 0.0], "gold": gold} for gold in (0, 1)]
    assert calibration_error(sure) == 0.5
    fair = [{"probabilities": probabilities([-1.0, -1.0]), "gold": gold} for gold in (0, 1)]
    assert calibration_error(fair) == 0.0
