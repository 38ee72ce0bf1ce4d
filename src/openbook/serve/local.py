"""A model and its tokenizer from a folder of weights, and a completion in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

from openbook.errors import InputError
from openbook.model.detokenize import Decoder
from openbook.model.exchange import load_weights
from openbook.model.sample import Sampling, Token
from openbook.model.tokenizer import Tokenizer, load_tokenizer
from openbook.model.transformer import Transformer
from openbook.serve.engine import Engine, Event, Finished, Job


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
    decoder, engine = Decoder(), Engine(model, slots=1)
    events: SimpleQueue[Event] = SimpleQueue()
    try:
        sampling = Sampling(max_tokens, temperature, top_p, seed)
        engine.submit([Job(tokenizer.encode_prompt(prompt), sampling, tokenizer.end_of_document)], lambda _, event: events.put(event))
        while not isinstance(event := events.get(), Finished):
            if isinstance(event, Exception):
                raise event
            if isinstance(event, Token) and (piece := decoder.push(tokenizer.token_bytes(event.id))):
                yield piece
        if rest := decoder.finish():
            yield rest
    finally:
        engine.close()
