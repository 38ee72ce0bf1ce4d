"""A small classifier of hate and offence, learnt from two published sets, and how good it is on what it did not see.

Logistic regression over hashed words and pairs of words. Both classes weigh the same, whatever their shares in the sets. What it calls
toxic is what its annotators called hate or offence on Twitter and in comments: its errors, above all on texts that merely name a group,
stand beside every number that it gives.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from openbook.errors import InputError
from openbook.evaluate.bias.estimate import Found, estimates, share
from openbook.evaluate.bias.lexicon import spoken, words
from openbook.evaluate.bias.reading import table_rows
from openbook.files import sha256_file, sha256_json

VERSION = 1
FILES = ("bias/davidson_hate_offensive_tweets.csv.gz", "bias/ethos_binary.csv")
ORIGIN = "https://github.com/intelligence-csd-auth-gr/Ethos-Hate-Speech-Dataset"
WIDTH = 2**18
PENALTY = 1e-5
STEPS = 40
HELD_OUT = 4
"""One text in so many is not learnt from, by a hash of the text."""
THRESHOLD = 0.5
BINS = 10
NOISE = re.compile(r"https?://\S+|@\w+|\brt\b")


@dataclass(frozen=True)
class Example:
    text: str
    toxic: bool
    origin: str


@dataclass(frozen=True)
class Classifier:
    """weights: (WIDTH + 1), the last one the bias. quality: on the held-out texts."""

    weights: Tensor
    identity: str
    quality: Mapping[str, Any]

    def scores(self, texts: Sequence[str]) -> list[float]:
        """Of each text a number from 0 to 1."""
        return [float(value) for value in _logits(*_features(texts), self.weights).sigmoid()]


def examples(folder: Path) -> list[Example]:
    """Raises InputError that names file and line for a label that is none."""
    tweets, comments = (folder / name for name in FILES)
    found = []
    for where, row in table_rows(tweets, ("class", "tweet")):
        if row["class"] not in ("0", "1", "2"):
            raise InputError(f"{where}: class = {row['class']!r}: should be 0 (hate), 1 (offensive) or 2 (neither)")
        found.append(Example(row["tweet"], row["class"] != "2", "tweets"))
    for where, row in table_rows(comments, ("comment", "isHate"), ";"):
        try:
            found.append(Example(row["comment"], float(row["isHate"]) >= THRESHOLD, "comments"))
        except ValueError:
            raise InputError(f"{where}: isHate = {row['isHate']!r}: should be a number from 0 to 1") from None
    return found


def train(folder: Path) -> Classifier:
    """A function of the two files and VERSION alone."""
    known = examples(folder)
    apart = [crc32(example.text.encode()) % HELD_OUT == 0 for example in known]
    learnt = [example for example, held in zip(known, apart, strict=True) if not held]
    weights = fit(learnt)
    identity = sha256_json([VERSION, *(sha256_file(folder / name) for name in FILES)])
    held_out = [example for example, held in zip(known, apart, strict=True) if held]
    classifier = Classifier(weights, identity, {})
    quality = measured(held_out, classifier.scores([example.text for example in held_out]))
    return Classifier(weights, identity, {"trained_on": len(learnt), **quality})


def fit(learnt: Sequence[Example]) -> Tensor:
    """The minimum of the mean cross-entropy, each class with half of the weight, and PENALTY times the squared weights."""
    features = _features([example.text for example in learnt])
    target = torch.tensor([example.toxic for example in learnt], dtype=torch.float32)  # (texts)
    weight = torch.where(target > 0, 0.5 / target.sum(), 0.5 / (1 - target).sum())  # (texts)
    weights = torch.zeros(WIDTH + 1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=STEPS, history_size=10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(_logits(*features, weights), target, weight, reduction="sum")
        loss = loss + PENALTY * weights[:-1].square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return weights.detach()


def _features(texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
    """Hashes of all texts one after another, where each text begins, and the weight of each hash: a text has length 1."""
    ids: list[int] = []
    starts: list[int] = []
    scales: list[float] = []
    for text in texts:
        said = re.findall(r"[^\W_]+", NOISE.sub(" ", html.unescape(text).lower()))
        own = {crc32(feature.encode()) % WIDTH for feature in (*said, *map(" ".join, pairwise(said)))}
        starts.append(len(ids))
        ids += sorted(own)
        scales += [max(1, len(own)) ** -0.5] * len(own)
    return torch.tensor(ids, dtype=torch.long), torch.tensor(starts, dtype=torch.long), torch.tensor(scales)


def _logits(ids: Tensor, starts: Tensor, scales: Tensor, weights: Tensor) -> Tensor:
    """(texts)"""
    return F.embedding_bag(ids, weights[:-1, None], starts, mode="sum", per_sample_weights=scales)[:, 0] + weights[-1]


def measured(held_out: Sequence[Example], scores: Sequence[float]) -> dict[str, Any]:
    """AUC, F1 at THRESHOLD, calibration; and false-positive rates, of all and of texts that name a group."""
    toxic, values = np.array([example.toxic for example in held_out]), np.array(scores)
    called = values >= THRESHOLD
    hits = int((called & toxic).sum())
    precision, recall = hits / max(1, int(called.sum())), hits / max(1, int(toxic.sum()))
    named = [{name for name, terms in words()["groups"].items() if spoken(example.text) & set(terms)} for example in held_out]
    rates = {"all": _false_positives(toxic, called, np.ones(len(toxic), dtype=bool))}
    rates |= {"no group named": _false_positives(toxic, called, np.array([not some for some in named]))}
    rates |= {name: _false_positives(toxic, called, np.array([name in some for some in named])) for name in words()["groups"]}
    return {
        "held_out": len(held_out),
        "toxic": int(toxic.sum()),
        "auc": auc(toxic, values),
        "auc_by_origin": {
            origin: auc(toxic[own], values[own])
            for origin in ("tweets", "comments")
            if (own := np.array([example.origin == origin for example in held_out])).any()
        },
        "f1": 2 * precision * recall / max(1e-12, precision + recall),
        "precision": precision,
        "recall": recall,
        "calibration_error": _calibration(toxic, values),
        "false_positive_rates": rates,
    }


def auc(toxic: NDArray[np.bool_], values: NDArray[np.float64]) -> float | None:
    """The probability that a toxic text scores higher than another one; ties count a half. None if there is only one class."""
    positive, negative = int(toxic.sum()), int((~toxic).sum())
    if not positive or not negative:
        return None
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[toxic].sum() - positive * (positive + 1) / 2) / (positive * negative))


def _false_positives(toxic: NDArray[np.bool_], called: NDArray[np.bool_], among: NDArray[np.bool_]) -> dict[str, Any]:
    clean = called[among & ~toxic]
    found: Found = estimates([(number, (float(value), 1.0)) for number, value in enumerate(clean)], {"rate": share()}, 0)["rate"]
    return {"texts": len(clean), **found}


def _calibration(toxic: NDArray[np.bool_], values: NDArray[np.float64]) -> float:
    """Expected calibration error over BINS equal bins, with both classes weighing the same, as in training."""
    weight = np.where(toxic, 0.5 / max(1, toxic.sum()), 0.5 / max(1, (~toxic).sum()))
    bins = np.minimum((values * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weight * (values - toxic), BINS)
    return float(np.abs(gaps).sum())
