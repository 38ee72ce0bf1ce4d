"""The numerics contract: what it holds, and that nobody leaves it unknowingly."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

from openbook import cli
from openbook.errors import InputError
from openbook.files import remove, sha256_file
from openbook.logbook import Event, read
from openbook.pipeline import update
from openbook.run import Run
from openbook.train import session
from openbook.train.checkpoint import newest_first, read_state
from openbook.train.contract import SWITCHES, Contract, changes, contract

CPU = torch.device("cpu")


def elsewhere(device: torch.device, precision: str) -> Contract:
    """The contract of another machine."""
    return {**contract(device, precision), "processor": "Abacus", "MKL_CBWR": "COMPATIBLE"}


@pytest.fixture(scope="module")
def trained(tokenized: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("contract") / "run"
    shutil.copytree(tokenized.path, folder)
    list(update(Run(folder), ["train"]))
    return Run(folder)


@pytest.fixture
def interrupted(trained: Run, tmp_path: Path) -> Run:
    """A training of twelve steps of which the last four are lost."""
    shutil.copytree(trained.path, tmp_path / "run")
    run = Run(tmp_path / "run")
    remove(newest_first(run.path / "checkpoints")[0])
    return run


def events(run: Run, kind: str) -> list[Event]:
    return [event for event in read(run.logbook_path) if event["event"] == kind]


def test_threads_are_no_part_of_it() -> None:
    before, contracts = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        contracts.append(contract(CPU, "fp32"))
    torch.set_num_threads(before)
    assert contracts[0] == contracts[1]


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_of_the_environment_shows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(name, raising=False)
    before = contract(CPU, "fp32")
    monkeypatch.setenv(name, "other")
    assert changes(before, contract(CPU, "fp32")) == [f"{name}: not set -> other"]
    assert changes(contract(CPU, "fp32"), before) == [f"{name}: other -> not set"]


def test_precision_libraries_and_flags_show(monkeypatch: pytest.MonkeyPatch) -> None:
    before = contract(CPU, "fp32")
    assert changes(before, before) == []
    monkeypatch.setattr(torch, "__version__", "1.0")
    monkeypatch.setattr(torch.__config__, "show", lambda: "another BLAS")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: "patched")
    named = [change.partition(":")[0] for change in changes(before, contract(CPU, "bf16"))]
    assert named == ["build", "capability", "deterministic", "precision", "torch"]


def test_it_is_logged_and_kept_in_checkpoints(trained: Run) -> None:
    here = contract(CPU, "fp32")
    assert [event["contract"] for event in events(trained, "train.begin")] == [here]
    assert [read_state(folder).contract for folder in newest_first(trained.path / "checkpoints")] == [here, here]


def test_going_on_under_another_contract_is_refused(
    interrupted: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "contract", elsewhere)
    monkeypatch.setattr(sys, "argv", ["openbook", "train", str(interrupted.path), "--again"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    line = capfd.readouterr().err.splitlines()[-1]
    assert "step 8 was computed under another numerics contract (MKL_CBWR: not set -> COMPATIBLE; processor: " in line
    assert "-> Abacus)" in line
    assert '--accept-change "why"' in line
    assert [folder.name for folder in newest_first(interrupted.path / "checkpoints")] == ["step-00000008"]
    assert len(events(interrupted, "train.begin")) == 1


def test_an_accepted_change_is_on_record_and_holds_from_then_on(
    interrupted: Run, trained: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "contract", elsewhere)
    monkeypatch.setattr(sys, "argv", ["openbook", "train", str(interrupted.path), "--again", "--accept-change", "the old machine burnt"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0, capfd.readouterr().err
    (amended,) = events(interrupted, "contract.amended")
    assert (amended["step"], amended["why"]) == (8, "the old machine burnt")
    assert [change.partition(":")[0] for change in amended["changed"]] == ["MKL_CBWR", "processor"]
    assert events(interrupted, "train.begin")[-1]["contract"]["processor"] == "Abacus"
    weights = "weights/model.safetensors"
    assert sha256_file(interrupted.path / weights) == sha256_file(trained.path / weights)  # only the name of the machine was another

    list(update(Run(interrupted.path), ["train"], again=True))
    assert len(events(interrupted, "contract.amended")) == 1
    monkeypatch.undo()
    with pytest.raises(InputError, match="processor: Abacus -> "):
        list(update(Run(interrupted.path), ["train"], again=True))


def test_a_change_needs_a_reason(trained: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["openbook", "train", str(trained.path), "--accept-change", " "])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 2
    assert "should say why" in capfd.readouterr().err
