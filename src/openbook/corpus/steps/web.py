"""The rules of two corpora made of web pages: C4 (Raffel et al. 2020, section 2.2) and FineWeb (Penedo et al. 2024, section 3.6)."""

from __future__ import annotations

import re

import numpy as np

from openbook.corpus.steps.step import Columns, Limit, Step
from openbook.parts import Batch, Parts
from openbook.recipe_steps import C4Step, FineWebStep

POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")
SENTENCE_END = re.compile(r"[.!?][\"'”’)]*(?=\s|$)")
TERMINAL = r"[.!?\"”'’…。！？]\s*$"
"""What a line of prose ends with, for FineWeb."""


def kept_lines(text: str, _: None, settings: C4Step) -> list[str]:
    """The lines that end a sentence, are long enough and are not the page's own machinery."""
    kept = []
    for line in text.splitlines():
        line = line.strip()
        if line.endswith((".", "!", "?", '"', "”")) and not line.endswith("...") and len(line.split()) >= settings.min_line_words:
            low = line.lower()
            if "javascript" not in low and not any(words in low for words in POLICY):
                kept.append(line)
    return ["\n".join(kept)] if kept else []


def measure_c4(batch: Batch, _: Columns, settings: C4Step, __: None) -> Columns:
    texts = [next(iter(kept_lines(text, None, settings)), "") for text in batch.texts]
    return {
        "sentences": np.array([len(SENTENCE_END.findall(text)) for text in texts]),
        "lorem_ipsum": np.array(["lorem ipsum" in text.lower() for text in texts], dtype=np.int64),
        "braces": np.array(["{" in text for text in texts], dtype=np.int64),
    }


def c4_limits(settings: C4Step) -> list[Limit]:
    limits = [Limit("sentences", "sentences", least=settings.min_sentences), Limit("lorem ipsum", "lorem_ipsum", most=0)]
    return limits if settings.allow_braces else [*limits, Limit("braces", "braces", most=0)]


def measure_fineweb(batch: Batch, _: Columns, settings: FineWebStep, __: None) -> Columns:
    lines = Parts.of([[line for line in text.split("\n") if line and not line.isspace()] for text in batch.texts])
    count = np.maximum(1, lines.counts)
    newlines = np.array([text.count("\n") for text in batch.texts])
    return {
        "punctuated_lines": lines.total(lines.matching(TERMINAL)) / count,
        "short_lines": lines.total(lines.lengths <= settings.short_line) / count,
        "duplicate_line_chars": lines.total(lines.lengths * lines.repeated) / np.maximum(1, batch.characters - newlines),
        "newlines_per_word": newlines / np.maximum(1, batch.words("whitespace").counts),
    }


def fineweb_limits(settings: FineWebStep) -> list[Limit]:
    return [
        Limit("punctuated lines", "punctuated_lines", least=settings.min_punctuated_lines),
        Limit("short lines", "short_lines", most=settings.max_short_lines),
        Limit("duplicate line chars", "duplicate_line_chars", most=settings.max_duplicate_line_chars),
        Limit("newlines", "newlines_per_word", most=settings.max_newlines_per_word),
    ]


C4 = Step("c4", 1, annotate=measure_c4, limits=c4_limits, rewrite=kept_lines)
FINEWEB = Step("fineweb", 1, annotate=measure_fineweb, limits=fineweb_limits)
