"""`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`, under vLLM's names for paths and fields.

What a request can have read from the disk is bounded: two files of fixed names, regular ones, in a folder below the one that the operator
named. A path that leads out of it, by `..` or by a link, gets the same answer as one that leads nowhere.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from openbook.engine.adapters import FILES
from openbook.errors import InputError
from openbook.serve.adapters import Adapters
from openbook.serve.api.desk import Desk, account_of, read_body
from openbook.serve.api.page import body_of
from openbook.serve.api.wire import Wire
from openbook.serve.errors import ApiError, invalid

FOLDER = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}(?:/[A-Za-z0-9_][\w.-]{0,99}){0,9}", re.ASCII)


class LoadRequest(Wire):
    """The body of `POST /v1/load_lora_adapter`. `base_model_name` is needed if the server has several models."""

    UNSUPPORTED = ("load_inplace",)
    lora_name: str
    lora_path: str
    base_model_name: str | None = None


class UnloadRequest(Wire):
    """The body of `POST /v1/unload_lora_adapter`."""

    lora_name: str


def add_adapters(app: FastAPI, desk: Desk, adapters: Adapters | None) -> None:
    """The front lets only admin keys come here, once there are keys. Without keys, only who is on this machine may."""

    def allowed(request: Request) -> tuple[Adapters, Path]:
        if adapters is None or adapters.folder is None:
            message = "this server loads no adapters while it runs: start it with --adapters FOLDER, below which they lie"
            raise ApiError(501, message, code="no_adapters")
        if account_of(request).key is None and not desk.limits.local:
            raise ApiError(403, "a server that others can reach loads adapters only for admin keys; make one", code="admin_only")
        return adapters, adapters.folder

    @app.post("/v1/load_lora_adapter", openapi_extra=body_of(LoadRequest), description="Load a LoRA adapter as a model of its own.")
    async def load(request: Request) -> dict[str, Any]:
        loader, root = allowed(request)
        asked = LoadRequest.parse(await read_body(request, desk.limits.body, desk.limits.body_seconds))

        def work() -> dict[str, Any]:
            try:
                return loader.load(asked.lora_name, _below(root, asked.lora_path), asked.base_model_name).card(asked.lora_name)
            except InputError as error:
                raise invalid(None, str(error).replace(f"{root}/", "")) from None

        card = await run_in_threadpool(work)
        account_of(request).model = asked.lora_name  # for the log
        return card

    @app.post("/v1/unload_lora_adapter", openapi_extra=body_of(UnloadRequest), description="Unload one; what is under way goes on.")
    async def unload(request: Request) -> dict[str, Any]:
        loader, _ = allowed(request)
        asked = UnloadRequest.parse(await read_body(request, desk.limits.body, desk.limits.body_seconds))
        try:
            await run_in_threadpool(loader.unload, asked.lora_name)
        except InputError as error:
            raise ApiError(404, str(error), "lora_name", "model_not_found") from None
        account_of(request).model = asked.lora_name
        return {"id": asked.lora_name, "object": "model", "deleted": True}


def _below(root: Path, path: str) -> Path:
    """Raises ApiError."""
    if not FOLDER.fullmatch(path):
        raise invalid("lora_path", "must be a path below the server's folder of adapters, as my-adapter or team/my-adapter")
    try:
        files = [(root / path / name).resolve(strict=True) for name in FILES]
        found = all(file.is_relative_to(root) and file.is_file() for file in files)
    except (OSError, RuntimeError):  # a loop of links
        found = False
    if not found:
        raise ApiError(404, f"lora_path: the server's folder of adapters has no adapter {path!r}", "lora_path", "adapter_not_found")
    return root / path
