"""OpenAI's published types as a strict judge: every field there, of its type, null only where null is allowed, and none unknown."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, TypeAdapter

OURS = {"context_window", "fill_in"}
"""Fields of our own."""
NEWER = {"ResponseFunctionCallArgumentsDoneEvent": {"name"}}
"""Fields that OpenAI's published document requires, and older clients' types do not know."""


def check(kind: Any, content: Any) -> None:
    """Raises if the JSON content is not of one of OpenAI's types, or has a field that the type does not know."""
    _known(TypeAdapter(kind).validate_json(json.dumps(content), strict=True))


def _known(value: Any) -> None:
    if isinstance(value, BaseModel):
        unknown = set(value.model_extra or {}) - OURS - NEWER.get(type(value).__name__, set())
        assert not unknown, f"{type(value).__name__} has no {unknown}"
        for name in value.model_fields_set:
            _known(getattr(value, name, None))
    elif isinstance(value, list):
        for item in value:
            _known(item)
