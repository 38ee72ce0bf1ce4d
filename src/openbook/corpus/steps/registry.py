"""The steps by name."""

from __future__ import annotations

from openbook.corpus.steps import decontaminate, dedup, gopher, language, licence, minhash, perplexity, pii, profanity, quality, text, web
from openbook.corpus.steps.step import Step

STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        text.UNICODE,
        text.LENGTH,
        licence.STEP,
        language.STEP,
        gopher.QUALITY,
        gopher.REPETITION,
        web.C4,
        web.FINEWEB,
        quality.STEP,
        perplexity.STEP,
        profanity.STEP,
        pii.STEP,
        dedup.EXACT,
        dedup.LINES,
        dedup.SUBSTRING,
        minhash.STEP,
        decontaminate.STEP,
    )
}
