"""The learning-rate multiplier as a pure function of progress."""

from __future__ import annotations

import math

from openbook.batches import Batches
from openbook.recipe import ScheduleSection


def rate(step: int, batches: Batches, section: ScheduleSection) -> float:
    """Multiplier in [floor, 1] for update `step` (from 0): linear warm-up, flat, a linear or cosine fall to the floor.

    Progress is counted in microbatches, so that in a batch that grows the shares stay shares of the tokens. The warm-up is counted so
    that the first update already moves; the fall so that the last one still does.
    """
    warmup, end, fall = (share * batches.total for share in (section.warmup, section.end, section.fall))
    before, after = batches.first_microbatch(step), batches.first_microbatch(step + 1)
    if after < warmup:
        return after / warmup
    left = max(0.0, end - before)
    if left >= fall:
        return 1.0
    share = left / fall
    if section.kind == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    return section.floor + (1 - section.floor) * share
