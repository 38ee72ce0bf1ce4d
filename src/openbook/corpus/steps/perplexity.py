"""How surprising a text is to a byte n-gram model of reference components, in bits a byte: too high is noise, too low is boilerplate."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np

from openbook.corpus.steps.step import Columns, Limit, Prepared, Source, Step
from openbook.ngram import Counts, NGram
from openbook.parts import Batch
from openbook.recipe_steps import PerplexityStep

DRAWN = 20_000
"""At most so many reference texts are looked at."""


def prepare(source: Source, settings: PerplexityStep) -> Prepared:
    def write(path: Path) -> Any:
        taken, size = [], 0
        for text in source.texts(settings.reference, DRAWN, random.Random(1)):
            taken.append(text.encode())
            size += len(taken[-1])
            if size >= settings.train_bytes:
                break
        model = NGram.train(taken)
        arrays = {f"{name}{index}": getattr(table, name) for index, table in enumerate(model.tables) for name in ("grams", "before")}
        with path.open("wb") as file:
            np.savez(file, **arrays)
        return {"documents": len(taken), "bytes": size}

    return Prepared(source.digest(settings.reference), write)


def load(path: Path) -> NGram:
    with np.load(path) as arrays:
        return NGram([Counts(arrays[f"grams{index}"], arrays[f"before{index}"]) for index in range(len(arrays.files) // 2)])


def annotate(batch: Batch, _: Columns, settings: PerplexityStep, model: NGram) -> Columns:
    texts = [text.encode()[: settings.max_bytes] for text in batch.texts]
    return {"bits_per_byte": np.array(model.bits(texts)) / np.maximum(1, [len(text) for text in texts])}


def limits(settings: PerplexityStep) -> list[Limit]:
    return [Limit("perplexity", "bits_per_byte", settings.min_bits, settings.max_bits)]


STEP = Step("perplexity", 1, annotate=annotate, limits=limits, prepare=prepare, load=load)
