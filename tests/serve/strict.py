"""OpenAI's published types as a strict judge: every field there, of its type, null only where null is allowed, and none unknown.

The types are generated from OpenAI's API document, but forget the difference between a field that may be absent and one that may be null.
NULLS remembers it; and where the document itself is at hand, it judges too (published.py).
"""

from __future__ import annotations

import json
from typing import Any

from openai.types import Batch, Completion, CreateEmbeddingResponse, FileDeleted, FileObject, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from serve import published

BEYOND = {"Model": {"context_window", "fill_in", "parent"}, "ResponseFunctionCallArgumentsDoneEvent": {"name"}}
"""Fields of our own, and one that the document requires and the types of openai 3.54 do not have yet."""

SCHEMAS: dict[Any, str] = {
    Batch: "Batch",
    ChatCompletion: "CreateChatCompletionResponse",
    ChatCompletionChunk: "CreateChatCompletionStreamResponse",
    Completion: "CreateCompletionResponse",
    CreateEmbeddingResponse: "CreateEmbeddingResponse",
    FileDeleted: "DeleteFileResponse",
    FileObject: "OpenAIFile",
    Model: "Model",
    Response: "Response",
    ResponseStreamEvent: "ResponseStreamEvent",
}
"""What the document calls each type."""

NULLS = {
    "Choice": {"logprobs", "finish_reason"},
    "CompletionChoice": {"logprobs"},
    "ChoiceLogprobs": {"refusal"},
    "ChatCompletionMessage": {"content", "refusal"},
    "ChatCompletionChunk": {"usage"},
    "Completion": {"usage"},
    "FunctionTool": {"parameters"},
    "Reasoning": {"effort", "summary"},
    "Response": {"error", "incomplete_details", "instructions", "max_output_tokens", "previous_response_id"},
    "ResponseErrorEvent": {"code", "param"},
}
"""The fields that we send as null, all of which the document allows, by the names of the types."""


def check(kind: Any, content: Any) -> None:
    """Raises if the JSON content is not of one of OpenAI's types, or has a field that the type does not know, or a null nobody allows."""
    if published.PLACE:
        published.check(SCHEMAS[kind], content)
    content = _filled(content) if kind is Completion else content
    _known(TypeAdapter(kind).validate_json(json.dumps(content), strict=True))


def _filled(content: Any) -> Any:
    """Without the nulls that OpenAI's servers send and the type forgets: before the end of a stream, and for an echoed first token."""
    choices = [{**choice, "finish_reason": choice["finish_reason"] or "stop"} for choice in content["choices"]]
    for choice in choices:
        if scores := choice["logprobs"]:
            first = {"token_logprobs": scores["token_logprobs"][:1], "top_logprobs": scores["top_logprobs"][:1]}
            if first == {"token_logprobs": [None], "top_logprobs": [None]}:
                choice["logprobs"] = {**scores, **{name: scores[name][1:] for name in first}}
    return {**content, "choices": choices}


def _known(value: Any) -> None:
    if isinstance(value, BaseModel):
        name = type(value).__name__
        unknown = set(value.model_extra or {}) - BEYOND.get(name, set())
        assert not unknown, f"{name} has no {unknown}"
        given = {field: getattr(value, field) for field in value.model_fields_set}
        nulls = {field for field, inner in given.items() if inner is None} - NULLS.get(name, set())
        assert not nulls, f"{name} has no null for {nulls}"
        for inner in given.values():
            _known(inner)
    elif isinstance(value, list):
        for item in value:
            _known(item)
