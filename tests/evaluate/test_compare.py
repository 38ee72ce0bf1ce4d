"""`openbook compare` and `openbook curve`: paired tests against other ways to the same numbers, and curves as files and pages."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from scipy.stats import binomtest
from test_evaluate_command import call
from toymodels import make_folder

from openbook.errors import InputError
from openbook.evaluate.compare import RESAMPLES, mcnemar, paired
from openbook.evaluate.curve import shots_of
from openbook.run import Run


def _result(scores: list[float], numbers: list[int] | None = None) -> dict[str, object]:
    items = [
        {"item": number, "draw": 0, "scores": {"accuracy": score}, "logprobs": [-score - 1.0], "bytes": [4]}
        for number, score in zip(numbers or range(1, len(scores) + 1), scores, strict=True)
    ]
    return {"metric": "accuracy", "items": items}


def test_the_exact_test_is_a_binomial_one() -> None:
    dice = np.random.default_rng(3)
    a, b = (dice.random((2, 200)) < [[0.5], [0.65]]).astype(float)
    found = mcnemar(a, b)
    assert found is not None
    apart = found["only_a"] + found["only_b"]
    assert found["p"] == pytest.approx(binomtest(found["only_a"], apart).pvalue)
    assert mcnemar(a, b / 2) is None


def test_a_paired_difference_has_the_interval_of_differences() -> None:
    dice = np.random.default_rng(4)
    a = (dice.random(300) < 0.5).astype(float)
    b = np.where(dice.random(300) < 0.2, 1.0, a)
    accuracy, bits = paired(_result(a.tolist()), _result(b.tolist()))
    assert accuracy["difference"] == pytest.approx((b - a).mean())
    spread = 1.96 * (b - a).std() / np.sqrt(300)
    assert accuracy["low"] == pytest.approx((b - a).mean() - spread, abs=0.01)
    assert accuracy["high"] == pytest.approx((b - a).mean() + spread, abs=0.01)
    assert accuracy["p"] == 1 / RESAMPLES
    assert (bits["metric"], bits["mcnemar"]) == ("bits_per_byte", None)
    assert bits["difference"] > 0


def test_only_the_same_items_are_compared() -> None:
    a, b = _result([1.0, 0.0, 1.0], [1, 2, 3]), _result([1.0, 1.0, 1.0], [2, 3, 9])
    row = paired(a, b)[0]
    assert (row["items"], row["value_a"], row["value_b"]) == (2, 0.5, 1.0)


def test_commands_over_two_models(tmp_path: Path) -> None:
    for name in ("qwen3", "gpt2"):
        folder = make_folder(tmp_path / name, name)
        call("evaluate", folder, "--task", "hidden_code", "--task", "two_digit_addition", "--generated", "--limit", 6, "--shots", 1)
    rows = json.loads(call("compare", tmp_path / "qwen3", tmp_path / "gpt2", "--json"))["comparisons"]
    assert {(row["task"], row["metric"], row["items"]) for row in rows} >= {
        ("hidden_code", "accuracy", 6),
        ("two_digit_addition", "exact", 6),
    }
    first, head = call("compare", tmp_path / "qwen3", tmp_path / "gpt2").splitlines()[:2]
    assert first == f"A = {tmp_path / 'qwen3'}, B = {tmp_path / 'gpt2'}"
    assert "p (McNemar)" in head
    call("evaluate", tmp_path / "gpt2", "--task", "hidden_code", "--limit", 6, "--shots", 2)
    shown = call("compare", tmp_path / "qwen3", tmp_path / "gpt2")
    assert "left out  hidden_code" in shown
    assert "shots differs" in shown
    with pytest.raises(InputError, match="has no scores of tasks"):
        call("compare", tmp_path / "qwen3", tmp_path)


def test_a_curve_of_a_run_s_checkpoints(finished: Run, tmp_path: Path) -> None:
    targets = [f"{finished.path}@8", f"{finished.path}@12", finished.path]
    arguments = ("--task", "hidden_code", "--task", "hidden_scramble", "--curve", "1,0", "--limit", 3, "--out", tmp_path)
    found = json.loads(call("curve", *targets, *arguments, "--json"))
    assert found["ks"] == [0, 1]
    assert [series["name"] for series in found["series"]] == ["run@8", "run@12", "run"]
    last, own = (
        [json.loads((tmp_path / "curve" / name / "1-shot" / "hidden_code.json").read_bytes())["items"][0]["logprobs"] for name in names]
        for names in (["run@12"], ["run"])
    )
    assert last == own  # the last checkpoint is the model
    drawing = ElementTree.parse(tmp_path / "curve-all.svg").getroot()
    assert sum(node.tag.endswith("polyline") for node in drawing.iter()) == 3
    assert "run@8" in (tmp_path / "curve.html").read_text()
    for target, told in (("@7", "no checkpoint of that step; there are 8, 12"), ("", "should be numbers of demonstrations")):
        with pytest.raises(InputError, match=told):
            call("curve", f"{finished.path}{target}", "--task", "hidden_code", "--curve", "0" if target else "some")
    assert shots_of("4,0,4") == [0, 4]
