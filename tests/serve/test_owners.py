"""Whose a file and a batch are: each key meets its own only, and what a batch does is its key's doing."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from openbook.accounts.keys import Grants
from openbook.serve.api import Limits, batches
from serve.fronts import Guarded, guarded
from serve.serving import running
from serve.stub import says, stub
from serve.test_storage import ended, lines, output, start, until, upload
from serve.test_upstream import WHOLE


@pytest.fixture(scope="module")
def door(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("owners")
    with guarded(weights, folder, data=folder / "data") as door:
        yield door


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "AGAIN", 0.02)


def rows(door: Guarded, key: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in door.store.read("select model, status, completion_tokens from usage where key = ? order by id", key)]


def test_what_is_another_s_is_not_there(door: Guarded) -> None:
    (_, ann), (_, bob), (_, operator) = door.key("ann"), door.key("bob"), door.key("operator", admin=True)
    hers, his, admin = door.client(ann), door.client(bob), door.client(operator)
    batch = until(hers, start(hers, lines(2)), ended)
    file, made = batch.input_file_id, batch.output_file_id or ""
    assert {entry.id for entry in hers.files.list()} == {entry.id for entry in admin.files.list()} == {file, made}
    assert his.files.list().data == [] and his.batches.list().data == []
    assert "owner" not in json.dumps([entry.to_dict() for entry in [*hers.files.list(), *hers.batches.list()]])

    def refusals(client: openai.OpenAI, file: str, batch: str) -> list[str]:
        said = []
        for ask in (
            lambda: client.files.retrieve(file),
            lambda: client.files.content(file),
            lambda: client.files.delete(file),
            lambda: client.files.list(after=file),
            lambda: client.batches.retrieve(batch),
            lambda: client.batches.cancel(batch),
            lambda: client.batches.list(after=batch),
        ):
            with pytest.raises(openai.NotFoundError) as refused:
                ask()
            said.append(refused.value.message.replace(file, "FILE").replace(batch, "BATCH"))
        with pytest.raises(openai.BadRequestError) as refused:
            client.batches.create(input_file_id=file, endpoint="/v1/completions", completion_window="24h")
        return [*said, refused.value.message.replace(file, "FILE")]

    absent = refusals(his, "file-" + "0" * 32, "batch-" + "0" * 32)
    assert refusals(his, file, batch.id) == absent, "what is another's and what is nowhere get the same answers"
    assert len(output(hers, made)) == len(output(admin, made)) == 2
    kept = [path.stat().st_mode & 0o077 for path in door.store.path.parent.glob("data/*")]
    assert kept == [0, 0], "nor are they for the machine's other users"
    assert admin.batches.retrieve(batch.id).id == batch.id
    assert admin.files.delete(file).deleted and hers.files.delete(made).deleted


def test_lines_are_asked_by_the_key_that_made_the_batch(door: Guarded) -> None:
    """Its models, its aliases, its rows; and what it may not ask is refused line by line."""
    key, text = door.key("cautious", models=("prod",), concurrency=1)
    door.store.set_alias("prod", (("tiny", 1),))
    client = door.client(text)
    content = lines(3, model="prod") + b"\n" + lines(1, model="tiny").replace(b"request 0", b"not for this key")
    batch = until(client, start(client, content), ended)
    assert {answer["response"]["body"]["model"] for answer in output(client, batch.output_file_id)} == {"tiny"}
    (refused,) = output(client, batch.error_file_id)
    assert refused["custom_id"] == "not for this key" and refused["response"]["status_code"] == 403
    assert rows(door, key.id) == [("tiny", 200, 3)] * 3


def test_a_month_s_budget_ends_a_batch_and_a_minute_s_only_delays_it(door: Guarded) -> None:
    key, text = door.key("thrifty", monthly_tokens=9)
    client = door.client(text)
    batch = until(client, start(client, lines(4)), ended)
    assert batch.request_counts is not None and (batch.request_counts.completed, batch.request_counts.failed) == (2, 2)
    assert {line["response"]["body"]["error"]["code"] for line in output(client, batch.error_file_id)} == {"insufficient_quota"}
    key, text = door.key("slow", tokens_per_minute=9)
    client = door.client(text)
    name = start(client, lines(4))
    until(client, name, lambda batch: (batch.request_counts.completed if batch.request_counts else 0) >= 2 or len(rows(door, key.id)) >= 2)
    assert client.batches.retrieve(name).status == "in_progress"
    door.store.limit(key, Grants(tokens_per_minute=10_000))
    assert until(client, name, ended).status == "completed"
    assert rows(door, key.id) == [("tiny", 200, 3)] * 4, "waiting leaves no rows"


def test_a_batch_goes_on_for_its_key_after_a_restart_and_stops_when_it_is_revoked(weights: Path, tmp_path: Path) -> None:
    with guarded(weights, tmp_path, data=tmp_path / "data") as door:
        key, text = door.key("ann", tokens_per_minute=9)
        client = door.client(text)
        name = start(client, lines(4))
        deadline = time.monotonic() + 20
        while len(rows(door, key.id)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    door.store.revoke(key)
    with guarded(weights, tmp_path, data=tmp_path / "data") as door:
        _, operator = door.key("operator", admin=True)
        batch = until(door.client(operator), name, ended)
        told = output(door.client(operator), batch.error_file_id)
        assert {line["response"]["body"]["error"]["code"] for line in told} == {"invalid_api_key"}
        assert batch.request_counts is not None and (batch.request_counts.completed, batch.request_counts.failed) == (2, 2)


def test_lines_for_an_engine_elsewhere(weights: Path, tmp_path: Path) -> None:
    unable = says(b"{}", "503 Service Unavailable")
    with (
        stub(says(WHOLE), unable, unable, unable, says(WHOLE), owner="vllm") as engine,
        guarded(weights, tmp_path, engine.url, data=tmp_path / "data") as door,
    ):
        key, text = door.key("ann")
        client = door.client(text)
        content = lines(1, model="m") + b"\n" + lines(1, model="m", suffix="x").replace(b"request 0", b"not for vLLM")
        batch = until(client, start(client, content), ended)
        (answer,) = output(client, batch.output_file_id)
        assert answer["response"]["body"]["usage"]["prompt_tokens"] == 7 and engine.bodies[0]["cache_salt"] == key.salt
        (refused,) = output(client, batch.error_file_id)
        assert refused["response"]["body"]["error"]["code"] == "unsupported_by_upstream"
        assert rows(door, key.id) == [("m", 200, 2), ("m", 400, 0)] or rows(door, key.id) == [("m", 400, 0), ("m", 200, 2)]


def test_a_key_cannot_fill_the_disk(weights: Path, tmp_path: Path) -> None:
    from openbook.accounts.keys import make
    from openbook.accounts.store import Store
    from openbook.serve.front import open_front

    store = Store(tmp_path / "store.sqlite", create=True)
    key, text = make("greedy", Grants(requests_per_minute=5), admin=False)
    store.add(key)
    limits = Limits(kept=1000, batches=1)
    front = open_front(tmp_path / "store.sqlite", (), None, tmp_path)
    steps = threading.Event()
    with running(weights, data=tmp_path / "data", front=front, limits=limits, slow=lambda: steps.wait(20)) as served:
        client = openai.OpenAI(base_url=f"{served.url}/v1", api_key=text, max_retries=0)
        file = upload(client, b"x" * 999)
        with pytest.raises(openai.APIStatusError, match="delete some") as refused:
            upload(client, b"x" * 2)
        assert refused.value.status_code == 413
        client.files.delete(file)
        assert upload(client, b"x" * 999)
        assert client.files.list().data
        with pytest.raises(openai.RateLimitError, match="5 requests a minute"):
            for _ in range(20):  # one is regained every 12 seconds
                client.files.list()
        store.limit(key, Grants())
        client.files.delete(client.files.list().data[0].id)
        name = start(client, lines(5))
        with pytest.raises(openai.RateLimitError, match="have not ended") as busy:
            start(client, b"x")
        assert busy.value.code == "too_many_batches"
        client.files.delete(client.batches.retrieve(name).input_file_id)
        steps.set()
        done = until(client, name, ended)
        assert done.status in ("completed", "failed"), "a file that is deleted meanwhile leaves no batch hanging"


@pytest.mark.parametrize("depth", [500, 5000])
def test_lines_that_nest_or_expand(weights: Path, tmp_path: Path, depth: int) -> None:
    with running(weights, data=tmp_path) as served:
        bomb = lines(1, prompt="DEEP").replace(b'"DEEP"', b"[" * depth + b"]" * depth)
        batch = until(served.client, start(served.client, lines(1) + b"\n" + bomb.replace(b"request 0", b"bomb")), ended)
        assert batch.status == "failed" and batch.errors is not None and batch.errors.data
        assert batch.errors.data[0].code == "invalid_json_line"
        long = {str(number): "x" for number in range(17)}
        asked = {"input_file_id": "file-x", "endpoint": "/v1/completions", "metadata": long}
        refused = httpx.post(f"{served.url}/v1/batches", json=asked, timeout=60)
        assert refused.status_code == 400 and refused.json()["error"]["param"] == "metadata"
