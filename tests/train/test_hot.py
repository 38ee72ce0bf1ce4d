"""Workers that are replaced without a restart: whoever dies, the bits are those of one process, and little time is lost."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from disturbed import weights_hash

from hot import Training
from openbook import cli
from openbook.errors import InputError
from openbook.integrity import inspect
from openbook.logbook import check, read
from openbook.pipeline import update
from openbook.recipe import TrainSection, load_recipe
from openbook.run import Run, open_run
from openbook.train.hot import Place, place
from openbook.train.hot_launch import require_hot

SETTINGS = ["train.steps=240", "train.microbatches=8", "train.microbatch_rows=3", "train.checkpoint_every=30", "train.validate_every=60"]
ENDLESS = ["corpus.components.prose.max_epochs=4000", "corpus.components.code.max_epochs=4000"]
STALL = 2.5
"""Seconds; on a quiet machine, the heartbeat's 1 s and a little."""


NERVOUS = ["threshold=0.1", "spike=0.25", "patience=2", "min_history=16", "window=16", "anchor_every=10"]
"""A policy that goes back for nothing."""


def fresh(tokenized: Run, folder: Path, settings: list[str] = SETTINGS) -> Run:
    shutil.copytree(tokenized.path, folder)
    source = tokenized.recipe_folder / "tiny.toml"
    return open_run(folder, load_recipe(source, [*ENDLESS, *settings])[0], source)


@pytest.fixture(scope="module")
def straight(tokenized: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training by one process that nothing disturbed."""
    pytest.importorskip("torchft", reason="torchft is not installed: pip install 'openbook[hot]'")
    run = fresh(tokenized, tmp_path_factory.mktemp("straight") / "run")
    list(update(run, ["train"]))
    return run


def test_a_worker_the_leader_and_a_stopped_one_are_replaced(straight: Run, tokenized: Run, tmp_path: Path) -> None:
    run = fresh(tokenized, tmp_path / "run")
    training = Training(run.path, "--workers", 3, "--spares", 1)
    training.wait_for_members(3)
    first = training.members()
    moment, step = training.kill(first[-1])
    assert step - moment < STALL
    training.wait_for_members(3, first[-1])
    assert training.members()[:2] == first[:2]
    moment, step = training.kill(first[0])
    assert step - moment < STALL
    training.wait_for_members(3, first[0])
    second = training.members()
    assert second[0] == first[1]
    training.kill(second[0], signal.SIGSTOP)
    training.wait_for_members(3, second[0])
    assert training.end() == 0, training.said
    assert weights_hash(run) == weights_hash(straight)
    assert training.said.count("was killed by SIGKILL") == 3
    assert "[torchft" not in training.said
    assert [event["stage"] for event in training.events("stage.begin")].count("train") == 3
    assert [event["cause"] for event in training.events("interruption")] == ["killed"] * 3
    assert {event["checkpoint"] for event in training.events("resume")} == {"memory"}
    assert [event["step"] for event in training.events("validation")][-1] == 240
    same_steps(training, straight)
    assert not inspect(Run(run.path)).problems(run.path)


def same_steps(training: Training, straight: Run) -> None:
    """Every step is in the logbook, and was the same each time that it is."""
    facts = ("branch", "step", "loss", "norm", "tokens")
    clean, told = (
        {tuple(event[fact] for fact in facts) for event in read(path) if event["event"] == "step"}
        for path in (straight.logbook_path, training.run / "logbook.jsonl")
    )
    assert told == clean
    assert not training.events("replay.mismatch")
    assert check(training.run / "logbook.jsonl") is None


def test_a_killed_worker_comes_back_and_all_killed_go_on_from_a_checkpoint(straight: Run, tokenized: Run, tmp_path: Path) -> None:
    run = fresh(tokenized, tmp_path / "run")
    training = Training(run.path, "--workers", 3)
    training.wait_for_members(3)
    victim = training.members()[1]
    os.kill(victim, signal.SIGKILL)
    training.wait_for_members(3, victim)
    assert training.events("membership")[-1]["joined"]
    training.wait_for(lambda: training.events("checkpoint"))
    for process in training.members():
        os.kill(process, signal.SIGKILL)
    resume = training.wait_for(lambda: [event for event in training.events("resume") if event["checkpoint"] != "memory"])[0]
    assert resume["checkpoint"] == f"checkpoints/step-{resume['step']:08d}"
    training.step_after(training.wait_for_members(3))
    training.process.send_signal(signal.SIGTERM)
    assert training.end() == 75, training.said
    assert training.said.count("openbook: ") == 1
    assert "stopped by SIGTERM after step" in training.said
    list(update(Run(run.path), ["train"]))
    assert weights_hash(run) == weights_hash(straight)
    same_steps(training, straight)


def test_a_training_that_goes_back_does_so_with_all_its_workers(tokenized: Run, tmp_path: Path) -> None:
    pytest.importorskip("torchft", reason="torchft is not installed: pip install 'openbook[hot]'")
    settings = ["train.steps=60", "train.microbatches=4", *(f"train.anomalies.{setting}" for setting in NERVOUS)]
    straight, run = (fresh(tokenized, tmp_path / name, settings) for name in ("straight", "run"))
    list(update(straight, ["train"]))
    training = Training(run.path, "--workers", 2)
    assert training.end() == 0, training.said
    assert weights_hash(run) == weights_hash(straight)
    clean = [(event["kind"], event["step"]) for event in read(straight.logbook_path) if event["event"] == "action"]
    assert [(event["kind"], event["step"]) for event in training.events("action")] == clean
    assert "rollback" in dict(clean)
    same_steps(training, straight)


def test_what_cannot_be_hot_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    section = TrainSection(steps=1, microbatch_rows=1, microbatches=8, device="cpu")
    with pytest.raises(InputError, match=r"--hot: each worker must hold the whole model; train\.shards = 2 should be 1"):
        require_hot(section.model_copy(update={"shards": 2}))
    monkeypatch.setitem(sys.modules, "torchft", None)
    with pytest.raises(InputError, match=r"--hot needs torchft: pip install 'openbook\[hot\]'"):
        require_hot(section)


@pytest.mark.parametrize(("arguments", "complaint"), [(["--spares", "1"], "--spares 1: without --hot"), (["--hot"], "one machine only")])
def test_options_that_do_not_fit_are_named(
    run: Run, arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if arguments == ["--hot"]:
        for name, value in {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
            monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["openbook", "train", str(run.path), *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_worker_reads_its_supervisors_word() -> None:
    assert place({"PATH": "/bin"}) is None
    words = {"OPENBOOK_LIGHTHOUSE": "1", "OPENBOOK_STORE": "2", "OPENBOOK_NUMBER": "3", "OPENBOOK_CREW": "4"}
    assert place(words) == Place(1, 2, 3, 4)
