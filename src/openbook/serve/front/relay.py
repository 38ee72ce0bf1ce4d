"""An answer that an engine elsewhere gives: its stream passed on byte for byte, its usage read on the way.

Until the first byte has come, a failure is tried again, on another engine if there is one; after it, a failure is told to the client.
The request is written anew from what was parsed here, so that no two readers can understand it differently.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any

import httpx

from openbook.serve.api.answers import Streamed
from openbook.serve.api.desk import Account
from openbook.serve.errors import ApiError
from openbook.serve.front.pool import Pool, Upstream
from openbook.serve.front.quota import tokens_of

ATTEMPTS = 3
BACKOFF = 0.1
"""Seconds before the second attempt; each later one waits twice as long."""
AGAIN = (502, 503, 504)
LARGEST_ANSWER = 64 * 2**20
LARGEST_FRAME = 4 * 2**20
UNDRAWN = ("/v1/embeddings", "/tokenize", "/detokenize")
COUNTS = (("prompt_tokens", "input_tokens", "tokens_evaluated"), ("completion_tokens", "output_tokens", "tokens_predicted"))
"""What engines call the tokens that were read, and drawn: completions and chats, responses, llama.cpp's infill."""
FRAME_END = re.compile(rb"\r\n\r\n|\n\n|\r\r")


class Relay(Streamed):
    """`connect` first, then `whole` or `frames`, then `close`. The account gets what the engine counted, or an estimate."""

    end = b""

    def __init__(self, pool: Pool, path: str, body: dict[str, Any], read: int, account: Account) -> None:
        """`read` is the estimate of the prompt's tokens."""
        self._pool, self._path, self._body, self._account = pool, path, body, account
        self.stream = body.get("stream") is True
        self.exact = False
        self._read = read
        account.model = body["model"]
        self._resources = AsyncExitStack()
        self._pieces: AsyncIterator[bytes]
        self._first = b""
        self._waiting: asyncio.Future[bytes] | None = None
        self._gone = False

    async def connect(self) -> None:
        """Until the first byte of a good answer is there. Raises ApiError."""
        tried: list[Upstream] = []
        while True:
            upstream = self._pool.pick(self._body["model"], tried)
            body = self._pool.kind(upstream).fitted(self._path, self._body, self._account.tenant)
            try:
                if await self._begin(upstream, body):
                    return
                why = "is not able to answer now"
            except httpx.HTTPError as error:
                self._pool.eject(upstream, str(error) or type(error).__name__)
                why = "failed"
            await self.close()
            tried.append(upstream)
            if len(tried) == ATTEMPTS:
                raise ApiError(502, f"the engine behind the model {self._body['model']!r} {why}", None, "upstream_failed")
            await asyncio.sleep(BACKOFF * 2 ** (len(tried) - 1))

    async def _begin(self, upstream: Upstream, body: dict[str, Any]) -> bool:
        """False for a status that may be different the next time. Raises ApiError for one that will not."""
        if self.stream and self._path in ("/v1/completions", "/v1/chat/completions"):
            body = body | {"stream_options": _object(body.get("stream_options")) | {"include_usage": True}}
        self._resources.enter_context(upstream.busy())
        url, headers = upstream.address(self._path), upstream.headers | {"Content-Type": "application/json"}
        content = json.dumps(body, ensure_ascii=False).encode()
        response = await self._resources.enter_async_context(self._pool.client.stream("POST", url, content=content, headers=headers))
        if response.status_code in AGAIN:
            return False
        self._pieces = response.aiter_raw()
        if response.status_code != 200:
            raise _refused(response, await self._rest())
        self._first = await anext(self._pieces, b"")
        self._account.prompt_tokens = self._read
        return True

    async def close(self) -> None:
        await self._resources.aclose()

    def abandon(self) -> None:
        """Stops `whole` and `frames`, which end as if the engine had."""
        self._gone = True
        if self._waiting:
            self._waiting.cancel()

    async def whole(self) -> dict[str, Any]:
        try:
            content = json.loads(await self._rest(), parse_constant=_not_json)
            json.dumps(content, ensure_ascii=False).encode()  # half a character, spelled by an escape, could not be passed on
        except (ValueError, RecursionError):
            raise ApiError(502, "the engine's answer is not JSON", None, "upstream_failed") from None
        if not isinstance(content, dict):
            raise ApiError(502, "the engine's answer is not an object", None, "upstream_failed")
        if not self._note(content.get("usage") or content) and self._path not in UNDRAWN:
            said = next((content[name] for name in ("choices", "output", "content") if name in content), None)
            self._account.completion_tokens = tokens_of(said)
        return content

    async def _rest(self) -> bytes:
        content = bytearray(self._first)
        while piece := await self._next():
            content += piece
            if len(content) > LARGEST_ANSWER:
                raise ApiError(502, f"the engine's answer is larger than {LARGEST_ANSWER} bytes", None, "upstream_failed")
        return bytes(content)

    async def _next(self) -> bytes:
        """Nothing at the end, and once it is abandoned. Raises ApiError."""
        if self._gone:
            return b""
        self._waiting = asyncio.ensure_future(anext(self._pieces, b""))
        try:
            return await self._waiting
        except httpx.HTTPError:
            raise ApiError(502, "the engine stopped in the middle of its answer", None, "upstream_failed") from None
        except asyncio.CancelledError:
            if not self._gone:
                raise
            return b""

    async def frames(self) -> AsyncIterator[bytes]:
        """The engine's bytes; without the frame that has only the usage, unless the client asked for it."""
        asked = _object(self._body.get("stream_options")).get("include_usage") is True
        held, piece = b"", self._first
        while piece:
            *frames, held = _frames(held + piece)
            for frame in frames:
                if self._look(frame) or asked:
                    yield frame
            if len(held) > LARGEST_FRAME:
                raise ApiError(502, f"the engine sent an event of more than {LARGEST_FRAME} bytes", None, "upstream_failed")
            piece = await self._next()
        if held:
            yield held

    def failure(self, error: ApiError) -> bytes:
        return super().failure(error) + Streamed.end

    def _look(self, frame: bytes) -> bool:
        """Counts; False for the frame that is there only for the usage."""
        data = b"\n".join(line[5:].strip() for line in frame.splitlines() if line.startswith(b"data:"))
        if not data or data == b"[DONE]":
            return True
        if not self.exact:
            self._account.completion_tokens += 1  # an event is a token, until the engine says better
        if b'"usage"' not in data and b'"tokens_predicted"' not in data:
            return True
        try:
            content = _object(json.loads(data))
        except (ValueError, RecursionError):
            return True
        noted = self._note(content.get("usage") or _object(content.get("response")).get("usage") or content)
        return not (noted and content.get("choices") == [])

    def _note(self, usage: Any) -> bool:
        """Takes over what the engine counted; False if that is nothing."""
        usage = _object(usage)
        read, drawn = (next((usage[name] for name in names if name in usage), None) for names in COUNTS)
        read = _count(read)
        if read is None:
            return False
        details = _object(usage.get("prompt_tokens_details") or usage.get("input_tokens_details"))
        account = self._account
        account.prompt_tokens = read
        account.completion_tokens = _count(drawn) or 0
        account.cached_tokens = _count(details.get("cached_tokens")) or 0
        self.exact = True
        return True


def _frames(content: bytes) -> list[bytes]:
    """Whole events with the blank lines that end them, and last what is not whole yet."""
    ends = [0, *(match.end() for match in FRAME_END.finditer(content)), len(content)]
    return [content[begin:end] for begin, end in pairwise(ends)]


def _not_json(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40 else None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _refused(response: httpx.Response, content: bytes) -> ApiError:
    """The engine's refusal in OpenAI's shape, with its own words."""
    status = response.status_code
    if status in (401, 403):
        return ApiError(502, "the engine refuses this server's key for it", None, "upstream_refused_key")
    if not 400 <= status < 600:
        return ApiError(502, f"the engine answered with status {status}", None, "upstream_failed")
    try:
        told = _object(json.loads(content))
    except (ValueError, RecursionError):
        told = {}
    error = _object(told.get("error")) or told
    said = error.get("message") or error.get("detail")
    message = said if isinstance(said, str) else f"the engine answered with status {status}"
    param, code = (error.get(name) if isinstance(error.get(name), str) else None for name in ("param", "code"))
    wait = response.headers.get("retry-after", "")
    return ApiError(status, message[:2000], param, code, {"Retry-After": wait} if re.fullmatch(r"\d{1,6}", wait) else None)
