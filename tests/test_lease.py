"""A process that slept while another one took its run over writes nothing more, wherever it wakes up."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from openbook.lease import Lease, Overtaken, holder
from openbook.logbook import check, read
from openbook.pipeline import update
from openbook.recipe import load_recipe
from openbook.run import Run, open_run


def test_every_holder_takes_a_number_one_higher(tmp_path: Path) -> None:
    assert holder(tmp_path) == {"number": 0}
    first = Lease(tmp_path)
    first.require()
    second = Lease(tmp_path)
    assert (first.number, second.number) == (1, 2)
    assert holder(tmp_path)["process"] == os.getpid()
    second.require()
    with pytest.raises(Overtaken, match=rf"another process took over this run \(process {os.getpid()} on .*; this one stops"):
        first.require()
    (tmp_path / ".lease").write_text("spoilt")
    with pytest.raises(Overtaken, match=r"its \.lease is gone"):
        second.require()


def test_the_lock_s_holders_take_leases_in_turn(run: Run) -> None:
    before = holder(run.path)["number"]
    with run.locked():
        assert holder(run.path)["number"] == before + 1
        run.require_lease()
    with run.locked():
        assert holder(run.path)["number"] == before + 2
    run.require_lease()


def test_a_training_that_slept_through_a_take_over_wakes_up_to_one_line(tokenized: Run, tmp_path: Path) -> None:
    """The lock file is removed: so it looks to the other machine where a file system does not share locks."""
    source = tokenized.recipe_folder / "tiny.toml"
    shutil.copytree(tokenized.path, tmp_path / "run")
    settings = ["corpus.components.prose.max_epochs=4000", "corpus.components.code.max_epochs=4000", "train.steps=60"]
    run = open_run(tmp_path / "run", load_recipe(source, settings)[0], source)
    command = [sys.executable, "-m", "openbook.cli", "train", str(run.path)]
    sleeper = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    deadline = time.monotonic() + 60
    while not any(event["event"] == "step" for event in read(run.logbook_path)):
        assert time.monotonic() < deadline
        assert sleeper.poll() is None
        time.sleep(0.002)
    os.kill(sleeper.pid, signal.SIGSTOP)
    (run.path / ".lock").unlink()
    list(update(Run(run.path), ["train"]))
    after = {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()}
    os.kill(sleeper.pid, signal.SIGCONT)
    _, said = sleeper.communicate(timeout=60)
    assert sleeper.returncode == 1
    lines = [line for line in said.splitlines() if line.startswith("openbook: ")]
    assert len(lines) == 1
    assert f"another process took over this run (process {os.getpid()} on " in lines[0]
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*") if path.is_file()} == after
    assert check(run.logbook_path) is None
    assert json.loads((run.path / "manifest.json").read_bytes())["stages"]["train"]["summary"]["steps"] == 60
