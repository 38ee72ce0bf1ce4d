"""Every fault of benchmarks/chaos.py happens, and those that end a process cost no bit of the result."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from disturbed import weights_hash

import chaos
import warm
from openbook.logbook import read
from openbook.run import Run


@pytest.fixture
def untrained(tokenized: Run, tmp_path: Path) -> Path:
    path = tmp_path / "run"
    shutil.copytree(tokenized.path, path)
    return path


def train(run: Path, faults: Sequence[str]) -> int:
    """Trains to the end, whichever it is. Returns the exit status, negative for a signal."""
    return warm.openbook("train", run, faults=faults)


def test_a_training_killed_in_every_phase_ends_in_the_same_bits(untrained: Path, finished: Run) -> None:
    faults = [f"kill@{phase}:{step}:0" for step, phase in enumerate(("forward", "backward", "reduce", "save", "optimizer", "rename"), 3)]
    for happened in range(len(faults)):
        assert train(untrained, faults) == -signal.SIGKILL
        assert len(list((untrained / "chaos").iterdir())) == happened + 1
    assert train(untrained, faults) == 0
    assert weights_hash(Run(untrained)) == weights_hash(finished)


def test_a_gradient_that_was_no_number_once_costs_no_bit(untrained: Path, finished: Run) -> None:
    assert train(untrained, ["nan@3"]) == 0
    assert (untrained / "chaos" / "nan@3").exists()
    assert weights_hash(Run(untrained)) == weights_hash(finished)


def test_a_process_that_hangs_does_nothing_until_it_is_woken(untrained: Path) -> None:
    child = warm.begin(["train", str(untrained)], ["hang@3:0"])
    assert os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1])
    assert max(event["step"] for event in read(untrained / "logbook.jsonl") if event["event"] == "step") == 2
    os.kill(child, signal.SIGCONT)
    assert os.waitpid(child, 0)[1] == 0


def test_poison_stays_with_its_data_and_a_flipped_bit_is_no_spike(untrained: Path, finished: Run) -> None:
    assert train(untrained, ["poison@9", "flip@2:0:1", "clock-back@5", "slow@0:1.5"]) == 0
    steps, clean = ({e["step"]: e for e in read(run / "logbook.jsonl") if e["event"] == "step"} for run in (untrained, finished.path))
    assert steps[9]["loss"] > 1000
    assert steps[1]["norm"] == clean[1]["norm"]
    assert steps[2]["norm"] == pytest.approx(clean[2]["norm"], rel=0.1)
    assert steps[3]["loss"] != clean[3]["loss"]
    assert steps[4]["time"] > steps[5]["time"]


def test_what_is_no_fault_is_refused() -> None:
    with pytest.raises(SystemExit, match="explode@3: no such fault"):
        chaos.fault("explode@3")
