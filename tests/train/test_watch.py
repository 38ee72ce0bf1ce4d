"""Tasks while training: by schedule, in the logbook, never twice, and without a trace in the weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from disturbed import events, fresh, weights_hash

import warm
from openbook.errors import InputError
from openbook.evaluate import watch
from openbook.evaluate.runner import evaluate
from openbook.files import sha256_file
from openbook.logbook import read
from openbook.pipeline import up_to, update
from openbook.recipe import load_recipe
from openbook.report import render
from openbook.run import Run, open_run
from tiny import RECIPE, write_recipe

TASKS = 'max_bytes = 4000\ntasks = ["hidden_sum", "reversed_words"]\nevery = 6\nlimit = 4\nshots = 1\ngenerated = true\n'


def _run(folder: Path, text: str) -> Run:
    path = write_recipe(folder, text)
    return open_run(folder / "run", load_recipe(path)[0], path)


def test_tasks_while_training_change_nothing_and_are_not_asked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watching = _run(tmp_path / "watching", RECIPE.replace("max_bytes = 4000\n", TASKS))
    plain = _run(tmp_path / "plain", RECIPE)
    calls: list[str] = []

    def interrupted(*arguments: object) -> object:
        calls.append(str(arguments[4]))
        if len(calls) == 3:  # at the last step, after a checkpoint at step 8
            raise KeyboardInterrupt
        return evaluate(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(watch, "evaluate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(update(watching, up_to("train")))
    first = watching.path / "scores/training/step-00000006/hidden_sum.json"
    kept = first.stat().st_mtime_ns
    list(update(watching, up_to("train")))
    list(update(plain, up_to("train")))
    assert first.stat().st_mtime_ns == kept
    assert sha256_file(watching.path / "weights/model.safetensors") == sha256_file(plain.path / "weights/model.safetensors")
    told = {event["step"]: event["tasks"] for event in read(watching.logbook_path) if event["event"] == "evaluation"}
    assert list(told) == [6, 12]
    assert told[12]["hidden_sum"].keys() == {"metric", "shots", "value", "low", "high"}
    assert json.loads(first.read_bytes())["count"] == 4
    assert "share of items answered right while training" in render(watching)


WATCHED = ["evaluate.tasks=['hidden_sum']", "evaluate.every=3", "evaluate.limit=4", "evaluate.shots=1"]
WATCHED += ["evaluate.generated=true", "train.steps=6"]


@pytest.fixture(scope="module")
def alone(tokenized: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = fresh(tokenized, tmp_path_factory.mktemp("watched") / "run", WATCHED)
    assert warm.openbook("train", run.path) == 0
    return run


@pytest.mark.parametrize(("settings", "more"), [(["train.shards=2"], []), ([], ["--hot"])], ids=["shards", "hot"])
def test_a_crew_s_model_is_evaluated_as_one_process_s(
    alone: Run, tokenized: Run, tmp_path: Path, settings: list[str], more: list[str]
) -> None:
    if more:
        pytest.importorskip("torchft", reason="torchft is not installed: pip install 'openbook[hot]'")
    run, said = fresh(tokenized, tmp_path / "run", [*WATCHED, *settings]), tmp_path / "said"
    assert warm.openbook("train", run.path, "--workers", 2, *more, said=said) == 0, said.read_text()
    told = [[(event["step"], event["tasks"]) for event in events(one, "evaluation")] for one in (alone, run)]
    assert [step for step, _ in told[0]] == [3, 6]
    assert told[1] == told[0]
    assert weights_hash(run) == weights_hash(alone)


def test_a_task_without_data_is_told_before_the_first_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBOOK_DATA", str(tmp_path))
    run = _run(tmp_path, RECIPE.replace("max_bytes = 4000\n", 'tasks = ["piqa"]\n'))
    with pytest.raises(InputError, match=r"which evaluate\.tasks needs for piqa"):
        list(update(run, up_to("train")))
