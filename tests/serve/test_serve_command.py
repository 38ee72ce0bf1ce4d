"""`openbook serve` with several models, keys and TLS; and what it refuses before it reads any weights."""

from __future__ import annotations

import re
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from openbook.accounts.keys import Grants, make
from openbook.accounts.store import Store
from openbook.cli_serve import _named
from openbook.errors import InputError
from openbook.serve import Options, serve

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
    ):
        with pytest.raises(InputError, match=re.escape(why)):
            serve(nothing, options, print)


def test_names_of_models(tmp_path: Path) -> None:
    assert _named([tmp_path / "a", tmp_path / "b"], []) == {"a": tmp_path / "a", "b": tmp_path / "b"}
    assert list(_named([tmp_path, tmp_path], ["x", "y"])) == ["x", "y"]
    for runs, names in (([tmp_path], ["x", "y"]), ([tmp_path, tmp_path], [])):
        with pytest.raises(InputError, match="--name"):
            _named(runs, names)
