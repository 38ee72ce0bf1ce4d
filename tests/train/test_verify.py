"""Replay: what was trained comes again to the bit, and what was altered is found where it was altered."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openbook import cli
from openbook.files import sha256_file
from openbook.integrity import damage
from openbook.logbook import check, read
from openbook.pipeline import stage_named, update
from openbook.recipe import load_recipe
from openbook.run import Run, open_run
from openbook.tokens import Rows
from openbook.train import checkpoint, verify
from openbook.train.checkpoint import newest_first, read_state
from openbook.train.contract import Contract, contract
from openbook.train.step import Trainer

Verify = Callable[..., tuple[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def trained(tokenized: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Twelve steps with checkpoints at 4, 8 and 12, and fingerprints at every third step besides."""
    folder = tmp_path_factory.mktemp("verify") / "run"
    shutil.copytree(tokenized.path, folder)
    source = tokenized.recipe_folder / "tiny.toml"
    run = open_run(folder, load_recipe(source, ["train.permanent_every=4", "train.fingerprint_every=3"])[0], source)
    list(update(run, ["train"]))
    return run


@pytest.fixture
def copied(trained: Run, tmp_path: Path) -> Run:
    shutil.copytree(trained.path, tmp_path / "run")
    return Run(tmp_path / "run")


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Verify:
    """Runs the command in this process; returns its status and result."""

    def command(run: Run, *arguments: str) -> tuple[int, dict[str, Any]]:
        monkeypatch.setattr(sys, "argv", ["openbook", "verify", str(run.path), "--json", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capfd.readouterr()
        return int(stopped.value.code or 0), {**(json.loads(out) if out else {}), "stderr": err}

    return command


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def differs(result: dict[str, Any]) -> tuple[int, str]:
    return result["differs"]["step"], result["differs"]["what"]


@pytest.mark.parametrize(("steps", "start", "compared"), [("0:12", 0, 6), ("3:7", 0, 3), ("4:5", 4, 0), ("9:12", 8, 2)])
def test_any_part_of_a_training_comes_again_to_the_bit(verified: Verify, copied: Run, steps: str, start: int, compared: int) -> None:
    def everything() -> dict[Path, str]:
        return {
            file: sha256_file(file)
            for file in copied.path.rglob("*")
            if file.is_file() and file.name not in ("logbook.jsonl", ".lock", ".lease")
        }

    files, before = everything(), copied.logbook_path.read_bytes()
    status, result = verified(copied, "--steps", steps)
    assert (status, result["verdict"], result["problems"]) == (0, "holds", [])
    assert result["replayed"] == [int(part) for part in steps.split(":")]
    assert (result["start"], result["fingerprints"]) == (start, compared)
    assert everything() == files
    assert copied.logbook_path.read_bytes().startswith(before)
    (event,) = [event for event in read(copied.logbook_path) if event["event"] == "verify"]
    assert (event["steps"], event["verdict"], event["differs"]) == (result["replayed"], "holds", None)
    assert check(copied.logbook_path) is None


def test_how_often_it_looks_or_keeps_changes_neither_key_nor_bits(trained: Run, tokenized: Run) -> None:
    assert trained.key(stage_named("train")) == tokenized.key(stage_named("train"))
    assert [folder.name for folder in newest_first(trained.path / "checkpoints")] == ["step-00000012", "step-00000008", "step-00000004"]
    events = list(read(trained.logbook_path))
    assert [event["step"] for event in events if event["event"] == "fingerprint"] == [3, 6, 9]
    assert [event["step"] for event in events if event["event"] == "checkpoint" and event["fingerprint"]] == [4, 8, 12]


def test_permanent_checkpoints_are_kept_beside_the_newest(tmp_path: Path) -> None:
    for step in range(1, 10):
        checkpoint.save(tmp_path, checkpoint.State("key", step, 0, 0.0), {"x": torch.ones(1)}, keep=2, permanent_every=3)
    assert [checkpoint.step_of(folder) for folder in newest_first(tmp_path)] == [9, 8, 6, 3]


def test_without_steps_nothing_is_computed(trained: Run) -> None:
    """Not even torch is imported."""
    code = "import sys; from openbook import cli\ntry: cli.main()\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, "verify", trained.path], capture_output=True, text=True, check=True)
    files = sum(len(record["artifacts"]) for record in trained.manifest["stages"].values())
    assert done.stdout.splitlines() == [f"3 checkpoints, {files} artifacts and the logbook's chain hold", "False"]


def test_an_altered_token_is_found_in_the_first_step_that_reads_it(verified: Verify, copied: Run, trained: Run) -> None:
    before, shard = Rows.open(trained), copied.path / "tokens" / "train" / "prose.bin"
    component, index = next(
        place for place in (before.order.locate(before.sample(6, 1, row)) for row in range(before.microbatch_rows)) if place[0] == "prose"
    )
    assert component == "prose"
    flip(shard, (index * before.context + 5) * 2)
    after = Rows.open(copied, check=False)
    first = next(step for step in range(12) if any(not np.array_equal(before(step, m), after(step, m)) for m in range(2))) + 1
    status, result = verified(copied, "--steps", "0:12")
    assert (status, result["verdict"]) == (1, "differs")
    assert differs(result) == (first, "loss")
    assert f"cause: {shard}, which step {first} reads: its bytes are not those in the manifest" in result["problems"]


def test_a_token_that_no_vocabulary_has_is_named(verified: Verify, copied: Run) -> None:
    shard = copied.path / "tokens" / "train" / "code.bin"
    np.full(shard.stat().st_size // 2, 4321, dtype="<u2").tofile(shard)
    status, result = verified(copied, "--steps", "0:12")
    assert status == 1
    assert differs(result)[1] == "token"
    assert any("reads token 4321, which the vocabulary does not have" in problem for problem in result["problems"])


def test_without_its_data_nothing_is_concluded(verified: Verify, copied: Run) -> None:
    (copied.path / "tokens" / "train" / "code.bin").unlink()
    status, result = verified(copied, "--steps", "0:2")
    assert (status, result["verdict"], result["differs"]) == (1, "inconclusive", None)
    assert any("could not be carried out" in problem and "code.bin is missing" in problem for problem in result["problems"])


@pytest.mark.parametrize(("key", "value", "first"), [("head_rate", 0.005, (2, "loss")), ("clip", 1e-3, (2, "loss"))])
def test_an_altered_recipe_is_found_by_its_key(verified: Verify, copied: Run, key: str, value: float, first: tuple[int, str]) -> None:
    """Though two other keys differ from recipe.toml as well, because they were set on the command line."""
    path = copied.path / "recipe.resolved.json"
    document = json.loads(path.read_bytes())
    before = document["train"]["optimizer"][key]
    document["train"]["optimizer"][key] = value
    path.write_text(json.dumps(document, indent=2))
    status, result = verified(copied, "--steps", "0:4")
    assert (status, result["verdict"]) == (1, "differs")
    assert differs(result) == first
    change = f"was altered: train.optimizer.{key}: {before} -> {value}"
    assert [problem for problem in result["problems"] if "altered" in problem] == [f"{path}: {change}", f"cause: {path} {change}"]


def test_several_altered_keys_are_all_named(verified: Verify, recipe_path: Path, tmp_path: Path) -> None:
    run = open_run(tmp_path / "run", load_recipe(recipe_path)[0], recipe_path)
    path = run.path / "recipe.resolved.json"
    path.write_text(path.read_text().replace('"seed": 7', '"seed": 8').replace('"clip": 1.0', '"clip": 2.0'))
    status, result = verified(Run(run.path))
    assert (status, result["verdict"]) == (1, "damaged")
    assert [problem.partition("altered: ")[2] for problem in result["problems"]] == ["seed: 7 -> 8", "train.optimizer.clip: 1.0 -> 2.0"]


def test_an_altered_line_of_the_logbook_is_named(verified: Verify, copied: Run) -> None:
    lines = copied.logbook_path.read_text().splitlines()
    number, loss = next(
        (number, event["loss"]) for number, event in enumerate(map(json.loads, lines), 1) if event["event"] == "step" and event["step"] == 6
    )
    lines[number - 1] = lines[number - 1].replace(f'"loss":{loss}', f'"loss":{loss + 1}')
    copied.logbook_path.write_text("\n".join(lines) + "\n")
    status, result = verified(copied, "--steps", "4:12")
    assert (status, result["verdict"], differs(result)) == (1, "differs", (6, "loss"))
    why = "was changed after the next line was written"
    assert f"{copied.logbook_path}:{number}: {why}" in result["problems"]
    assert f"cause: {copied.logbook_path}:{number}, which tells of step 6: {why}" in result["problems"]
    assert "cause: checkpoints/step-00000008 holds the replayed state: it is the logbook that is wrong about step 6" in result["problems"]


def test_a_line_that_cannot_be_read_any_more_is_named(verified: Verify, copied: Run) -> None:
    lines = copied.logbook_path.read_text().splitlines()
    number = next(number for number, event in enumerate(map(json.loads, lines)) if event["event"] == "step" and event["step"] == 3)
    lines[number] = lines[number].replace('"event"', '"event', 1)
    copied.logbook_path.write_text("\n".join(lines) + "\n")
    status, result = verified(copied, "--steps", "0:4")
    assert (status, differs(result)) == (1, (3, "event"))
    assert any(problem.startswith(f"{copied.logbook_path}:{number + 1}: ") for problem in result["problems"])


@pytest.mark.parametrize("steps", [(), ("--steps", "8:10")])
def test_an_altered_byte_of_a_checkpoint_is_named(verified: Verify, copied: Run, steps: tuple[str, ...]) -> None:
    """It is not replayed from either: the one before it is."""
    file = copied.path / "checkpoints" / "step-00000008" / "__0_0.distcp"
    flip(file, file.stat().st_size // 2)
    status, result = verified(copied, *steps)
    assert (status, result["verdict"]) == (1, "damaged")
    assert result["problems"] == [f"{file.parent}: {file.name} has other bytes than were written"]
    assert result.get("start", 4) == 4


@pytest.mark.parametrize("steps", ["5:9", "8:9", "7:12"])
def test_a_weight_altered_with_its_hashes_is_found_by_its_tensor(verified: Verify, copied: Run, steps: str) -> None:
    root = copied.path / "checkpoints"
    folder = root / "step-00000008"
    tensors = Trainer(copied.recipe, torch.device("cpu")).tensors()
    checkpoint.load(folder, tensors)
    name = "parameters.layers.1.mlp.up.weight"
    tensors[name].view(torch.int32)[3, 4] ^= 1
    checkpoint.save(root, read_state(folder), tensors, keep=9)
    assert damage(folder) is None
    status, result = verified(copied, "--steps", steps)
    assert (status, result["verdict"], result["start"]) == (1, "differs", 4)
    assert differs(result) == (8, f"tensor {name}")


def test_weights_that_are_not_the_trainings_result_are_found(verified: Verify, copied: Run) -> None:
    """Though the manifest was altered with them: it is not what the logbook says, nor what the replay gives."""
    path, name = copied.path / "weights" / "model.safetensors", "weights/model.safetensors"
    flip(path, path.stat().st_size - 1)
    copied.manifest["stages"]["train"]["artifacts"][name]["sha256"] = sha256_file(path)
    (copied.path / "manifest.json").write_text(json.dumps(copied.manifest))
    assert verified(copied)[1]["problems"] == [f"{copied.path / 'manifest.json'}: its record of train is not the logbook's"]
    status, result = verified(copied, "--steps", "8:12")
    assert (status, differs(result)) == (1, (12, "weights"))


def elsewhere(device: torch.device, precision: str) -> Contract:
    return {**contract(device, precision), "processor": "Abacus"}


def test_under_another_contract_only_equality_is_conclusive(verified: Verify, copied: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "contract", elsewhere)
    status, result = verified(copied, "--steps", "4:8")
    assert (status, result["verdict"]) == (0, "holds")
    assert "-> Abacus): bits are not comparable" in result["stderr"].splitlines()[0]
    path = copied.path / "recipe.resolved.json"
    path.write_text(path.read_text().replace('"head_rate": 0.004', '"head_rate": 0.005'))
    status, result = verified(copied, "--steps", "4:8")
    assert (status, result["verdict"]) == (1, "inconclusive")
    assert any(problem.startswith("inconclusive: computed under another numerics contract (processor: ") for problem in result["problems"])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ("7", "--steps 7: should be A:B with A below B"),
        ("5:5", "should be A:B"),
        ("-1:4", "should be A:B"),
        ("a:b", "should be A:B"),
        ("8:13", "--steps 8:13: the logbook of {run} ends with step 12"),
    ],
)
def test_steps_that_are_none_are_refused(verified: Verify, copied: Run, steps: str, message: str) -> None:
    before = copied.logbook_path.read_bytes()
    status, result = verified(copied, f"--steps={steps}")
    assert status == 2
    assert message.format(run=copied.path) in result["stderr"]
    assert len(result["stderr"].splitlines()) == 1
    assert copied.logbook_path.read_bytes() == before
