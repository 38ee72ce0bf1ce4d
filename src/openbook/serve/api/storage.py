"""The routes of `/v1/files` and `/v1/batches`: each key meets its own only. Without a data folder they say how to have one."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import FileResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from openbook.serve.api.batches import Batches, BatchRequest
from openbook.serve.api.desk import Desk, Limits, account_of, read_body
from openbook.serve.api.files import PURPOSES, Files, public
from openbook.serve.api.page import body_of
from openbook.serve.errors import ApiError, invalid

UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "purpose"],
                    "properties": {"file": {"type": "string", "format": "binary"}, "purpose": {"enum": list(PURPOSES)}},
                }
            }
        },
    }
}


def add_storage(app: FastAPI, desk: Desk, batches: Batches | None) -> None:
    def here() -> Batches:
        if batches is None:
            raise ApiError(501, "this server keeps no files: start it with --data FOLDER", code="no_storage")
        return batches

    @app.post("/v1/files", openapi_extra=UPLOAD, description="Upload a file, as multipart/form-data.")
    async def upload(request: Request) -> dict[str, Any]:
        return await _upload(request, here().files, desk.limits)

    @app.get("/v1/files", description="The files, newest first.")
    async def files(
        request: Request, limit: int = Query(100, ge=1, le=10_000), after: str | None = None, purpose: str | None = None
    ) -> dict[str, Any]:
        return await run_in_threadpool(here().files.page, account_of(request), limit, after, purpose)

    @app.get("/v1/files/{identifier}", description="What is known of a file.")
    async def one_file(request: Request, identifier: str) -> dict[str, Any]:
        return public(here().files.find(identifier, account_of(request)))

    @app.get("/v1/files/{identifier}/content", description="A file's bytes.", response_model=None)
    async def content(request: Request, identifier: str) -> Response:
        files = here().files
        files.find(identifier, account_of(request))
        headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
        return FileResponse(files.path(identifier), media_type="application/octet-stream", headers=headers)

    @app.delete("/v1/files/{identifier}", description="Delete a file.")
    async def delete(request: Request, identifier: str) -> dict[str, Any]:
        here().files.delete(identifier, account_of(request))
        return {"id": identifier, "object": "file", "deleted": True}

    @app.post("/v1/batches", openapi_extra=body_of(BatchRequest), description=BatchRequest.__doc__ or "")
    async def create(request: Request) -> dict[str, Any]:
        body = await read_body(request, desk.limits.body, desk.limits.body_seconds)
        return public(here().create(BatchRequest.parse(body), account_of(request), desk.limits.batches))

    @app.get("/v1/batches", description="The batches, newest first.")
    async def listed(request: Request, limit: int = Query(20, ge=1, le=100), after: str | None = None) -> dict[str, Any]:
        return await run_in_threadpool(here().store.page, account_of(request), limit, after)

    @app.get("/v1/batches/{identifier}", description="How far a batch is.")
    async def one_batch(request: Request, identifier: str) -> dict[str, Any]:
        return public(here().store.find(identifier, account_of(request)))

    @app.post("/v1/batches/{identifier}/cancel", description="End a batch; what is answered stays.")
    async def cancel(request: Request, identifier: str) -> dict[str, Any]:
        return public(here().cancel(identifier, account_of(request)))


async def _upload(request: Request, files: Files, limits: Limits) -> dict[str, Any]:
    taken = 0

    async def bounded() -> Any:
        nonlocal taken
        async for piece in request.stream():
            taken += len(piece)
            if taken > limits.upload:
                raise ApiError(413, f"the upload is larger than {limits.upload} bytes", code="body_too_large")
            yield piece

    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise invalid(None, "a file is uploaded as multipart/form-data with the fields file and purpose")
    try:
        async with asyncio.timeout(limits.seconds):
            form = await MultiPartParser(request.headers, bounded(), max_files=1, max_fields=10).parse()
    except TimeoutError:
        raise ApiError(408, f"the upload took longer than {limits.seconds:g} seconds", code="body_too_slow") from None
    except (MultiPartException, KeyError, ValueError) as error:
        raise invalid(None, f"the form cannot be read: {getattr(error, 'message', error)}"[:300]) from None
    try:
        file, purpose = form.get("file"), form.get("purpose")
        if not isinstance(file, UploadFile):
            raise invalid("file", "must be a file")
        if purpose not in PURPOSES:
            raise invalid("purpose", f"must be one of {', '.join(PURPOSES)}")
        name = (file.filename or "file").encode(errors="replace").decode()
        return await run_in_threadpool(files.add, file.file, name, str(purpose), account_of(request).key, limits.kept)
    finally:
        await form.close()
