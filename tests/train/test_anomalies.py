"""Anomalies in real trainings: what is decided is the same whoever computes and whatever interrupts, and comes again in a replay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from disturbed import STEPS, events, fresh, weights_hash

import warm
from openbook.logbook import check, read
from openbook.run import Run

WATCHFUL = ["train.anomalies.min_history=8", "train.anomalies.window=16", "train.anomalies.anchor_every=10"]
STILL = [f"train.optimizer.{kind}_rate=1e-4" for kind in ("matrix", "head", "embedding", "norm")]
"""A training in which the loss hardly moves, so that a small rise is a high loss."""


def actions(run: Run) -> list[tuple[Any, ...]]:
    """What was decided, without what was decided again after an interruption."""
    return list(dict.fromkeys((event["kind"], event["step"], event.get("skipped", 0), event["why"]) for event in events(run, "action")))


def test_poisoned_data_are_skipped_alike_by_any_workers_through_any_kill(tokenized: Run, tmp_path: Path) -> None:
    runs = {name: fresh(tokenized, tmp_path / name, WATCHFUL) for name in ("clean", "straight", "disturbed")}
    said = tmp_path / "said"
    assert warm.openbook("train", runs["clean"].path, said=said) == 0
    assert warm.openbook("train", runs["straight"].path, faults=["poison@20"], said=said) == 0
    faults = ["poison@20", "kill@forward:20:1", "kill@optimizer:20:0", "kill@forward:22:0"]
    assert warm.openbook("train", runs["disturbed"].path, "--workers", 2, faults=faults, said=said) == 0, said.read_text()
    assert events(runs["clean"], "anomaly") == []
    spikes = events(runs["straight"], "anomaly")
    assert {event["step"] for event in spikes} == {20}
    assert {"loss", "norm"} == set(spikes[0]["evidence"]["scores"])
    assert spikes[0]["evidence"]["loss"] > 1000
    assert [action[:3] for action in actions(runs["straight"])] == [("retry", 20, 0), ("skip", 20, 4)]
    assert actions(runs["disturbed"]) == actions(runs["straight"])
    assert len(events(runs["disturbed"], "interruption")) == 3
    assert weights_hash(runs["disturbed"]) == weights_hash(runs["straight"]) != weights_hash(runs["clean"])
    assert warm.openbook("verify", runs["disturbed"].path, "--steps", f"0:{STEPS}", faults=["poison@20"], said=said) == 0
    assert check(runs["disturbed"].logbook_path) is None


def test_losses_that_stay_high_lead_back_to_an_anchor_on_another_branch(tokenized: Run, tmp_path: Path) -> None:
    straight, disturbed = (fresh(tokenized, tmp_path / name, [*WATCHFUL, *STILL]) for name in ("straight", "disturbed"))
    said, poison = tmp_path / "said", [f"poison@{step}:1.6" for step in (24, 25, 26)]
    assert warm.openbook("train", straight.path, faults=poison, said=said) == 0, said.read_text()
    (back,) = [event for event in events(straight, "action") if event["kind"] == "rollback"]
    assert (back["step"], back["to_step"], back["skipped"]) == (26, 20, 6 * 4)
    assert "3 times in a row over 6 deviations" in back["why"]
    steps = [(event["branch"], event["step"]) for event in events(straight, "step")]
    assert steps == [*((0, step) for step in range(1, 26)), *((1, step) for step in range(21, STEPS + 1))]
    faults = [
        *poison,
        "kill@forward:25:0",
        "kill@rename:20:1",
        "kill@forward:26:1",
        "kill@save:20:0",
        "kill@optimizer:21:0",
        "kill@save:24:0",
    ]
    assert warm.openbook("train", disturbed.path, "--workers", 3, faults=faults, said=said) == 0, said.read_text()
    assert weights_hash(disturbed) == weights_hash(straight)
    assert actions(disturbed) == actions(straight)
    assert not events(disturbed, "replay.mismatch")
    for steps in (f"0:{STEPS}", "15:30", "30:40", "10:20"):
        assert warm.openbook("verify", disturbed.path, "--steps", steps, faults=poison, said=said) == 0, said.read_text()
    assert [event["verdict"] for event in read(disturbed.logbook_path) if event["event"] == "verify"] == ["holds"] * 4
