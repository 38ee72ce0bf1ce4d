"""`openbook evaluate` with tasks, and `openbook data`, as people call them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toymodels import make_folder
from typer.testing import CliRunner

from openbook.cli import app
from openbook.errors import InputError
from openbook.evaluate.data import items_of
from openbook.evaluate.describe import described
from openbook.evaluate.fetching import download
from openbook.evaluate.task import builtin, task_named
from openbook.run import Run


def call(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(part) for part in arguments], catch_exceptions=False, standalone_mode=False)
    if done.exception:
        raise done.exception
    return done.stdout


def test_a_run_s_scores_stand_beside_those_of_its_stage(finished: Run) -> None:
    common = ("--generated", "--shots", 1, "--limit", 2, "--task")
    shown = call("evaluate", finished.path, *common, "reversed_words", "--task", "two_digit_addition", "--seed", 3)
    assert shown.splitlines()[0].split() == ["task", "metric", "value", "95", "%", "interval", "chance", "items", "K", "cut", "bits/byte"]
    assert [line.split()[0] for line in shown.splitlines()[1:3]] == ["reversed_words", "two_digit_addition"]
    assert {"bits_per_byte.json", "samples.json", "reversed_words.json"} <= {path.name for path in (finished.path / "scores").iterdir()}
    assert "artifacts" in call("verify", finished.path)
    told = json.loads(call("evaluate", finished.path, *common, "reversed_words", "--seed", 3, "--json"))
    assert told["tasks"][0]["metrics"]["exact"]["value"] == 0.0


def test_what_cannot_be_opened_is_said(tmp_path: Path) -> None:
    for target, told in (
        (tmp_path, "no run directory with weights, and no folder with config.json"),
        ("http://127.0.0.1:9/v1", "say with --out DIR where an endpoint's scores go"),
    ):
        with pytest.raises(InputError, match=told):
            call("evaluate", target, "--task", "two_digit_addition", "--generated")
    with pytest.raises(InputError, match="--suite gpt4: should be one of"):
        call("evaluate", make_folder(tmp_path / "weights", "gpt2"), "--suite", "gpt4")


def test_data_lists_what_is_absent_and_where_it_comes_from(tmp_path: Path) -> None:
    shown = call("data", "--folder", tmp_path)
    lacking = sum(bool(task_named(name).data.file) for name in builtin())
    listed = json.loads(call("data", "--folder", tmp_path, "--json"))
    measures, told = ({entry[kind]: entry for entry in listed[f"{kind}s"]} for kind in ("measure", "task"))
    assert f"{lacking} of {len(builtin())} tasks and {len(measures)} of {len(measures)} measures lack data" in shown
    crows = "bias/crows_pairs_anonymized.csv"
    assert measures["crows_pairs"]["absent"] == [str(tmp_path / crows)]
    assert f"from https://github.com/nyu-mll/crows-pairs (data/crows_pairs_anonymized.csv) to {tmp_path / crows}" in shown
    assert told["piqa"]["absent"] == [str(tmp_path / "eval/piqa_valid.jsonl"), str(tmp_path / "eval/piqa_valid-labels.lst")]
    assert all(entry["origin"] or entry["generator"] for entry in told.values())


def test_a_set_of_the_hub_becomes_the_file_that_the_task_reads(tmp_path: Path) -> None:
    row = {"id": "1", "question": "Why?", "choices": {"text": ["So", "No"], "label": ["A", "B"]}, "answerKey": "B"}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "0000.parquet")
    download(task_named("arc_easy"), tmp_path, lambda hub: [tmp_path / "0000.parquet"])
    assert items_of(task_named("arc_easy"), tmp_path, False, 0).items == [
        {"query": "Question: Why?", "gold": 1, "choices": ["So", "No"], "question": "Why?"}
    ]
    boolq = {"question": "is it", "answer": True, "passage": "It is."}
    pq.write_table(pa.Table.from_pylist([boolq]), tmp_path / "0000.parquet")
    path = download(task_named("boolq"), tmp_path, lambda hub: [tmp_path / "0000.parquet"])
    assert json.loads(gzip.decompress(path.read_bytes())) == boolq
    with pytest.raises(InputError, match="the hub has no such set that we know of"):
        download(task_named("winograd"), tmp_path)


def test_the_documentation_shows_each_task_as_it_is() -> None:
    text = (Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")
    assert text.endswith(described()), "the end of docs/evaluation.md should be what `python -m openbook.evaluate.describe` prints"
