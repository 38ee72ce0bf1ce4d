"""Training: whatever interrupts it, the same command ends with the same bits."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from openbook.documents import Document, DocumentWriter
from openbook.errors import InputError, OpenbookError
from openbook.files import sha256_file
from openbook.integrity import damage
from openbook.logbook import attempts, check, read
from openbook.pipeline import update
from openbook.recipe import load_recipe
from openbook.run import Run, open_run
from openbook.train import checkpoint
from openbook.train.checkpoint import State, newest_first, read_state, save
from openbook.train.step import Trainer
from openbook.train.validation import validation_texts


def copy_of(run: Run, folder: Path) -> Run:
    shutil.copytree(run.path, folder)
    return Run(folder)


def weights_hash(run: Run) -> str:
    return sha256_file(run.path / "weights" / "model.safetensors")


@pytest.fixture(scope="module")
def undisturbed(tokenized: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = copy_of(tokenized, tmp_path_factory.mktemp("undisturbed") / "run")
    list(update(run, ["train"]))
    return run


def test_it_learns_and_says_what_it_did(undisturbed: Run) -> None:
    events = list(read(undisturbed.logbook_path))
    steps = [event for event in events if event["event"] == "step"]
    assert [event["step"] for event in steps] == list(range(1, 13))
    assert steps[-1]["tokens"] == 12 * 2 * 2 * 32
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.5
    assert [event["step"] for event in events if event["event"] == "validation"] == [6, 12]
    assert [event["step"] for event in events if event["event"] == "checkpoint"] == [4, 8, 12]
    summary = (undisturbed.stage_record("train") or {})["summary"]
    assert summary["tokens"] == 1536
    assert 0 < summary["utilisation"] < 1
    assert set(summary["bits_per_byte"]) == {"prose", "code"}
    assert check(undisturbed.logbook_path) is None


def test_validation_looks_at_whole_documents_or_at_the_beginning_of_one(tmp_path: Path) -> None:
    texts = ["a" * 50, "é" * 20, "b" * 30]
    with DocumentWriter(tmp_path / "valid.parquet") as writer:
        for number, text in enumerate(texts):
            writer.add(Document(str(number), text, "c", None, "o"))
    assert validation_texts(tmp_path / "valid.parquet", 100) == texts[:2]
    assert validation_texts(tmp_path / "valid.parquet", 45) == texts[1:2]
    assert validation_texts(tmp_path / "valid.parquet", 21) == ["a" * 21]


def test_only_the_newest_checkpoints_stay(undisturbed: Run) -> None:
    assert [path.name for path in newest_first(undisturbed.path / "checkpoints")] == ["step-00000012", "step-00000008"]


def test_two_runs_of_one_recipe_have_the_same_bits(undisturbed: Run, tokenized: Run, tmp_path: Path) -> None:
    other = copy_of(tokenized, tmp_path / "run")
    list(update(other, ["train"]))
    assert weights_hash(other) == weights_hash(undisturbed)


def test_looking_and_saving_more_often_changes_no_bit(undisturbed: Run, tokenized: Run, tmp_path: Path) -> None:
    shutil.copytree(tokenized.path, tmp_path / "run")
    source = tokenized.recipe_folder / "tiny.toml"
    loaded, _ = load_recipe(source, ["train.validate_every=1", "train.checkpoint_every=1", "train.threads=2"])
    run = open_run(tmp_path / "run", loaded, source)
    before = torch.get_num_threads()
    list(update(run, ["train"]))
    torch.set_num_threads(before)
    assert weights_hash(run) == weights_hash(undisturbed)


def test_another_seed_gives_other_bits(undisturbed: Run, tokenized: Run, tmp_path: Path) -> None:
    shutil.copytree(tokenized.path, tmp_path / "run")
    source = tokenized.recipe_folder / "tiny.toml"
    run = open_run(tmp_path / "run", load_recipe(source, ["seed=8"])[0], source)
    list(update(run, ["train"]))
    assert weights_hash(run) != weights_hash(undisturbed)


def test_a_gradient_over_microbatches_is_that_of_the_whole_batch(tokenized: Run) -> None:
    from openbook.tokens import Rows

    rows = Rows.open(tokenized)
    trainer = Trainer(tokenized.recipe, torch.device("cpu"))
    with torch.no_grad():  # away from the zero-initialised start
        for parameter in trainer.model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    whole = torch.cat([torch.from_numpy(rows(0, microbatch)) for microbatch in range(2)])
    loss = trainer.model.loss(whole[:, :-1], whole[:, 1:])
    loss.backward()
    expected = torch.stack([parameter.grad.norm() for parameter in trainer.model.parameters() if parameter.grad is not None]).norm()
    for parameter in trainer.model.parameters():
        parameter.grad = None
    result = trainer.step(0, rows)
    assert result.loss == pytest.approx(float(loss.detach()), rel=1e-6)
    assert result.norm == pytest.approx(float(expected), rel=1e-5)


ENDLESS = ["corpus.components.prose.max_epochs=4000", "corpus.components.code.max_epochs=4000"]
COMMAND = """
import sys
from pathlib import Path
from openbook.pipeline import update
from openbook.run import Run
list(update(Run(Path(sys.argv[1])), ["train"]))
"""


def start_training(run: Run) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-c", COMMAND, str(run.path)], env=environment, stderr=subprocess.PIPE)


def wait_for_step(run: Run, step: int, process: subprocess.Popen[bytes]) -> None:
    """Returns once the logbook holds the step; fails if training ends or stalls before."""
    deadline = time.monotonic() + 120
    while not any(event["event"] == "step" and event["step"] >= step for event in read(run.logbook_path)):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.002)


def test_killed_at_random_moments_it_ends_with_the_same_bits(tokenized: Run, tmp_path: Path) -> None:
    """The real thing: SIGKILL, in whatever the process is doing, again and again."""
    shutil.copytree(tokenized.path, tmp_path / "run")
    source = tokenized.recipe_folder / "tiny.toml"
    longer, _ = load_recipe(source, [*ENDLESS, "train.steps=400", "train.checkpoint_every=7", "train.validate_every=50"])
    run = open_run(tmp_path / "run", longer, source)
    straight = copy_of(run, tmp_path / "straight")
    assert start_training(straight).wait(120) == 0
    chance = random.Random(11)
    for kill in range(3):
        process = start_training(run)
        wait_for_step(run, 60 + 100 * kill, process)
        time.sleep(chance.random() * 0.3)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = start_training(run)
    assert process.wait(120) == 0, process.stderr.read() if process.stderr else ""
    assert weights_hash(Run(run.path)) == weights_hash(Run(straight.path))
    events = list(read(run.logbook_path))
    kinds = [event["event"] for event in events]
    assert kinds.count("interruption") == kinds.count("resume") == 3
    assert "replay.mismatch" not in kinds
    assert all(event["cause"] == "killed" for event in events if event["event"] == "interruption")
    assert check(run.logbook_path) is None


def test_asked_to_stop_it_saves_and_continues(undisturbed: Run, tokenized: Run, tmp_path: Path) -> None:
    shutil.copytree(tokenized.path, tmp_path / "run")
    source = tokenized.recipe_folder / "tiny.toml"
    longer, _ = load_recipe(source, [*ENDLESS, "train.steps=3000", "train.checkpoint_every=3000", "train.validate_every=3000"])
    run = open_run(tmp_path / "run", longer, source)
    process = start_training(run)
    wait_for_step(run, 30, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    assert b"stopped by SIGTERM after step" in (process.stderr.read() if process.stderr else b"")
    stopped = read_state(newest_first(run.path / "checkpoints")[0]).step
    assert 30 <= stopped < 3000
    last = list(read(run.logbook_path))[-1]
    assert (last["event"], last["stage"]) == ("stage.stopped", "train")


@pytest.mark.parametrize("name", ["__0_0.distcp", "state.json", ".metadata", "hashes.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    undisturbed: Run, tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(undisturbed, tmp_path / "run")
    file = run.path / "checkpoints" / "step-00000012" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))
    list(update(run, ["train"], again=True))
    assert weights_hash(run) == weights_hash(undisturbed)
    events = list(read(run.logbook_path))
    damaged = [event for event in events if event["event"] == "checkpoint.damaged"]
    assert [event["path"] for event in damaged] == ["checkpoints/step-00000012"]
    assert (damaged[0]["why"].split()[0] == name) or name == "hashes.json"
    assert [event["step"] for event in events if event["event"] == "resume"] == [8]
    assert "using the one before it" in capfd.readouterr().err


def test_a_step_that_repeats_differently_is_reported(undisturbed: Run, tmp_path: Path) -> None:
    """A changed machine or library shows as soon as a step is done again."""
    run = copy_of(undisturbed, tmp_path / "run")
    shutil.rmtree(run.path / "checkpoints" / "step-00000012")
    text = run.logbook_path.read_text()
    loss = next(event["loss"] for event in read(run.logbook_path) if event["event"] == "step" and event["step"] == 10)
    run.logbook_path.write_text(text.replace(json.dumps(loss), "0.5", 1))
    list(update(run, ["train"], again=True))
    mismatches = [event for event in read(run.logbook_path) if event["event"] == "replay.mismatch"]
    assert [event["step"] for event in mismatches] == [10]


def test_a_save_cut_short_leaves_the_checkpoints_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {"x": torch.arange(6.0)}
    save(tmp_path, State("key", 1, 10, 0.1), tensors, keep=2)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    for victim in ("dcp_save", "write_json", "sha256_file"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
            patch.setattr(checkpoint, victim, full)
            save(tmp_path, State("key", 2, 20, 0.2), tensors, keep=2)
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
        assert damage(tmp_path / "step-00000001") is None


def test_a_checkpoint_comes_back_to_the_bit(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(5, 3), "b": torch.randn(7)}
    folder = save(tmp_path, State("key", 3, 30, 1.5), tensors, keep=2)
    empty = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
    checkpoint.load(folder, empty)
    assert all(torch.equal(empty[name], tensors[name]) for name in tensors)
    assert read_state(folder) == State("key", 3, 30, 1.5)


def test_the_training_of_another_recipe_is_not_continued(undisturbed: Run, tmp_path: Path) -> None:
    run = copy_of(undisturbed, tmp_path / "run")
    source = undisturbed.recipe_folder / "tiny.toml"
    other, _ = load_recipe(source, ["train.steps=13"])
    with pytest.raises(
        InputError, match=r"was trained with another recipe \(train\.steps: 12 -> 13\); choose another --out, or add --fresh"
    ):
        open_run(run.path, other, source)
    assert weights_hash(run) == weights_hash(undisturbed)
    fresh = open_run(run.path, other, source, fresh=True)
    assert not (fresh.path / "weights").exists()


def test_how_a_training_is_watched_may_change_after_it(undisturbed: Run, tmp_path: Path) -> None:
    run = copy_of(undisturbed, tmp_path / "run")
    source = undisturbed.recipe_folder / "tiny.toml"
    watched, _ = load_recipe(source, ["train.checkpoint_every=5", "train.permanent_every=6", "train.threads=2"])
    assert [done.skipped for done in update(open_run(run.path, watched, source), ["train"])] == [True]


def test_a_killed_attempt_still_has_a_cost(undisturbed: Run) -> None:
    """The last checkpoint's reading of the meter is what is left of an attempt that was killed."""
    attempt = [attempt for attempt in attempts(read(undisturbed.logbook_path)) if attempt.stage == "train"][-1]
    killed = replace(attempt, end=None)
    assert 0 < killed.cost["cpu_seconds"] <= attempt.cost["cpu_seconds"]


def test_a_run_that_diverges_stops_before_it_spoils_anything(tokenized: Run, tmp_path: Path) -> None:
    shutil.copytree(tokenized.path, tmp_path / "run")
    source = tokenized.recipe_folder / "tiny.toml"
    wild, _ = load_recipe(source, ["train.optimizer.matrix_rate=1e30", "train.optimizer.head_rate=1e30"])
    run = open_run(tmp_path / "run", wild, source)
    with pytest.raises(OpenbookError, match=r"step \d+: loss .* not finite, .*; going back 6 times has not helped: lower train\.optimizer"):
        list(update(run, ["train"]))
    assert not (run.path / "weights").exists()
