"""A crash, a full disk or rot in the middle of a save: the small form of benchmarks/crash_save.py, and that it can fail."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from crash_save import failures, power_cuts, record, rot, scratch
from openbook import files
from openbook.files import written_aside
from power_cut import Disk, lay_out


def test_after_a_power_cut_the_newest_save_that_returned_is_there() -> None:
    with scratch() as top:
        operations = record(top)
    assert len(operations) > 60
    assert power_cuts(2 * len(operations), 1, operations) == []


def test_a_full_disk_costs_no_checkpoint_and_leaves_no_rubbish() -> None:
    cases, problems = failures(every=2)
    assert cases > 20
    assert problems == []


def test_no_cut_file_and_no_flipped_bit_is_taken_for_a_checkpoint() -> None:
    assert rot(60, 1) == []


@pytest.mark.parametrize("forgotten", ["sync_file", "sync_folder"])
def test_the_simulation_notices_a_sync_that_is_missing(forgotten: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, forgotten, lambda path: None)
    with scratch() as top:
        operations = record(top, saves=2)
    problems = power_cuts(len(operations), 1, operations)
    assert any("had returned" in problem for problem in problems)


def test_a_folder_written_aside_is_whole_or_absent() -> None:
    """Whatever writes into it, and however deep."""

    def write(root: Path, step: int) -> None:
        with written_aside(root / "folder") as aside:
            (aside / "inner").mkdir(parents=True)
            (aside / "one").write_bytes(b"1" * 2000)
            (aside / "inner" / "two").write_bytes(b"2" * 2000)

    with scratch() as top:
        operations = record(top, 1, write)
    for case in range(300):
        disk = Disk()
        for operation in operations[: case % (len(operations) + 1)]:
            disk.carry_out(operation)
        with scratch() as top:
            lay_out(disk.after_power_cut(random.Random(case)), top)
            folder = top / "checkpoints" / "folder"
            assert folder.is_dir() or not disk.returned
            if folder.is_dir():
                assert (folder / "one").read_bytes() == b"1" * 2000
                assert (folder / "inner" / "two").read_bytes() == b"2" * 2000
