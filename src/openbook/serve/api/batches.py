"""`/v1/batches`: a file of requests, answered one after another while others are served, each exactly once in the output.

A batch's state is its object in the data folder and the lines of its output that are whole. A server that starts again, after whatever
ended it, drops a line that was cut, skips the requests that have an answer, and goes on with the others.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from starlette.concurrency import run_in_threadpool

from openbook.serve.api.answers import Answer
from openbook.serve.api.desk import Account
from openbook.serve.api.files import Files, Store
from openbook.serve.api.wire import Wire
from openbook.serve.errors import ApiError, failed, invalid

AT_ONCE = 4
"""Requests of a batch under way at the same time."""

NOTED_EVERY = 1.0
"""Seconds between two notes of how far a batch is."""

MOST_LINES = 50_000
LINE = 2 * 2**20
Begin = Callable[[bytes, Account], Awaitable[Answer]]


class BatchRequest(Wire):
    """The body of `POST /v1/batches`."""

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"] = "24h"
    metadata: dict[str, str] = {}


class Batches:
    """Runs batches in the background; `endpoints` are those whose requests a batch may hold."""

    def __init__(self, folder: Path, files: Files, endpoints: dict[str, Begin]) -> None:
        self.store, self.files, self._endpoints = Store(folder, "batch"), files, endpoints
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def resume(self) -> None:
        """Goes on with every batch that has not ended. To be called on the event loop."""
        for batch in self.store.all():
            if batch["status"] in ("validating", "in_progress", "finalizing", "cancelling"):
                self._start(batch["id"])

    async def stop(self) -> None:
        """Ends the work; what is not done is for the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def create(self, asked: BatchRequest) -> dict[str, Any]:
        """Raises ApiError for an endpoint or a file that cannot be used."""
        if asked.endpoint not in self._endpoints:
            raise invalid("endpoint", f"must be one of {', '.join(self._endpoints)}")
        try:
            self.files.get(asked.input_file_id)
        except ApiError as error:
            raise invalid("input_file_id", error.message) from None
        now = int(time.time())
        batch: dict[str, Any] = {
            "id": self.store.new_id(),
            "object": "batch",
            "endpoint": asked.endpoint,
            "errors": None,
            "input_file_id": asked.input_file_id,
            "completion_window": asked.completion_window,
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": now,
            "expires_at": now + 24 * 3600,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": asked.metadata,
        }
        self.store.put(batch)
        self._start(batch["id"])
        return batch

    def cancel(self, identifier: str) -> dict[str, Any]:
        batch = self.store.get(identifier)
        if batch["status"] in ("validating", "in_progress"):
            batch |= {"status": "cancelling", "cancelling_at": int(time.time())}
            self.store.put(batch)
            if identifier in self._tasks:
                self._tasks[identifier].cancel()
            self._start(identifier)
        return batch

    def _start(self, identifier: str) -> None:
        before = self._tasks.get(identifier)
        task = asyncio.create_task(self._run(identifier, before))
        self._tasks[identifier] = task
        task.add_done_callback(lambda ended: self._forget(identifier, ended))

    def _forget(self, identifier: str, ended: asyncio.Task[None]) -> None:
        if self._tasks.get(identifier) is ended:
            del self._tasks[identifier]

    async def _run(self, identifier: str, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.gather(before, return_exceptions=True)
        batch = self.store.get(identifier)
        output = Output(self.files, batch)
        if batch["status"] != "cancelling":
            try:
                requests = await run_in_threadpool(self._read, batch)
            except ApiError as error:
                line = {"code": error.code or "invalid_file", "message": error.message, "param": error.param, "line": None}
                self._end(batch, "failed", errors={"object": "list", "data": [line]})
                return
            answered = output.answered()
            batch |= {"status": "in_progress", "in_progress_at": batch.get("in_progress_at") or int(time.time())}
            batch["request_counts"] = {"total": len(requests), **output.counts}
            self.store.put(batch)
            if not await self._answer(batch, [request for request in requests if request["custom_id"] not in answered], output):
                return
        else:
            output.answered()
        self._end(batch, "cancelled" if batch["status"] == "cancelling" else "completed", **output.close())

    def _end(self, batch: dict[str, Any], status: str, **values: Any) -> None:
        self.store.put({**batch, "status": status, f"{status}_at": int(time.time()), **values})

    def _read(self, batch: dict[str, Any]) -> list[dict[str, Any]]:
        """The requests of the input file. Raises ApiError that names the line."""
        requests: list[dict[str, Any]] = []
        names: set[str] = set()
        with self.files.path(batch["input_file_id"]).open("rb") as lines:
            for number, line in enumerate(iter(lambda: lines.readline(LINE + 1), b""), 1):
                if not line.strip():
                    continue
                request = _request(line, number, batch["endpoint"])
                if request["custom_id"] in names:
                    raise invalid(None, f"line {number}: custom_id {request['custom_id'][:60]!r} is there twice", "duplicate_custom_id")
                if len(names) == MOST_LINES:
                    raise invalid(None, f"has more than {MOST_LINES} requests", "too_many_requests")
                names.add(request["custom_id"])
                requests.append(request)
        if not requests:
            raise invalid(None, "the input file has no requests", "empty_file")
        return requests

    async def _answer(self, batch: dict[str, Any], requests: list[dict[str, Any]], output: Output) -> bool:
        """False if the server stops before all have an answer."""
        waiting, stopped, noted = iter(requests), False, time.monotonic()

        async def work() -> None:
            nonlocal stopped, noted
            for request in waiting:
                status, body = await self._one(batch["endpoint"], request)
                stopped = stopped or body.get("error", {}).get("code") == "stopping"
                if stopped:
                    return
                output.add(request["custom_id"], status, body)
                if time.monotonic() - noted > NOTED_EVERY:
                    noted = time.monotonic()
                    batch["request_counts"] |= output.counts
                    self.store.put(batch)

        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(work())
        batch["request_counts"] |= output.counts
        return not stopped

    async def _one(self, endpoint: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(status, body) of an answer. A full queue is waited for: whoever asks in person comes first."""
        body = json.dumps({**request["body"], "stream": False}).encode()
        while True:
            try:
                answer = await self._endpoints[endpoint](body, Account())
                try:
                    return 200, await answer.whole()
                finally:
                    answer.abandon()
            except Exception as error:
                told = error if isinstance(error, ApiError) else failed(error)
                if told.status != 429:
                    return told.status, told.body()
            await asyncio.sleep(1)


def _request(line: bytes, number: int, endpoint: str) -> dict[str, Any]:
    if len(line) > LINE:
        raise invalid(None, f"line {number}: is longer than {LINE} bytes", "line_too_long")
    try:
        request = json.loads(line)
        named, shaped = isinstance(request["custom_id"], str), isinstance(request["body"], dict)
    except (ValueError, RecursionError, KeyError, TypeError):
        named = shaped = False
    if not (named and shaped):
        raise invalid(
            None, f'line {number}: must be {{"custom_id": "…", "method": "POST", "url": "…", "body": {{…}}}}', "invalid_json_line"
        )
    if request.get("method") != "POST" or request.get("url") != endpoint:
        raise invalid(None, f"line {number}: must be a POST to {endpoint}, as the batch says", "mismatched_endpoint")
    return request


class Output:
    """The files of answers and of errors of a batch, written line by line."""

    def __init__(self, files: Files, batch: dict[str, Any]) -> None:
        self._files, self._batch = files, batch
        number = batch["id"].removeprefix("batch-")
        self._ids = {"output": f"file-{number}", "error": f"file-{uuid.uuid5(uuid.UUID(number), 'error').hex}"}
        self.counts = {"completed": 0, "failed": 0}

    def answered(self) -> set[str]:
        """The requests that have an answer; what was written of another is dropped."""
        names = set()
        for kind, count in (("output", "completed"), ("error", "failed")):
            path = self._files.path(self._ids[kind])
            if not path.exists():
                continue
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            with path.open("r+b") as out:
                out.truncate(len(whole))
            found = [json.loads(line)["custom_id"] for line in whole.splitlines()]
            self.counts[count] = len(found)
            names.update(found)
        return names

    def add(self, custom_id: str, status: int, body: dict[str, Any]) -> None:
        fine = status == 200
        response = {"status_code": status, "request_id": f"req_{uuid.uuid4().hex}", "body": body}
        line = {"id": f"batch_req_{uuid.uuid4().hex}", "custom_id": custom_id, "response": response, "error": None}
        with self._files.path(self._ids["output" if fine else "error"]).open("ab") as out:
            out.write(json.dumps(line).encode() + b"\n")
        self.counts["completed" if fine else "failed"] += 1

    def close(self) -> dict[str, str]:
        """Makes the files known; the batch's fields that name them."""
        ids = {}
        for kind, identifier in self._ids.items():
            path = self._files.path(identifier)
            if path.exists():
                self._files.describe(identifier, path.stat().st_size, f"{self._batch['id']}_{kind}.jsonl", "batch_output")
                ids[f"{kind}_file_id"] = identifier
        return ids
