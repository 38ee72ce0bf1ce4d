"""What befalls the workers of a run, and what becomes of it: said in one line, on record, and without costing a bit."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest
from disturbed import STEPS, events, fresh, weights_hash

import warm
from openbook.errors import InputError
from openbook.logbook import attempts, check, read
from openbook.recipe import load_recipe
from openbook.report import render
from openbook.run import Run, open_run
from openbook.train.checkpoint import newest_first, read_state


@pytest.fixture(scope="module")
def straight(tokenized: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = fresh(tokenized, tmp_path_factory.mktemp("straight") / "run")
    assert warm.openbook("train", run.path) == 0
    return run


def one_line(said: Path) -> str:
    (line,) = [line for line in said.read_text().splitlines() if line.startswith("openbook: ")]
    return line


def wait_for_step(run: Run, step: int) -> None:
    deadline = time.monotonic() + 60
    while not any(event["step"] >= step for event in events(run, "step")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_worker_that_hangs_is_named_and_replaced(straight: Run, tokenized: Run, tmp_path: Path) -> None:
    run, said = fresh(tokenized, tmp_path / "run", ["train.hang_seconds=6"]), tmp_path / "said"
    assert warm.openbook("train", run.path, "--workers", 2, faults=["hang@18:1"], said=said) == 0, said.read_text()
    assert "no word for 6 s; worker 1 did not answer, what the others were doing is in" in said.read_text()
    (evidence,) = (run.path / "evidence").iterdir()
    assert "combine" in evidence.read_text()
    (interruption,) = events(run, "interruption")
    assert interruption["cause"] == "hang"
    assert interruption["detail"].startswith("no word for 6 s; worker 1 did not answer")
    assert interruption["lost_steps"] == 1
    assert weights_hash(run) == weights_hash(straight)


@pytest.mark.parametrize("settings", [[], ["train.shards=2"]], ids=["replicas", "shards"])
def test_a_scheduler_that_takes_the_machine_back_loses_no_step(straight: Run, tokenized: Run, tmp_path: Path, settings: list[str]) -> None:
    run, said = fresh(tokenized, tmp_path / "run", ["train.checkpoint_every=1000", *settings]), tmp_path / "said"
    process = warm.begin(["train", str(run.path), "--workers", "2"], said=said)
    wait_for_step(run, 5)
    os.kill(process, signal.SIGUSR1)
    assert warm.end(process) == 75
    assert "stopped by SIGUSR1 after step" in one_line(said)
    stopped = read_state(newest_first(run.path / "checkpoints")[0]).step
    assert stopped == max(event["step"] for event in events(run, "step")) >= 5
    source = tokenized.recipe_folder / "tiny.toml"
    with pytest.raises(InputError, match=r"was trained with another recipe \(seed: 7 -> 8\)"):
        open_run(run.path, load_recipe(source, ["seed=8"])[0], source)
    assert warm.openbook("train", run.path, "--workers", 2, said=said) == 0, said.read_text()
    assert not events(run, "interruption")
    assert weights_hash(run) == weights_hash(straight)


def test_either_holder_of_a_cut_model_may_die_anywhere(straight: Run, tokenized: Run, tmp_path: Path) -> None:
    run, said = fresh(tokenized, tmp_path / "run", ["train.shards=2", "train.validate_every=6"]), tmp_path / "said"
    deaths = ("forward:3:1", "backward:10:0", "validation:12:1", "save:16:1", "optimizer:20:0", "rename:24:0", "save:32:0")
    faults = [f"kill@{death}" for death in deaths]
    assert warm.openbook("train", run.path, "--workers", 2, faults=faults, said=said) == 0, said.read_text()
    assert [event["cause"] for event in events(run, "interruption")] == ["killed"] * len(faults)
    assert "openbook: " not in said.read_text()
    assert weights_hash(run) == weights_hash(straight)


def test_a_clock_that_jumps_back_makes_no_time_negative(straight: Run, tokenized: Run, tmp_path: Path) -> None:
    wanted = ["train.checkpoint_every=30", "train.hours_between_failures=0.01"]
    run, said = fresh(tokenized, tmp_path / "run", wanted), tmp_path / "said"
    assert warm.openbook("train", run.path, faults=["clock-back@10", "kill@forward:20:0"], said=said) == -signal.SIGKILL
    source = tokenized.recipe_folder / "tiny.toml"
    document = run.recipe.model_copy(update={"train": run.recipe.train.model_copy(update={"checkpoint_every": None})})
    run = open_run(run.path, document, source)
    assert warm.openbook("train", run.path, said=said) == 0, said.read_text()
    assert [event["lost_seconds"] >= 0 for event in events(run, "interruption")] == [True]
    assert all((attempt.seconds or 0.0) >= 0 for attempt in attempts(read(run.logbook_path)))
    assert "<html" in render(run)
    assert check(run.logbook_path) is None
    assert weights_hash(run) == weights_hash(straight)


@pytest.mark.parametrize("shards", [1, 2])
def test_a_disk_that_fills_up_in_a_save_is_one_line(straight: Run, tokenized: Run, tmp_path: Path, shards: int) -> None:
    run, said = fresh(tokenized, tmp_path / "run", [f"train.shards={shards}"]), tmp_path / "said"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, before[1]))
    try:
        status = warm.openbook("train", run.path, "--workers", shards, said=said)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1, said.read_text()
    assert "File too large; nothing finished was lost: put it right and repeat the command" in one_line(said)
    assert not list((run.path / "checkpoints").iterdir())
    assert warm.openbook("train", run.path, "--workers", shards, said=said) == 0, said.read_text()
    assert weights_hash(run) == weights_hash(straight)


def test_a_checkpoint_of_another_recipe_is_not_continued_from(straight: Run, tokenized: Run, tmp_path: Path) -> None:
    other, run, said = fresh(tokenized, tmp_path / "other", ["seed=8"]), fresh(tokenized, tmp_path / "run"), tmp_path / "said"
    assert warm.openbook("train", other.path) == 0
    shutil.copytree(other.path / "checkpoints", run.path / "checkpoints")
    assert warm.openbook("train", run.path, said=said) == 0
    assert f"step-{STEPS:08d}: belongs to another recipe or corpus; removed" in said.read_text()
    assert weights_hash(run) == weights_hash(straight)


def test_workers_that_a_model_cannot_be_cut_for_are_refused(tokenized: Run, tmp_path: Path) -> None:
    run, said = fresh(tokenized, tmp_path / "run", ["train.shards=2"]), tmp_path / "said"
    assert warm.openbook("train", run.path, "--workers", 3, said=said) == 2
    assert "3 workers cannot hold models of train.shards = 2 workers each; use a multiple of 2" in one_line(said)
