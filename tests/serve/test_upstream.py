"""Engines elsewhere behind the front: another openbook server, and one that misbehaves in every way it is told to."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest

from openbook.accounts.keys import Grants, make
from openbook.accounts.store import Store
from openbook.errors import InputError
from openbook.serve.api import Desk, Limits
from openbook.serve.front import open_front, relay
from openbook.serve.front.capabilities import load_capabilities
from openbook.serve.front.pool import parse_upstream
from serve.fronts import guarded
from serve.serving import Served, serving
from serve.stub import Stub, answer, hangs_up, says, streams, stub

USAGE = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9, "prompt_tokens_details": {"cached_tokens": 4}}
CHUNKS = [b'data: {"id": "1", "choices": [{"index": 0, "text": "h\xc3\xa9"}], "usage": null}\r\n\r\n', b": a comment\n\n",
          b'event: x\ndata: {"choices": [{"index":0,"text":"y","finish_reason":"stop"}]}\n\n']  # fmt: skip
LAST = f'data: {{"choices": [], "usage": {json.dumps(USAGE)}}}\n\n'.encode()
DONE = b"data: [DONE]\n\n"
WHOLE = json.dumps({"id": "1", "object": "text_completion", "model": "m", "choices": [], "usage": USAGE}).encode()
HTTP = httpx.Client(timeout=20)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "BACKOFF", 0.01)


@contextmanager
def front(folder: Path, *upstreams: str) -> Iterator[tuple[str, Store]]:
    """A server that has no model of its own."""
    path = folder / "store.sqlite"
    store = Store(path, create=True)
    with serving(Desk({}, Limits()), open_front(path, upstreams, None, folder)) as url:
        yield url, store


def post(url: str, path: str = "/v1/completions", **body: object) -> httpx.Response:
    return HTTP.post(url + path, json={"model": "m", "prompt": "hello", **body})


def last(store: Store) -> tuple[object, ...]:
    return tuple(store.read("select status, prompt_tokens, cached_tokens, completion_tokens, counted from usage order by id desc")[0])


def test_another_openbook_is_served_as_if_it_were_here(served: Served, weights: Path, tmp_path: Path) -> None:
    with guarded(weights, tmp_path, served.url, name="own") as door:
        key, text = door.key("far")
        client = door.client(text)
        door.store.set_alias("both", (("tiny", 1), ("own", 1)))
        told = httpx.get(f"{door.url}/v1/models", headers={"Authorization": f"Bearer {text}"}).json()["data"]
        assert [card["id"] for card in told] == ["tiny", "own", "both"]
        assert [(card["context_window"], card["fill_in"]) for card in told] == [(256, False)] * 3
        direct = served.client.completions.create(model="tiny", prompt="def", max_tokens=8, temperature=0, logprobs=2, echo=True)
        through = client.completions.create(model="tiny", prompt="def", max_tokens=8, temperature=0, logprobs=2, echo=True)
        assert (through.choices, through.usage) == (direct.choices, direct.usage)
        stream = client.completions.create(model="tiny", prompt="def", max_tokens=8, temperature=0, stream=True)
        assert "".join(chunk.choices[0].text for chunk in stream) == direct.choices[0].text[3:]
        with_usage = list(
            client.completions.create(
                model="tiny", prompt="def", max_tokens=8, temperature=0, stream=True, stream_options={"include_usage": True}
            )
        )
        assert with_usage[-1].usage is not None and with_usage[-1].usage.completion_tokens == 8
        chat = client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}], max_tokens=4, temperature=0)
        assert chat.choices[0].finish_reason
        assert client.embeddings.create(model="tiny", input="def").data
        door.store.set_alias("prod", (("tiny", 1),))
        assert client.completions.create(model="prod", prompt="def", max_tokens=2, temperature=0).model == "tiny"
        with pytest.raises(openai.BadRequestError, match="temperature"):
            client.completions.create(model="tiny", prompt="def", temperature=9)
        assert client.completions.create(model="own", prompt="def", max_tokens=2, temperature=0).choices
        rows = door.store.read("select model, status, completion_tokens, counted from usage where key = ? order by id", key.id)
        assert [tuple(row) for row in rows] == [
            ("tiny", 200, 8, "exact"), ("tiny", 200, 8, "exact"), ("tiny", 200, 8, "exact"), ("tiny", 200, 4, "exact"),
            ("tiny", 200, 0, "exact"), ("tiny", 200, 2, "exact"), ("tiny", 400, 0, "exact"), ("own", 200, 2, "exact"),
        ]  # fmt: skip


def test_a_stream_is_passed_on_byte_for_byte_however_it_is_cut(tmp_path: Path) -> None:
    content = b"".join(CHUNKS) + LAST + DONE
    bytewise = [content[index : index + 1] for index in range(len(content))]
    with (
        stub(streams(content), streams(*bytewise), streams(*CHUNKS, DONE), streams(content)) as engine,
        front(tmp_path, engine.url) as (url, store),
    ):
        for expected in ((200, 7, 4, 2, "exact"), (200, 7, 4, 2, "exact"), (200, 2, 0, 2, "estimated")):
            assert post(url, stream=True).content == b"".join(CHUNKS) + DONE, "all but the usage that the client did not ask for"
            assert last(store) == expected
        assert post(url, stream=True, stream_options={"include_usage": True, "x": 1}).content == content
        assert engine.bodies[0]["stream_options"] == {"include_usage": True}
        assert engine.bodies[-1]["stream_options"] == {"include_usage": True, "x": 1}


def test_nothing_of_a_client_s_own_head_goes_to_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY", "engine-secret")
    with stub(says(WHOLE)) as engine, front(tmp_path, f"{engine.url},key=ENGINE_KEY") as (url, store):
        key, text = make("ann", Grants(), admin=False)
        store.add(key)
        headers = {"Authorization": f"Bearer {text}", "Cookie": "a=b", "X-Forwarded-For": "1.2.3.4", "Transfer-Encoding": "chunked"}
        content = iter([b'{"model": "x", "model": "m", "prompt": "\\ud83d\\ude00"}'])
        assert HTTP.post(f"{url}/v1/completions", headers=headers, content=content).status_code == 200
        assert "authorization: Bearer engine-secret" in engine.heads[0].replace("Authorization", "authorization")
        assert text not in engine.heads[0] and not any(name in engine.heads[0].lower() for name in ("cookie", "forwarded", "chunked"))
        assert engine.bodies == [{"model": "m", "prompt": "\N{GRINNING FACE}"}]
        assert last(store) == (200, 7, 4, 2, "exact")


def test_before_the_first_byte_it_is_tried_again_and_elsewhere(tmp_path: Path) -> None:
    unable = says(b"{}", "503 Service Unavailable")
    with stub(unable, unable, says(WHOLE)) as engine, front(tmp_path, engine.url) as (url, _):
        assert post(url).status_code == 200 and len(engine.bodies) == 3
    (tmp_path / "two").mkdir()
    with stub(hangs_up) as bad, stub(says(WHOLE)) as good, front(tmp_path / "two", bad.url, good.url) as (url, _):
        assert [post(url).status_code for _ in range(4)] == [200] * 4
        assert len(good.bodies) == 4 and len(bad.bodies) <= 2, "one that failed is left out"
    (tmp_path / "three").mkdir()
    with stub(unable) as engine, front(tmp_path / "three", engine.url) as (url, store):
        refused = post(url, stream=True)
        assert (refused.status_code, refused.json()["error"]["code"]) == (502, "upstream_failed") and len(engine.bodies) == 3
        assert last(store) == (502, 0, 0, 0, "exact")


def test_after_the_first_byte_a_failure_is_told(tmp_path: Path) -> None:
    with stub(streams(CHUNKS[0], b"data: {half", end=False)) as engine, front(tmp_path, engine.url) as (url, store):
        got = post(url, stream=True).content
        assert got.startswith(CHUNKS[0] + b'data: {"error"') and got.endswith(DONE)
        assert len(engine.bodies) == 1 and last(store) == (200, 2, 0, 1, "estimated")
        cut = answer(WHOLE)[:-9]
        engine.acts.append(lambda line: line.sendall(cut))
        assert post(url).json()["error"]["code"] == "upstream_failed"


@pytest.mark.parametrize(
    ("act", "status", "says_so"),
    [
        (says(b'{"error": {"message": "too hot", "param": "temperature", "code": 400}}', "400 Bad Request"), 400, "too hot"),
        (says(b'{"detail": "no"}', "422 Unprocessable"), 422, "no"),
        (says(b"<html>secret</html>", "500 Oops"), 500, "status 500"),
        (says(b'{"error": {"message": "invalid key sk-1"}}', "401 Unauthorized"), 502, "refuses this server's key"),
        (says(b"", "302 Found", "Location: http://169.254.169.254/\r\n"), 502, "status 302"),
        (says(b"[1]"), 502, "not an object"),
        (says(b"[" * 100_000), 502, "not JSON"),
        (says(b"\xff{"), 502, "not JSON"),
        (says(b'{"logprob": -Infinity}'), 502, "not JSON"),
        (says(b'{"text": "\\ud800"}'), 502, "not JSON"),
    ],
)
def test_strange_answers(tmp_path: Path, act: object, status: int, says_so: str) -> None:
    with stub(act) as engine, front(tmp_path, engine.url) as (url, _):  # type: ignore[arg-type]
        refused = post(url)
        assert refused.status_code == status and says_so in refused.json()["error"]["message"] and len(engine.bodies) == 1
        assert "sk-1" not in refused.text and "<html>" not in refused.text


def test_what_went_elsewhere_is_in_the_metrics_and_odd_names_are_left_out(tmp_path: Path) -> None:
    with stub(says(WHOLE)) as engine:
        engine.models = b'{"data": [{"id": "m"}, {"id": "\\ud800"}, {"id": "a\\nb"}, {"id": ""}]}'
        with front(tmp_path, engine.url) as (url, store):
            assert [model["id"] for model in HTTP.get(f"{url}/v1/models").json()["data"]] == ["m"] and store.models() == {"m"}
            assert post(url).status_code == 200
            assert 'openbook_requests_total{model="m",path="/v1/completions",status="200"} 1.0' in HTTP.get(f"{url}/metrics").text


def test_its_own_limits_come_through(tmp_path: Path) -> None:
    with (
        stub(says(b'{"message": "slow down"}', "429 Too Many", "Retry-After: 7\r\nSet-Cookie: a=b\r\n")) as engine,
        front(tmp_path, engine.url) as (url, _),
    ):
        refused = post(url)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "7") and "set-cookie" not in refused.headers


def test_what_an_engine_cannot_do_is_said_by_name(tmp_path: Path) -> None:
    with stub(says(WHOLE), owner="vllm") as engine, front(tmp_path, engine.url) as (url, _):
        for field, value in (("suffix", "end"), ("best_of", 3)):
            refused = post(url, **{field: value})
            error = refused.json()["error"]
            assert refused.status_code == 400 and error["param"] == field and "vLLM" in error["message"]
        assert post(url, suffix="", best_of=2, n=2, echo=True).status_code == 200
        assert engine.bodies == [{"model": "m", "prompt": "hello", "n": 2, "echo": True}], "what asks for nothing is left out"
        refused = post(url, "/infill")
        assert refused.json()["error"]["code"] == "unsupported_by_upstream" and "/tokenize" in refused.json()["error"]["message"]
        assert post(url, stream="yes").status_code == 400
    kinds = load_capabilities(None)
    assert kinds["sglang"].fitted("/v1/completions", {"echo": True}) == {"echo": True}
    table = tmp_path / "mine.toml"
    table.write_text('[vllm]\nowned_by = ["vllm"]\n')
    assert load_capabilities(table)["vllm"].fitted("/v1/completions", {"suffix": "x"}) == {"suffix": "x"}
    table.write_text("[vllm]\nrefusals = 1\n")
    with pytest.raises(InputError, match=r"mine\.toml: vllm\.refusals"):
        load_capabilities(table)


def test_what_lies_beside_openai_s_api_is_passed_on_as_each_engine_calls_it(tmp_path: Path) -> None:
    infill = b'{"content": "x", "stop": true, "tokens_evaluated": 9, "tokens_predicted": 3}'
    stream = b'data: {"content": "x", "tokens_evaluated": 9, "tokens_predicted": 1}\n\n', b"data: " + infill + b"\n\n"
    tokens = says(b'{"tokens": [1, 2]}')
    with stub(tokens, says(infill), streams(*stream), owner="llamacpp") as engine, front(tmp_path, engine.url) as (url, store):
        ask = {"input_prefix": "a", "input_suffix": "b", "model": None}
        assert HTTP.post(f"{url}/tokenize", json={"prompt": "a"}).json() == {"tokens": [1, 2]} and last(store) == (200, 0, 0, 0, "exact")
        assert HTTP.post(f"{url}/infill", json=ask).status_code == 200 and last(store) == (200, 9, 0, 3, "exact")
        assert HTTP.post(f"{url}/infill", json=ask | {"stream": True}).content == b"".join(stream) and last(store) == (
            200,
            9,
            0,
            3,
            "exact",
        )
        assert post(url, "/tokenize", messages=[{"role": "user", "content": "a"}]).status_code == 400
        assert [head.split()[1] for head in engine.heads] == ["/tokenize", "/infill", "/infill"]
        assert engine.bodies[0] == {"model": "m", "content": "a"}, "under the engine's own name, and the first model if none is named"


def test_an_answer_that_counts_nothing_is_estimated(tmp_path: Path) -> None:
    silent = says(json.dumps({"choices": [{"text": "eight by four is thirty-two"}]}).encode())
    with stub(silent) as engine, front(tmp_path, engine.url) as (url, store):
        assert post(url, max_tokens=50).status_code == 200
        status, read, _, drawn, counted = last(store)
        assert (status, read, counted) == (200, 2, "estimated") and isinstance(drawn, int) and 5 < drawn < 15


def test_another_openbook_s_other_endpoints(chatty: Served, tmp_path: Path) -> None:
    with front(tmp_path, chatty.url) as (url, _):
        asks: dict[str, dict[str, object]] = {
            "/infill": {"input_prefix": "a", "input_suffix": "b", "n_predict": 4, "seed": 1, "response_fields": ["content"]},
            "/tokenize": {"content": "naïve", "with_pieces": True},
            "/detokenize": {"tokens": [1, 2]},
        }
        for path, body in asks.items():
            assert HTTP.post(url + path, json=body).json() == HTTP.post(chatty.url + path, json=body).json(), path
        response = HTTP.post(f"{url}/v1/responses", json={"model": "tiny", "input": "Hello", "max_output_tokens": 5}).json()
        assert response["usage"]["output_tokens"] == 5
        refused = HTTP.post(f"{url}/v1/files", files={"file": b"x"}, data={"purpose": "batch"})
        assert refused.status_code == 501, "files are kept by the server that is asked, never by the engine"


def test_tenants_share_nothing_in_an_engine_s_prefix_cache(tmp_path: Path) -> None:
    with stub(says(WHOLE), owner="vllm") as engine, front(tmp_path, engine.url) as (url, store):
        keys = [make(name, Grants(), admin=False) for name in ("ann", "bob")]
        for key, text in keys:
            store.add(key)
            body = {"model": "m", "prompt": "x", "cache_salt": keys[0][0].salt}
            assert HTTP.post(f"{url}/v1/completions", headers={"Authorization": f"Bearer {text}"}, json=body).status_code == 200
        assert [body["cache_salt"] for body in engine.bodies] == [key.salt for key, _ in keys], "nobody chooses another's"


def test_an_engine_that_goes_and_comes_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stub(says(WHOLE)) as engine:
        address = engine.listener.getsockname()
        monkeypatch.setattr("openbook.serve.front.pool.Pool.__init__.__defaults__", (0.05,))
        with front(tmp_path, engine.url) as (url, _):
            assert post(url).status_code == 200
            engine.listener.shutdown(socket.SHUT_RDWR)
            engine.listener.close()
            assert post(url).status_code in (502, 503)
            refused = post(url)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert post(url, model="other").status_code == 404
            engine.listener = socket.create_server(address)
            again = Stub([says(WHOLE)], engine.models, engine.listener)
            threading.Thread(target=again.run, daemon=True).start()
            deadline = time.monotonic() + 10
            while post(url).status_code != 200:
                assert time.monotonic() < deadline
                time.sleep(0.02)


def test_a_client_that_leaves_stops_the_engine_s_work(tmp_path: Path) -> None:
    seen: list[float] = []

    def slowly(line: socket.socket) -> None:
        streams(CHUNKS[0], end=False)(line)
        line.settimeout(10)
        seen.append(len(line.recv(1)))  # nothing comes: the connection is closed

    def silently(line: socket.socket) -> None:
        line.settimeout(10)
        seen.append(len(line.recv(1)))

    with stub(slowly, silently, silently) as engine, front(tmp_path, engine.url) as (url, store):
        with HTTP.stream("POST", f"{url}/v1/completions", json={"model": "m", "prompt": "x", "stream": True}) as response:
            next(response.iter_bytes())
        for stream in (True, False):
            with pytest.raises(httpx.ReadTimeout):
                HTTP.post(f"{url}/v1/completions", json={"model": "m", "prompt": "x", "stream": stream}, timeout=0.3)
        deadline = time.monotonic() + 10
        while len(seen) < 3 or len(store.read("select id from usage")) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert seen == [0, 0, 0]
        assert [row["status"] for row in store.read("select status from usage order by id")] == [200, 499, 499]


def test_addresses_and_keys_that_cannot_be_used() -> None:
    kinds = load_capabilities(None)
    made = parse_upstream("http://h:1,key=K,kind=vllm", kinds, {"K": "s3"})
    assert (made.url, made.key, made.kind) == ("http://h:1/v1", "s3", "vllm") and "s3" not in repr(made)
    assert parse_upstream("https://h/api/v1/", kinds, {}).url == "https://h/api/v1"
    odd = [
        "h:1",
        "file:///etc/passwd",
        "http://u:p@h/v1",
        "http://h/v1?key=1",
        "http://h,key=K",
        "http://h,kind=x",
        "http://h,other=1",
        "http://h,key=BAD",
    ]
    for text in odd:
        with pytest.raises(InputError, match="--upstream"):
            parse_upstream(text, kinds, {"BAD": "a\r\nHost: evil"})
