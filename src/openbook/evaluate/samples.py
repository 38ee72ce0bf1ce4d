"""What the model writes: continuations of held-out documents that it has never seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openbook.documents import Document
from openbook.model.generate import Sampling, generate
from openbook.model.tokenizer import Tokenizer
from openbook.model.transformer import Transformer
from openbook.recipe import EvaluateSection

LONG_ENOUGH = 400
"""Characters of a document that is worth continuing."""
PROMPT = 200
"""Characters of a prompt, or a little less, down to half, to end with a line."""


def prompt_of(text: str) -> str:
    """The beginning of a text, cut at a line's end where there is one."""
    line_end = text.rfind("\n", PROMPT // 2, PROMPT)
    return text[: line_end + 1 if line_end >= 0 else PROMPT]


def write_samples(
    model: Transformer, tokenizer: Tokenizer, documents: Mapping[str, Sequence[Document]], section: EvaluateSection, seed: int
) -> list[dict[str, Any]]:
    """One sample for each component that has a document of at least LONG_ENOUGH characters: the first such document, continued."""
    samples = []
    for component, held_out in documents.items():
        document = next((document for document in held_out if len(document.text) >= LONG_ENOUGH), None)
        if document is None:
            continue
        prompt, continuation = _continue(model, tokenizer, prompt_of(document.text), section, seed)
        facts = {"component": component, "document": document.id, "origin": document.origin}
        settings = {"seed": seed, "temperature": section.temperature, "top_p": section.top_p}
        samples.append({**facts, "prompt": prompt, "continuation": continuation, **settings})
    return samples


def _continue(model: Transformer, tokenizer: Tokenizer, text: str, section: EvaluateSection, seed: int) -> tuple[str, str]:
    """The part of the prompt that the model saw, and its continuation: together they fit the context, the prompt's end before its
    beginning. A prompt that fits follows an end-of-document token, as the beginnings of documents do in training."""
    context = model.config.context
    wanted = min(section.sample_tokens, context // 2)
    end = tokenizer.end_of_document
    prompt = [tokenizer.begin_of_document, *tokenizer.encode(text)][-(context - wanted) :]
    sampling = Sampling(max_tokens=wanted, temperature=section.temperature, top_p=section.top_p, seed=seed)
    written = [token.id for token in generate(model, prompt, sampling, end)]
    seen = prompt[1:] if prompt[0] == tokenizer.begin_of_document else prompt
    return tokenizer.decode(seen), tokenizer.decode(written)
