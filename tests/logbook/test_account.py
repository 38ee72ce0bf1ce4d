"""Where the time of a training went, and why: whatever happens, the parts and the causes add up to the time elapsed."""

from __future__ import annotations

import json
import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chronicle import Chronicle
from openbook.logbook import CAUSES, Account, Event
from openbook.logbook.causes import cause_of
from openbook.logbook.screen import event_lines, screen
from openbook.logbook.training import LOST, PARTS, training
from openbook.recipe import EnergySection


@pytest.fixture
def book(tmp_path: Path) -> Chronicle:
    return Chronicle(tmp_path)


def parts_of(events: list[Event]) -> dict[str, float]:
    return {part: round(seconds, 3) for part, seconds in training(events).parts().items() if seconds}


def test_an_undisturbed_training_loses_nothing(book: Chronicle) -> None:
    book.begin()
    book.ready(5)
    book.steps(4, seconds=10, between=0.5, exchange=2)
    book.tell("validation", 3, step=4, tokens=40, seconds=40.0, bits_per_byte={}, mean=1.0)
    book.save(2)
    book.end(1)
    past = training(book.events())
    assert parts_of(book.events()) == {"steps": 32, "exchange": 8, "save": 2, "validate": 3, "other": 5 + 4 * 0.5 + 1}
    assert past.causes() == {} and past.effective == pytest.approx(40 / 53)


def test_a_kill_costs_the_steps_since_the_checkpoint_the_gap_and_the_start(book: Chronicle) -> None:
    book.begin()
    book.ready(5)
    book.steps(3)
    book.save(1)
    book.steps(2)
    book.begin(after=600)
    book.interrupted("killed", back=3, after=7)
    book.ready(8)
    book.steps(3)
    book.end(0)
    past = training(book.events())
    assert past.causes() == {"killed": {"times": 1, "seconds": 635, "again": 20, "skipped": 0, "restart": 15, "gap": 600}}
    [incident] = past.incidents
    assert (incident.reached, incident.resumed, incident.lost_steps, incident.away_seconds) == (5, 3, 2, 600)
    assert [event["step"] for event in past.abandoned[0]] == [4, 5] and sorted(past.steps) == [1, 2, 3, 4, 5, 6]
    assert past.steps[4]["wall"] == 5 + 30 + 1 + 20 + 600 + 15 + 10


def test_survivors_that_go_on_within_an_attempt_are_an_interruption_too(book: Chronicle) -> None:
    book.begin(world=4)
    book.ready(1)
    book.steps(2)
    book.tell("interruption", 3, cause="lost-worker", detail="worker 2 on node-9", lost_steps=0, lost_seconds=0.0)
    book.tell("membership", world=3, attempt=0)
    book.steps(2)
    book.tell("interruption", 4, cause="hang", lost_steps=0, lost_seconds=0.0)
    book.steps(1)
    account = Account(book.events(), {}, EnergySection())
    causes = account.training.causes()
    assert [(cause, row["times"], row["restart"]) for cause, row in causes.items()] == [("hang", 1, 4), ("lost-worker", 1, 3)]
    assert [incident.detail for incident in account.training.incidents] == ["worker 2 on node-9", ""]
    assert account.changes["workers"] == ["4 -> 3"]


def test_a_rollback_abandons_its_branch_and_is_charged_to_the_anomaly(book: Chronicle) -> None:
    book.begin()
    book.ready(1)
    book.steps(6)
    book.rolled_back("loss-spike", to_step=2, after=2)
    book.steps(3)
    past = training(book.events())
    assert past.causes()["loss-spike"] == {"times": 1, "seconds": 42, "again": 42, "skipped": 0, "restart": 0, "gap": 0}
    assert [event["step"] for event in past.abandoned[0]] == [3, 4, 5, 6] and past.steps[3]["branch"] == 1


def test_data_that_is_skipped_costs_the_time_it_took(book: Chronicle) -> None:
    book.begin()
    book.ready(1)
    book.steps(2)
    book.tell("anomaly", 9, kind="not-finite", step=3, score=None, evidence={}, worker=None, host="a")
    book.tell("action", 1, kind="skip", step=3, why="twice not finite", skipped=2, cost={"steps": 0, "seconds": 10.0})
    book.steps(1)
    assert training(book.events()).causes()["not-finite"]["skipped"] == 10


def test_a_checkpoint_written_beside_the_steps_costs_what_it_blocked(book: Chronicle) -> None:
    book.begin()
    book.ready(1)
    book.steps(2)
    book.save(0, blocking=1.5)  # its event comes when it is on the disk
    assert parts_of(book.events()) == {"steps": 18.5, "save": 1.5, "other": 1}


def test_the_time_after_a_finished_training_is_nobodys(book: Chronicle) -> None:
    book.begin()
    book.ready(1)
    book.steps(2)
    book.end(1)
    book.begin(after=86_400)
    book.tell("resume", 1, step=2, checkpoint="c")
    book.end(1)
    past = training(book.events())
    assert past.elapsed == 24 and past.incidents == [] and past.causes() == {}


def test_what_others_write_into_the_logbook_is_no_sign_of_life(book: Chronicle) -> None:
    book.begin()
    book.ready(1)
    book.steps(1)
    book.tell("note", 50, text="the machine is gone", author="ann", id="1", written="2026-01-02T00:00:31+00:00")
    book.tell("verify", 10, steps=[0, 1], verdict="holds", differs=None)
    book.begin(after=40)
    book.interrupted("killed", back=1)
    book.steps(1)
    past = training(book.events())
    assert past.causes()["killed"]["gap"] == 100
    assert past.notes[0]["wall"] == 31  # when it was written, not when it was entered


@pytest.mark.parametrize(
    ("said", "cause"),
    [
        ("killed without a word", "killed"),
        ("SIGTERM", "stopped"),
        ("Stopped: run: stopped by SIGINT after step 3; the same command continues", "stopped"),
        ("LostWorker: worker 1 is gone", "lost-worker"),
        ("NotFinite: step 3: loss nan", "not-finite"),
        ("OSError: [Errno 28] No space left on device", "disk-full"),
        ("KeyError: 'a'", "unknown"),
        *((cause, cause) for cause in CAUSES),
    ],
)
def test_every_cause_is_a_word_of_the_list(said: str, cause: str) -> None:
    assert cause_of(said) == cause


SECONDS = st.floats(0, 1000).map(lambda value: round(value, 3))
HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(st.just("steps"), st.integers(1, 4), SECONDS),
        st.tuples(st.just("save"), SECONDS, st.one_of(st.none(), SECONDS)),
        st.tuples(st.just("validate"), SECONDS),
        st.tuples(st.just("kill"), SECONDS, SECONDS, st.sampled_from(sorted(CAUSES))),
        st.tuples(st.just("stop"), SECONDS, SECONDS),
        st.tuples(st.just("survive"), SECONDS, st.sampled_from(sorted(CAUSES))),
        st.tuples(st.just("rollback"), SECONDS),
        st.tuples(st.just("skip"), SECONDS),
        st.tuples(st.just("retry"), SECONDS),
        st.tuples(st.just("note"), SECONDS),
        st.tuples(st.just("back"), SECONDS),
        st.tuples(st.just("again"), SECONDS),
    ),
    max_size=14,
)


def _happen(book: Chronicle, saved: int, what: str, *how: Any) -> int:
    """Appends one happening; returns the newest checkpoint's step."""
    match what:
        case "steps":
            book.steps(how[0], seconds=how[1], between=how[1] / 7, exchange=how[1] / 3)
        case "save":
            book.save(*how, seconds=1.0, cpu_seconds=book.worked)
            return book.done
        case "validate":
            book.tell("validation", how[0], step=book.done, tokens=0, seconds=book.worked, bits_per_byte={}, mean=1.0)
        case "kill" | "stop":
            if what == "stop":
                book.stop("SIGTERM", how[0], seconds=1.0)
            book.begin(after=how[0])
            book.interrupted(how[2] if what == "kill" else "stopped", back=saved, after=how[1])
            book.ready(how[1])
        case "survive":
            book.tell("interruption", how[0], cause=how[1], lost_steps=0, lost_seconds=0.0)
        case "rollback":
            book.rolled_back("norm-spike", saved, how[0])
        case "skip" | "retry":
            book.tell("anomaly", how[0], kind="corruption", step=book.done, score=1.0, evidence={}, worker=0, host="")
            book.tell("action", how[0], kind=what, step=book.done, why="", cost={})
        case "note":
            book.tell("note", how[0], text="x", author="y", id=str(book.now), written=book.now.isoformat())
        case "back":
            book.tell("fingerprint", -how[0], step=book.done, fingerprint="f")
        case "again":
            book.end(how[0])
            book.begin(after=how[0])
            book.tell("resume", step=book.done, checkpoint="c")
    return saved


def _elapsed(events: list[Event]) -> float:
    """From the first event of the training to its last, on a clock that never goes back, without what came after a finished attempt."""
    total, latest, finished = 0.0, None, False
    for event in events:
        if event["event"] == "note":
            continue
        time = datetime.fromisoformat(event["time"])
        if latest is not None and time > latest and not finished:
            total += (time - latest).total_seconds()
        latest = time if latest is None else max(latest, time)
        finished = event["event"] == "stage.end"
    return total


@settings(max_examples=120, deadline=None)
@given(happenings=HAPPENINGS)
def test_parts_and_causes_add_up_to_the_time_elapsed(tmp_path_factory: pytest.TempPathFactory, happenings: list[tuple[Any, ...]]) -> None:
    book, saved = Chronicle(tmp_path_factory.mktemp("book")), 0
    book.begin()
    book.ready(1)
    for happening in happenings:
        saved = _happen(book, saved, *happening)
    account = Account(book.events(), {}, EnergySection(declared_watts=100.0))
    past, parts, causes = account.training, account.training.parts(), account.training.causes()
    assert past.elapsed == pytest.approx(_elapsed(book.events()), abs=1e-3)
    assert math.fsum(parts.values()) == pytest.approx(past.elapsed, abs=1e-6) and min(parts.values()) >= 0
    lost = math.fsum(row["seconds"] for row in causes.values())
    assert lost == pytest.approx(math.fsum(parts[part] for part in LOST), abs=1e-6)
    assert all(stretch.part in PARTS and bool(stretch.cause) == (stretch.part in LOST) for stretch in past.stretches)
    assert set(causes) <= set(CAUSES)
    ends = [round(stretch.at + stretch.seconds, 5) for stretch in past.stretches]
    assert ends == sorted(ends)  # the stretches lie one after another
    assert sorted(past.steps) == list(range(1, book.done + 1))
    json.dumps(account.as_json())
    assert screen(account, None) and event_lines(account.events)


def test_the_screen_answers_the_questions(book: Chronicle) -> None:
    book.tell("recipe", sha256="ab", changed=["train.validate_every: 6 -> 12"])
    book.begin()
    book.ready(1)
    book.steps(4)
    book.save(1, blocking=1.0, seconds=42.0, cpu_seconds=40.0, joules={"measured:rapl": 4000.0})
    book.steps(2)
    book.begin(after=3600)
    book.interrupted("hang", back=4, after=5, detail="worker 1 in the exchange")
    book.steps(2)
    book.rolled_back("loss-spike", to_step=5, after=1)
    book.tell("contract.amended", step=4, changed=["torch: 2.12 -> 2.13"], why="new machine")
    book.tell("note", text="swapped the disk", author="ann", id="1", written=book.now.isoformat())
    book.steps(3)
    book.end(1, seconds=80.0, cpu_seconds=75.0, joules={"measured:rapl": 8000.0})
    for first, last, verdict in ((0, 3, "holds"), (2, 5, "holds"), (5, 7, "differs")):
        differs = {"step": 6, "what": "loss"} if verdict == "differs" else None
        book.tell("verify", steps=[first, last], verdict=verdict, differs=differs)
    account = Account(book.events(), {}, EnergySection(pue=1.2, grid_g_per_kwh=56.0))
    text = screen(account, None).replace("\N{NO-BREAK SPACE}", " ")
    for shown in (
        "step 8 of 100",
        "hang",
        "1.007",
        "loss-spike",
        "train.validate_every: 6 -> 12",
        "torch: 2.12 -> 2.13 (step 4: new machine)",
        "steps 0:5 hold (5 of 8)",
        "5:7 differs from step 6 (loss)",
        "swapped the disk (ann)",
        "worker 3, on node-7, loss 12.0",
        "back to step 5",
        "12.0 kJ (3.33 Wh) measured:rapl, of which training wasted",
        "0.00333 kWh × PUE 1.2 × 56 g/kWh = 0.224 g CO2e",
        "holds",
    ):
        assert shown in text, shown
    assert len(text.splitlines()) < 45
    listed = event_lines(account.events)
    assert len(listed.splitlines()) == len(account.events) and "worker 1 in the exchange" in listed


def test_a_run_before_its_training_has_an_account_too(tmp_path: Path) -> None:
    account = Account([], {}, EnergySection())
    assert "not begun" in screen(account, None)
    assert account.as_json()["effective_share"] is None
