"""Proposals for speculative decoding: tokens that may come next, which one step of the model then checks.

What is proposed never changes what is drawn: each position is drawn from the model's own distribution with the sequence's own random
numbers, and a proposal only counts if it is the token that was drawn (for a proposal that is certain of itself, this accepts as often as
Leviathan et al. 2023 do).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np


class Proposer(Protocol):
    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens that may follow; none where it has no idea."""


class PromptLookup:
    """What followed the last time that the text ended like this (Saxena 2023, "Prompt lookup decoding"): copies quotations and code.

    longest, shortest: tokens that have to end alike, tried in this order. most: tokens proposed at a time.
    """

    def __init__(self, longest: int = 3, shortest: int = 2, most: int = 7) -> None:
        self._longest, self._shortest, self._most = longest, shortest, most

    def propose(self, ids: Sequence[int], count: int) -> list[int]:
        text = np.asarray(ids)
        for length in range(min(self._longest, len(text) - 1), self._shortest - 1, -1):
            windows = np.lib.stride_tricks.sliding_window_view(text[:-1], length)
            matches = np.flatnonzero((windows == text[-length:]).all(1))
            if len(matches):
                after = int(matches[-1]) + length
                return [int(token) for token in text[after : after + min(count, self._most)]]
        return []
