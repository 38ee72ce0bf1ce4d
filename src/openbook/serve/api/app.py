"""The HTTP application: routes, and one shape for every error. It holds no state but what it is given."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from openbook.serve.adapters import Adapters
from openbook.serve.api import chat, completions, embeddings, infill, responses, tokens
from openbook.serve.api.adapters import LoadRequest, UnloadRequest, add_adapters
from openbook.serve.api.answers import Answer, Streamed
from openbook.serve.api.batches import Batches, BatchRequest, Begin
from openbook.serve.api.desk import Account, Desk, account_of, read_body
from openbook.serve.api.files import Files
from openbook.serve.api.gate import Gate
from openbook.serve.api.metrics import Metrics
from openbook.serve.api.page import body_of, document, page
from openbook.serve.api.playground import playground
from openbook.serve.api.sse import EventStream, in_time, with_its_client
from openbook.serve.api.storage import add_storage
from openbook.serve.api.wire import Wire, read_json
from openbook.serve.errors import ApiError, invalid

ENDPOINTS: dict[str, tuple[type[Wire], Callable[[Desk, bytes, Account], Awaitable[Answer]]]] = {
    "/v1/completions": (completions.CompletionRequest, completions.begin),
    "/v1/chat/completions": (chat.ChatRequest, chat.begin),
    "/v1/responses": (responses.ResponseRequest, responses.begin),
    "/v1/embeddings": (embeddings.EmbeddingRequest, embeddings.begin),
    "/infill": (infill.InfillRequest, infill.begin),
}
QUESTIONS: dict[str, tuple[type[Wire], Callable[[Desk, bytes, Account], Awaitable[dict[str, Any]]]]] = {
    "/tokenize": (tokens.TokenizeRequest, tokens.tokenize),
    "/detokenize": (tokens.DetokenizeRequest, tokens.detokenize),
}
DESCRIPTION = "An OpenAI-compatible API. Errors are {error: {message, type, param, code}}; an explicit null means unset."


class Front(Protocol):
    """What may stand between the gate and the routes."""

    def running(self, desk: Desk) -> AbstractAsyncContextManager[None]:
        """Entered while the application runs."""

    def door(self, app: ASGIApp, desk: Desk, log_text: bool) -> ASGIApp:
        """An application that lets requests through to another."""

    def lines(self, desk: Desk, begins: Mapping[str, Begin]) -> dict[str, Begin]:
        """The same endpoints for the lines of batches, which come through no door."""

    def taken(self) -> Collection[str]:
        """Names that stand for something else than the desk's models."""

    def tell(self, desk: Desk) -> None:
        """The desk has other models than before."""


def create_app(
    desk: Desk, data: Path | None = None, log_text: bool = False, front: Front | None = None, adapters: Adapters | None = None
) -> FastAPI:
    """An application that serves the models of a desk. The caller owns their engines, and closes them.

    `data` is the folder of files and batches; without one the server keeps none. `log_text` puts request bodies into the access log.
    `front` has the keys, aliases and engines elsewhere; without one everybody may ask, for the desk's models. `adapters` loads and unloads
    them while the server runs; without it they stay as they are.
    """
    metrics = Metrics(desk)
    batches = None
    if data is not None:
        begins: dict[str, Begin] = {path: partial(begin, desk) for path, (_, begin) in ENDPOINTS.items() if path.startswith("/v1/")}
        if front is not None:
            begins = front.lines(desk, begins)
        batches = Batches(data / "batches", Files(data / "files"), begins)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with front.running(desk) if front else nullcontext():
            if batches is not None:
                batches.resume()
            yield
            if batches is not None:
                await batches.stop()

    no_pages: dict[str, Any] = {"openapi_url": None, "docs_url": None, "redoc_url": None, "redirect_slashes": False}
    app = FastAPI(title="openbook", description=DESCRIPTION, lifespan=lifespan, **no_pages)
    for path, (model, begin) in ENDPOINTS.items():
        app.add_api_route(path, _answering(desk, begin, log_text), methods=["POST"], **_described(model, path, begin))
    for path, (model, question) in QUESTIONS.items():
        app.add_api_route(path, _asking(desk, question), methods=["POST"], **_described(model, path, question))
    add_storage(app, desk, batches)
    add_adapters(app, desk, adapters)
    _add_views(app, desk, metrics)
    _answer_errors(app)
    if front is not None:
        app.add_middleware(front.door, desk=desk, log_text=log_text)
    if desk.limits.origins:
        app.add_middleware(CORSMiddleware, allow_origins=desk.limits.origins, allow_methods=["*"], allow_headers=["*"])
    app.add_middleware(Gate, desk=desk, over=metrics.count, log_text=log_text)
    return app


def _described(model: type[Wire], path: str, handler: Callable[..., Any]) -> dict[str, Any]:
    name = path.removeprefix("/v1").strip("/").replace("/", "_")
    described = (sys.modules[handler.__module__].__doc__ or "").strip().splitlines()[0]
    return {"response_model": None, "openapi_extra": body_of(model), "name": name, "operation_id": name, "description": described}


def _answering(desk: Desk, begin: Callable[[Desk, bytes, Account], Awaitable[Answer]], log_text: bool) -> Callable[..., Any]:
    async def endpoint(request: Request) -> Response:
        body, account = await read_body(request, desk.limits.body, desk.limits.body_seconds), account_of(request)
        account.deadline = time.monotonic() + desk.limits.seconds
        if log_text:
            account.text = read_json(body)
        async with in_time(desk.limits.seconds):
            answer = await begin(desk, body, account)
            headers = {"x-ignored-fields": ", ".join(answer.ignored)} if answer.ignored else {}
            if isinstance(answer, Streamed) and answer.stream:
                return EventStream(answer, headers, desk.limits.seconds)
            async with with_its_client(answer, request.receive):
                return JSONResponse(await answer.whole(), headers=headers)

    return endpoint


def _asking(desk: Desk, question: Callable[[Desk, bytes, Account], Awaitable[dict[str, Any]]]) -> Callable[..., Any]:
    async def endpoint(request: Request) -> Response:
        body = await read_body(request, desk.limits.body, desk.limits.body_seconds)
        return JSONResponse(await question(desk, body, account_of(request)))

    return endpoint


def _add_views(app: FastAPI, desk: Desk, metrics: Metrics) -> None:
    @app.get("/health", description="Whether the process answers at all.")
    async def health() -> dict[str, Any]:
        engines = {name: served.engine for name, served in desk.models.items() if served.parent is None}
        work = {name: {"running": engine.running, "waiting": engine.waiting, "tokens": engine.tokens} for name, engine in engines.items()}
        return {"status": "ok", "models": work}

    @app.get("/ready", description="Whether it takes new work: 503 while it stops.", response_model=None)
    async def ready() -> Response:
        return JSONResponse({"status": "stopping"}, 503) if desk.draining else JSONResponse({"status": "ready"})

    @app.get("/metrics", description="For Prometheus.", response_model=None)
    async def counted() -> Response:
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")

    @app.get("/v1/models", description="The models that this server has.")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [served.card(name) for name, served in desk.models.items()]}

    @app.get("/v1/models/{identifier:path}", description="One of them.")
    async def one_model(identifier: str) -> dict[str, Any]:
        return desk.model(identifier).card(identifier)

    wires: list[type[Wire]] = [
        BatchRequest,
        LoadRequest,
        UnloadRequest,
        *(model for model, _ in [*ENDPOINTS.values(), *QUESTIONS.values()]),
    ]

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> dict[str, Any]:
        return document(app, wires)

    @app.get("/docs", include_in_schema=False, response_model=None)
    async def docs() -> Response:
        return HTMLResponse(page(document(app, wires)))

    @app.get("/", include_in_schema=False, response_model=None)
    async def try_it() -> Response:
        return playground()


def _answer_errors(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status, error.headers)

    @app.exception_handler(HTTPException)
    async def no_route(request: Request, error: HTTPException) -> JSONResponse:
        said = {404: "no such path", 405: "this path has no such method"}.get(error.status_code, str(error.detail))
        message = (
            f"{request.method} {request.url.path[:200]}: {said}; this server has {', '.join(ENDPOINTS)}, and others that GET /docs lists"
        )
        return JSONResponse(ApiError(error.status_code, message).body(), error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def bad_query(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        refused = invalid(str(first["loc"][-1]), first["msg"][0].lower() + first["msg"][1:])
        return JSONResponse(refused.body(), refused.status)
