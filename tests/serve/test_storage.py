"""Files and batches, by the untouched client; a batch goes on after a restart."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Batch, FileDeleted, FileObject

from openbook.serve.api.files import Files
from serve.serving import NAME, Served, running
from serve.strict import check

CHAT = "/v1/chat/completions"


def lines(count: int, url: str = "/v1/completions", **body: Any) -> bytes:
    values = {"model": NAME, "prompt": "a", "max_tokens": 3, "temperature": 0} | body
    requests = [{"custom_id": f"request {index}", "method": "POST", "url": url, "body": values} for index in range(count)]
    return "\n".join(map(json.dumps, requests)).encode()


def upload(client: openai.OpenAI, content: bytes) -> str:
    return client.files.create(file=("in.jsonl", content), purpose="batch").id


def start(client: openai.OpenAI, content: bytes, endpoint: Any = "/v1/completions") -> str:
    return client.batches.create(input_file_id=upload(client, content), endpoint=endpoint, completion_window="24h").id


def until(client: openai.OpenAI, batch: str, done: Callable[[Batch], bool]) -> Batch:
    deadline = time.monotonic() + 20
    while not done(found := client.batches.retrieve(batch)):
        assert time.monotonic() < deadline, found
        time.sleep(0.02)
    return found


def ended(batch: Batch) -> bool:
    return batch.status in ("completed", "failed", "cancelled")


def output(client: openai.OpenAI, file: str | None) -> list[dict[str, Any]]:
    assert file is not None
    return [json.loads(line) for line in client.files.content(file).text.splitlines()]


def test_files(chatty: Served) -> None:
    client = chatty.client
    content = bytes(range(256)) * 5000
    made = client.files.create(file=("../../päth\n.bin", content), purpose="user_data")
    check(FileObject, httpx.get(f"{chatty.url}/v1/files/{made.id}").json())
    assert (made.bytes, made.purpose) == (len(content), "user_data")
    assert client.files.content(made.id).read() == content
    assert made.id in [file.id for file in client.files.list(purpose="user_data")]
    assert client.files.list(purpose="evals").data == []
    check(FileDeleted, httpx.delete(f"{chatty.url}/v1/files/{made.id}").json())
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(made.id)


def test_pages_of_files(chatty: Served) -> None:
    made = {upload(chatty.client, b"x") for _ in range(5)}
    assert made <= {file.id for file in chatty.client.files.list(limit=2)}, "the client follows the pages"


@pytest.mark.parametrize("identifier", ["..%2f..%2fetc%2fpasswd", "file-", "file-" + "0" * 32, "file-" + "0" * 31 + "/", "%00", "batch-x"])
def test_ids_that_are_none(chatty: Served, identifier: str) -> None:
    for path in (f"/v1/files/{identifier}", f"/v1/files/{identifier}/content"):
        response = httpx.get(chatty.url + path)
        assert response.status_code == 404 and response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("files", "data"),
    [
        ({}, {"purpose": "batch"}),
        ({"file": b"x"}, {}),
        ({"file": b"x"}, {"purpose": "world domination"}),
        ({"file": b"x", "other": b"y"}, {"purpose": "batch"}),
    ],
)
def test_uploads_that_are_none(chatty: Served, files: Any, data: Any) -> None:
    response = httpx.post(f"{chatty.url}/v1/files", files=files or None, data=data)
    assert response.status_code == 400 and response.json()["error"]["message"]


def test_a_batch(chatty: Served) -> None:
    content = lines(5) + b"\n\n" + lines(1, temperature=9).replace(b"request 0", b"wrong")
    batch = until(chatty.client, start(chatty.client, content), ended)
    check(Batch, httpx.get(f"{chatty.url}/v1/batches/{batch.id}").json())
    counts = batch.request_counts
    assert counts is not None and (batch.status, counts.total, counts.completed, counts.failed) == ("completed", 6, 5, 1)
    answers = output(chatty.client, batch.output_file_id)
    assert sorted(answer["custom_id"] for answer in answers) == [f"request {index}" for index in range(5)]
    text = chatty.client.completions.create(model=NAME, prompt="a", max_tokens=3, temperature=0).choices[0].text
    assert {answer["response"]["body"]["choices"][0]["text"] for answer in answers} == {text}
    (wrong,) = output(chatty.client, batch.error_file_id)
    assert wrong["response"]["status_code"] == 400 and wrong["response"]["body"]["error"]["param"] == "temperature"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"{", "invalid_json_line"),
        (b'{"custom_id": 1, "body": {}}', "invalid_json_line"),
        (lines(1, url=CHAT), "mismatched_endpoint"),
        (lines(1) + b"\n" + lines(1), "duplicate_custom_id"),
        (b"[" * 100_000, "invalid_json_line"),
    ],
)
def test_input_that_is_none_fails_the_batch(chatty: Served, content: bytes, code: str) -> None:
    batch = until(chatty.client, start(chatty.client, content), ended)
    assert batch.status == "failed" and batch.errors is not None and batch.errors.data and batch.errors.data[0].code == code


def test_a_batch_of_what_is_not_there_is_refused(chatty: Served) -> None:
    for values in ({"input_file_id": "file-x", "endpoint": CHAT}, {"input_file_id": upload(chatty.client, b"x"), "endpoint": "/infill"}):
        with pytest.raises(openai.BadRequestError):
            chatty.client.batches.create(completion_window="24h", **values)  # type: ignore[arg-type]


def test_a_batch_can_be_cancelled_and_goes_on_after_a_restart(weights: Path, tmp_path: Path) -> None:
    """The first server answers some requests and goes; a line that it was writing is cut; the second answers the others once."""
    with running(weights, slow=lambda: time.sleep(0.005), data=tmp_path) as served:
        batch = start(served.client, lines(40))
        other = start(served.client, lines(40))
        assert served.client.batches.cancel(other).status == "cancelling"
        assert until(served.client, other, ended).status == "cancelled"
        number = batch.removeprefix("batch-")
        answered = tmp_path / "files" / f"file-{number}"
        until(served.client, batch, lambda _: answered.exists() and answered.read_bytes().count(b"\n") > 3)
    before = answered.read_bytes().count(b"\n")
    assert before < 40
    with answered.open("ab") as out:
        out.write(b'{"id": "batch_req_1", "custom_id": "requ')
    with running(weights, data=tmp_path) as served:
        done = until(served.client, batch, ended)
        assert done.status == "completed"
        answers = output(served.client, done.output_file_id)
        assert sorted(answer["custom_id"] for answer in answers) == sorted(f"request {index}" for index in range(40))
        assert [one.id for one in served.client.batches.list()].count(batch) == 1


def test_a_server_without_a_folder_says_so(served: Served) -> None:
    response = httpx.get(f"{served.url}/v1/files")
    assert response.status_code == 501 and "--data" in response.json()["error"]["message"]


def test_what_goes_while_files_are_listed_is_passed_over(tmp_path: Path) -> None:
    files = Files(tmp_path)
    made = files.describe(files.new_id(), 1, "a", "batch", None)
    (tmp_path / "file-gone.json").symlink_to("nowhere")  # as one that is deleted between its name and its content
    assert [file["id"] for file in files.all()] == [made["id"]]
