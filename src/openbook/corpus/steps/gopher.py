"""Gopher's rules of quality and of repetition (Rae et al. 2021, appendix A.1.1, table A1), as numpy on shared words and lines.

A word that has neither letter, mark nor digit is a symbol: it counts in the ratios, but not as a word of the text's length. Blank lines
are no lines. Otherwise the definitions are those of datatrove, so that decisions can be compared; see docs/corpus.md.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from openbook.corpus.steps.step import Columns, Limit, Step
from openbook.parts import F64, I64, PARAGRAPH_END, Batch, Parts, whole_runs
from openbook.recipe_steps import GopherQualityStep, GopherRepetitionStep

STOP_WORDS = ("the", "be", "to", "of", "and", "that", "have", "with")
TOP_GRAMS = (2, 3, 4)
DUPLICATE_GRAMS = (5, 6, 7, 8, 9, 10)


def measure_quality(batch: Batch, _: Columns, settings: GopherQualityStep, __: None) -> Columns:
    words, lines = batch.words(settings.segmenter), batch.lines
    solid = words.matching(r"[\p{L}\p{M}\p{N}]")
    count, all_words = words.total(solid), np.maximum(1, words.counts)
    present = np.maximum(1, lines.total(lines.matching(r"\S")))
    ellipses = [text.count("...") + text.count("…") for text in batch.texts]
    return {
        "words": count,
        "word_length": words.total(words.lengths * solid) / np.maximum(1, count),
        "hashes_per_word": np.array([text.count("#") for text in batch.texts]) / all_words,
        "ellipses_per_word": np.array(ellipses) / all_words,
        "bullet_lines": lines.total(lines.matching(r"^\s*[•\-]")) / present,
        "ellipsis_lines": lines.total(lines.matching(r"(\.\.\.|…)\s*$")) / present,
        "alphabetic_words": words.total(words.matching(r"\p{L}")) / all_words,
        "stop_words": _different(words, STOP_WORDS),
    }


def _different(words: Parts, wanted: tuple[str, ...]) -> I64:
    """How many different ones of the wanted words each text has."""
    which = pc.index_in(words.kinds, value_set=pa.array(wanted, pa.large_string())).fill_null(-1).to_numpy()[words.ids]
    places = np.flatnonzero(which >= 0)
    found = np.unique(words.texts[places] * len(wanted) + which[places])
    return np.bincount(found // len(wanted), minlength=len(words.counts))


def quality_limits(settings: GopherQualityStep) -> list[Limit]:
    return [
        Limit("short", "words", least=settings.min_words),
        Limit("long", "words", most=settings.max_words),
        Limit("word length", "word_length", settings.min_word_length, settings.max_word_length),
        Limit("hashes", "hashes_per_word", most=settings.max_hashes_per_word),
        Limit("ellipses", "ellipses_per_word", most=settings.max_ellipses_per_word),
        Limit("bullet lines", "bullet_lines", most=settings.max_bullet_lines),
        Limit("ellipsis lines", "ellipsis_lines", most=settings.max_ellipsis_lines),
        Limit("alphabetic words", "alphabetic_words", least=settings.min_alphabetic_words),
        Limit("stop words", "stop_words", least=settings.min_stop_words),
    ]


def measure_repetition(batch: Batch, _: Columns, settings: GopherRepetitionStep, __: None) -> Columns:
    words, lines, size = batch.words(settings.segmenter), batch.lines, batch.characters
    paragraphs = np.array([_repeated_paragraphs(text) for text in batch.texts])  # (texts, 3)
    columns: dict[str, F64] = {
        "duplicate_lines": lines.total(lines.repeated) / np.maximum(1, lines.counts),
        "duplicate_paragraphs": paragraphs[:, 1] / paragraphs[:, 0],
        "duplicate_line_chars": lines.total(lines.lengths * lines.repeated) / size,
        "duplicate_paragraph_chars": paragraphs[:, 2] / size,
    }
    before = np.concatenate((np.zeros(1, np.int64), np.cumsum(words.lengths)))  # characters before each word
    for length, places, grams, often in _repeated_runs(words, TOP_GRAMS[0], DUPLICATE_GRAMS[-1]):
        chars = before[places + length] - before[places]
        if length in TOP_GRAMS:
            columns[f"top_{length}_grams"] = _top(words, before, length, places, often, chars) / size
        if length in DUPLICATE_GRAMS:
            hits = _without_overlap(places, grams, length)
            columns[f"duplicate_{length}_grams"] = _by_text(words, places[hits], chars[hits]) / size
    return columns


def _repeated_paragraphs(text: str) -> tuple[int, int, int]:
    """Paragraphs, how many stood earlier in the text, and the characters of those."""
    seen: set[str] = set()
    paragraphs = PARAGRAPH_END.split(text.strip())
    again = [len(part) for part in paragraphs if part in seen or seen.add(part)]  # type: ignore[func-returns-value]
    return len(paragraphs), len(again), sum(again)


def _repeated_runs(words: Parts, shortest: int, longest: int) -> Iterator[tuple[int, I64, I64, I64]]:
    """(length, places, grams, often): where a run of words begins that occurs more than once in its text, a number for what it says, and
    how often it occurs.

    A run can only repeat where the run one word shorter does, so that all words are sorted once and fewer each time after that. No
    hashes: the numbers are exact.
    """
    kinds = len(words.kinds) + 1
    places = whole_runs(words, shortest - 1)
    grams = words.texts[places] * kinds + words.ids[places]
    for length in range(shortest, longest + 1):
        whole = places + length <= words.bounds[words.texts[places] + 1]
        places, grams = places[whole], grams[whole]
        _, grams, counts = np.unique(grams * kinds + words.ids[places + length - 1], return_inverse=True, return_counts=True)
        often = counts[grams]
        again = often > 1
        places, grams = places[again], grams[again]
        yield length, places, grams, often[again]


def _top(words: Parts, before: I64, length: int, places: I64, often: I64, chars: I64) -> F64:
    """Characters of all occurrences of each text's most frequent run, spaces included; of equally frequent ones the first counts."""
    best = np.zeros(len(words.counts))
    has_one = words.counts >= length
    first = words.bounds[:-1][has_one]
    best[has_one] = before[first + length] - before[first] + length - 1
    text = words.texts[places]
    order = np.lexsort((places, -often, text))
    text, where = np.unique(text[order], return_index=True)
    best[text] = (chars[order][where] + length - 1) * often[order][where]
    return best


def _without_overlap(places: I64, grams: I64, length: int) -> list[int]:
    """Which of the runs repeat an earlier one, read from left to right: after a repeated run, reading goes on behind it."""
    hits, seen, free = [], set(), 0
    for index, (place, gram) in enumerate(zip(places.tolist(), grams.tolist(), strict=True)):
        if place < free:
            continue
        if gram in seen:
            hits.append(index)
            free = place + length
        else:
            seen.add(gram)
    return hits


def _by_text(words: Parts, places: I64, values: I64) -> F64:
    return np.bincount(words.texts[places], weights=values, minlength=len(words.counts)).astype(np.float64)


def repetition_limits(settings: GopherRepetitionStep) -> list[Limit]:
    shares = ("duplicate_lines", "duplicate_paragraphs", "duplicate_line_chars", "duplicate_paragraph_chars")
    limits = [Limit(name.replace("_", " "), name, most=getattr(settings, f"max_{name}")) for name in shares]
    for kind, lengths, most in (("top", TOP_GRAMS, settings.max_top_grams), ("duplicate", DUPLICATE_GRAMS, settings.max_duplicate_grams)):
        limits += [Limit(f"{kind} {n}-grams", f"{kind}_{n}_grams", most=share) for n, share in zip(lengths, most, strict=True)]
    return limits


QUALITY = Step("gopher-quality", 1, annotate=measure_quality, limits=quality_limits)
REPETITION = Step("gopher-repetition", 1, annotate=measure_repetition, limits=repetition_limits)
