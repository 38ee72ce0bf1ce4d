"""Workers: whoever computes what, however many there are, whichever of them dies, the bits are those of one process."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook import cli
from openbook.errors import InputError, OpenbookError
from openbook.files import sha256_file
from openbook.logbook import check, read
from openbook.pipeline import update
from openbook.recipe import TrainSection, load_recipe
from openbook.run import Run, open_run
from openbook.train.tree import Place, TreeSum, nodes, share
from openbook.train.workers import Disagreement, Seat, Solo, join, require_agreement, require_enough_work, seat

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def recursive(leaves: list[torch.Tensor]) -> torch.Tensor:
    """The tree's specification."""
    half = len(leaves) // 2
    return leaves[0] if half == 0 else recursive(leaves[:half]) + recursive(leaves[half:])


def fold(leaves: list[torch.Tensor], part: range) -> TreeSum:
    tree = TreeSum()
    for index in part:
        tree.add(Place(0, index), {"x": leaves[index].clone()})
    return tree


@settings(max_examples=150, deadline=None)
@given(data=st.data(), exponent=st.integers(0, 6))
def test_the_nodes_of_any_number_of_workers_fold_to_the_tree_to_the_bit(data: st.DataObject, exponent: int) -> None:
    microbatches = 2**exponent
    world = data.draw(st.integers(1, microbatches))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    leaves = [torch.randn(16, generator=generator) * 10.0 ** (index % 7 - 3) for index in range(microbatches)]
    parts = [share(microbatches, rank, world) for rank in range(world)]
    assert [index for part in parts for index in part] == list(range(microbatches))
    assert {len(part) for part in parts} <= {microbatches // world, -(-microbatches // world)}
    root = TreeSum()
    for part in parts:
        partial = fold(leaves, part).partial
        assert [place for place, _ in partial] == nodes(part)
        assert len(partial) == 1 if world & (world - 1) == 0 else len(partial) <= 2 * exponent
        for place, value in partial:
            root.add(place, value)
    assert torch.equal(root.total()["x"], recursive(leaves))


@given(start=st.integers(0, 200), length=st.integers(1, 200))
def test_nodes_cover_a_range_from_left_to_right_with_nothing_twice(start: int, length: int) -> None:
    covered: list[int] = []
    for level, position in nodes(range(start, start + length)):
        covered += range(position << level, (position + 1) << level)
    assert covered == list(range(start, start + length))


def test_more_workers_than_microbatches_are_too_many() -> None:
    section = TrainSection(steps=1, microbatch_rows=1, microbatches=4)
    require_enough_work(4, section)
    with pytest.raises(InputError, match=r"5 workers .*microbatches = 4, so at most 4 .*microbatches = 8 could use 5"):
        require_enough_work(5, section)


def test_a_run_of_shards_goes_on_alone() -> None:
    require_enough_work(1, TrainSection(steps=1, microbatch_rows=1, microbatches=8, shards=4))


def test_shards_that_cannot_be_are_named() -> None:
    with pytest.raises(InputError, match=r"train\.shards = 3 should be a power of two"):
        require_enough_work(3, TrainSection(steps=1, microbatch_rows=1, microbatches=8, shards=3))
    with pytest.raises(InputError, match=r"6 workers cannot hold models of train\.shards = 4 workers each; use a multiple of 4"):
        require_enough_work(6, TrainSection(steps=1, microbatch_rows=1, microbatches=8, shards=4))


def test_too_many_workers_are_refused_before_anything_is_done(run: Run) -> None:
    with pytest.raises(InputError, match=r"3 workers are too many: .*microbatches = 2"):
        list(update(run, ["corpus", "tokenize", "train"], workers=3))
    assert not events(run, "stage.begin")


@pytest.mark.parametrize(("workers", "complaint"), [("2", "already says WORLD_SIZE = 4; leave --workers out"), (None, "has RANK but not")])
def test_the_command_minds_the_environment(
    run: Run, workers: str | None, complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value if workers or name == "RANK" else "")
    monkeypatch.setattr(sys, "argv", ["openbook", "train", str(run.path), *(["--workers", workers] if workers else [])])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


class Three(Solo):
    """Worker 0 of three, the last of which holds something else."""

    def gather(self, *numbers: float) -> list[tuple[float, ...]]:
        return [numbers, numbers, tuple(number + 1 for number in numbers)]


def test_workers_that_hold_different_things_are_named() -> None:
    require_agreement(Solo(), "ff" * 32, "the weights after step 7")
    with pytest.raises(Disagreement, match="the weights after step 7: worker 2 and worker 0 differ"):
        require_agreement(Three(), "ff" * 32, "the weights after step 7")


def test_torchruns_environment_is_read() -> None:
    assert seat({"PATH": "/bin", "MASTER_ADDR": "left over from something else"}) is None
    assert seat(TORCHRUN) == Seat(1, 4, "localhost", 29500)
    more = {"LOCAL_RANK": "1", "TORCHELASTIC_RESTART_COUNT": "2", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert seat({**TORCHRUN, **more}) == Seat(1, 4, "localhost", 29500, 1, 2, True)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"WORLD_SIZE": ""}, r"has RANK but not WORLD_SIZE; start workers with --workers N or torchrun"),
        ({"RANK": "", "MASTER_PORT": ""}, r"has WORLD_SIZE but not RANK, MASTER_PORT"),
        ({"RANK": "4"}, r"RANK = 4 should be less than WORLD_SIZE = 4"),
        ({"RANK": "-1"}, r"RANK = '-1' should be a whole number"),
        ({"MASTER_PORT": "70000"}, r"MASTER_PORT = 70000 should be a port"),
    ],
)
def test_a_broken_environment_is_named(change: dict[str, str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        seat({**TORCHRUN, **change})


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_meeting_point_that_nobody_serves_is_one_line() -> None:
    port = free_port()
    with pytest.raises(OpenbookError, match=rf"worker 1: cannot reach the workers' meeting point 127.0.0.1:{port}"):
        join(Seat(1, 2, "127.0.0.1", port), cuda=False, seconds=1)


def test_a_worker_that_never_comes_is_named() -> None:
    with pytest.raises(OpenbookError, match=r"worker 0: after 1 s at 127.0.0.1:\d+, no sign of worker 1, 2"):
        join(Seat(0, 3, "127.0.0.1", free_port()), cuda=False, seconds=1)


ENDLESS = ["corpus.components.prose.max_epochs=4000", "corpus.components.code.max_epochs=4000"]


@pytest.fixture(scope="module")
def straight(tokenized: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training by one process that nothing disturbed, long enough to be disturbed."""
    run = fresh(tokenized, tmp_path_factory.mktemp("straight") / "run")
    list(update(run, ["train"]))
    return run


def fresh(tokenized: Run, folder: Path, *more: str) -> Run:
    """A run with tokens and no training."""
    shutil.copytree(tokenized.path, folder)
    source = tokenized.recipe_folder / "tiny.toml"
    settings = [*ENDLESS, "train.steps=150", "train.microbatches=4", "train.checkpoint_every=10", "train.validate_every=150"]
    return open_run(folder, load_recipe(source, [*settings, *more])[0], source)


def weights_hash(run: Run) -> str:
    return sha256_file(run.path / "weights" / "model.safetensors")


def events(run: Run, kind: str) -> list[dict[str, object]]:
    return [event for event in read(run.logbook_path) if event["event"] == kind]


class Training:
    """`openbook train RUN --workers N` as a process; what it says is collected while it runs."""

    def __init__(self, run: Run, *arguments: object, launcher: tuple[str, ...] = ()) -> None:
        self.run = run
        command = [sys.executable, "-m", *launcher, "openbook.cli", "train", str(run.path), *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.said = ""
        self.listener = threading.Thread(target=self._listen)
        self.listener.start()

    def _listen(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.said += line

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 120
        while not any(event["step"] >= step for event in events(self.run, "step")):  # type: ignore[operator]
            assert time.monotonic() < deadline, self.said
            assert self.process.poll() is None, self.said
            time.sleep(0.02)

    def workers(self) -> list[int]:
        """The process ids of the workers of the newest attempt, by rank."""
        return [int(number) for number in re.findall(r"workers: processes ([\d ]+)", self.said)[-1].split()]

    def end(self) -> int:
        status = self.process.wait(180)
        self.listener.join()
        return status


def gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False


def test_three_workers_then_two_then_one_give_the_bits_of_one_process(straight: Run, tokenized: Run, tmp_path: Path) -> None:
    run = fresh(tokenized, tmp_path / "run")
    for workers, signal_number, rank in ((3, signal.SIGTERM, 1), (2, signal.SIGINT, None)):
        training = Training(run, "--workers", workers)
        training.wait_for_step(30 * (4 - workers))
        asked = training.process.pid if rank is None else training.workers()[rank]
        os.kill(asked, signal_number)
        assert training.end() == (75 if signal_number == signal.SIGTERM else 130), training.said
        assert f"stopped by {signal_number.name} after step" in training.said
        assert training.said.count("openbook: ") == 1
        assert all(map(gone, training.workers()))
    stops = [event["cause"] for event in events(run, "stage.stopped")]
    assert stops == ["SIGTERM", "SIGINT"]
    list(update(Run(run.path), ["train"]))
    assert weights_hash(run) == weights_hash(straight)
    assert [event["world"] for event in events(run, "membership")] == [3, 2, 1]
    assert not events(run, "replay.mismatch")
    assert not events(run, "interruption")
    assert check(run.logbook_path) is None


def test_a_killed_worker_costs_a_restart_and_no_bit(straight: Run, tokenized: Run, tmp_path: Path) -> None:
    """First another rank dies, then rank 0, which is the one that writes; and the run is nobody else's all the while."""
    run = fresh(tokenized, tmp_path / "run")
    training = Training(run, "--workers", 2, "--json")
    training.wait_for_step(30)
    with pytest.raises(InputError, match="another openbook command is writing this run"):
        list(update(Run(run.path), ["train"], workers=2))
    os.kill(training.workers()[1], signal.SIGKILL)
    training.wait_for_step(80)
    os.kill(training.workers()[0], signal.SIGKILL)
    assert training.end() == 0, training.said
    assert "worker 1 was killed by SIGKILL; starting all workers again" in training.said
    assert "worker 0 was killed by SIGKILL; starting all workers again" in training.said
    assert "openbook: " not in training.said
    assert weights_hash(run) == weights_hash(straight)
    assert [(event["world"], event["attempt"]) for event in events(run, "membership")] == [(2, 0), (2, 1), (2, 2)]
    causes = [str(event["cause"]) for event in events(run, "interruption")]
    assert causes[-1] == "killed"
    assert not events(run, "replay.mismatch")
    assert check(run.logbook_path) is None
    assert training.process.stdout
    result = json.loads(training.process.stdout.read())
    assert result["stages"]["train"]["workers"] == 2
    assert result["stages"]["train"]["interruptions"] == 2


def test_four_workers_under_torchrun_give_the_bits_of_one_process(straight: Run, tokenized: Run, tmp_path: Path) -> None:
    run = fresh(tokenized, tmp_path / "run")
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", "4", "-m")
    training = Training(run, "--json", launcher=launcher)
    assert training.end() == 0, training.said
    assert weights_hash(run) == weights_hash(straight)
    assert training.process.stdout
    assert json.loads(training.process.stdout.read())["stages"]["train"]["workers"] == 4


def test_workers_die_with_the_process_that_started_them(tokenized: Run, tmp_path: Path) -> None:
    run = fresh(tokenized, tmp_path / "run", "train.steps=3000")
    training = Training(run, "--workers", 2)
    training.wait_for_step(5)
    training.process.kill()
    training.end()
    deadline = time.monotonic() + 10
    while not all(map(gone, training.workers())):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with run.locked():
        pass
