"""Language identification without a download: naive Bayes on hashed character n-grams, learnt from translation catalogues.

Nearly every machine has the translations of its own programs (gettext .mo files), each under the code of its language, and their originals
in English. Code points, not bytes, make the n-grams of 1 to 3 characters; letters are lowered, whatever is no letter is a space.
"""

from __future__ import annotations

import gettext
import hashlib
import random
import re
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from openbook.corpus.steps import fasttext
from openbook.corpus.steps.fasttext import Identify
from openbook.corpus.steps.step import Columns, Prepared, Removal, Source, Step
from openbook.errors import InputError
from openbook.parts import Batch
from openbook.recipe_steps import LanguageStep

GRAMS = 3
PLACES = 1 << 16
"""Buckets for the n-grams of each length."""
LANGUAGE_CHARS = 300_000
"""Text learnt from for each language; one with less than a tenth of it is left out."""
SMOOTHING = 0.1
EVIDENCE = 20.0
"""A text's confidence is that of so many of its n-grams: all of them together are not independent, and would always be certain."""
SNIPPET = 300
"""Characters of the held-out snippets by which the accuracy is measured."""
NO_LETTERS = re.compile("[^\\w\u0300-\u036f\u0900-\u0dff\u200c\u200d]+|[\\d_]+")
"""Marks belong to words: accents, vowel signs of Indic scripts, joiners."""
MARKUP = re.compile(r"<[^>]*>|%[-#0-9.l(]*\w+|\\n|https?:\S+|&\w+;")


def normal(text: str) -> str:
    return NO_LETTERS.sub(" ", MARKUP.sub(" ", text).lower())


def buckets(text: str) -> npt.NDArray[np.int64]:
    """The bucket of every n-gram of a normalised text."""
    points = np.frombuffer(" ".join(("", *text.split(), "")).encode("utf-32-le"), "<u4").astype(np.uint64)
    found, total = [], np.zeros(len(points), np.uint64)
    for length in range(1, GRAMS + 1):
        total = total[: len(points) - length + 1] * np.uint64(0x9E3779B97F4A7C15) + points[length - 1 :] + np.uint64(1)
        found.append((length - 1) * PLACES + (((total ^ (total >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)) >> np.uint64(48)))
    return np.concatenate(found).astype(np.int64)


def catalogues(root: Path) -> dict[str, list[Path]]:
    """Catalogue files by language, without country and script."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.glob("*/LC_MESSAGES/*.mo")):
        found.setdefault(re.split("[_@.]", path.parts[-3])[0], []).append(path)
    return found


def messages(paths: Sequence[Path], originals: bool) -> Iterator[str]:
    for path in paths:
        try:
            with path.open("rb") as file:
                table: dict[Any, str] = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
        except (OSError, ValueError, LookupError, struct.error):
            continue  # a damaged catalogue: there are others
        for key, value in table.items():
            original = key if isinstance(key, str) else key[0]
            if original and value != original:
                yield normal(original if originals else value)


def _gather(root: Path) -> dict[str, tuple[str, str]]:
    """Per language the text to learn from, and some to test on."""
    files = catalogues(root)
    every = [path for paths in files.values() for path in paths]
    found = {}
    for language, paths in {**{name: paths for name, paths in files.items() if name != "en"}, "en": every}.items():
        known: dict[str, None] = {}
        size = 0
        for message in messages(paths, language == "en"):
            if message not in known:
                known[message] = None
                size += len(message)
            if size >= LANGUAGE_CHARS:
                break
        parts = list(known)
        if size >= LANGUAGE_CHARS // 10:
            random.Random(1).shuffle(parts)
            test = len(parts) // 10
            found[language] = (" ".join(parts[test:]), " ".join(parts[:test]))
    if len(found) < 2 or "en" not in found:
        raise InputError(
            f"corpus.steps: step language learns from translation catalogues, and {root} holds too few; install some language packs, "
            "give catalogues = a folder of LANGUAGE/LC_MESSAGES/*.mo, or leave the step out"
        )
    return found


def prepare(_: Source, settings: LanguageStep) -> Prepared:
    if settings.model:
        return fasttext.prepared(Path(settings.model))
    root = Path(settings.catalogues)
    listed = [[str(path), path.stat().st_size] for paths in catalogues(root).values() for path in paths]

    def write(path: Path) -> Any:
        texts = _gather(root)
        counts = np.stack([np.bincount(buckets(text), minlength=GRAMS * PLACES) for text, _ in texts.values()])
        likelihood = np.log((counts + SMOOTHING) / (counts + SMOOTHING).sum(axis=1, keepdims=True)).T.astype(np.float32)
        with path.open("wb") as file:
            np.savez(file, likelihood=np.ascontiguousarray(likelihood), languages=np.array(list(texts)))
        model = _arrays(path)
        asked = [(name, test[at : at + SNIPPET]) for name, (_, test) in texts.items() for at in range(0, len(test) - SNIPPET, SNIPPET * 4)]
        right = sum(identify(text, model)[0] == name for name, text in asked)
        return {"languages": len(texts), "snippets": len(asked), "accuracy": round(right / max(1, len(asked)), 4)}

    return Prepared(hashlib.sha256(repr(listed).encode()).hexdigest(), write)


def load(path: Path) -> Identify:
    """What says the language of a text and how sure that is."""
    if fasttext.is_reference(path):
        return fasttext.load(path)
    model = _arrays(path)
    return lambda text: identify(normal(text), model)


def _arrays(path: Path) -> tuple[npt.NDArray[np.float32], list[str]]:
    with np.load(path) as arrays:
        return arrays["likelihood"], arrays["languages"].tolist()


def identify(normalised: str, model: tuple[npt.NDArray[np.float32], list[str]]) -> tuple[str, float]:
    """The language of a normalised text, and how sure that is. A text without letters has none ("", 0)."""
    if not normalised.strip():
        return "", 0.0
    likelihood, languages = model
    mean = likelihood[buckets(normalised)].mean(axis=0, dtype=np.float64)
    share = np.exp((mean - mean.max()) * EVIDENCE)
    best = int(mean.argmax())
    return languages[best], float(1 / share.sum())


def annotate(batch: Batch, _: Columns, settings: LanguageStep, model: Identify) -> Columns:
    found = [model(sample(text, settings.max_chars)) for text in batch.texts]
    return {"language": np.array([language for language, _ in found], dtype=str), "confidence": np.array([sure for _, sure in found])}


def sample(text: str, size: int) -> str:
    """A third each of the beginning, the middle and the end."""
    if len(text) <= size:
        return text
    third, middle = size // 3, len(text) // 2
    return " ".join((text[:third], text[middle - third // 2 : middle + third // 2], text[-third:]))


def judge(columns: Columns, _: Sequence[str], settings: LanguageStep) -> Iterator[Removal]:
    languages, sure = columns["language"].to_pylist(), np.asarray(columns["confidence"])
    for row, language in enumerate(languages):
        if language not in settings.keep:
            yield Removal(row, "language", f"{language or 'none'} ({sure[row]:.2f})")
        elif sure[row] < settings.min_confidence:
            yield Removal(row, "language unsure", f"{language} {sure[row]:.2f} < {settings.min_confidence:g}")


STEP = Step("language", 1, annotate=annotate, judge=judge, prepare=prepare, load=load)
