"""Answers against OpenAI's published document, field by field: OPENAI_SPEC is its openapi.json, of github.com/openai/openai-openapi.

The document forgets nulls that OpenAI's own server sends, and which clients rely on; `FORGOTTEN` says which.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from serve.serving import NAME, Served
from serve.test_clients import CLOCK, HELLO, WEATHER, events, post
from serve.test_storage import ended, lines, start, until

SPEC = os.environ.get("OPENAI_SPEC", "")
pytestmark = pytest.mark.skipif(not SPEC, reason="OPENAI_SPEC does not name OpenAI's openapi.json")

FORGOTTEN = {
    "CreateCompletionResponse": {
        "finish_reason": "null in a stream's pieces but the last",
        "token_logprobs": "null for the first token of an echo",
        "top_logprobs": "null for the first token of an echo, and as a whole if none are asked for",
        "usage": "null in a stream's pieces but the last, as the document's own text says",
    },
    "Response": {"usage": "null until it has ended, as in the document's own examples"},
    "Batch": {
        "errors": "null where there are none, as in the document's own examples",
        "error_file_id": "null where there is none",
    },
}

COMPLETIONS: list[dict[str, Any]] = [
    {"prompt": "a"},
    {"prompt": ["a", "naïve ✓"], "n": 2, "best_of": 3, "max_tokens": 5},
    {"prompt": [[5, 6], [7]], "echo": True, "logprobs": 3, "max_tokens": 2},
    {"prompt": "a", "echo": True, "logprobs": 0, "max_tokens": 0},
    {"prompt": "def", "suffix": "end", "max_tokens": 6, "logprobs": 1},
    {"prompt": "a", "stop": ["e"], "logprobs": 2, "seed": 1, "max_tokens": 40},
]
CHATS: list[dict[str, Any]] = [
    {},
    {"n": 2, "logprobs": True, "top_logprobs": 3},
    {"logprobs": True},
    {"tools": [WEATHER, CLOCK], "tool_choice": "required", "max_tokens": 400},
    {"tools": [WEATHER, CLOCK], "tool_choice": "required", "parallel_tool_calls": False, "logprobs": True, "max_tokens": 400},
    {"tools": [CLOCK], "tool_choice": "auto"},
    {"response_format": {"type": "json_object"}},
]
RESPONSES: list[dict[str, Any]] = [
    {"input": "Hello"},
    {"input": HELLO, "instructions": "Be brief.", "metadata": {"a": "b"}, "include": ["message.output_text.logprobs"]},
    {"input": "x", "max_output_tokens": 300, "tools": [{"name": "clock", "type": "function"}], "tool_choice": "required"},
    {"input": "x", "text": {"format": {"type": "json_object"}}, "temperature": 0.5, "top_p": 0.9},
]


def _tightened(node: Any, forgotten: set[str]) -> Any:
    """The older `nullable` in the newer words, and null allowed where it was forgotten."""
    if isinstance(node, list):
        return [_tightened(item, forgotten) for item in node]
    if not isinstance(node, dict):
        return node
    made = {key: _tightened(value, forgotten) for key, value in node.items() if key != "nullable"}
    for name in forgotten & set(made.get("properties", {})):
        field = made["properties"][name]
        if "items" in field:
            field = field | {"items": {"anyOf": [field["items"], {"type": "null"}]}}
        made["properties"][name] = {"anyOf": [field, {"type": "null"}]}
    return {"anyOf": [made, {"type": "null"}]} if node.get("nullable") is True else made


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    """The document's schemas by name."""
    schemas = json.loads(Path(SPEC).read_bytes())["components"]["schemas"]
    return {name: _tightened(schema, set(FORGOTTEN.get(name, ()))) for name, schema in schemas.items()}


def event_name(published: dict[str, Any], event: dict[str, Any]) -> str:
    """The schema of an event of a response's stream, by its type."""
    names = [member["$ref"].rsplit("/", 1)[1] for member in published["ResponseStreamEvent"]["anyOf"]]
    return next(name for name in names if event["type"] in published[name]["properties"]["type"]["enum"])


def complaints(published: dict[str, Any], name: str, content: Any) -> Iterator[str]:
    validator = Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": published}})
    for error in validator.iter_errors(content):
        yield f"{name}: {error.json_path}: {error.message[:300]}" + "".join(
            f"\n    {inner.json_path}: {inner.message[:200]}" for inner in error.context or []
        )


def holds(published: dict[str, Any], name: str, *contents: Any) -> None:
    assert not [line for content in contents for line in complaints(published, name, content)]


@pytest.mark.parametrize("values", COMPLETIONS, ids=lambda values: " ".join(values))
def test_completions(published: dict[str, Any], chatty: Served, values: dict[str, Any]) -> None:
    holds(published, "CreateCompletionResponse", post(chatty, "/v1/completions", **values))
    if "best_of" not in values:
        pieces = events(chatty, "/v1/completions", stream_options={"include_usage": True}, **values)
        holds(published, "CreateCompletionResponse", *pieces)


@pytest.mark.parametrize("values", CHATS, ids=lambda values: " ".join(values))
def test_chats(published: dict[str, Any], chatty: Served, values: dict[str, Any]) -> None:
    values = {"messages": HELLO, "max_tokens": 60, "seed": 4} | values
    holds(published, "CreateChatCompletionResponse", post(chatty, "/v1/chat/completions", **values))
    holds(published, "CreateChatCompletionStreamResponse", *events(chatty, "/v1/chat/completions", **values))


@pytest.mark.parametrize("values", RESPONSES, ids=lambda values: " ".join(values))
def test_responses(published: dict[str, Any], chatty: Served, values: dict[str, Any]) -> None:
    values = {"max_output_tokens": 20} | values
    holds(published, "Response", post(chatty, "/v1/responses", **values))
    for event in events(chatty, "/v1/responses", **values):
        holds(published, event_name(published, event), event)


def test_the_rest(published: dict[str, Any], chatty: Served) -> None:
    for values in ({"input": "a"}, {"input": ["a", "b"], "dimensions": 8}):
        holds(published, "CreateEmbeddingResponse", post(chatty, "/v1/embeddings", **values))
    holds(published, "ListModelsResponse", httpx.get(f"{chatty.url}/v1/models").json())
    holds(published, "Model", httpx.get(f"{chatty.url}/v1/models/{NAME}").json())
    batch = start(chatty.client, lines(2))
    until(chatty.client, batch, ended)
    one = httpx.get(f"{chatty.url}/v1/batches/{batch}").json()
    holds(published, "Batch", one)
    holds(published, "ListBatchesResponse", httpx.get(f"{chatty.url}/v1/batches").json())
    holds(published, "OpenAIFile", httpx.get(f"{chatty.url}/v1/files/{one['output_file_id']}").json())
    holds(published, "ListFilesResponse", httpx.get(f"{chatty.url}/v1/files").json())
    holds(published, "DeleteFileResponse", httpx.delete(f"{chatty.url}/v1/files/{one['output_file_id']}").json())


@pytest.mark.parametrize("values", [{"prompt": "a", "n": 0}, {"prompt": "a", "model": "other"}, {"prompt": "a " * 3000}])
def test_errors(published: dict[str, Any], chatty: Served, values: dict[str, Any]) -> None:
    answer = httpx.post(f"{chatty.url}/v1/completions", json={"model": NAME} | values)
    assert answer.status_code in (400, 404)
    holds(published, "ErrorResponse", answer.json())
