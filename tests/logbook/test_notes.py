"""A note always gets into the logbook once: at once, or when whoever writes the logbook looks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from openbook.cli import main
from openbook.errors import InputError
from openbook.logbook import Logbook, check, leave, read
from openbook.run import Run


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["openbook", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def notes(run: Path) -> list[str]:
    return [event["text"] for event in read(run / "logbook.jsonl") if event["event"] == "note"]


def test_a_note_is_entered_at_once_when_nobody_writes(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "logbook", "add", str(run.path), "the fan was loud", "--author", "ann", "--json") == 0
    assert json.loads(capsys.readouterr().out)["entered"] is True
    [event] = [event for event in read(run.logbook_path) if event["event"] == "note"]
    assert (event["text"], event["author"]) == ("the fan was loud", "ann")
    assert list((run.path / "notes").iterdir()) == [] and check(run.logbook_path) is None


def test_a_note_waits_while_the_run_is_written(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    with run.locked():
        for text in ("first", "second"):
            assert call(monkeypatch, "logbook", "add", str(run.path), text) == 0
        assert "waits" in capsys.readouterr().out and notes(run.path) == []
        run.logbook.take_notes()  # what a training does at every step
        assert notes(run.path) == ["first", "second"]
    assert check(run.logbook_path) is None


def test_a_note_left_by_a_killed_writer_is_not_entered_twice(tmp_path: Path) -> None:
    left = leave(tmp_path, "once", "ann")
    shutil.copy(left, tmp_path / "kept")
    Logbook(tmp_path / "logbook.jsonl").close()
    shutil.copy(tmp_path / "kept", left)  # entered, but the process was killed before it removed the file
    Logbook(tmp_path / "logbook.jsonl").close()
    assert notes(tmp_path) == ["once"] and not left.exists()


def test_a_file_that_is_no_note_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    for name, text in (("a.json", "{"), ("b.json", '{"text": 1}'), ("c.json", "[]")):
        (tmp_path / "notes" / name).write_text(text)
    Logbook(tmp_path / "logbook.jsonl").close()
    assert notes(tmp_path) == [] and len(list((tmp_path / "notes").iterdir())) == 3


def test_an_empty_note_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the note is empty"):
        leave(tmp_path, " \n", "ann")
    assert not (tmp_path / "notes").exists()


def test_the_account_is_shown_for_a_run(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "logbook", str(run.path)) == 0
    assert "not begun" in capsys.readouterr().out
    assert call(monkeypatch, "logbook", "--json", str(run.path)) == 0
    assert json.loads(capsys.readouterr().out)["interruptions"] == []
    assert call(monkeypatch, "logbook", str(run.path), "--events") == 0
    assert "nothing, it is new" in capsys.readouterr().out


def test_a_broken_chain_is_told_and_is_a_failure(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "logbook", "add", str(run.path), "x") == 0
    run.logbook_path.write_bytes(run.logbook_path.read_bytes().replace(b'"changed":[]', b'"changed":[0]'))
    assert call(monkeypatch, "logbook", str(run.path)) == 1
    assert "BROKEN" in capsys.readouterr().out
