"""A completion as server-sent events: `data: {chunk}` for each chunk, then `data: [DONE]`."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from openbook.serve.completions import Completion, with_its_client
from openbook.serve.errors import ApiError, failed


class EventStream(Response):
    """Sends the chunks as they come. A failure after the first byte, when the status has gone out as 200, is sent as an error event."""

    def __init__(self, completion: Completion) -> None:
        self.completion = completion
        self.status_code, self.background, self.media_type = 200, None, "text/event-stream"
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with with_its_client(self.completion, receive):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            try:
                async for chunk in self.completion.chunks():
                    await send(_frame(chunk))
            except Exception as error:
                await send(_frame((error if isinstance(error, ApiError) else failed(error)).body()))
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n", "more_body": False})


def _frame(content: dict[str, Any]) -> dict[str, Any]:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return {"type": "http.response.body", "body": f"data: {text}\n\n".encode(), "more_body": True}
