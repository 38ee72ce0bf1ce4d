"""An answer that an engine is working on: its sequences, its client, its time.

Each endpoint has one kind of `Answer`. HTTP and batches use it in the same way: begin, then `whole` or `frames`, then `abandon`.
"""

from __future__ import annotations

import asyncio
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from openbook.engine import DeadlinePassed, EngineClosed, Event, Job, QueueFull, Work
from openbook.errors import InputError
from openbook.model.generate import Sampling
from openbook.serve.api.choices import Choice, Part
from openbook.serve.api.desk import Account, blamed
from openbook.serve.api.wire import Drawn, Format, StreamOptions
from openbook.serve.errors import ApiError, failed, invalid
from openbook.serve.served import Served
from openbook.serve.text.grammar import GrammarMask, Grammars, inline, json_schema, regex

RETRY_AFTER = "1"
"""Seconds after which a client that met a full queue may try again."""


class Sequences:
    """Jobs submitted together, and a choice for each, with the model's adapter and within the time of the account.

    Raises ApiError 429 if the queue is full, 400 if it could never hold them, 404 if the adapter has been unloaded."""

    def __init__(self, served: Served, jobs: Sequence[Job], choices: Sequence[Choice], account: Account) -> None:
        self.choices, self._account = choices, account
        account.model = served.name
        if len(jobs) > served.engine.queue:
            raise invalid("n", f"{len(jobs)} are more choices than the {served.engine.queue} this server takes")
        self._events: asyncio.Queue[tuple[int, Event | None]] = asyncio.Queue()
        own: dict[str, Any] = {"salt": account.tenant or "", "adapter": served.adapter, "deadline": account.deadline}
        self._work = self._submit(served, [replace(job, **own) for job in jobs])
        account.prompt_tokens += sum(len(prompt) for prompt in {id(job.prompt): job.prompt for job in jobs}.values())  # choices share one

    def _submit(self, served: Served, jobs: Sequence[Job]) -> Work:
        loop = asyncio.get_running_loop()

        def deliver(index: int, event: Event) -> None:
            with suppress(RuntimeError):  # the loop has closed: nobody is left to tell
                loop.call_soon_threadsafe(self._events.put_nowait, (index, event))

        try:
            return served.engine.submit(jobs, deliver)
        except EngineClosed as error:
            raise failed(error) from None
        except InputError:
            raise ApiError(404, f"the model {served.name!r} has just been unloaded", "model", "model_not_found") from None
        except QueueFull as error:
            raise ApiError(429, str(error), code="queue_full", headers={"Retry-After": RETRY_AFTER}) from None

    def abandon(self) -> None:
        """Stops the work; `parts` ends."""
        self._work.cancel()
        self._events.put_nowait((0, None))

    async def parts(self) -> AsyncIterator[tuple[int, Part]]:
        """(choice, part) as they come. Raises ApiError if a sequence failed, DeadlinePassed if the account's time is over."""
        left = len(self.choices)
        while left:
            index, event = await self._events.get()
            if event is None:
                return
            if isinstance(event, DeadlinePassed):
                raise event
            if isinstance(event, Exception):
                raise failed(event) from event
            choice = self.choices[index]
            if choice.done:
                continue
            part = choice.take(event)
            if self._account.first is None:
                self._account.first = time.monotonic() - self._account.began
            if choice.done:
                left -= 1
                self._work.cancel_one(index)
            self._count()
            if part:
                yield index, part

    async def whole(self) -> dict[int, Part]:
        """Every choice in one part. Raises ApiError if a sequence failed."""
        made: dict[int, Part] = {}
        async for index, part in self.parts():
            if index in made:
                made[index].append(part)
            else:
                made[index] = part
        return made

    def _count(self) -> None:
        self._account.completion_tokens = sum(choice.drawn for choice in self.choices)
        self._account.cached_tokens = max(choice.cached for choice in self.choices)


class Answer(ABC):
    """A request under way. `ignored` are the request's unknown fields."""

    ignored: Sequence[str] = ()

    @abstractmethod
    async def whole(self) -> dict[str, Any]:
        """The answer in one piece. Raises ApiError."""

    @abstractmethod
    def abandon(self) -> None:
        """Stops the work, finished or not."""


class Streamed(Answer):
    """One that can come in pieces. `stream` says whether its client wants it so."""

    stream: bool = False
    end: bytes = b"data: [DONE]\n\n"

    @abstractmethod
    def frames(self) -> AsyncIterator[bytes]:
        """The answer as server-sent events, without the last, `end`. Raises ApiError."""

    def failure(self, error: ApiError) -> bytes:
        """The event that tells of an error after others have gone out."""
        return event(error.body())


def usage(account: Account) -> dict[str, Any]:
    """The usage object of completions and chats."""
    read, drawn = account.prompt_tokens, account.completion_tokens
    details = {"prompt_tokens_details": {"cached_tokens": account.cached_tokens}}
    return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn, **details}


def usage_so_far(options: StreamOptions, account: Account) -> dict[str, Any]:
    """The usage field of a chunk that has choices."""
    if not options.include_usage:
        return {}
    return {"usage": usage(account) if options.continuous_usage_stats else None}


def event(content: dict[str, Any], name: str | None = None) -> bytes:
    """One server-sent event."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def sampling_of(asked: Drawn, index: int, max_tokens: int, logprobs: int) -> Sampling:
    """Of the index-th choice of a request."""
    return Sampling(
        max_tokens,
        asked.temperature,
        asked.top_p,
        None if asked.seed is None else asked.seed + index,
        logprobs,
        asked.top_k,
        asked.min_p,
        asked.presence_penalty,
        asked.frequency_penalty,
    )


def logit_bias_of(asked: Drawn, served: Served) -> dict[int, float]:
    """Raises ApiError for keys that are not token ids of the model."""
    vocabulary = served.tokenizer.vocab_size
    for key in asked.logit_bias:
        if not (key.isascii() and key.isdigit() and len(key) < 12 and int(key) < vocabulary):
            raise invalid("logit_bias", f"{key[:40]!r} is not a token id of this model, which has {vocabulary} tokens")
    return {int(key): bias for key, bias in asked.logit_bias.items()}


def grammar_of(wanted: Format | None, param: str) -> str | None:
    """The grammar of a response format, None for free text. Raises ApiError that names an unsupported keyword."""
    match wanted.type if wanted else "text":
        case "text":
            return None
        case "json_object":
            return json_schema({"type": "object"})
        case "json_schema":
            schema = wanted.json_schema.get("schema") if wanted else None
            if not isinstance(schema, dict):
                raise invalid(f"{param}.json_schema.schema", "must be a JSON schema, an object")
            with blamed(f"{param}.json_schema.schema"):
                return json_schema(schema)
        case "regex" if wanted and wanted.pattern:
            return regex(wanted.pattern)
        case "grammar" if wanted and wanted.grammar:
            return wanted.grammar
    kinds = '"text", "json_object", "json_schema" with json_schema, "regex" with pattern, or "grammar" with grammar'
    raise invalid(f"{param}.type", f"must be {kinds}")


def json_term(wanted: Format | None) -> str | None:
    """A response format of JSON as a term of a Lark rule; None for free text."""
    if wanted is None or wanted.type == "text":
        return None
    return inline(wanted.json_schema["schema"] if wanted.type == "json_schema" else {"type": "object"})


def compiled(grammars: Grammars, grammar: str, param: str) -> GrammarMask:
    """Raises ApiError that says what is wrong with a grammar."""
    with blamed(param):
        return grammars.compile(grammar)
