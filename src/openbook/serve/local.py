"""A model and its tokenizer from a folder of weights, and completions and chats in this process."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from openbook.engine import Engine, Event, Finished, Job
from openbook.errors import InputError, OpenbookError
from openbook.model.detokenize import Decoder
from openbook.model.exchange import load_weights
from openbook.model.sample import Sampling, Token
from openbook.model.tokenizer import Tokenizer, load_tokenizer
from openbook.model.transformer import Transformer
from openbook.talk import Ask, Piece, pieces_of


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


@contextmanager
def chatting(weights: Path, name: str) -> Iterator[Ask]:
    """A chat with a folder of weights, answered by the code that answers it over HTTP. Raises InputError if they cannot be loaded."""
    from openbook.serve.api import Desk, Limits
    from openbook.serve.api.chat import begin
    from openbook.serve.api.desk import Account
    from openbook.serve.errors import ApiError
    from openbook.serve.served import describe

    model, tokenizer = load(weights)
    engine = Engine(model, slots=1)
    try:
        desk = Desk({name: describe(name, weights, engine, tokenizer)}, Limits())

        async def answered(body: dict[str, Any], take: Callable[[Piece], None]) -> None:
            answer = await begin(desk, json.dumps(body | {"model": name}).encode(), Account())
            try:
                async for frame in answer.frames():
                    for piece in pieces_of([frame, answer.end]):
                        take(piece)
            finally:
                answer.abandon()

        with asyncio.Runner() as runner:

            def ask(body: dict[str, Any], take: Callable[[Piece], None]) -> None:
                try:
                    runner.run(answered(body, take))
                except ApiError as error:
                    raise OpenbookError(str(error)) from None

            yield ask
    finally:
        engine.close()
