"""Profanity by a list of words: that of the package better-profanity (MIT), which is installed on its own, never copied here."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from openbook.corpus.steps.parts import Batch
from openbook.corpus.steps.step import Columns, Limit, Step
from openbook.errors import InputError
from openbook.recipe_steps import ProfanityStep


@cache
def words() -> frozenset[str]:
    """Single words of the list, in lower case."""
    try:
        text = files("better_profanity").joinpath("profanity_wordlist.txt").read_text(encoding="utf-8")
    except ModuleNotFoundError:
        raise InputError("step profanity needs the package better-profanity; `pip install 'openbook[filters]'` brings it") from None
    return frozenset(line.strip().lower() for line in text.splitlines() if line.strip() and " " not in line.strip())


def annotate(batch: Batch, _: Columns, __: ProfanityStep, ___: None) -> Columns:
    parts = batch.words("letters")
    rude = pc.is_in(pc.utf8_lower(parts.kinds), value_set=pa.array(sorted(words()), pa.large_string())).to_numpy(zero_copy_only=False)
    return {"profanity": parts.total(rude[parts.ids]) / np.maximum(1, parts.counts)}


def limits(settings: ProfanityStep) -> list[Limit]:
    return [Limit("profanity", "profanity", most=settings.max_share)]


STEP = Step("profanity", 1, annotate=annotate, limits=limits)
