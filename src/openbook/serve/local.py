"""A model and its tokenizer from a folder of weights, and a completion in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from openbook.errors import InputError
from openbook.model.detokenize import Decoder
from openbook.model.exchange import load_weights
from openbook.model.generate import Sampling, generate
from openbook.model.tokenizer import Tokenizer, load_tokenizer
from openbook.model.transformer import Transformer


def load(weights: Path) -> tuple[Transformer, Tokenizer]:
    """Raises InputError if a file is missing or damaged, or if the two do not belong together."""
    tokenizer = load_tokenizer(weights / "tokenizer.json")
    if not tokenizer.special_tokens:
        raise InputError(f"{weights / 'tokenizer.json'}: has no special token to end a document with")
    model = load_weights(weights)
    tokenizer.require_fits(model.config.vocab_size, weights)
    return model, tokenizer


def complete(weights: Path, prompt: str, max_tokens: int, temperature: float, top_p: float, seed: int | None) -> Iterator[str]:
    """The continuation of a text, piece by piece: what the server gives for the same seed."""
    model, tokenizer = load(weights)
    decoder = Decoder()
    for token in generate(
        model, tokenizer.encode_prompt(prompt), Sampling(max_tokens, temperature, top_p, seed), tokenizer.end_of_document
    ):
        if piece := decoder.push(tokenizer.token_bytes(token.id)):
            yield piece
    if rest := decoder.finish():
        yield rest
