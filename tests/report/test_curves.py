"""What the report reads out of a logbook."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from openbook.logbook import attempts, read
from openbook.logbook.bill import costs, without_report
from openbook.logbook.training import training
from openbook.report.curves import POINTS, smoothed, thin
from openbook.run import Run

Make = Callable[..., Run]


def begin(stage: str = "train", key: str = "k", time: str = "2026-01-02T03:04:05.000+00:00") -> dict[str, Any]:
    return {"time": time, "event": "stage.begin", "stage": stage, "key": key}


def step(number: int, loss: float, seconds: float | None = None) -> dict[str, Any]:
    facts = {"step": number, "tokens": 10 * number, "seconds": float(number) if seconds is None else seconds}
    return {"time": "2026-01-02T03:04:06.000+00:00", "event": "step", **facts, "loss": loss, "norm": 1.0, "rate": 1.0}


def test_of_a_step_logged_twice_the_last_event_counts() -> None:
    resume = {"time": "2026-01-02T03:05:06.000+00:00", "event": "resume", "step": 1, "checkpoint": "checkpoints/step-00000001"}
    past = training([begin(), step(1, 3.0), step(2, 2.9), step(3, 2.8), begin(), resume, step(2, 2.5, 2.5)])
    assert {number: event["loss"] for number, event in past.steps.items()} == {1: 3.0, 2: 2.5}  # step 3 was lost, and is not done again yet
    [incident] = past.incidents
    assert (incident.reached, incident.resumed, incident.lost_steps, incident.lost_seconds) == (3, 1, 2, 2.0)


def test_a_finished_training_asked_for_again_was_not_interrupted() -> None:
    end = {"time": "2026-01-02T03:04:07.000+00:00", "event": "stage.end", "stage": "train"}
    resume = {"time": "2026-01-02T03:05:06.000+00:00", "event": "resume", "step": 1, "checkpoint": "c"}
    assert training([begin(), step(1, 3.0), end, begin(), resume, end]).incidents == []


def test_a_training_of_another_recipe_is_another_training() -> None:
    past = training([begin(key="old"), step(1, 9.0), step(2, 8.0), begin(key="new"), step(1, 3.0)])
    assert [event["loss"] for event in past.steps.values()] == [3.0]
    assert past.incidents == []


def test_interruptions_have_causes_and_costs(make: Make) -> None:
    run = make(steps=300)
    past = training(read(run.logbook_path))
    assert sorted(past.steps) == list(range(1, 301))
    stopped, killed = past.incidents
    assert (stopped.cause, "by SIGTERM" in stopped.detail) == ("stopped", True) and stopped.lost_steps == 0 and stopped.away_seconds == 1800
    assert (killed.cause, killed.detail) == ("killed", "killed without a word") and killed.lost_steps == 3 and killed.away_seconds == 600
    assert past.parts()["gap"] == 2400


def test_the_bill_counts_every_attempt(make: Make) -> None:
    run = make(steps=50)
    table = {cost.stage: cost for cost in costs(read(run.logbook_path), run.manifest["stages"])}
    assert list(table) == ["corpus", "tokenize", "mixture", "train", "evaluate", "export"]
    assert (table["corpus"].seconds, table["corpus"].cpu_seconds, table["corpus"].attempts) == (60.5, 100.25, 1)
    assert (table["train"].attempts, table["train"].unmetered) == (3, 1)
    assert table["train"].cpu_seconds == 103.25 + 190.0
    from_manifest = costs([], run.manifest["stages"])
    assert [cost.cpu_seconds for cost in from_manifest] == [100.25, 101.25, 102.25, 103.25, 104.25, 105.25]


def test_the_reports_own_events_are_left_out(make: Make) -> None:
    run = make(steps=50)
    events = list(read(run.logbook_path))
    report = [begin("report"), {"time": "2026-01-02T03:05:06.000+00:00", "event": "stage.end", "stage": "report"}]
    assert without_report([*events, *report]) == events
    assert attempts(without_report([*events, *report]))[-1].stage == "export"


@given(st.lists(st.one_of(st.none(), st.just(math.nan), st.floats(-1e6, 1e6)), max_size=3 * POINTS), st.integers(4, POINTS))
def test_a_thinned_curve_keeps_its_ends_and_extremes(values: list[float | None], limit: int) -> None:
    places = thin(values, limit)
    assert places == sorted(set(places)) and len(places) <= max(limit, 0)
    if values:
        assert places[0] == 0 and places[-1] == len(values) - 1
    inside = [value for value in values if value is not None and math.isfinite(value)]
    kept = [value for place in places if (value := values[place]) is not None and math.isfinite(value)]
    if inside:
        assert (min(kept), max(kept)) == (min(inside), max(inside))


def test_smoothing_neither_lags_nor_chokes() -> None:
    falling = [float(100 - place) for place in range(100)]
    inner = smoothed(falling, 5)[:95]
    assert all(math.isclose(mean or 0.0, value) for mean, value in zip(inner, falling, strict=False))
    assert smoothed([math.nan, None, 2.0], 0) == [None, None, 2.0]
