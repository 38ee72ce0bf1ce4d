"""Profanity or toxicity by a list of words: one's own, or that of the package better-profanity (MIT), installed on its own."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from openbook.corpus.steps.step import Columns, Limit, Prepared, Source, Step
from openbook.errors import InputError
from openbook.files import write_json
from openbook.parts import Batch
from openbook.recipe_steps import ProfanityStep


def words(own: str | None) -> list[str]:
    """Single words of a list, in lower case: of one's own, or of better-profanity. Raises InputError if there is none."""
    try:
        text = (
            Path(own).read_text(encoding="utf-8")
            if own
            else files("better_profanity").joinpath("profanity_wordlist.txt").read_text("utf-8")
        )
    except ModuleNotFoundError:
        raise InputError("step profanity needs the package better-profanity; `pip install 'openbook[filters]'` brings it") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{own}: not UTF-8 text (byte {error.start}); step profanity takes a word a line") from None
    found = sorted({word for line in text.splitlines() if (word := line.strip().lower()) and " " not in word})
    if not found:
        raise InputError(f"{own}: holds no word; step profanity takes a word a line")
    return found


def prepare(_: Source, settings: ProfanityStep) -> Prepared:
    listed = words(settings.word_list)

    def write(path: Path) -> Any:
        write_json(path, listed)
        return {"words": len(listed)}

    return Prepared(hashlib.sha256("\n".join(listed).encode()).hexdigest(), write)


def load(path: Path) -> pa.Array:
    return pa.array(json.loads(path.read_bytes()), pa.large_string())


def annotate(batch: Batch, _: Columns, __: ProfanityStep, listed: pa.Array) -> Columns:
    parts = batch.words("letters")
    rude = pc.is_in(pc.utf8_lower(parts.kinds), value_set=listed).to_numpy(zero_copy_only=False)
    return {"profanity": parts.total(rude[parts.ids]) / np.maximum(1, parts.counts)}


def limits(settings: ProfanityStep) -> list[Limit]:
    return [Limit("profanity", "profanity", most=settings.max_share)]


STEP = Step("profanity", 2, annotate=annotate, limits=limits, prepare=prepare, load=load)
