"""`serve` as a process: its port, its address, and Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from openbook.errors import InputError
from openbook.serve.local import complete, load
from openbook.serve.server import Options, listen, serve, url_of
from serve.serving import running, tokenizer_of

PROGRAM = """
import sys
from pathlib import Path
import torch
from openbook.serve import Options, serve
options = Options(port=0, threads=1, log=sys.argv[1] + "/access.log")
serve({"tiny": Path(sys.argv[1])}, options, lambda url: print(url, torch.get_num_threads(), flush=True))
"""
SLOW_PROGRAM = """
import time
import openbook.serve.server as server
from openbook.engine.model import Runner
server.GRACE = 0.5
Runner.forward = lambda *values, forward=Runner.forward: (time.sleep(0.02), forward(*values))[1]
"""


@contextmanager
def process(weights: Path, program: str = PROGRAM) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and its URL. It is told to use one thread where the environment says two."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", program, str(weights)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            url, threads = server.stdout.readline().split()
            assert threads == "1"
            yield server, url
        finally:
            server.kill()


def test_it_answers_once_it_says_so_and_ctrl_c_ends_it_in_good_order(weights: Path) -> None:
    with process(weights) as (server, url):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        assert client.completions.create(model="tiny", prompt="a", max_tokens=2).choices
        under_way = client.completions.create(model="tiny", prompt="a", max_tokens=60, stream=True, temperature=0)
        seen = [next(iter(under_way))]
        server.send_signal(signal.SIGINT)
        seen += list(under_way)
        assert seen[-1].choices[0].finish_reason == "length", "an answer under way is finished"
        _, errors = server.communicate(timeout=20)
        assert (server.returncode, errors.strip()) == (0, "stopped")
        logged = [json.loads(line) for line in (weights / "access.log").read_text().splitlines()]
        assert [line["completion_tokens"] for line in logged][-2:] == [2, 60]
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")


def test_what_takes_too_long_after_ctrl_c_is_told_so(weights: Path) -> None:
    with process(weights, SLOW_PROGRAM + PROGRAM) as (server, url):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        under_way = client.completions.create(model="tiny", prompt="a", max_tokens=240, stream=True, temperature=0)
        next(iter(under_way))
        server.send_signal(signal.SIGINT)
        with pytest.raises(openai.APIError, match="the server is stopping"):
            list(under_way)
        _, errors = server.communicate(timeout=20)
        assert (server.returncode, errors.strip()) == (0, "stopped")


def test_a_port_in_use_is_one_line_before_the_weights_are_read(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(InputError, match=rf"^port {port} on 127\.0\.0\.1 is in use.*--port") as caught:
            serve({"tiny": tmp_path / "nothing"}, Options(port=port), print)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("host", ["no such host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_here_is_one_line(host: str) -> None:
    with pytest.raises(InputError, match="--host"):
        listen(host, 0)


def test_urls() -> None:
    for host in ("127.0.0.1", "localhost"):
        with listen(host, 0) as listener:
            assert url_of(listener).startswith("http://")
            assert httpx.URL(url_of(listener)).port == listener.getsockname()[1]


def test_weights_that_are_not_there_free_the_port(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        serve({"tiny": tmp_path}, Options(port=port), print)
    listen("127.0.0.1", port).close()


def test_a_tokenizer_of_another_model_is_refused(weights: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((weights / name).read_bytes())
    tokenizer_of(305).save(tmp_path / "tokenizer.json")
    with pytest.raises(InputError, match=r"ids up to 304.*vocab_size = 300"):
        load(tmp_path)


def test_complete_streams(weights: Path) -> None:
    pieces = list(complete(weights, "def", 20, 0.0, 1.0, None))
    assert len(pieces) > 1 and all(pieces)


def test_two_servers_in_one_process_share_nothing(weights: Path) -> None:
    before = inference_threads()
    with running(weights) as one, running(weights) as other:
        one.client.completions.create(model="tiny", prompt="a", max_tokens=3, temperature=0)
        assert (one.engine.tokens, other.engine.tokens) == (3, 0)
    assert inference_threads() == before


def inference_threads() -> int:
    return [thread.name for thread in threading.enumerate()].count("inference")
