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
from typing import Any, BinaryIO, Literal

from starlette.concurrency import run_in_threadpool

from openbook.serve.api.answers import Answer
from openbook.serve.api.desk import Account
from openbook.serve.api.files import Files, Store
from openbook.serve.api.wire import Metadata, Wire, read_json
from openbook.serve.errors import ApiError, failed, invalid

AT_ONCE = 4
"""Requests under way at the same time, of all batches of one key."""

AGAIN = 1.0
"""Seconds until a request that found no room is asked again."""

NOTED_EVERY = 1.0
"""Seconds between two notes of how far a batch is."""

UNDER_WAY = ("validating", "in_progress", "finalizing", "cancelling")
MOST_LINES = 50_000
LINE = 2 * 2**20
Begin = Callable[[bytes, Account], Awaitable[Answer]]


class BatchRequest(Wire):
    """The body of `POST /v1/batches`."""

    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"] = "24h"
    metadata: Metadata = {}


class Batches:
    """Runs batches in the background; `endpoints` are those whose requests a batch may hold."""

    def __init__(self, folder: Path, files: Files, endpoints: dict[str, Begin]) -> None:
        self.store, self.files, self._endpoints = Store(folder, "batch"), files, endpoints
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._turns: dict[str | None, asyncio.Semaphore] = {}

    def resume(self) -> None:
        """Goes on with every batch that has not ended. To be called on the event loop."""
        for batch in self.store.all():
            if batch["status"] in UNDER_WAY:
                self._start(batch["id"])

    async def stop(self) -> None:
        """Ends the work; what is not done is for the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def create(self, asked: BatchRequest, account: Account, most: int) -> dict[str, Any]:
        """Raises ApiError for an endpoint or a file that cannot be used, and beyond `most` batches of one key that have not ended."""
        if asked.endpoint not in self._endpoints:
            raise invalid("endpoint", f"must be one of {', '.join(self._endpoints)}")
        try:
            self.files.find(asked.input_file_id, account)
        except ApiError as error:
            raise invalid("input_file_id", error.message) from None
        if account.key is not None and sum(self.store.get(name).get("owner") == account.key for name in self._tasks) >= most:
            raise ApiError(429, f"this key has {most} batches that have not ended; wait for some, or cancel them", None, "too_many_batches")
        now = int(time.time())
        batch: dict[str, Any] = {
            "id": self.store.new_id(),
            "object": "batch",
            "endpoint": asked.endpoint,
            "input_file_id": asked.input_file_id,
            "completion_window": asked.completion_window,
            "status": "validating",
            "created_at": now,
            "expires_at": now + 24 * 3600,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
            "metadata": asked.metadata,
            "owner": account.key,
        }
        self.store.put(batch)
        self._start(batch["id"])
        return batch

    def cancel(self, identifier: str, account: Account) -> dict[str, Any]:
        batch = self.store.find(identifier, account)
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
        answered = output.answered()
        if batch["status"] != "cancelling":
            try:
                with self._input(batch) as lines:
                    places = await run_in_threadpool(_read, lines, batch["endpoint"])
                    batch |= {"status": "in_progress", "in_progress_at": batch.get("in_progress_at") or int(time.time())}
                    batch["request_counts"] = {"total": len(places), **output.counts}
                    self.store.put(batch)
                    if not await self._answer(batch, lines, [place for name, place in places.items() if name not in answered], output):
                        return
            except ApiError as error:
                line = {"code": error.code or "invalid_file", "message": error.message, "param": error.param, "line": None}
                self._end(batch, "failed", errors={"object": "list", "data": [line]})
                return
        self._end(batch, "cancelled" if batch["status"] == "cancelling" else "completed", **output.close())

    def _end(self, batch: dict[str, Any], status: str, **values: Any) -> None:
        self.store.put({**batch, "status": status, f"{status}_at": int(time.time()), **values})

    def _input(self, batch: dict[str, Any]) -> BinaryIO:
        """To be opened once: who deletes the file meanwhile gets his answers all the same. Raises ApiError."""
        try:
            return self.files.path(batch["input_file_id"]).open("rb")
        except FileNotFoundError:
            raise invalid("input_file_id", "the file has been deleted", "file_not_found") from None

    async def _answer(self, batch: dict[str, Any], lines: BinaryIO, places: list[int], output: Output) -> bool:
        """Answers the lines that begin at these places. False if the server stops before all have an answer."""
        waiting, stopped, noted = iter(places), False, time.monotonic()

        async def work() -> None:
            nonlocal stopped, noted
            for place in waiting:
                lines.seek(place)
                request = read_json(lines.readline())
                status, body = await self._one(batch, request)
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

    async def _one(self, batch: dict[str, Any], request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """(status, body) of an answer. A full queue is waited for, and a key's limits of a minute: whoever asks in person comes first."""
        body, owner = json.dumps({**request["body"], "stream": False}).encode(), batch.get("owner")
        turns = self._turns.setdefault(owner, asyncio.Semaphore(AT_ONCE))
        while True:
            try:
                async with turns:
                    answer = await self._endpoints[batch["endpoint"]](body, Account(key=owner))
                    try:
                        return 200, await answer.whole()
                    finally:
                        answer.abandon()
            except Exception as error:
                told = error if isinstance(error, ApiError) else failed(error)
                if not told.for_later:
                    return told.status, told.body()
            await asyncio.sleep(AGAIN)


def _read(lines: BinaryIO, endpoint: str) -> dict[str, int]:
    """Where in an input file each request's line begins, by its custom_id. Raises ApiError that names the line.

    Requests are read again when their turn comes: as objects, a file's lines may take 24 times the file's own size (`{},{},…`).
    """
    places: dict[str, int] = {}
    number, place = 0, 0
    while line := lines.readline(LINE + 1):
        number += 1
        if line.strip():
            name = _request(line, number, endpoint)["custom_id"]
            if name in places:
                raise invalid(None, f"line {number}: custom_id {name[:60]!r} is there twice", "duplicate_custom_id")
            if len(places) == MOST_LINES:
                raise invalid(None, f"has more than {MOST_LINES} requests", "too_many_requests")
            places[name] = place
        place += len(line)
    if not places:
        raise invalid(None, "the input file has no requests", "empty_file")
    return places


def _request(line: bytes, number: int, endpoint: str) -> dict[str, Any]:
    if len(line) > LINE:
        raise invalid(None, f"line {number}: is longer than {LINE} bytes", "line_too_long")
    try:
        request = read_json(line)
        named, shaped = isinstance(request["custom_id"], str), isinstance(request["body"], dict)
    except (ApiError, KeyError):
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
                name, owner = f"{self._batch['id']}_{kind}.jsonl", self._batch.get("owner")  # none, in a batch of before there were owners
                self._files.describe(identifier, path.stat().st_size, name, "batch_output", owner)
                ids[f"{kind}_file_id"] = identifier
        return ids
