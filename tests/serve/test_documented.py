"""docs/serving.md says of every field of a request what becomes of it: of ours, and of OpenAI's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from openai.types import batch_create_params, completion_create_params, embedding_create_params
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.responses import response_create_params

from openbook.serve.api.app import ENDPOINTS, QUESTIONS
from openbook.serve.api.batches import BatchRequest

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"
MODELS = {path: model for path, (model, _) in (*ENDPOINTS.items(), *QUESTIONS.items())} | {"/v1/batches": BatchRequest}
OPENAI: dict[str, tuple[str, Any]] = {
    "/v1/completions": ("completions", completion_create_params.CompletionCreateParamsNonStreaming),
    "/v1/chat/completions": ("chats", chat_create_params.CompletionCreateParamsNonStreaming),
    "/v1/responses": ("responses", response_create_params.ResponseCreateParamsNonStreaming),
    "/v1/embeddings": ("embeddings", embedding_create_params.EmbeddingCreateParams),
    "/v1/batches": ("/v1/batches", batch_create_params.BatchCreateParams),
}


def sections() -> dict[str, set[str]]:
    """The words in code's letters of each part of the table of parameters."""
    table = PAGE.read_text().partition("## Every parameter")[2].partition("\n## ")[0]
    parts = re.split(r"^\| \*\*(.+?)\*\* ", table, flags=re.MULTILINE)
    return {
        name: set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]+)`", part)))) for name, part in zip(parts[1::2], parts[2::2], strict=True)
    }


@pytest.mark.parametrize("path", MODELS)
def test_every_field_has_a_row(path: str) -> None:
    section, theirs = OPENAI.get(path, (path, None))
    model = MODELS[path]
    fields = {field.alias or name for name, field in model.model_fields.items()} | set(model.UNSUPPORTED)
    fields |= set(theirs.__annotations__ if theirs else ())
    assert fields - sections()["all"] - sections()[section] == set()
