"""BLEU (Papineni et al. 2002) as sacrebleu computes it (Post 2018). Items keep what the corpus's figure is a function of."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from openbook.errors import InputError
from openbook.evaluate.interval import RESAMPLES, ends
from openbook.model.initialise import generator

ORDER = 4


@cache
def _scorer(tokenize: str) -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ModuleNotFoundError:
        raise InputError("metric = bleu needs sacrebleu; pip install 'openbook[evaluate]'") from None
    return BLEU(tokenize=tokenize)


def statistics(said: str, answers: Sequence[str], tokenize: str) -> list[int]:
    """Of one item: the lengths of what was said and of the reference, then runs of 1 to 4 tokens that match, then those there are."""
    found: list[int] = _scorer(tokenize)._extract_corpus_statistics([said], [[answer] for answer in answers])[0]
    return found


def corpus_bleu(items: Sequence[Sequence[int]], seed: int) -> dict[str, float | None]:
    """BLEU from 0 to 100 of the summed statistics, and its 95 % percentile bootstrap interval over items."""
    table = np.asarray(items)  # (items, 2 + 2 * ORDER)
    if len(table) == 1:
        return {"value": _bleu(table[0]), "low": None, "high": None}
    dice = generator(seed, "bootstrap")
    drawn = [_bleu(table[dice.integers(0, len(table), len(table))].sum(0)) for _ in range(RESAMPLES)]
    low, high = ends(np.asarray(drawn))
    return {"value": _bleu(table.sum(0)), "low": low, "high": high}


def _bleu(sums: Any) -> float:
    numbers = [int(value) for value in sums]
    matching, there = numbers[2 : 2 + ORDER], numbers[2 + ORDER :]
    return float(_scorer("13a").compute_bleu(matching, there, numbers[0], numbers[1], smooth_method="exp").score)
