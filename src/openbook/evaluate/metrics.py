"""From scores to figures: what each record of an item counts for, and their sums with intervals.

A tie is exact: choices whose scores differ from the best by no more than TIE share the credit, so a model that knows nothing has chance
accuracy to the last digit, and no metric depends on the order of choices.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from openbook.evaluate.answers import MEASURES, SPAN_MEASURES
from openbook.evaluate.bleu import corpus_bleu
from openbook.evaluate.interval import ratio
from openbook.evaluate.models import Score
from openbook.evaluate.style import change, content_overlap
from openbook.evaluate.task import Task

TIE = 1e-9
"""Nats, or nats per unit: less than fp32 can tell apart, more than the rounding of a division."""
BINS = 10
"""Of the expected calibration error: equal parts of the confidence (Guo et al. 2017)."""

Record = dict[str, Any]


def choice_scores(texts: Sequence[str], scores: Sequence[Score], alone: Sequence[Score] | None) -> dict[str, list[float]]:
    """What each metric compares: log-probabilities, over the units of the choice without the space before it, or less the choice's
    log-probability after a context that says nothing."""
    bare = [text.lstrip(" ") for text in texts]
    compared = {
        "accuracy": [score.logprob for score in scores],
        "accuracy_per_character": [score.logprob / len(text) for score, text in zip(scores, bare, strict=True)],
        "accuracy_per_byte": [score.logprob / len(text.encode()) for score, text in zip(scores, bare, strict=True)],
        "accuracy_per_token": [score.logprob / score.tokens for score in scores],
    }
    if alone is not None:
        compared["accuracy_unconditional"] = [score.logprob - other.logprob for score, other in zip(scores, alone, strict=True)]
    return compared


def credit(compared: Sequence[float], gold: int) -> float:
    """1 if the right choice is the best one, a share of it if it is among several equally good ones."""
    best = max(compared)
    tied = [index for index, value in enumerate(compared) if best - value <= TIE]
    return 1 / len(tied) if gold in tied else 0.0


def probabilities(compared: Sequence[float]) -> list[float]:
    """What the compared scores would mean if they were log-probabilities of all that is possible."""
    best = max(compared)
    weights = [math.exp(value - best) for value in compared]
    return [weight / sum(weights) for weight in weights]


def written_scores(task: Task, said: str, answers: Sequence[Any]) -> dict[str, float]:
    """Of an answer that was written, every measure that its task's answers allow."""
    if task.metric in SPAN_MEASURES:
        return {name: measure(said, answers) for name, measure in SPAN_MEASURES.items()}
    if task.metric == "content_overlap":
        return {"content_overlap": content_overlap(said, answers), "change": change(said, answers[0])}
    return {name: measure(said, answers) for name, measure in MEASURES.items() if name in {"exact_match", "f1", task.metric}}


def summarise(task: Task, records: Sequence[Record], seed: int) -> dict[str, dict[str, float | None]]:
    """Each metric with the ends of its 95 % interval over items; several draws of an item count as one item."""
    figures: dict[str, dict[str, float | None]] = {}
    for name in dict.fromkeys(name for record in records for name in record["scores"]):
        figures[name] = _figure([(record["item"], record["scores"][name], 1.0) for record in records if name in record["scores"]], seed)
    if task.metric == "bleu":
        figures["bleu"] = corpus_bleu([record["bleu"] for record in records], seed)
    if any(record.get("fluency") for record in records):
        parts = [(record["item"], *record["fluency"]) for record in records if record.get("fluency")]
        figures["fluency"] = _exponential(_figure(parts, seed))
    if task.kind == "choice":
        figures["brier"] = _figure([(record["item"], _brier(record), 1.0) for record in records], seed)
        figures["calibration_error"] = {"value": calibration_error(records), "low": None, "high": None}
    if records[0]["logprobs"]:
        figures["bits_per_byte"] = _figure([(record["item"], *_gold_bits(record)) for record in records], seed)
    if task.kind == "completion":
        nats = _figure([(record["item"], -record["logprobs"][0], 1.0) for record in records], seed)
        figures["perplexity"] = _exponential(nats)
    if task.kind == "rolling":
        for name, unit in (("byte_perplexity", "bytes"), ("word_perplexity", "words"), ("token_perplexity", "tokens")):
            parts = [(record["item"], -record["logprobs"][0], float(record[unit][0])) for record in records]
            figures[name] = _exponential(_figure(parts, seed))
    return figures


def _figure(parts: Sequence[tuple[int, float, float]], seed: int) -> dict[str, float | None]:
    """parts: (item, top, bottom)."""
    tops: dict[int, float] = defaultdict(float)
    bottoms: dict[int, float] = defaultdict(float)
    for item, top, bottom in parts:
        tops[item] += top
        bottoms[item] += bottom
    value, low, high = ratio(list(tops.values()), list(bottoms.values()), seed)
    return {"value": value, "low": low, "high": high}


def _exponential(nats: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else _exp(value) for name, value in nats.items()}


def _exp(value: float) -> float | None:
    """None where a perplexity is beyond what a number can hold."""
    return math.exp(value) if value < 700 else None


def _gold_bits(record: Record) -> tuple[float, float]:
    """Bits and bytes of the right answer, with the space before it."""
    place = record.get("gold", 0)
    return -record["logprobs"][place] / math.log(2), float(record["bytes"][place])


def _brier(record: Record) -> float:
    """The squared distance between the probabilities of the choices and the truth (Brier 1950): 0 is best, 2 worst."""
    return math.fsum((p - (place == record["gold"])) ** 2 for place, p in enumerate(record["probabilities"]))


def calibration_error(records: Sequence[Record]) -> float:
    """Expected calibration error: by confidence in the best choice, the mean distance between confidence and accuracy, each of BINS bins
    with the weight of its items (Guo et al. 2017, equation 3)."""
    bins: dict[int, list[float]] = defaultdict(list)
    for record in records:
        confidence = max(record["probabilities"])
        bins[min(int(confidence * BINS), BINS - 1)].append(confidence - credit(record["probabilities"], record["gold"]))
    return sum(abs(math.fsum(gaps)) for gaps in bins.values()) / len(records)


def chance(task: Task, records: Sequence[Record]) -> float | None:
    """The expected accuracy of a guess, exact: the mean over items of one over the number of choices. None where one cannot guess."""
    if task.kind != "choice":
        return None
    items = {record["item"]: len(record["logprobs"]) for record in records}
    return math.fsum(1 / count for count in items.values()) / len(items)
