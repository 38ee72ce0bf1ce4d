"""The anomaly policy: what it does about every kind of trouble, and that it leaves clean trainings alone."""

from __future__ import annotations

import json
import math
import random
import timeit
from collections.abc import Callable, Sequence
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import ValidationError

from openbook.logbook import read
from openbook.recipe import AnomaliesSection
from openbook.run import Run
from openbook.train.policy import Decision, Memory, decide, straggler

SETTINGS = AnomaliesSection()
MICROBATCHES = 4


def first(step: int) -> int:
    return step * MICROBATCHES


def after(losses: Sequence[float], norms: Sequence[float] | None = None) -> Memory:
    return Memory(losses=tuple(losses), norms=tuple(norms or [1.0] * len(losses)))


def quiet(count: int, seed: int = 0) -> Memory:
    """The memory after `count` ordinary steps around a loss of 3."""
    chance = random.Random(seed)
    return after([3.0 + chance.gauss(0, 0.05) for _ in range(count)], [1.0 + chance.gauss(0, 0.1) for _ in range(count)])


def train(losses: Callable[[int, Memory], float], steps: int, settings: AnomaliesSection = SETTINGS) -> tuple[list[Decision], Memory]:
    """A training in which `losses` stands for the model: (data position, memory) to the loss. Returns what was not ordinary."""
    memory, step, told = Memory(), 0, []
    for _ in range(20 * steps):
        if step == steps:
            break
        decision = decide(settings, memory, step, losses(first(step) + memory.skipped, memory), 1.0, first)
        memory = decision.memory
        if decision.why:
            told.append(decision)
        if decision.kind == "stop":
            break
        step = {"commit": step + 1, "rollback": decision.anchor}.get(decision.kind, step)
    return told, memory


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (3.0, math.inf), (3.0, math.nan), (3.0, 40.0), (9.0, 1.0)])
def test_what_comes_out_twice_is_skipped_and_the_update_number_stays(loss: float, norm: float) -> None:
    memory = quiet(100)
    again = decide(SETTINGS, memory, 100, loss, norm, first)
    assert again.kind == "retry"
    skip = decide(SETTINGS, again.memory, 100, loss, norm, first)
    assert skip.kind == "skip"
    assert (skip.memory.skipped, skip.memory.losses, skip.memory.tried) == (MICROBATCHES, memory.losses, ())
    assert decide(SETTINGS, skip.memory, 100, 3.0, 1.0, first).kind == "commit"


def test_what_comes_out_differently_is_a_fault_of_the_machine_and_leaves_no_trace() -> None:
    memory = quiet(100)
    again = decide(SETTINGS, memory, 100, math.nan, math.nan)
    healed = decide(SETTINGS, again.memory, 100, 3.0, 1.0)
    assert healed.kind == "commit"
    assert "fault of the machine" in healed.why
    assert healed.memory == decide(SETTINGS, memory, 100, 3.0, 1.0).memory


def test_a_machine_that_never_gives_the_same_answer_stops_the_training() -> None:
    memory = quiet(100)
    for size in (1e3, 1e4):
        decision = decide(SETTINGS, memory, 100, 3.0, size)
        assert decision.kind == "retry"
        memory = decision.memory
    last = decide(SETTINGS, memory, 100, 3.0, 1e5)
    assert last.kind == "stop"
    assert "does not compute reliably" in last.why


def test_a_poisoned_stretch_is_left_behind() -> None:
    """High losses, none of them a spike: back to the anchor, past the data since, on the third."""
    chance = random.Random(1)
    told, memory = train(lambda data, _: 3.0 + chance.gauss(0, 0.05) + 0.6 * (first(150) <= data < first(153)), 200)
    assert [decision.kind for decision in told] == ["commit", "commit", "rollback"]
    assert told[-1].anchor == 100
    assert (memory.skipped, memory.branch, memory.rate_factor) == (first(53), 1, 1.0)


def test_memory_after_going_back_is_that_of_the_anchor() -> None:
    losses = [3.0 + 0.01 * (step % 7) for step in range(950)]
    memories = [Memory()]
    for step, loss in enumerate([*losses, 3.5, 3.5]):
        memories.append(decide(SETTINGS, memories[-1], step, loss, 1.0, first).memory)
    back = decide(SETTINGS, memories[-1], 952, 3.5, 1.0, first)
    assert back.anchor == 900
    assert back.memory.losses[-SETTINGS.window :] == memories[900].losses[-SETTINGS.window :]
    assert len(back.memory.losses) > SETTINGS.window


def test_trouble_that_stays_climbs_the_ladder_and_ends_in_a_question() -> None:
    told, memory = train(lambda data, _: 3.0 if data < first(150) else 4.0, 400)
    rollbacks = [decision for decision in told if decision.kind == "rollback"]
    factors = [decision.memory.rate_factor for decision in rollbacks]
    assert factors == pytest.approx([1.0, 1.0, 1.0, 0.9, 0.81, 0.729])
    assert told[-1].kind == "stop"
    assert "6 times has not helped" in told[-1].why
    assert (memory.branch, {decision.anchor for decision in rollbacks}) == (6, {100})


def test_a_lower_rate_that_helps_lets_the_training_end() -> None:
    told, memory = train(lambda data, memory: 3.0 if data < first(150) or memory.rate_factor < 0.85 else 4.0, 400)
    assert [decision.kind for decision in told].count("rollback") == 5
    assert (told[-1].kind, memory.rate_factor) == ("rollback", pytest.approx(0.81))


def test_another_trouble_much_later_begins_at_the_bottom_of_the_ladder() -> None:
    spans = [(150, 153), (400, 403), (750, 753), (1100, 1103), (1500, 1503)]
    told, memory = train(lambda data, _: 3.0 + 0.5 * any(first(a) <= data < first(b) for a, b in spans), 1500)
    assert [decision.kind for decision in told].count("rollback") == 5
    assert memory.rate_factor == 1.0


def test_weights_that_are_broken_are_left_behind_too() -> None:
    """Whatever the data: after three skipped steps the fault is taken to lie before them."""
    told, _ = train(lambda data, memory: math.nan if memory.branch == 0 and data >= first(130) else 3.0, 200)
    assert [decision.kind for decision in told] == ["retry", "skip", "retry", "skip", "retry", "rollback"]
    assert told[-1].anchor == 100


def test_a_recipe_that_does_not_work_from_its_first_step_is_told_so() -> None:
    told, _ = train(lambda data, memory: math.nan, 10)
    assert told[-1].kind == "stop"
    assert "first step" in told[-1].why


def test_a_window_without_variation_makes_no_anomaly_of_noise() -> None:
    memory = after([3.0] * 128)
    assert not decide(SETTINGS, memory, 128, 3.0 + 1e-9, 1.0 + 1e-9).why
    assert not decide(SETTINGS, memory, 128, 3.17, 5.9).why
    assert decide(SETTINGS, memory, 128, 3.19, 1.0).memory.high == 1
    assert decide(SETTINGS, memory, 128, 3.0, 6.1).kind == "retry"
    assert not decide(SETTINGS, after([0.0] * 64, [0.0] * 64), 64, 0.0, 0.0).why


def test_switched_off_it_only_stops_at_what_is_not_finite() -> None:
    off = AnomaliesSection(enabled=False)
    assert decide(off, quiet(128), 128, 1e9, 1e9).kind == "commit"
    assert decide(off, quiet(128), 128, math.inf, 1.0).kind == "stop"


@examples(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    start=st.floats(5.0, 12.0),
    end=st.floats(1.0, 4.0),
    half_life=st.floats(3.0, 300.0),
    noise=st.floats(0.0, 0.4),
    walk=st.floats(0.0, 0.02),
)
def test_clean_trainings_are_left_alone(seed: int, start: float, end: float, half_life: float, noise: float, walk: float) -> None:
    """Steep or slow descents with noise, a random walk, and gradient norms with the heavy tail that real ones have."""
    chance = random.Random(seed)
    memory, drift = Memory(), 0.0
    for step in range(400):
        drift += chance.gauss(0, walk)
        loss = end + (start - end) * 0.5 ** (step / half_life) + drift + chance.gauss(0, noise)
        decision = decide(SETTINGS, memory, step, loss, 0.3 * chance.lognormvariate(0, 0.3))
        assert not decision.why
        memory = decision.memory


def test_a_real_training_is_left_alone(finished: Run) -> None:
    settings = AnomaliesSection(min_history=8)  # the run has twelve steps
    memory, steps = Memory(), [event for event in read(finished.logbook_path) if event["event"] == "step"]
    for event in steps:
        decision = decide(settings, memory, event["step"] - 1, event["loss"], event["norm"])
        assert not decision.why
        memory = decision.memory
    assert len(memory.losses) == len(steps) == 12


@examples(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([3.0, 3.01, 3.02, 3.9, 50.0, math.nan, math.inf]), max_size=40))
def test_decisions_survive_json_and_a_restart(losses: list[float]) -> None:
    """Memory that went through a checkpoint leads to the same decisions, and all of it is JSON that any reader understands."""
    straight = restored = quiet(60)
    for index, loss in enumerate(losses):
        one, two = (decide(SETTINGS, memory, 60 + index, loss, 1.0, first) for memory in (straight, restored))
        assert one == two
        json.dumps(one.evidence, allow_nan=False)
        straight, restored = one.memory, Memory.of(json.loads(json.dumps(asdict(two.memory), allow_nan=False)))


def test_a_decision_costs_nothing_beside_a_step() -> None:
    memory = quiet(128)
    seconds = min(timeit.repeat(lambda: decide(SETTINGS, memory, 128, 3.3, 1.5), number=200, repeat=10)) / 200
    assert seconds < 100e-6  # 17 to 26 us as measured; the bound leaves room for a busy core


@pytest.mark.parametrize(("key", "value"), [("min_history", 200), ("spike", 2.0), ("patience", 1), ("rate_cut", 1.0)])
def test_settings_that_contradict_each_other_are_refused(key: str, value: float) -> None:
    with pytest.raises(ValidationError):
        AnomaliesSection.model_validate({key: value})


def test_a_straggler_is_named() -> None:
    even = [[1.0, 1.1, 0.9]] * 3
    assert straggler(even) == []
    assert straggler([*even, [1.9, 2.0, 2.1]]) == [(3, 2.0)]
    assert straggler([[3.0, 3.0], [1.0, 1.0]]) == [(0, 3.0)]
    assert straggler([[1.0, 9.0, 1.0], [1.0, 1.0, 1.0]]) == []  # once is no habit
    assert straggler([[0.0], [0.0]]) == []
