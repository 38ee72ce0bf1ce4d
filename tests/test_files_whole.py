"""Files are whole or absent."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from openbook.files import remove, sha256_file, written_aside


def test_a_file_appears_only_when_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with written_aside(path) as aside:
        aside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_keeps_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(type(error)), written_aside(path) as aside:
        aside.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_replaces_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    for text in ("one", "two"):
        with written_aside(path) as aside:
            (aside / "inner").mkdir(parents=True)
            (aside / "inner" / text).write_text(text)
    assert [file.name for file in path.rglob("*") if file.is_file()] == ["two"]


def test_rubbish_of_a_killed_writer_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "file.partial").write_text("rubbish")
    with written_aside(tmp_path / "file") as aside:
        aside.write_text("new")
    assert sha256_file(tmp_path / "file") == "11507a0e2f5e69d5dfa40a62a1bd7b6ee57e6bcd85c67c9b8431b36fff21c437"
    remove(tmp_path / "absent")
