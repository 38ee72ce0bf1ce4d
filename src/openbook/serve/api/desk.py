"""What every endpoint is given: the models, the limits, and the account of the request in hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from openbook.errors import InputError
from openbook.serve.api.wire import Prompt
from openbook.serve.errors import ApiError, invalid
from openbook.serve.served import Served


@dataclass(frozen=True)
class Limits:
    """What one request may take, and which web pages may ask."""

    body: int = 2 * 2**20
    """Bytes of a request's body."""
    upload: int = 100 * 2**20
    """Bytes of an uploaded file."""
    kept: int = 1024 * 2**20
    """Bytes of all files of one key, those that batches gave it too, beyond which it may upload no more."""
    batches: int = 100
    """Batches of one key that have not ended."""
    body_seconds: float = 30
    """From the headers to the last byte of the body."""
    seconds: float = 600
    """From the body to the last byte of the answer."""
    origins: tuple[str, ...] = ()
    """Origins whose pages may use this server from a browser, besides its own."""
    local: bool = True
    """Whether the server is meant for this machine only: then a browser must have called it by a loopback name."""


@dataclass
class Account:
    """What is known of a request once it is over: for the log, the metrics, and whoever counts."""

    began: float = field(default_factory=time.monotonic)
    key: str | None = None
    """The id of the key that asked."""
    tenant: str = ""
    """Salts the prefix cache: what one tenant's prompts leave there is of use to no other."""
    sees_all: bool = True
    """Whether others' files and batches are there for it: an admin's key, or a server without keys."""
    model: str | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    first: float | None = None
    """Seconds until the first part of the answer was there."""
    deadline: float | None = None
    """On `time.monotonic`'s clock: the engine gives up what is not done by then."""
    text: dict[str, object] | None = None
    """The body, if the log is to have it."""


class Desk:
    """`models` may change while the server runs; a request keeps the model that it began with. While `draining`, no new work is let in."""

    def __init__(self, models: Mapping[str, Served], limits: Limits) -> None:
        self.models, self.limits = models, limits
        self.draining = False

    def model(self, name: str | None) -> Served:
        """The model of a name, the first one for None. Raises ApiError 404."""
        if name is None:
            return next(iter(self.models.values()))
        found = self.models.get(name)
        if found is None:
            names = ", ".join(repr(known) for known in self.models)
            raise ApiError(404, f"the model {name[:100]!r} does not exist; this server has {names}", "model", "model_not_found")
        return found


def account_of(request: Request) -> Account:
    account: Account = request.scope["account"]
    return account


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """Raises ApiError 413 beyond so many bytes, 408 if they do not come in so many seconds."""
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > limit:
                    raise ApiError(413, f"the body is larger than {limit} bytes", code="body_too_large")
    except TimeoutError:
        raise ApiError(
            408, f"the body took longer than {seconds:g} seconds", code="body_too_slow", headers={"Connection": "close"}
        ) from None
    return bytes(body)


@contextmanager
def blamed(param: str) -> Iterator[None]:
    """What is wrong with the input inside is the client's mistake in this field: status 400."""
    try:
        yield
    except InputError as error:
        raise invalid(param, str(error)) from None


async def encode(served: Served, prompts: list[Prompt], param: str = "prompt") -> list[list[int]]:
    """Token ids of each prompt. Raises ApiError for text that the tokenizer cannot spell and for ids that it does not have."""
    return await run_in_threadpool(lambda: [encode_one(served, prompt, param) for prompt in prompts])


def encode_one(served: Served, prompt: Prompt, param: str) -> list[int]:
    tokenizer = served.tokenizer
    if isinstance(prompt, str):
        with blamed(param):
            return tokenizer.encode_prompt(prompt)
    if odd := [identifier for identifier in prompt if not 0 <= identifier < tokenizer.vocab_size]:
        raise invalid(param, f"{str(odd[0])[:40]} is not a token id of this model, which has {tokenizer.vocab_size} tokens")
    return prompt


def check_room(served: Served, tokens: int, room: int, param: str) -> None:
    """Raises ApiError unless a prompt of so many tokens leaves `room` in the context; -1 if its last token is only scored, never read."""
    if tokens + room > served.context:
        message = f"this model's context is {served.context} tokens and the prompt has {tokens}"
        raise invalid(param, message + (f", which leaves no room for {room} more" if room > 0 else ""), "context_length_exceeded")
