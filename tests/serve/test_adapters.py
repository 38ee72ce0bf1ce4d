"""Adapters over HTTP: models of their own, several in one batch, loaded and unloaded while the server runs, by whom, and from where."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from safetensors.torch import save_file

from engine.lora import RANK, adapter, written
from openbook.accounts.aliases import parse_alias
from openbook.errors import InputError
from openbook.serve.adapters import Adapters
from openbook.serve.api import Desk, Limits
from openbook.serve.local import load
from serve.fronts import Guarded, guarded
from serve.serving import NAME, Served, running
from serve.test_stream import eventually, idle

HTTP = httpx.Client(timeout=20)
STEPS = threading.Event()
"""The engine takes its steps while this is set."""
STEPS.set()
SCORED = {"prompt": "def fibonacci(n):", "max_tokens": 12, "temperature": 0, "logprobs": 1, "echo": True}


@pytest.fixture(scope="module")
def folder(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters below one folder, and beside it what nobody should get."""
    root = tmp_path_factory.mktemp("adapted") / "adapters"
    root.mkdir()
    for seed, name in enumerate(("one", "two", "team", "../outside")):
        written(root / name, adapter(seed + 1, load(weights)[0])[0])
    written(root / "team" / "deep", adapter(9, load(weights)[0])[0])
    written(root / "broken", {"nothing": torch.zeros(1)})
    (root / "link").symlink_to(root.parent / "outside")
    for name in ("linked", "pipe", "loop"):
        (root / name).mkdir()
        (root / name / "adapter_config.json").write_bytes((root / "one" / "adapter_config.json").read_bytes())
    (root / "linked" / "adapter_model.safetensors").symlink_to(root.parent / "outside" / "adapter_model.safetensors")
    os.mkfifo(root / "pipe" / "adapter_model.safetensors")
    (root / "loop" / "adapter_model.safetensors").symlink_to("adapter_model.safetensors")
    return root


@pytest.fixture(scope="module")
def local(weights: Path, folder: Path) -> Iterator[Served]:
    """Open, on this machine, with two adapters."""
    with running(weights, adapters=folder, slow=STEPS.wait) as served:
        for name in ("one", "two"):
            assert change(served, "load", lora_name=name, lora_path=name).status_code == 200
        yield served


def change(served: Served | Guarded, what: str, key: str = "none", **body: Any) -> httpx.Response:
    headers = {"Authorization": f"Bearer {key}"}
    return HTTP.post(f"{served.url}/v1/{what}_lora_adapter", json=body, headers=headers)


def scores(served: Served, model: str) -> Any:
    logprobs = served.client.completions.create(model=model, **SCORED).choices[0].logprobs  # type: ignore[call-overload]
    return logprobs.tokens, logprobs.token_logprobs


def test_two_adapters_and_their_model_in_one_batch_answer_as_each_alone(local: Served) -> None:
    names = [NAME, "one", "two"]
    alone = [scores(local, name) for name in names]
    assert len({str(found) for found in alone}) == 3, "an adapter does something"
    with ThreadPoolExecutor(9) as pool:
        assert list(pool.map(lambda name: scores(local, name), names * 3)) == alone * 3


def test_an_adapter_is_a_model_everywhere(local: Served) -> None:
    cards = {model.id: model for model in local.client.models.list()}
    parents = {name: card.model_dump().get("parent") for name, card in cards.items()}
    assert parents == {NAME: None, "one": NAME, "two": NAME}
    chat = local.client.chat.completions.create(model="one", messages=[{"role": "user", "content": "a"}], max_tokens=2)
    assert chat.model == "one" and local.client.embeddings.create(model="two", input="a").model == "two"
    assert local.client.embeddings.create(model="two", input="a").data != local.client.embeddings.create(model="one", input="a").data
    page = HTTP.get(f"{local.url}/metrics").text
    assert 'openbook_requests_total{model="one",path="/v1/chat/completions",status="200"} 1.0' in page
    assert 'openbook_sequences_running{model="two"} 0.0' in page
    assert list(HTTP.get(f"{local.url}/health").json()["models"]) == [NAME]


def test_loaded_and_unloaded_while_others_are_answered(local: Served) -> None:
    with pytest.raises(openai.NotFoundError):
        scores(local, "new/one:v2")
    answer = change(local, "load", lora_name="new/one:v2", lora_path="team/deep")
    assert answer.status_code == 200 and answer.json()["parent"] == NAME
    loaded = scores(local, "new/one:v2")
    STEPS.clear()
    try:
        stream = local.client.completions.create(model="new/one:v2", prompt="a", max_tokens=10, temperature=0, stream=True)
        eventually(lambda: local.engine.running == 1)
        assert 'openbook_sequences_running{model="new/one:v2"} 1.0' in HTTP.get(f"{local.url}/metrics").text
        assert change(local, "load", lora_name="new/one:v2", lora_path="one").status_code == 400, "it is loaded already"
        assert change(local, "unload", lora_name="new/one:v2").json() == {"id": "new/one:v2", "object": "model", "deleted": True}
        with pytest.raises(openai.NotFoundError):
            scores(local, "new/one:v2")
    finally:
        STEPS.set()
    assert list(stream)[-1].choices[0].finish_reason == "length", "what is under way goes on"
    assert change(local, "load", lora_name="new/one:v2", lora_path="one").status_code == 200
    assert scores(local, "new/one:v2") == scores(local, "one") != loaded
    change(local, "unload", lora_name="new/one:v2")
    for name in ("new/one:v2", NAME, "absent", "../one"):
        assert (change(local, "unload", lora_name=name).status_code, scores(local, NAME) is not None) == (404, True), name
    eventually(lambda: idle(local.engine))
    assert len(local.engine.adapters) == 2


def test_an_adapter_that_goes_between_a_request_s_arrival_and_its_work_is_a_404(local: Served) -> None:
    models = local.desk.models
    change(local, "load", lora_name="brief", lora_path="one")
    stale = local.desk.models["brief"]
    change(local, "unload", lora_name="brief")
    local.desk.models = {**models, "brief": stale}
    try:
        with pytest.raises(openai.NotFoundError, match="has just been unloaded"):
            scores(local, "brief")
    finally:
        local.desk.models = models


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("../outside", 400), ("one/../../outside", 400), ("/etc", 400), ("~", 400), ("", 400), (".", 400), ("one/", 400), ("one\0", 400),
        ("\u2024\u2024/outside", 400), ("%2e%2e/outside", 400), ("a" * 5000, 400), ("..\\outside", 400), ("file:///etc", 400),
        ("absent", 404), ("link", 404), ("linked", 404), ("pipe", 404), ("loop", 404), ("team/absent", 404), ("a" * 100, 404),
        ("one/adapter_config.json", 404),
    ],
    ids=lambda value: ascii(value)[:24],
)  # fmt: skip
def test_nothing_is_read_outside_of_the_operator_s_folder(local: Served, folder: Path, path: str, status: int) -> None:
    answer = change(local, "load", lora_name="x", lora_path=path)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, "lora_path"), error
    assert str(folder.parent) not in answer.text and len(error["message"]) < 300
    assert "x" not in local.desk.models


@pytest.mark.parametrize("name", ["", ".", "../one", "a/../b", "/a", "a//b", "a b", "a\0", "a\n", "é", "a" * 201, "{{7*7}}", NAME, "one"])
def test_names_that_are_none_or_taken_are_refused(local: Served, name: str) -> None:
    before = list(local.desk.models)
    answer = change(local, "load", lora_name=name, lora_path="one")
    assert answer.status_code == 400 and len(answer.text) < 600
    assert list(local.desk.models) == before


@pytest.mark.parametrize(
    "body", [{}, {"lora_name": "x"}, {"lora_name": 1, "lora_path": "one"}, {"lora_name": "x", "lora_path": "one", "load_inplace": True}]
)
def test_a_body_that_says_too_little_or_too_much(local: Served, body: dict[str, Any]) -> None:
    assert change(local, "load", **body).status_code == 400


def test_a_broken_adapter_is_told_without_the_server_s_paths(local: Served, folder: Path) -> None:
    answer = change(local, "load", lora_name="x", lora_path="broken")
    message = answer.json()["error"]["message"]
    assert answer.status_code == 400 and message.startswith("broken/adapter_model.safetensors: tensor 'nothing'")
    assert str(folder) not in answer.text
    answer = change(local, "load", lora_name="x", lora_path="one", base_model_name="one")
    assert answer.status_code == 400 and "'one' is not a model that can have an adapter" in answer.text


def test_with_keys_only_admins_load_and_a_key_for_an_adapter_is_for_nothing_else(weights: Path, folder: Path, tmp_path: Path) -> None:
    with guarded(weights, tmp_path, adapters=folder) as door:
        (_, admin), (narrow_key, narrow) = door.key("admin", admin=True), door.key("narrow", models=("mine",))
        body = {"lora_name": "mine", "lora_path": "one"}
        assert [change(door, "load", key, **body).status_code for key in ("none", narrow, admin)] == [401, 403, 200]
        client = door.client(narrow)
        assert client.completions.create(model="mine", prompt="a", max_tokens=2).model == "mine"
        (card,) = client.models.list()
        assert card.id == "mine" and "parent" not in card.model_dump(), "it does not learn of the model behind"
        assert door.client(admin).models.retrieve("mine").model_dump()["parent"] == NAME
        for name in (NAME, "other"):
            with pytest.raises(openai.PermissionDeniedError):
                client.completions.create(model=name, prompt="a")
        (row,) = door.store.read("select model, key, completion_tokens from usage where key = ?", narrow_key.id)
        assert (row["model"], row["completion_tokens"]) == ("mine", 2)
        door.store.set_alias(*parse_alias("prod=mine"))
        assert door.client(admin).completions.create(model="prod", prompt="a", max_tokens=2).model == "mine"
        answer = change(door, "load", admin, lora_name="prod", lora_path="two")
        assert answer.status_code == 400 and "an alias has this name" in answer.text
        assert [change(door, "unload", key, lora_name="mine").status_code for key in ("none", narrow, admin)] == [401, 403, 200]
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="mine", prompt="a")
        assert door.store.models() == {NAME}


def test_without_a_folder_or_beyond_this_machine_without_keys_nobody_loads(weights: Path, folder: Path, served: Served) -> None:
    answer = change(served, "load", lora_name="x", lora_path="one")
    assert (answer.status_code, answer.json()["error"]["code"]) == (501, "no_adapters")
    with running(weights, adapters=folder, limits=Limits(local=False)) as reachable:
        for what in ("load", "unload"):
            answer = change(reachable, what, lora_name="x", lora_path="one")
            assert (answer.status_code, answer.json()["error"]["code"]) == (403, "admin_only")


def test_at_most_so_many(local: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openbook.serve.adapters.MOST", 2)
    answer = change(local, "load", lora_name="x", lora_path="one")
    assert answer.status_code == 400 and "unload one first" in answer.text


def test_many_at_once_load_one(local: Served) -> None:
    start = threading.Barrier(4)

    def load_it(_: int) -> int:
        start.wait()
        return change(local, "load", lora_name="raced", lora_path="one").status_code

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(load_it, range(4))) == [200, 400, 400, 400]
    assert change(local, "unload", lora_name="raced").status_code == 200


def test_with_several_models_one_says_for_which(local: Served, folder: Path, tmp_path: Path) -> None:
    desk = Desk({"a": local.desk.models[NAME], "b": local.desk.models[NAME]}, Limits())
    adapters = Adapters(desk, None, None)
    with pytest.raises(InputError, match="say which model the adapter is for; there are 'a', 'b'"):
        adapters.load("x", folder / "one", None)
    assert adapters.load("x", folder / "one", "b").parent is desk.models["b"]
    adapters.unload("x")
    save_file({"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": torch.zeros(RANK, 3)}, tmp_path / "a")
    with pytest.raises(InputError, match="is not a folder"):
        Adapters(desk, tmp_path / "a", None)
