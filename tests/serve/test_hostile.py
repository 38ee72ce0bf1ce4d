"""A few hundred of the requests that `benchmarks/hostile.py` sends by the thousand."""

from __future__ import annotations

import logging
import socket
from typing import Any

import httpx
import pytest

from hostile import bombard, canary
from openbook.serve.api.gate import access
from serve.serving import NAME, Served
from serve.test_stream import eventually


def test_no_request_does_harm(chatty: Served) -> None:
    before = canary(chatty.url)
    statuses = bombard(chatty.url, 250, seed=7)
    assert statuses[200] > 10 and statuses[400] > 50
    assert canary(chatty.url) == before


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/v1/chat/completions", {"type": "image_url", "image_url": {"url": "URL"}}),
        ("/v1/chat/completions", {"type": "file", "file": {"file_id": "../../etc/passwd"}}),
        ("/v1/responses", {"type": "input_image", "image_url": "URL"}),
        ("/v1/responses", {"type": "input_file", "file_url": "URL"}),
        ("/v1/responses", {"type": "mcp", "server_label": "x", "server_url": "URL"}),
    ],
)
def test_no_address_in_a_request_is_ever_called(chatty: Served, path: str, part: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as inner:
        inner.setblocking(False)
        url = f"http://127.0.0.1:{inner.getsockname()[1]}/"
        shown = {key: url if value == "URL" else {"url": url} if value == {"url": "URL"} else value for key, value in part.items()}
        said = [{"role": "user", "content": [shown]}]
        asked = {"messages": said} if "chat" in path else {"input": said} if shown["type"] != "mcp" else {"input": "a", "tools": [shown]}
        assert httpx.post(chatty.url + path, json={"model": NAME, **asked}, timeout=60).status_code == 400
        with pytest.raises(BlockingIOError):
            inner.accept()


def test_nobody_writes_lines_of_the_log(chatty: Served, caplog: pytest.LogCaptureFixture) -> None:
    def lines() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name == access.name]

    forged = 'x\n{"status": 200}\r\x1b[2J\u202e'
    with caplog.at_level(logging.INFO, access.name):
        assert httpx.post(f"{chatty.url}/v1/completions", json={"model": forged, "prompt": "a"}, timeout=60).status_code == 404
        assert httpx.get(f"{chatty.url}/v1/models/%0a%1b%5b2J{'%e2%80%ae'}", timeout=60).status_code == 404
        paths = ('"/v1/completions"', '"/v1/models/')
        eventually(lambda: all(any(path in line for line in lines()) for path in paths))  # a line is written after its answer
    assert all(line.isascii() and line.isprintable() for line in lines())


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n" * 10**6 + b"--x\r\n",
        b"--x\r\nA: " + b"a" * 10**6,
        b"".join(b'--x\r\nContent-Disposition: form-data; name="f%d"\r\n\r\n\r\n' % number for number in range(20_000)) + b"--x--",
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"-" * 10**6,
    ],
    ids=["line ends before a form", "a head without end", "fields without number", "a file without end"],
)
def test_forms_that_are_bombs(chatty: Served, body: bytes) -> None:
    answer = httpx.post(f"{chatty.url}/v1/files", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"}, timeout=60)
    assert answer.status_code == 400 and answer.json()["error"]["message"]
