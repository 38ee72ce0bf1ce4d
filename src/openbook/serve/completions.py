"""One `POST /v1/completions` from its request to its answer: encode, check, submit, collect or stream.

Choice `m * n + k` is the k-th choice of the m-th prompt, and draws with `seed + m * n + k`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from openbook.errors import InputError
from openbook.model.generate import Sampling
from openbook.model.tokenizer import Tokenizer
from openbook.serve.choices import Choice, Part
from openbook.serve.engine import Embedded, Engine, EngineClosed, Event, Job, QueueFull, Work
from openbook.serve.errors import ApiError, failed, invalid
from openbook.serve.wire import CompletionRequest, Prompt

RETRY_AFTER = "1"
"""Seconds after which a client that met a full queue may try again."""


def encode(tokenizer: Tokenizer, prompts: list[Prompt], context: int, room: int) -> list[list[int]]:
    """Token ids of each prompt, with `room` tokens left in the context. Raises ApiError for unknown ids and for prompts too long."""
    encoded = []
    for prompt in prompts:
        try:
            ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        except InputError as error:
            raise invalid("prompt", str(error)) from None
        if odd := [identifier for identifier in ids if not 0 <= identifier < tokenizer.vocab_size]:
            raise invalid("prompt", f"{odd[0]} is not a token id of this model, which has {tokenizer.vocab_size} tokens")
        if len(ids) + room > context:
            message = f"this model's context is {context} tokens and the prompt has {len(ids)}"
            raise invalid("prompt", message + (f", which leaves no room for {room} more" if room else ""), "context_length_exceeded")
        encoded.append(ids)
    return encoded


class Completion:
    """A request that the engine is working on. Raises ApiError 429 if the queue is full, 400 if it could never hold the request."""

    def __init__(self, engine: Engine, tokenizer: Tokenizer, asked: CompletionRequest, prompts: list[list[int]]) -> None:
        self._asked, self._prompts = asked, prompts
        self._facts = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time()), "model": asked.model}
        copies = [prompt for prompt in prompts for _ in range(asked.n)]
        scored = asked.logprobs is not None
        self._choices = [Choice(tokenizer, prompt, asked.echo, scored, asked.stop) for prompt in copies]
        jobs = [
            Job(prompt, self._sampling(index), tokenizer.end_of_document, score_prompt=asked.echo and scored)
            for index, prompt in enumerate(copies)
        ]
        self._events: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()
        self._work = self._submit(engine, jobs)

    def _sampling(self, index: int) -> Sampling:
        asked = self._asked
        seed = None if asked.seed is None else asked.seed + index
        return Sampling(asked.max_tokens, asked.temperature, asked.top_p, seed, asked.logprobs or 0)

    def _submit(self, engine: Engine, jobs: list[Job]) -> Work:
        if len(jobs) > engine.queue:
            raise invalid("n", f"{len(self._prompts)} prompts x {self._asked.n} are more choices than the {engine.queue} this server takes")
        loop = asyncio.get_running_loop()

        def deliver(index: int, event: Event) -> None:
            with suppress(RuntimeError):  # the loop has closed: nobody is left to tell
                loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        try:
            return engine.submit(jobs, deliver)
        except EngineClosed as error:
            raise failed(error) from None
        except QueueFull as error:
            raise ApiError(429, str(error), code="queue_full", headers={"Retry-After": RETRY_AFTER}) from None

    def abandon(self) -> None:
        """Stops the work; `parts` ends."""
        self._work.cancel()
        self._events.put_nowait((0, None))

    async def parts(self) -> AsyncIterator[tuple[int, Part]]:
        """(choice, part) as they come. Raises ApiError if a sequence failed."""
        left = len(self._choices)
        while left:
            index, event = await self._events.get()
            if event is None:
                return
            if isinstance(event, Exception):
                raise failed(event) from event
            assert not isinstance(event, Embedded), "no job asks for an embedding"
            choice = self._choices[index]
            if choice.done:
                continue
            if part := choice.take(event):
                yield index, part
            if choice.done:
                left -= 1
                self._work.cancel_one(index)

    def usage(self) -> dict[str, int]:
        read, drawn = sum(map(len, self._prompts)), sum(choice.tokens for choice in self._choices)
        return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}

    async def whole(self) -> dict[str, Any]:
        """The answer in one piece."""
        made: dict[int, Part] = {}
        async for index, part in self.parts():
            if index in made:
                made[index].append(part)
            else:
                made[index] = part
        return {**self._facts, "choices": [made[index].wire(index) for index in sorted(made)], "usage": self.usage()}

    async def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """The answer as a stream: a chunk for each part and, if asked for, a last one with the usage and no choices."""
        with_usage = self._asked.stream_options.include_usage
        usage = {"usage": None} if with_usage else {}
        async for index, part in self.parts():
            yield {**self._facts, "choices": [part.wire(index)], **usage}
        if with_usage:
            yield {**self._facts, "choices": [], "usage": self.usage()}


@asynccontextmanager
async def with_its_client(completion: Completion, receive: Callable[[], Awaitable[MutableMapping[str, Any]]]) -> AsyncIterator[None]:
    """While the block runs, a client that goes away ends the completion; when the block ends, however it ends, so does the work."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        completion.abandon()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        completion.abandon()
