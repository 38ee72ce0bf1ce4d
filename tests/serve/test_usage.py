"""What was used: after a kill, summed up, and with measured energy."""

from __future__ import annotations

import csv
import io
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from openbook.accounts.keys import Grants, make
from openbook.accounts.store import Store, Usage
from openbook.accounts.usage import summary, table
from openbook.cli import app
from openbook.errors import InputError
from openbook.logbook.meter import Counter
from serve.fronts import guarded

PROGRAM = """
import sys
from pathlib import Path
from openbook.serve import Options, serve
serve({"tiny": Path(sys.argv[1])}, Options(port=0, threads=1, store=Path(sys.argv[2])), lambda url: print(url, flush=True))
"""


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_kill_9_under_load_loses_no_finished_request(weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = Store(path, create=True)
    key, text = make("loader", Grants(tokens_per_minute=10**6), admin=False)
    store.add(key)
    finished: list[int] = []

    def load(url: str, stream: bool) -> None:
        body = {"model": "tiny", "prompt": "def", "max_tokens": 4, "ignore_eos": True, "stream": stream}
        with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {text}"}) as client:
            try:
                while True:
                    answer = client.post("/v1/completions", json=body)
                    if answer.status_code == 200 and (not stream or answer.text.endswith("data: [DONE]\n\n")):
                        finished.append(1)
            except httpx.HTTPError:
                return

    def start() -> tuple[subprocess.Popen[str], str]:
        server = subprocess.Popen([sys.executable, "-c", PROGRAM, str(weights), str(path)], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        return server, server.stdout.readline().strip()

    server, url = start()
    threads = [threading.Thread(target=load, args=(url, stream)) for stream in (True, False, True)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while len(finished) < 30 and time.monotonic() < deadline:
        time.sleep(0.01)
    server.send_signal(signal.SIGKILL)
    server.communicate()
    for thread in threads:
        thread.join()
    (row,) = summary(Store(path), ["key"])
    assert len(finished) >= 30 and len(finished) <= row["requests"] <= len(finished) + len(threads)
    assert Store(path).key("loader") == key and store.read("pragma integrity_check")[0][0] == "ok"


@pytest.fixture
def used(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store.sqlite", create=True)
    for name in ("ann", "bob"):
        store.add(make(name, Grants(), admin=False)[0])
    ann, bob = (store.key(name).id for name in ("ann", "bob"))
    day = 86400.0
    for moment, key, model, status, tokens, joules in (
        (10 * day, ann, "a", 200, 10, 2.5),
        (10 * day + 1, ann, "b", 200, 20, None),
        (11 * day, bob, "a", 499, 5, None),
        (11 * day, None, "a", 200, 1, None),
    ):
        energy = None if joules is None else "measured:rapl"
        store.record([Usage(moment, key, model, "/v1/completions", status, tokens, 0, tokens, 1500.0, joules, energy, "exact")])
    return store


def test_it_is_summed_up_as_asked(used: Store) -> None:
    by_key = {row["key"]: row for row in summary(used, ["key"])}
    assert by_key["ann"]["completion_tokens"] == 30 and by_key["ann"]["joules"] == 2.5 and by_key["ann"]["energy"] == "measured:rapl"
    assert (by_key["bob"]["joules"], by_key["bob"]["failed"], by_key[""]["requests"]) == (None, 1, 1)
    assert [(row["day"], row["model"], row["requests"]) for row in summary(used, ["day", "model"], "1970-01-12")] == [
        ("1970-01-12", "a", 2)
    ]
    assert table(summary(used, ["model"]), ["model"])[-1].startswith("all")
    with pytest.raises(InputError, match="--by"):
        summary(used, ["key; drop table usage"])
    with pytest.raises(InputError, match="--since"):
        summary(used, ["key"], "yesterday")


def test_the_commands(used: Store) -> None:
    path = used.path
    rows = list(csv.DictReader(io.StringIO(run("usage", path, "--by", "model", "--csv"))))
    assert [(row["model"], row["requests"]) for row in rows] == [("a", "3"), ("b", "1")]
    assert json.loads(run("usage", path, "--json"))["rows"][0]["requests"] == 1
    made = json.loads(run("keys", "create", path, "cleo", "--model", "a", "--concurrency", 2, "--json"))
    assert made["key"].startswith(f"ob-{made['id']}-") and made["models"] == ["a"]
    with pytest.raises(InputError, match="in use"):
        run("keys", "create", path, "cleo")
    changed = json.loads(run("keys", "limit", path, "cleo", "--every-model", "--concurrency", 0, "--monthly-tokens", 9, "--json"))
    assert (changed["models"], changed["concurrency"], changed["monthly_tokens"]) == (None, None, 9)
    assert run("keys", "revoke", path, made["id"]).startswith("revoked")
    with pytest.raises(InputError, match="no live key"):
        run("keys", "revoke", path, "cleo")
    listed = run("keys", "list", path)
    assert "revoked" in listed and made["key"] not in listed
    run("alias", "set", path, "prod=a:9,b:1")
    run("alias", "set", path, "prod=b")
    assert json.loads(run("alias", "back", path, "prod", "--json"))["targets"] == {"a": 9, "b": 1}
    assert run("alias", "list", path) == "prod = a 90.0%, b 10.0%\n"
    assert len(json.loads(run("alias", "list", path, "--history", "--json"))["history"]) == 3


def test_energy_comes_with_where_it_is_from(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readings = itertools.count(step=2)  # two joules more at each
    monkeypatch.setattr("openbook.serve.front.counters", lambda _: [Counter("planted", lambda: float(next(readings)))])
    with guarded(weights, tmp_path) as door:
        door.client("none").completions.create(model="tiny", prompt="def", max_tokens=5)
        (row,) = door.store.read("select joules, energy from usage")
    assert tuple(row) == (2.0, "planted, shared by requests in flight")


def test_the_page_stands_alone_and_shows_names_as_text(used: Store, tmp_path: Path) -> None:
    used.add(make("<script>alert(1)</script>", Grants(), admin=False)[0])
    evil = used.key("<script>alert(1)</script>").id
    used.record([Usage(86400.0, evil, "a&b", "/v1/completions", 200, 1, 0, 1, 1.0, None, None, "exact")])
    run("usage", used.path, "--html", tmp_path / "usage.html")
    page = (tmp_path / "usage.html").read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "a&amp;b" in page
    assert all(f"<h2>By {name}</h2>" in page for name in ("key", "model", "day")) and "no key" in page
    assert "http" not in page and page.count("<tr>") == 3 + 4 + 3 + 3
