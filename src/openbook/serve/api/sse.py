"""An answer as server-sent events: a frame for each chunk, comments while there is none, then the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from openbook.engine import DeadlinePassed
from openbook.serve.api.answers import Answer, Streamed
from openbook.serve.errors import ApiError, failed

PING = 15.0
"""Seconds of silence after which a comment tells proxies and clients that the answer is still coming."""

LAST_WORDS = 10.0
"""Seconds that a client which has stopped reading gets to take the end of its stream."""


class EventStream(Response):
    """Sends the frames as they come. A failure after the first byte, when the status has gone out as 200, is sent as an error event."""

    def __init__(self, answer: Streamed, headers: dict[str, str], seconds: float) -> None:
        self.answer, self.seconds = answer, seconds
        self.status_code, self.background, self.media_type = 200, None, "text/event-stream"
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def write(frame: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": frame, "more_body": more})

        async with with_its_client(self.answer, receive):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            pings = asyncio.create_task(_ping(write))
            try:
                async with in_time(self.seconds):
                    async for frame in self.answer.frames():
                        await write(frame)
            except Exception as error:
                told = self.answer.failure(error if isinstance(error, ApiError) else failed(error))
                await asyncio.wait_for(write(told), LAST_WORDS)
            finally:
                pings.cancel()
            await asyncio.wait_for(write(self.answer.end, more=False), LAST_WORDS)


async def _ping(write: Callable[[bytes], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(PING)
        await write(b": still here\n\n")


@asynccontextmanager
async def in_time(seconds: float) -> AsyncIterator[None]:
    """Raises ApiError 504 if the block takes longer, or the engine has found so."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except (TimeoutError, DeadlinePassed):
        raise ApiError(504, f"the answer took longer than the {seconds:g} seconds this server gives one", code="timeout") from None


@asynccontextmanager
async def with_its_client(answer: Answer, receive: Callable[[], Awaitable[MutableMapping[str, object]]]) -> AsyncIterator[None]:
    """While the block runs, a client that goes away ends the answer; when the block ends, however it ends, so does the work."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        answer.abandon()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        answer.abandon()
