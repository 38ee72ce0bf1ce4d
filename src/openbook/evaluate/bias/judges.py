"""What is said of texts that a model writes: toxicity, by our classifier or an external scorer, and sentiment, by VADER."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from openbook.errors import InputError, OpenbookError
from openbook.evaluate.bias import classifier
from openbook.evaluate.bias.lexicon import spoken
from openbook.evaluate.bias.measure import Judge

TRIES = 4
TIMEOUT = 60.0


class Absent(InputError):
    """What a measure needs is not here: a file, or a package."""


class Judges:
    """data: the folder that the classifier's sets lie below. url: an external scorer instead of the classifier."""

    def __init__(self, data: Path, url: str | None = None) -> None:
        self._data, self._url = data, url

    @cached_property
    def _classifier(self) -> classifier.Classifier:
        for name in classifier.FILES:
            if not (self._data / name).is_file():
                raise Absent(f"{self._data / name}: no such file, which the toxicity classifier learns from; it is in {classifier.ORIGIN}")
        return classifier.train(self._data)

    @cached_property
    def _analyzer(self) -> Any:
        try:
            from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
        except ModuleNotFoundError:
            raise Absent("sentiment needs VADER's lexicon; pip install 'openbook[filters]'") from None
        return SentimentIntensityAnalyzer()

    def facts(self, wanted: Iterable[Judge]) -> dict[str, str]:
        """Who judges, to be kept with the results. Raises InputError if one cannot."""
        found = {}
        if "toxicity" in wanted:
            found["toxicity"] = self._url or f"classifier {self._classifier.identity}"
        if "sentiment" in wanted:
            assert self._analyzer is not None
            found["sentiment"] = f"vaderSentiment {version('vaderSentiment')}"
        return found

    def quality(self) -> dict[str, Any]:
        """What is known of the toxicity scorer: of an external one, nothing."""
        return dict(self._classifier.quality) if self._url is None else {"external": self._url}

    def judge(self, texts: Sequence[str], wanted: Iterable[Judge]) -> list[dict[str, float]]:
        found: list[dict[str, float]] = [{} for _ in texts]
        if "toxicity" in wanted:
            scores = self._classifier.scores(texts) if self._url is None else external(self._url, texts)
            for entry, score in zip(found, scores, strict=True):
                entry["toxicity"] = score
        if "sentiment" in wanted:
            for entry, text in zip(found, texts, strict=True):
                known = [self._analyzer.lexicon[word] for word in sorted(spoken(text)) if word in self._analyzer.lexicon]
                entry |= {
                    "compound": self._analyzer.polarity_scores(text)["compound"],
                    "valence": sum(known),
                    "valenced": float(len(known)),
                }
        return found


def external(url: str, texts: Sequence[str], sleep: Callable[[float], object] = time.sleep) -> list[float]:
    """Scores from 0 to 1 of an external scorer: POST {"texts": [...]} is answered with {"scores": [...]}."""
    try:
        import httpx
    except ModuleNotFoundError:
        raise InputError(f"{url}: an external scorer needs httpx; pip install 'openbook[evaluate]'") from None
    why = ""
    for attempt in range(TRIES):
        if attempt:
            sleep(2.0 ** (attempt - 1))
        try:
            answer = httpx.post(url, json={"texts": list(texts)}, timeout=TIMEOUT)
        except httpx.TransportError as error:
            why = f"{type(error).__name__}: {error}"
            continue
        if answer.status_code >= 500 or answer.status_code == 429:
            why = f"status {answer.status_code}"
            continue
        if answer.status_code != 200:
            raise InputError(f"{url}: refused with status {answer.status_code}: {answer.text[:200]}")
        return _scores(url, answer, len(texts))
    raise OpenbookError(f"{url}: {why}, {TRIES} times; what is finished is kept: the same command goes on")


def _scores(url: str, answer: Any, count: int) -> list[float]:
    try:
        scores = answer.json()["scores"]
        fits = len(scores) == count and all(isinstance(score, int | float) and 0 <= score <= 1 for score in scores)
    except (ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise InputError(f'{url}: should answer {{"scores": [...]}} with {count} numbers from 0 to 1; it answered {answer.text[:200]!r}')
    return [float(score) for score in scores]
