"""`openbook serve` with several models, keys and TLS; and what it refuses before it reads any weights."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from statistics import fmean

import httpx
import openai
import pytest

from engine.lora import adapter, written
from openbook.accounts.keys import Grants, make
from openbook.accounts.store import Store
from openbook.cli_serve import _named, adapters_of, engines_of
from openbook.errors import InputError
from openbook.importer import import_model
from openbook.serve import Options, serve
from openbook.serve.local import load
from openbook.serve.server import AdapterOf
from openbook.serve.settings import EngineSettings
from serve.serving import TEXT

PROGRAM = """
import sys
from pathlib import Path
from openbook.serve import Options, serve
weights, folder = Path(sys.argv[1]), Path(sys.argv[2])
options = Options("0.0.0.0", 0, 1, store=folder / "store.sqlite", tls=(folder / "cert.pem", folder / "key.pem"))
serve({"a": weights, "b": weights}, options, lambda url: print(url, flush=True))
"""


def test_two_models_with_keys_and_tls_beyond_this_machine(weights: Path, tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl, which makes the certificate, is not here")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([openssl, "req", "-x509", *curve, *names, *files], check=True, capture_output=True)
    store = Store(tmp_path / "store.sqlite", create=True)
    key, text = make("ann", Grants(models=("prod", "b")), admin=False)
    store.add(key)
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(weights), str(tmp_path)], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip().replace("0.0.0.0", "127.0.0.1")
            assert url.startswith("https://")
            with httpx.Client(base_url=url, verify=ssl.create_default_context(cafile=str(tmp_path / "cert.pem")), timeout=20) as client:
                assert client.get("/v1/models").status_code == 401
                client.headers["Authorization"] = f"Bearer {text}"
                store.set_alias("prod", (("a", 1),))
                asked = {"prompt": "def", "max_tokens": 2, "temperature": 0}
                answers = [client.post("/v1/completions", json={"model": name, **asked}) for name in ("prod", "b", "a")]
                assert [answer.status_code for answer in answers] == [200, 200, 403]
                assert [answer.json()["model"] for answer in answers[:2]] == ["a", "b"]
            assert store.models() == {"a", "b"}
        finally:
            server.terminate()


def test_the_flags_reach_the_engines(weights: Path, tmp_path: Path) -> None:
    run, _ = import_model(str(weights), None, tmp_path / "run", False, None)
    folder = written(tmp_path / "mine", adapter(1, load(weights)[0])[0])
    arguments = f"serve {run} {run} --name full --name fast --precision fast=int8 --slots 2 --speculate fast=3 --cache 4MiB --threads 1"
    arguments += f" --adapter mine={folder},of=fast --adapters {tmp_path} --port 0 --json"
    command = [sys.executable, "-c", "from openbook.cli import main; main()", *arguments.split()]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            told = json.loads(server.stdout.readline())
            assert told["models"] == ["full", "fast", "mine"]
            client = openai.OpenAI(base_url=told["url"], api_key="none", max_retries=0, timeout=20)
            parents = {card.id: card.model_dump().get("parent") for card in client.models.list()}
            assert parents == {"full": None, "fast": None, "mine": "fast"}
            found = {}
            for name in told["models"]:
                logprobs = client.completions.create(model=name, prompt=TEXT[:200], max_tokens=0, echo=True, logprobs=0).choices[0].logprobs
                assert logprobs is not None and logprobs.token_logprobs is not None
                found[name] = logprobs.token_logprobs[1:]
            gap = max(abs(one - other) for one, other in zip(found["full"], found["fast"], strict=True))
            assert 0 < gap < 0.5 and fmean(found["fast"]) == pytest.approx(fmean(found["full"]), abs=0.02), "int8 is near fp32"
            assert fmean(found["mine"]) != pytest.approx(fmean(found["fast"]), abs=0.1), "the adapter does something"
            asked = {"lora_name": "x", "lora_path": "mine", "base_model_name": "full"}
            answer = httpx.post(f"{told['url']}/load_lora_adapter", json=asked, timeout=20)
            assert answer.json()["parent"] == "full"
        finally:
            server.terminate()


def test_what_flags_say_for_each_model() -> None:
    settings = engines_of(["a", "b"], ["b=int8", "bf16"], ["4"], ["a=1.5GiB"], [])
    assert settings == {"a": EngineSettings("bf16", 4, 3 * 2**29), "b": EngineSettings("int8", 4)}
    assert adapters_of(["x=/a,b=c,of=org/m", "y=rel"]) == {"x": AdapterOf(Path("/a,b=c"), "org/m"), "y": AdapterOf(Path("rel"))}


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ((["fp8"], [], [], []), "precision 'fp8': should be one of fp32, bf16, int8"),
        ((["c=int8"], [], [], []), "there is no model 'c'; there are a, b"),
        (([], ["0"], [], []), "--slots 0: should be between 1"),
        (([], ["a=two"], [], []), "--slots two: should be a whole number"),
        (([], ["9" * 9], [], []), "should be a whole number"),
        (([], [], ["4"], []), "--cache 4: should be a size with a unit"),
        (([], [], ["4 gb"], []), "should be a size with a unit"),
        (([], [], ["nanGB"], []), "should be a size with a unit"),
        (([], [], [], ["8"]), "--speculate 8: should be between 0 and 7"),
        (([], [], [], ["-1"]), "--speculate -1: should be a whole number"),
    ],
)
def test_flags_that_are_wrong(flags: tuple[list[str], list[str], list[str], list[str]], why: str) -> None:
    with pytest.raises(InputError, match=re.escape(why)):
        engines_of(["a", "b"], *flags)


@pytest.mark.parametrize("text", ["x", "x=", "=folder", "x=folder,of=", "x=,of=m"])
def test_adapters_that_are_said_wrongly(text: str) -> None:
    with pytest.raises(InputError, match=r"should be NAME=FOLDER"):
        adapters_of([text])


def test_a_cache_of_so_many_bytes(weights: Path) -> None:
    model = load(weights)[0]
    config = model.config
    token = 2 * config.layers * config.kv_heads * config.head_width * 4
    for size in (2**20, 2**22 + 12345):
        with closing(EngineSettings(slots=2, cache=size).engine(model)) as engine:
            most = (2 * (config.context + 1) + 32 * engine._scheduler.blocks.count) * token
            assert engine.slots == 2 and size - 32 * token < most <= size
    with pytest.raises(InputError, match=r"do not hold 2 sequences of 256 tokens and one more .* at least 1MiB") as refused:
        EngineSettings(slots=2, cache=190_000).engine(model)
    assert "\n" not in str(refused.value)


def test_beyond_this_machine_it_wants_a_key_or_a_word(tmp_path: Path) -> None:
    nothing = {"m": tmp_path / "nothing"}
    Store(tmp_path / "empty", create=True)
    for store in (None, tmp_path / "empty"):
        with pytest.raises(InputError, match=r"keys create .*--open"):
            serve(nothing, Options("0.0.0.0", 0, store=store), print)
    with pytest.raises(InputError, match=r"tokenizer\.json"):  # it went on to the weights
        serve(nothing, Options("0.0.0.0", 0, open=True), print)


def test_what_cannot_be_used_is_said_before_the_weights_are_read(tmp_path: Path) -> None:
    nothing = {"m": tmp_path / "nothing"}
    (tmp_path / "text").write_text("no certificate")
    for options, why in (
        (Options(port=0, tls=(tmp_path / "text", tmp_path / "text")), "--tls-cert"),
        (Options(port=0, tls=(tmp_path / "absent", tmp_path / "absent")), "--tls-cert"),
        (Options(port=0, store=tmp_path / "absent"), "no such store"),
        (Options(port=0, upstreams=("nowhere",)), "--upstream"),
        (Options(port=0, capabilities=tmp_path / "absent"), "--capabilities"),
        (Options(port=0, adapter_folder=tmp_path / "absent"), "--adapters"),
    ):
        with pytest.raises(InputError, match=re.escape(why)):
            serve(nothing, options, print)


def test_names_of_models(tmp_path: Path) -> None:
    assert _named([tmp_path / "a", tmp_path / "b"], []) == {"a": tmp_path / "a", "b": tmp_path / "b"}
    assert list(_named([tmp_path, tmp_path], ["x", "y"])) == ["x", "y"]
    for runs, names in (([tmp_path], ["x", "y"]), ([tmp_path, tmp_path], [])):
        with pytest.raises(InputError, match="--name"):
            _named(runs, names)
