"""Running a server: limits of size and time, where requests may come from, readiness, metrics, the log, and clients that mean ill."""

from __future__ import annotations

import json
import logging
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import openai
import pytest

import openbook.serve.protocol as protocol
from openbook.engine import Job, Work
from openbook.engine.jobs import Deliver
from openbook.serve.api import Limits
from openbook.serve.api.gate import access
from serve.serving import NAME, Served, running
from serve.test_stream import eventually, idle

BODY = {"model": NAME, "prompt": "a", "max_tokens": 2, "temperature": 0}


@pytest.fixture(scope="module")
def strict(weights: Path) -> Iterator[Served]:
    """A server with little patience, whose model takes its time, and one origin that may come from elsewhere."""
    limits = Limits(body=5000, body_seconds=0.4, seconds=0.8, origins=("https://app.example",))
    with running(weights, slow=lambda: time.sleep(0.01), limits=limits) as served:
        yield served


def address(served: Served) -> tuple[str, int]:
    url = httpx.URL(served.url)
    return url.host, url.port or 0


def test_an_answer_that_takes_too_long_is_a_504_and_its_work_stops(strict: Served) -> None:
    with pytest.raises(openai.InternalServerError) as caught:
        strict.client.completions.create(**BODY | {"max_tokens": 240})  # type: ignore[call-overload]
    assert (caught.value.status_code, caught.value.code) == (504, "timeout")
    eventually(lambda: idle(strict.engine))
    with pytest.raises(openai.APIError, match=r"0\.8 seconds"):
        list(strict.client.completions.create(**BODY | {"max_tokens": 240}, stream=True))  # type: ignore[call-overload]
    eventually(lambda: idle(strict.engine))


def test_the_engine_keeps_the_time_limit_too(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = []
    with running(weights) as served:
        submit = served.engine.submit

        def too_late(jobs: Sequence[Job], deliver: Deliver) -> Work:
            left.extend((job.deadline or 0) - time.monotonic() for job in jobs)
            return submit([replace(job, deadline=time.monotonic() - 1) for job in jobs], deliver)

        monkeypatch.setattr(served.engine, "submit", too_late)
        with pytest.raises(openai.InternalServerError) as caught:
            served.client.completions.create(**BODY)  # type: ignore[call-overload]
        assert (caught.value.status_code, caught.value.code) == (504, "timeout")
        with pytest.raises(openai.APIError, match="longer than the 600 seconds"):
            list(served.client.completions.create(**BODY, stream=True))  # type: ignore[call-overload]
    assert len(left) == 2 and all(500 < seconds <= 600 for seconds in left)


def test_a_body_that_does_not_come_is_a_408(strict: Served) -> None:
    with socket.create_connection(address(strict)) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        client.settimeout(5)
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("content", [b"", b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nX-"])
def test_a_head_that_does_not_come_loses_its_connection(weights: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Slow-loris. Whoever behaves is not hurt: a connection that is kept alive can be idle between requests."""
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.3)
    with running(weights) as served:
        loris = [socket.create_connection(address(served)) for _ in range(20)]
        for connection in loris:
            connection.sendall(content)
        with httpx.Client() as polite:
            assert polite.get(f"{served.url}/health").status_code == 200
            time.sleep(0.5)
            assert polite.get(f"{served.url}/health").status_code == 200
            assert polite.post(f"{served.url}/v1/completions", json=BODY).status_code == 200
        for connection in loris:
            connection.settimeout(5)
            with suppress(ConnectionResetError):
                assert connection.recv(10) == b""
            connection.close()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /health HTTP/1.1\r\nHost: a\r\nX-Big: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\n" + b"X-Many: a\r\n" * 20_000 + b"\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",
        b"GET /health HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda head: str(head[:30]),
)
def test_heads_that_are_none_are_refused(served: Served, head: bytes) -> None:
    with socket.create_connection(address(served)) as client:
        client.settimeout(5)
        try:
            client.sendall(head)
            answer = client.recv(4096)
        except ConnectionError:
            answer = b""
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.0 4"))
    assert httpx.get(f"{served.url}/health").status_code == 200


def test_a_body_too_large_for_this_server(strict: Served) -> None:
    response = httpx.post(f"{strict.url}/v1/completions", json={**BODY, "prompt": "a" * 6000})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "anything.example"}, 200),  # no browser: curl, a proxy
        ({"Origin": "http://{host}"}, 200),
        ({"Origin": "https://app.example"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "https://evil.example", "Host": "evil.example"}, 403),  # a name of theirs that leads here
        ({"Sec-Fetch-Site": "same-origin", "Host": "evil.example:8000"}, 403),
        ({"Sec-Fetch-Site": "none", "Host": "localhost:8000"}, 200),
    ],
    ids=str,
)
def test_web_pages_of_others_may_not_use_it(strict: Served, headers: dict[str, str], status: int) -> None:
    host = httpx.URL(strict.url).netloc.decode()
    sent = {name: value.format(host=host) for name, value in headers.items()}
    response = httpx.post(f"{strict.url}/v1/completions", content=json.dumps(BODY), headers={"Content-Type": "text/plain", **sent})
    assert response.status_code == status
    allowed = response.headers.get("access-control-allow-origin")
    assert allowed == ("https://app.example" if headers.get("Origin") == "https://app.example" else None)


def test_no_page_may_ask_unless_it_is_allowed(served: Served) -> None:
    headers = {"Origin": "https://example.com", "Access-Control-Request-Method": "POST"}
    response = httpx.options(f"{served.url}/v1/completions", headers=headers)
    assert response.status_code == 403
    assert not [name for name in response.headers if name.lower().startswith("access-control")]


def test_ready_until_it_stops(strict: Served) -> None:
    assert httpx.get(f"{strict.url}/ready").status_code == 200
    strict.desk.draining = True
    try:
        assert httpx.get(f"{strict.url}/ready").status_code == 503
        assert httpx.get(f"{strict.url}/health").status_code == 200
        with pytest.raises(openai.InternalServerError) as caught:
            strict.client.completions.create(**BODY)  # type: ignore[call-overload]
        assert (caught.value.status_code, caught.value.code) == (503, "stopping")
    finally:
        strict.desk.draining = False


def test_metrics_count(weights: Path) -> None:
    with running(weights) as served:
        for _ in range(3):
            served.client.completions.create(**BODY)  # type: ignore[call-overload]
        httpx.get(f"{served.url}/made/up/{'x' * 50}")
        page = httpx.get(f"{served.url}/metrics").text
    assert f'openbook_requests_total{{model="{NAME}",path="/v1/completions",status="200"}} 3.0' in page
    assert f'openbook_completion_tokens_total{{model="{NAME}"}} 6.0' in page
    assert f'openbook_first_token_seconds_count{{model="{NAME}"}} 3.0' in page
    assert f'openbook_sequences_running{{model="{NAME}"}} 0.0' in page
    assert "made" not in page, "what clients make up makes no new series"


def test_the_log_is_json_without_the_text(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=access.name):
        response = served.client.completions.with_raw_response.create(**BODY | {"prompt": "a secret"})  # type: ignore[call-overload]
    lines = [json.loads(record.message) for record in caplog.records if record.name == access.name]
    (line,) = [line for line in lines if line["id"] == response.headers["x-request-id"]]
    assert (line["method"], line["path"], line["status"], line["model"]) == ("POST", "/v1/completions", 200, NAME)
    assert line["completion_tokens"] == 2 and line["prompt_tokens"] > 0 and line["seconds"] >= line["first_token_seconds"] > 0
    assert "secret" not in json.dumps(line)


def test_several_models_in_one_server(served: Served) -> None:
    """A model that comes and goes while the server runs."""
    models: Any = served.desk.models
    models["org/second:v1"] = models[NAME]
    try:
        assert [model.id for model in served.client.models.list()] == [NAME, "org/second:v1"]
        assert served.client.models.retrieve("org/second:v1").id
        assert served.client.completions.create(**BODY | {"model": "org/second:v1"}).model == "org/second:v1"  # type: ignore[call-overload]
    finally:
        del models["org/second:v1"]
    with pytest.raises(openai.NotFoundError):
        served.client.completions.create(**BODY | {"model": "org/second:v1"})  # type: ignore[call-overload]


NAMES = ["../../etc/passwd", "/etc/passwd", "tiny/../tiny", "tiny\x00", "%2e%2e/", "a" * 5000, "", "{{7*7}}", "\u202etiny"]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name[:20]))
def test_a_models_name_is_looked_up_and_nothing_else(served: Served, name: str) -> None:
    response = httpx.post(f"{served.url}/v1/completions", json={**BODY, "model": name})
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (404, "model_not_found") and len(error["message"]) < 400
    if name:
        assert httpx.get(f"{served.url}/v1/models/{quote(name, safe='')}").status_code == 404


def test_the_documents(served: Served) -> None:
    content = httpx.get(f"{served.url}/openapi.json").json()
    assert content["paths"].keys() >= {"/v1/completions", "/v1/chat/completions", "/v1/files/{identifier}", "/metrics"}
    references = set(json.dumps(content).split('"#/components/schemas/')[1:])
    assert {reference.split('"')[0] for reference in references} <= content["components"]["schemas"].keys()
    page = httpx.get(f"{served.url}/docs").text
    assert "POST /v1/embeddings" in page and "max_completion_tokens" in page
    assert "http://" not in page and "https://" not in page, "nothing from elsewhere"


def test_a_chat_that_is_closed_stops_the_work(weights: Path) -> None:
    with running(weights, slow=lambda: time.sleep(0.01)) as served:
        messages: Any = [{"role": "user", "content": "a"}]
        for path, body in (("/v1/chat/completions", {"messages": messages}), ("/v1/responses", {"input": "a"})):
            with httpx.stream("POST", served.url + path, json={"model": NAME, "stream": True, "temperature": 0, **body}) as response:
                next(response.iter_lines())
                eventually(lambda: served.engine.running == 1)
            eventually(lambda: idle(served.engine))
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{served.url}/v1/embeddings", json={"model": NAME, "input": ["a" * 100] * 200}, timeout=0.2)
        eventually(lambda: idle(served.engine))


def test_pings_while_nothing_comes(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openbook.serve.api.sse.PING", 0.05)
    with running(weights, slow=lambda: time.sleep(0.2)) as served:
        with httpx.stream("POST", f"{served.url}/v1/completions", json=BODY | {"stream": True}) as response:
            assert ": still here" in response.read().decode()
        stream = served.client.completions.create(**BODY, stream=True)  # type: ignore[call-overload]
        assert "".join(chunk.choices[0].text for chunk in stream), "the client does not mind"


def test_a_failure_in_mid_stream_is_told_in_each_apis_way(weights: Path) -> None:
    passes = iter(range(1000))

    def fail_now_and_then() -> None:
        if next(passes) % 4 == 3:
            raise RuntimeError("secret detail")

    bodies: dict[str, dict[str, Any]] = {
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
        "/v1/responses": {"input": "a"},
    }
    with running(weights, slow=fail_now_and_then) as served:
        for path, body in bodies.items():
            answer = httpx.post(served.url + path, json={"model": NAME, "stream": True, "temperature": 0, **body}).text
            *_, last, end = [frame for frame in answer.split("\n\n") if frame] if "DONE" in answer else [*answer.strip().split("\n\n"), ""]
            content = json.loads(last.split("data: ")[1])
            message = content["message"] if path == "/v1/responses" else content["error"]["message"]
            assert "RuntimeError" in message and "secret" not in answer
            assert end == ("" if path == "/v1/responses" else "data: [DONE]")
        events = list(served.client.responses.create(model=NAME, input="a", stream=True, temperature=0))
        assert events[-1].type == "error", "the client hands it on"
