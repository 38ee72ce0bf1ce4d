"""`POST /v1/completions`: text in, text out, complete as GPT-3 had it.

Choice `m * b + k` is the k-th of the b = max(n, best_of) choices of the m-th prompt, and draws with `seed + m * b + k`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.concurrency import run_in_threadpool

from openbook.engine import Job
from openbook.serve.api.answers import Sequences, Streamed, compiled, event, grammar_of, logit_bias_of, sampling_of, usage, usage_so_far
from openbook.serve.api.choices import Choice, Part, legacy_logprobs
from openbook.serve.api.desk import Account, Desk, check_room, encode
from openbook.serve.api.wire import Drawn, Format, Prompts
from openbook.serve.errors import invalid
from openbook.serve.served import Served
from openbook.serve.text.grammar import GrammarMask


class CompletionRequest(Drawn):
    """The body of `POST /v1/completions`."""

    prompt: Prompts = [""]
    max_tokens: int = Field(16, ge=0)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool = False
    best_of: int = Field(1, ge=1, le=128)
    suffix: str = ""
    response_format: Format | None = None

    @model_validator(mode="after")
    def _together(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise PydanticCustomError("nothing", "must be at least 1, or 0 with echo, to score the prompt", {"param": "max_tokens"})
        if self.best_of > self.n and self.stream:
            raise PydanticCustomError("stream", "cannot be streamed: which choices are best is known at the end", {"param": "best_of"})
        if self.suffix and self.echo:
            raise PydanticCustomError("echo", "cannot be echoed: the prompt is not before the suffix's completion", {"param": "suffix"})
        return self


async def begin(desk: Desk, body: bytes, account: Account) -> Completion:
    """Raises ApiError."""
    asked = CompletionRequest.parse(body)
    served = desk.model(asked.model)
    each = max(asked.n, asked.best_of)
    if len(asked.prompt) * each > served.engine.queue:
        many = f"{len(asked.prompt)} prompts x {each} are more choices than the {served.engine.queue} this server takes"
        raise invalid("n" if each > 1 else "prompt", many)
    prompts = await encode(served, asked.prompt)
    if asked.suffix:
        prompts = await _around(served, prompts, asked.suffix)
    for prompt in prompts:
        check_room(served, len(prompt), 1 if asked.max_tokens else -1, "prompt")
    bias = logit_bias_of(asked, served)
    mask = await run_in_threadpool(_mask, served, asked.response_format)
    copies = [prompt for prompt in prompts for _ in range(each)]
    end = served.tokenizer.end_of_document
    scored = asked.echo and asked.logprobs is not None
    jobs = [
        Job(prompt, sampling_of(asked, index, asked.max_tokens, asked.logprobs or 0), end, scored, mask and mask.fork(), bias)
        for index, prompt in enumerate(copies)
    ]
    choices = [Choice(served.tokenizer, asked.stop, prompt if asked.echo else None) for prompt in copies]
    return Completion(served, asked, Sequences(served, jobs, choices, account), account)


async def _around(served: Served, prompts: list[list[int]], suffix: str) -> list[list[int]]:
    if served.fill_in is None:
        raise invalid("suffix", f"{served.name!r} was not trained to fill in text before a suffix; leave it out", "suffix_not_supported")
    (after,) = await encode(served, [suffix], "suffix")
    return [served.fill_in.prompt(prompt, after) for prompt in prompts]


def _mask(served: Served, wanted: Format | None) -> GrammarMask | None:
    grammar = grammar_of(wanted, "response_format")
    return None if grammar is None else compiled(served.document_grammars, grammar, "response_format")


class Completion(Streamed):
    """A request for completions that the engine is working on."""

    def __init__(self, served: Served, asked: CompletionRequest, sequences: Sequences, account: Account) -> None:
        self._tokenizer, self._asked, self._sequences, self._account = served.tokenizer, asked, sequences, account
        self.stream, self.ignored = asked.stream, asked.ignored
        self._facts = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time()), "model": asked.model}

    def abandon(self) -> None:
        self._sequences.abandon()

    async def whole(self) -> dict[str, Any]:
        made = await self._sequences.whole()
        choices = [self._wire(place, made[index]) for place, index in enumerate(self._best())]
        return {**self._facts, "choices": choices, "usage": usage(self._account)}

    def _best(self) -> list[int]:
        """Of each prompt's choices, the n whose tokens are likeliest on average, likeliest first; in their order if n are all."""
        each, choices = max(self._asked.n, self._asked.best_of), self._sequences.choices
        if each == self._asked.n:
            return list(range(len(choices)))

        def quality(index: int) -> float:
            return choices[index].logprob / max(choices[index].drawn, 1)

        groups = [range(first, first + each) for first in range(0, len(choices), each)]
        return [index for group in groups for index in sorted(group, key=quality, reverse=True)[: self._asked.n]]

    async def frames(self) -> AsyncIterator[bytes]:
        """A chunk for each part and, if asked for, a last one with the usage and no choices."""
        options = self._asked.stream_options
        async for index, part in self._sequences.parts():
            yield event({**self._facts, "choices": [self._wire(index, part)], **usage_so_far(options, self._account)})
        if options.include_usage:
            yield event({**self._facts, "choices": [], "usage": usage(self._account)})

    def _wire(self, index: int, part: Part) -> dict[str, Any]:
        logprobs = None if self._asked.logprobs is None else legacy_logprobs(self._tokenizer, part.tokens)
        return {"index": index, "text": part.text, "logprobs": logprobs, "finish_reason": part.finish_reason}
