"""What the page shows of a training's past: branches, lost time by cause, where the time went, notes, energy."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from chronicle import Chronicle
from openbook.logbook.training import training
from openbook.recipe import load_recipe
from openbook.report import render
from openbook.report.curves import branches, charts, gaps, marks, notes
from openbook.report.sections import waterfall
from openbook.run import Run, open_run

Make = Callable[..., Run]


@pytest.fixture
def book(tmp_path: Path) -> Chronicle:
    """Killed once (20 s of steps lost, 100 s away, 5 s to start) and rolled back once (40 s lost), with a note in the gap."""
    book = Chronicle(tmp_path)
    book.begin()
    book.steps(4)
    book.tell("note", 30, text="</script> the power went", author="ann", id="1", written="2026-01-02T00:01:10+00:00")
    book.begin(after=70)
    book.interrupted("killed", back=2)
    book.ready(5)
    book.steps(6)
    book.rolled_back("loss-spike", to_step=4, after=0)
    book.steps(3)
    book.end(0)
    return book


def test_a_rollback_is_a_branch_and_a_kill_is_none_against_tokens(book: Chronicle) -> None:
    killed, rolled = branches(training(book.events()))
    assert (killed["step"], killed["differs"]) == ([3, 4], False)  # done again with the same losses: nothing to see against tokens
    assert (rolled["step"], rolled["differs"]) == ([5, 6, 7, 8], True)
    assert rolled["wall"] == [175 + number * 10 for number in (0, 1, 2, 3)]


def test_lost_time_lies_on_the_clock_with_its_cause(book: Chronicle) -> None:
    found = [(gap["cause"], gap["again"], gap["begin"], gap["end"]) for gap in gaps(training(book.events()))]
    assert found == [("killed", True, 20, 40), ("killed", False, 40, 145), ("loss-spike", True, 165, 205)]
    [mark] = marks(training(book.events()))
    assert (mark["wall"], mark["tokens"]) == (140, 20)


def test_a_note_stands_where_it_was_written(book: Chronicle) -> None:
    [note] = notes(training(book.events()))
    assert (note["wall"], note["tokens"], note["text"]) == (70, 20, "note: </script> the power went")


def test_the_waterfall_is_all_of_the_time(book: Chronicle) -> None:
    rows = waterfall(training(book.events()))
    assert {row["part"]: row["share"] for row in rows} == pytest.approx(
        {part: 100 * seconds / 235 for part, seconds in (("steps", 70), ("again", 60), ("restart", 5), ("gap", 100))}, abs=1e-3
    )
    assert all(before["left"] + before["share"] == pytest.approx(after["left"], abs=2e-3) for before, after in pairwise(rows))


def test_many_kills_leave_the_page_small(tmp_path: Path) -> None:
    book = Chronicle(tmp_path)
    book.begin()
    for number in range(60):
        book.steps(100, seconds=1.0, between=0.01)
        book.begin(after=5)
        book.interrupted("killed", back=20 * number)
    past = training(book.events())
    spec = {"charts": charts(past, []), "gaps": gaps(past), "marks": marks(past)}
    assert len(past.incidents) == 60 and len(spec["gaps"]) <= 60 * 2 and len(json.dumps(spec)) < 400_000


def _recipe(run: Run, addition: str) -> Run:
    path = run.path / "recipe.toml"
    source = run.path.parent / "declared.toml"
    source.write_text(path.read_text() + addition)
    return open_run(run.path, load_recipe(source)[0], source)


def test_the_page_shows_causes_notes_and_carbon(make: Make) -> None:
    run = _recipe(make(joules=True), "\n[energy]\npue = 1.25\ngrid_g_per_kwh = 100\n")
    with run.locked():
        run.logbook.append("note", text="</script><b>all well</b>", author="ann", id="1", written="2026-01-02T03:30:00+00:00")
    html = render(Run(run.path))
    text = " ".join(re.sub(r"<[^>]*>", " ", html).replace("\N{NO-BREAK SPACE}", " ").split())
    assert "0.00206 kWh × PUE 1.25 × 100 g/kWh = 0.257 g CO2e" in text
    assert "killed ended without a word" in text and "not lost" in text and "effective training time" in text
    assert "&lt;b&gt;all well&lt;/b&gt; (ann)" in text and html.count("</script") == 2
    assert "energy.pue: None -&gt; 1.25" in text.replace("&#45;", "-")


def test_declaring_energy_changes_nothing_that_was_trained(make: Make) -> None:
    run = make()
    declared = _recipe(run, "\n[energy]\ndeclared_watts = 65.0\n")
    assert declared.recipe.shaping() == run.recipe.shaping()
    text = render(declared).replace("\N{NO-BREAK SPACE}", " ")
    assert "declared:watts" in text and "no energy counter" not in text
