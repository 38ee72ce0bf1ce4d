"""How the learning rate and the batch go, as functions of the step."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openbook.batches import Batches
from openbook.recipe import ScheduleSection
from openbook.train.schedule import rate


@given(
    kind=st.sampled_from(["wsd", "cosine", "linear"]),
    steps=st.integers(1, 2000),
    warmup=st.floats(0, 0.4),
    cooldown=st.none() | st.floats(0, 0.5),
    end=st.floats(0.9, 1),
    floor=st.floats(0, 1),
    growing=st.booleans(),
)
def test_the_schedule_rises_stays_and_falls(
    kind: Literal["wsd", "cosine", "linear"], steps: int, warmup: float, cooldown: float | None, end: float, floor: float, growing: bool
) -> None:
    section = ScheduleSection(kind=kind, warmup=warmup, cooldown=cooldown, end=end, floor=floor)
    batches = Batches.growing(steps, 8, 1, 0.2) if growing else Batches(steps, 8)
    rates = [rate(step, batches, section) for step in range(steps)]
    assert all(0 <= value <= 1 for value in rates)
    assert rates[0] > 0
    peak = rates.index(max(rates))
    assert all(a <= b for a, b in pairwise(rates[: peak + 1]))
    assert all(a >= b for a, b in pairwise(rates[peak:]))


def rates(section: ScheduleSection, *steps: int) -> list[float]:
    return [round(rate(step, Batches(100, 4), section), 3) for step in steps]


def test_the_schedules_in_figures() -> None:
    wsd = ScheduleSection(warmup=0.1, cooldown=0.5, floor=0.2)
    assert rates(wsd, 0, 8, 9, 49, 50, 51, 75, 99) == [0.1, 0.9, 1.0, 1.0, 1.0, 0.984, 0.6, 0.216]
    linear = ScheduleSection(kind="linear", warmup=0.2, floor=0.1)
    assert rates(linear, 9, 20, 60, 99) == [0.5, 1.0, 0.55, 0.111]


def test_gpt3s_cosine() -> None:
    """Warm-up over 375 million tokens, cosine to 10 % over 260 billion, then 10 % to the end at 300 (Brown et al. 2020, appendix B)."""
    section = ScheduleSection(kind="cosine", warmup=0.375 / 300, end=260 / 300, floor=0.1)
    batches = Batches(30_000, 4)
    for billion in (1, 50, 130, 200, 259):
        share = (billion - 0.375) / (260 - 0.375)
        assert rate(billion * 100, batches, section) == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * share)) / 2, abs=1e-6)
    assert rate(26_000, batches, section) == rate(29_999, batches, section) == 0.1


@given(steps=st.integers(1, 500), start=st.integers(0, 6), doublings=st.integers(0, 6), over=st.floats(0.001, 0.999))
def test_a_growing_batch_neither_repeats_nor_skips_a_microbatch(steps: int, start: int, doublings: int, over: float) -> None:
    batches = Batches.growing(steps, 1 << start + doublings, 1 << start, over)
    number = 0
    for step in range(steps):
        assert batches.first_microbatch(step) == number
        number += batches.microbatches_at(step)
    assert batches.total == number
    sizes = [batches.microbatches_at(step) for step in range(steps)]
    assert sizes == sorted(sizes)
    assert set(sizes) <= {1 << start + power for power in range(doublings + 1)}


def test_the_batch_is_whole_after_its_share_of_the_tokens() -> None:
    """GPT-3's: from 32 thousand tokens to 3.2 million over 12 of 300 billion, within the rounding to powers of two."""
    batches = Batches.growing(100_000, 128, 1, 12 / 300)
    whole = next(step for step in range(100_000) if batches.microbatches_at(step) == 128)
    assert batches.first_microbatch(whole) / batches.total == pytest.approx(12 / 300, rel=0.001)
    assert [batches.microbatches_at(whole * number // 7) for number in range(8)] == [1, 2, 4, 8, 16, 32, 64, 128]
    assert batches.first_microbatch(10**15) > 10**17  # in constant time
