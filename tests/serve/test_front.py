"""Keys, quotas, usage and aliases before a live server, as clients and as attackers meet them."""

from __future__ import annotations

import json
import logging
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import openai
import pytest

from openbook.accounts.aliases import parse_alias
from openbook.accounts.keys import Grants
from openbook.accounts.store import Store
from openbook.errors import InputError
from openbook.serve.api.gate import access
from serve.fronts import Guarded, guarded

HTTP = httpx.Client(timeout=20, follow_redirects=False)
WORK = {"prompt": "def", "max_tokens": 3, "temperature": 0}


@pytest.fixture(scope="module")
def door(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded(weights, tmp_path_factory.mktemp("door")) as door:
        door.key("somebody who came first")
        yield door


def post(door: Guarded, text: str, body: object = None, path: str = "/v1/completions", **headers: str) -> httpx.Response:
    content = body if isinstance(body, str) else json.dumps(body or {"model": "tiny", **WORK})
    return HTTP.post(door.url + path, content=content, headers={"Authorization": f"Bearer {text}", **headers})


def rows(door: Guarded, key: str) -> list[sqlite3.Row]:
    return door.store.read("select * from usage where key = ? order by id", key)


def test_it_is_open_until_there_is_a_key_and_never_again(weights: Path, tmp_path: Path) -> None:
    with guarded(weights, tmp_path) as door:
        assert door.client("whatever").completions.create(model="tiny", **WORK).choices
        key, text = door.key("first")
        with pytest.raises(openai.AuthenticationError):
            door.client("whatever").completions.create(model="tiny", **WORK)
        assert door.client(text).completions.create(model="tiny", **WORK).choices
        door.store.revoke(key)
        with pytest.raises(openai.AuthenticationError, match="not known here, or revoked"):
            door.client(text).completions.create(model="tiny", **WORK)
        assert [row["key"] for row in door.store.read("select key from usage order by id")] == [None, key.id]


def test_every_path_but_pages_and_probes_wants_a_key(door: Guarded) -> None:
    _, text = door.key("reader")
    paths = ["/v1/models", "/metrics", "/v1/files", "/v1/batches", "/v1//completions", "/nothing", "/v1/completions/", "/%2fhealth"]
    for path in paths:
        assert HTTP.get(door.url + path).status_code == 401, path
        assert HTTP.post(door.url + path, json=WORK).status_code == 401, path
    for path in ("/metrics", "/v1/filesystem", "/v1//files", "/v1//completions", "/nothing", "/v1/files/../metrics"):
        assert HTTP.get(door.url + path, headers={"Authorization": f"Bearer {text}"}).status_code == 403, path
    for path in ("/health", "/ready", "/openapi.json"):
        assert HTTP.get(door.url + path).status_code == 200, path
    _, admin = door.key("operator", admin=True)
    assert HTTP.get(door.url + "/metrics", headers={"Authorization": f"bearer {admin}"}).status_code == 200


def test_a_refusal_has_openai_s_shape(door: Guarded) -> None:
    answer = post(door, "ob-000000000000-nothing")
    assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"] == "invalid_api_key"


def test_two_authorizations_are_none(door: Guarded) -> None:
    _, text = door.key("twice")
    for order in ((text, "other"), ("other", text), (text, text)):
        headers = [("Authorization", f"Bearer {value}") for value in order]
        assert HTTP.get(door.url + "/v1/models", headers=headers).status_code == 401
    for value in (f"Basic {text}", text, f"Bearer {text}, Bearer {text}", "Bearer", f"Bearer {text}\xe9".encode("latin-1")):
        assert HTTP.get(door.url + "/v1/models", headers={"Authorization": value}).status_code == 401


def test_a_key_in_the_address_is_refused_and_reaches_no_log(door: Guarded, caplog: pytest.LogCaptureFixture) -> None:
    _, text = door.key("careless")
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.INFO, access.name):
        answer = HTTP.post(f"{door.url}/v1/completions?api_key={text}", json=WORK, headers={"Authorization": f"Bearer {text}"})
        assert post(door, text).status_code == 200
        deadline = time.monotonic() + 10
        while True:  # a line is written after its answer
            ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
            if any('"key": "' in line for line in ours):
                break
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert answer.status_code == 400 and "revoke" in answer.json()["error"]["message"]
    assert text not in answer.text + "".join(ours)
    for file in door.store.path.parent.iterdir():
        assert text.rpartition("-")[2].encode() not in file.read_bytes(), "the store has only the hash"


def test_a_key_for_some_models_learns_of_no_others(door: Guarded) -> None:
    _, text = door.key("narrow", models=("prod",))
    door.store.set_alias("prod", (("tiny", 1),))
    client = door.client(text)
    assert [model.id for model in client.models.list()] == ["prod"]
    assert client.completions.create(model="prod", **WORK).model == "tiny"
    answers = {}
    for name in ("tiny", "absent", "TINY", "tiny ", "../tiny", "tiny\0", "pro", "prod:1"):
        with pytest.raises(openai.PermissionDeniedError) as refused:
            client.completions.create(model=name, **WORK)
        answers[refused.value.message.replace(repr(name), "NAME")] = name
        assert refused.value.code == "model_not_allowed"
    assert len(answers) == 1, "a model that is there and one that is not get the same answer"
    assert post(door, text, WORK).status_code == 403, "no name is the first model's"
    twice = '{"model": "prod", "model": "tiny", "prompt": "a"}'
    assert post(door, text, twice).status_code == 403
    assert post(door, text, twice.replace('"tiny"', '["prod"]')).status_code == 400
    for path in ("/tokenize", "/v1/embeddings", "/v1/chat/completions", "/infill", "/detokenize", "/v1/responses"):
        assert post(door, text, {"model": "tiny"}, path).status_code == 403, path
    assert HTTP.get(f"{door.url}/v1/models/tiny", headers={"Authorization": f"Bearer {text}"}).status_code == 403
    assert client.models.retrieve("prod").id == "prod"


def test_limits_are_told_in_headers_and_kept(door: Guarded) -> None:
    key, text = door.key("limited", requests_per_minute=2, tokens_per_minute=1000)
    first = post(door, text)
    assert first.status_code == 200 and first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-limit-tokens"] == "1000" and first.headers["x-ratelimit-remaining-tokens"] == "996"
    with door.client(text).completions.with_streaming_response.create(model="tiny", stream=True, **WORK) as streamed:
        assert streamed.headers["x-ratelimit-remaining-requests"] == "0"
        assert "[DONE]" in streamed.read().decode()
    refused = post(door, text)
    assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 30
    assert refused.json()["error"] == {
        "message": refused.json()["error"]["message"], "type": "rate_limit_error", "param": None, "code": "rate_limit_exceeded"
    }  # fmt: skip
    door.store.limit(key, Grants(requests_per_minute=4))
    assert post(door, text).status_code == 200, "a limit that is raised holds from the next request on"
    assert [row["status"] for row in rows(door, key.id)] == [200, 200, 200]


def test_requests_at_a_time(door: Guarded) -> None:
    _, text = door.key("one at a time", concurrency=1)
    stream = door.client(text).completions.create(model="tiny", prompt="def", max_tokens=200, stream=True, temperature=0)
    next(iter(stream))
    assert post(door, text).status_code == 429
    stream.close()
    deadline = time.monotonic() + 10
    while post(door, text).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_row_is_written_for_what_was_used_and_a_month_s_budget_counts_it(door: Guarded) -> None:
    key, text = door.key("thrifty", monthly_tokens=20)
    answer = door.client(text).completions.create(model="tiny", prompt="def", max_tokens=3, temperature=0)
    (row,) = rows(door, key.id)
    assert answer.usage is not None
    assert (row["prompt_tokens"], row["completion_tokens"]) == (answer.usage.prompt_tokens, 3)
    assert (row["model"], row["path"], row["status"], row["counted"], row["joules"]) == ("tiny", "/v1/completions", 200, "exact", None)
    assert row["milliseconds"] > 0
    with pytest.raises(openai.RateLimitError) as refused:
        door.client(text).completions.create(model="tiny", prompt="def", max_tokens=20)
    assert refused.value.code == "insufficient_quota"
    assert post(door, text, {"model": "tiny", "prompt": "def", "max_tokens": 3, "temperature": 9}).status_code == 400
    assert [(row["status"], row["prompt_tokens"]) for row in rows(door, key.id)] == [(200, answer.usage.prompt_tokens), (400, 0)]


def test_a_client_that_leaves_pays_for_what_was_drawn(door: Guarded) -> None:
    key, text = door.key("leaver")
    stream = door.client(text).completions.create(model="tiny", prompt="def", max_tokens=200, stream=True, temperature=0)
    for _, _ in zip(range(3), stream, strict=False):
        pass
    stream.close()
    deadline = time.monotonic() + 10
    while not (found := rows(door, key.id)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert found[0]["status"] == 200 and 3 <= found[0]["completion_tokens"] < 200


def test_an_alias_is_moved_and_rolled_back_while_the_server_runs(weights: Path, tmp_path: Path) -> None:
    with guarded(weights, tmp_path) as door:
        models = door.served.desk.models
        door.served.desk.models = {name: replace(models["tiny"], name=name) for name in ("a", "b")}
        door.store.set_models(["a", "b"])
        client = door.client("none")

        def served_by(count: int = 40) -> Counter[str]:
            answers = [post(door, "none", {"model": "prod", "prompt": "x", "max_tokens": 1, "user": str(user)}) for user in range(count)]
            return Counter(answer.json()["model"] for answer in answers)

        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="prod", **WORK)
        door.store.set_alias(*parse_alias("prod=a"))
        assert served_by(5) == {"a": 5}
        door.store.set_alias(*parse_alias("prod=a:60,b:40"))
        split = served_by()
        assert split == served_by() and split["a"] > split["b"] > 5, "the same users get the same model"
        assert door.store.roll_back("prod") == (("a", 1),)
        assert served_by(5) == {"a": 5}
        assert {model.id for model in client.models.list()} == {"a", "b", "prod"}
        door.store.set_alias("prod", ())
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="prod", **WORK)
        for odd, why in (("prod=absent", "not a model of the server"), ("a=b", "is the name of a model")):
            with pytest.raises(InputError, match=why):
                door.store.set_alias(*parse_alias(odd))


def test_many_at_once_are_all_counted(door: Guarded) -> None:
    key, text = door.key("crowd", tokens_per_minute=10_000)
    threads = [threading.Thread(target=post, args=(door, text)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["completion_tokens"] for row in rows(door, key.id)] == [3] * 16


def test_heads_that_two_readers_could_understand_differently_are_refused(door: Guarded) -> None:
    _, text = door.key("smuggler")
    body = json.dumps({"model": "tiny", **WORK})
    common = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {text}\r\n"
    for head in (
        f"Content-Length: {len(body)}\r\nContent-Length: {len(body) + 5}\r\n",
        f"Content-Length: {len(body)}\r\nTransfer-Encoding: chunked, identity\r\n",
        f"Content-Length: {len(body)}\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: xchunked\r\n",
        f"Content-Length : {len(body)}\r\n",
        f"X-One: a\r\n folded\r\nContent-Length: +{len(body)}\r\n",
    ):
        with socket.create_connection(("127.0.0.1", httpx.URL(door.url).port or 0), timeout=5) as line:
            line.sendall((common + head + "\r\n" + body).encode())
            assert line.recv(100).startswith(b"HTTP/1.1 400"), head


def test_a_store_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such store"):
        Store(tmp_path / "absent")
    (tmp_path / "text").write_text("hello, this is no database at all" * 100)
    with pytest.raises(InputError, match="is not a store"):
        Store(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other")
    other.execute("create table things (id)")
    other.close()
    with pytest.raises(InputError, match="of another program"):
        Store(tmp_path / "other")
    Store(tmp_path / "newer", create=True).close()
    newer = sqlite3.connect(tmp_path / "newer")
    newer.execute("pragma user_version = 9")
    newer.close()
    with pytest.raises(InputError, match="version 9"):
        Store(tmp_path / "newer")
    assert (tmp_path / "newer").stat().st_mode & 0o077 == 0
