"""The HTTP application: routes, and one shape for every error. It holds no state but what it is given."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from openbook.model.tokenizer import Tokenizer
from openbook.serve.completions import Completion, encode, with_its_client
from openbook.serve.engine import Engine
from openbook.serve.errors import ApiError, failed
from openbook.serve.sse import EventStream
from openbook.serve.wire import parse

LARGEST_BODY = 2 * 2**20
"""Bytes of a request; many times what the prompts of a full queue need."""

PATHS = "GET /v1/models, GET /v1/models/{id}, POST /v1/completions, GET /health"


def create_app(engine: Engine, tokenizer: Tokenizer, name: str) -> FastAPI:
    """An application that serves one model under a name. The caller owns the engine, and closes it."""
    app = FastAPI(title="openbook", openapi_url=None)
    model = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "openbook"}

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "model": name, "running": engine.running, "waiting": engine.waiting, "tokens": engine.tokens}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [model]}

    @app.get("/v1/models/{identifier:path}")
    async def one_model(identifier: str) -> dict[str, Any]:
        check_name(identifier)
        return model

    @app.post("/v1/completions", response_model=None)
    async def completions(request: Request) -> Response:
        asked = parse(await _body(request))
        check_name(asked.model)
        room = min(asked.max_tokens, 1)
        prompts = await run_in_threadpool(encode, tokenizer, asked.prompt, engine.model.config.context, room)
        completion = Completion(engine, tokenizer, asked, prompts)
        if asked.stream:
            return EventStream(completion)
        async with with_its_client(completion, request.receive):
            return JSONResponse(await completion.whole())

    def check_name(asked: str) -> None:
        if asked != name:
            raise ApiError(404, f"the model {asked!r} does not exist; this server has {name!r}", "model", "model_not_found")

    _answer_errors(app)
    return app


async def _body(request: Request) -> bytes:
    """Raises ApiError 413 beyond LARGEST_BODY."""
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > LARGEST_BODY:
            raise ApiError(413, f"the body is larger than {LARGEST_BODY} bytes", code="body_too_large")
    return bytes(body)


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> JSONResponse:
        said = {404: "no such path", 405: "this path has no such method"}.get(error.status_code, str(error.detail))
        message = f"{request.method} {request.url.path}: {said}; this server has {PATHS}"
        return JSONResponse(ApiError(error.status_code, message).body(), error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def unforeseen(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse(failed(error).body(), 500)
