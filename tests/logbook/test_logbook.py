"""The logbook: whatever happens to it is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.logbook import Logbook, check, read


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "logbook.jsonl"
    with Logbook(path) as log:
        for number in range(5):
            log.append("step", step=number, loss=0.1 + number)
    return path


def test_events_come_back_in_order_and_the_chain_holds(book: Path) -> None:
    events = list(read(book))
    assert [event["step"] for event in events] == list(range(5))
    assert events[3]["loss"] == 3.1
    assert check(book) is None


def test_the_chain_continues_after_reopening(book: Path) -> None:
    with Logbook(book) as log:
        log.append("note", text="ü")
    assert check(book) is None
    assert list(read(book))[-1]["text"] == "ü"


def test_a_torn_last_line_is_cut_off_and_recorded(book: Path) -> None:
    with book.open("ab") as file:
        file.write(b'{"event":"st')
    with Logbook(book) as log:
        log.append("step", step=5)
    assert [event["event"] for event in read(book)] == ["step"] * 5 + ["logbook.repaired", "step"]
    assert check(book) is None


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_changed_byte_before_the_last_line_is_found(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("flip") / "logbook.jsonl"
    with Logbook(path) as log:
        for number in range(4):
            log.append("step", step=number)
    content = bytearray(path.read_bytes())
    last_line = content[:-1].rfind(b"\n") + 1
    place = data.draw(st.integers(0, last_line - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(bytes(content))
    broken = check(path)
    assert broken is not None
    line = bytes(content[:place]).count(b"\n") + 1
    assert abs(broken.line - line) <= 1


def test_a_removed_line_is_found(book: Path) -> None:
    lines = book.read_bytes().splitlines(keepends=True)
    book.write_bytes(b"".join(lines[:2] + lines[3:]))
    broken = check(book)
    assert broken is not None
    assert broken.line == 2


def test_times_come_from_the_clock_given(tmp_path: Path) -> None:
    from datetime import UTC, datetime

    with Logbook(tmp_path / "b.jsonl", now=lambda: datetime(2030, 1, 2, tzinfo=UTC)) as log:
        log.append("note")
    assert json.loads((tmp_path / "b.jsonl").read_text())["time"] == "2030-01-02T00:00:00.000+00:00"
