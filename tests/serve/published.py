"""OpenAI's published API document as a judge, field by field: what must be there, of which type, which words, and where null may stand.

The document is not ours to keep. `OPENBOOK_OPENAPI` names a file with it, JSON, as github.com/openai/openai-openapi has it.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.protocols import Validator

PLACE = os.environ.get("OPENBOOK_OPENAPI")
NULLS = [
    ("CreateCompletionResponse", "choices", "finish_reason"),
    ("CreateCompletionResponse", "choices", "logprobs", "token_logprobs"),
    ("CreateCompletionResponse", "choices", "logprobs", "top_logprobs"),
    ("CreateCompletionResponse", "usage"),
]
"""Where OpenAI's servers say null and the document forgets it: before the end of a stream, and for an echoed first token."""


def check(name: str, content: Any) -> None:
    """Raises ValidationError if the content is not as the document's schema of this name says."""
    _validator(name).validate(content)


@cache
def _validator(name: str) -> Validator:
    schemas = _nullable(json.loads(Path(PLACE or "").read_bytes())["components"]["schemas"])
    for place in NULLS:
        _allow_null(schemas[place[0]], place[1:])
    return jsonschema.Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}})


def _nullable(value: Any) -> Any:
    """The same in JSON Schema's own words: OpenAPI 3.0's `nullable`, which the document still uses, means nothing there."""
    if isinstance(value, list):
        return [_nullable(item) for item in value]
    if not isinstance(value, dict):
        return value
    changed = {key: _nullable(item) for key, item in value.items() if key != "nullable" or item is not True}
    return {"anyOf": [changed, {"type": "null"}]} if value.get("nullable") is True else changed


def _allow_null(schema: dict[str, Any], path: tuple[str, ...]) -> None:
    first, *rest = path
    properties = next(option for option in schema.get("anyOf", [schema]) if "properties" in option)["properties"]
    if rest:
        _allow_null(properties[first].get("items", properties[first]), tuple(rest))
    elif "items" in properties[first]:
        properties[first]["items"] = {"anyOf": [properties[first]["items"], {"type": "null"}]}
    else:
        properties[first] = {"anyOf": [properties[first], {"type": "null"}]}
