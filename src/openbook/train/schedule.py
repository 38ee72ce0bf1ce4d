"""The learning-rate multiplier as a pure function of progress."""

from __future__ import annotations

from openbook.recipe import ScheduleSection


def rate(step: int, steps: int, section: ScheduleSection) -> float:
    """Multiplier in [floor, 1] for update `step` (from 0) of `steps`: linear warm-up, flat, linear cooldown to the floor.

    The warm-up is counted so that the first update already moves; the cooldown so that the last one still does.
    """
    warmup, cooldown = section.warmup * steps, section.cooldown * steps
    if step + 1 < warmup:
        return (step + 1) / warmup
    left = steps - step
    if left < cooldown:
        return section.floor + (1 - section.floor) * left / cooldown
    return 1.0
