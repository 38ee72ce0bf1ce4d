"""GPT-3's quality classifier (Brown et al. 2020, appendix A): logistic regression on hashed words, and a Pareto draw.

It learns to tell the recipe's positive components (curated text) from its negative ones (raw text). A text stays if a draw from the Pareto
distribution exceeds 1 - score, which keeps some of the texts that the classifier dislikes: with probability (2 - score)^-alpha.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openbook.corpus.steps.step import Columns, Prepared, Removal, Source, Step
from openbook.parts import F64, I64, Batch, Parts
from openbook.recipe_steps import QualityStep

ROUNDS = 150
RATE = 8.0
DECAY = 1e-5
HELD_OUT = 5
"""Every fifth text is only tested on."""


def features(words: Parts, width: int) -> tuple[I64, I64, F64]:
    """(texts, places, values): the root of how often each hashed word occurs, each text scaled to length 1."""
    keys, counts = np.unique(words.texts * width + (words.hashes() % np.uint64(width)).astype(np.int64), return_counts=True)
    texts, places = keys // width, keys % width
    norms = np.sqrt(np.bincount(texts, weights=counts, minlength=len(words.counts)))
    return texts, places, np.sqrt(counts) / norms[texts]


def scores(words: Parts, weights: F64) -> F64:
    """The probability of being positive: (texts,). The last weight is the bias."""
    texts, places, values = features(words, len(weights) - 1)
    return _sigmoid(np.bincount(texts, weights=values * weights[places], minlength=len(words.counts)) + weights[-1])


def _sigmoid(values: F64) -> F64:
    return 1 / (1 + np.exp(-np.clip(values, -40, 40)))


def learn(words: Parts, positive: F64, width: int) -> F64:
    """Weights by accelerated gradient descent (Nesterov 1983); both sides count the same, however many texts they have."""
    texts, places, values = features(words, width)
    share = np.where(positive > 0, 0.5 / max(1.0, positive.sum()), 0.5 / max(1.0, (1 - positive).sum()))
    weights, ahead = np.zeros(width + 1), np.zeros(width + 1)
    for number in range(ROUNDS):
        chance = _sigmoid(np.bincount(texts, weights=values * ahead[places], minlength=len(positive)) + ahead[-1])
        error = (chance - positive) * share
        slope = np.append(np.bincount(places, weights=values * error[texts], minlength=width), error.sum()) + DECAY * ahead
        before, weights = weights, ahead - RATE * slope
        ahead = weights + number / (number + 3) * (weights - before)
    return weights


def area_under_curve(values: F64, positive: F64) -> float:
    """How often a positive text scores higher than a negative one; a tie counts half (Mann and Whitney 1947)."""
    kinds, ranks = np.unique(values, return_inverse=True)
    up, down = (np.bincount(ranks, weights=side, minlength=len(kinds)) for side in (positive, 1 - positive))
    lower = np.cumsum(down) - down
    pairs = up.sum() * down.sum()
    return float((up * (lower + down / 2)).sum() / pairs) if pairs else float("nan")


def prepare(source: Source, settings: QualityStep) -> Prepared:
    sides = (settings.positive, settings.negative)

    def write(path: Path) -> Any:
        drawn = [source.texts(names, settings.train_documents, random.Random(settings.seed)) for names in sides]
        held = [side[::HELD_OUT] for side in drawn]
        taught = [[text for number, text in enumerate(side) if number % HELD_OUT] for side in drawn]
        weights = learn(*_labelled(taught), settings.width)
        with path.open("wb") as file:
            np.save(file, weights)
        words, positive = _labelled(held)
        found = {"documents": [len(side) for side in taught], "held_out": [len(side) for side in held]}
        return {**found, "auc": round(area_under_curve(scores(words, weights), positive), 4)}

    return Prepared([source.digest(names) for names in sides] + [settings.seed], write)


def _labelled(sides: Sequence[Sequence[str]]) -> tuple[Parts, F64]:
    texts = [text for side in sides for text in side]
    return Batch(texts).words("whitespace"), np.repeat([1.0, 0.0], [len(side) for side in sides])


def annotate(batch: Batch, _: Columns, __: QualityStep, weights: F64) -> Columns:
    return {"quality": scores(batch.words("whitespace"), weights)}


def judge(columns: Columns, ids: Sequence[str], settings: QualityStep) -> Iterator[Removal]:
    for row, (name, score) in enumerate(zip(ids, np.asarray(columns["quality"]).tolist(), strict=True)):
        if settings.min_score is not None and score < settings.min_score:
            yield Removal(row, "quality", f"score {score:.4f} < {settings.min_score:g}")
        elif settings.alpha is not None and (draw := pareto(name, settings)) <= 1 - score:
            yield Removal(row, "quality", f"score {score:.4f}, Pareto draw {draw:.4f} <= {1 - score:.4f}")


def pareto(name: str, settings: QualityStep) -> float:
    """A draw that depends on the document and the seed alone (Lomax: a Pareto distribution that begins at 0)."""
    assert settings.alpha
    uniform = int.from_bytes(hashlib.sha256(f"{settings.seed}:{name}".encode()).digest()[:8]) / 2**64
    return float((1 - uniform) ** (-1 / settings.alpha) - 1)


def load(path: Path) -> F64:
    weights: F64 = np.load(path)
    return weights


STEP = Step("quality", 1, annotate=annotate, judge=judge, prepare=prepare, load=load)
