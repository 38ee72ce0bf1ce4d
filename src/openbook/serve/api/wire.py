"""What is common to all request bodies: JSON, checked, with the field to blame named.

An explicit null means "unset". Fields that nobody here knows are ignored, because clients send many, and named in the answer's
`x-ignored-fields`; known ones whose absence would change the answer's meaning are refused.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from openbook.serve.errors import ApiError, invalid

LONGEST_STOP = 256
"""Characters of a stop string: what has to be held back, and searched, with each token."""

DEEPEST = 100
"""Levels of nesting in a body; what comes after the parser may recurse."""

Prompt = str | list[int]


class Wire(BaseModel):
    """A part of a request. `UNSUPPORTED` are known fields that are refused unless their value asks for nothing."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    UNSUPPORTED: ClassVar[tuple[str, ...]] = ()

    _ignored: list[str] = PrivateAttr([])

    @model_validator(mode="before")
    @classmethod
    def _null_is_unset(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for name in cls.UNSUPPORTED:
            if values.get(name):
                raise PydanticCustomError("unsupported", "is not supported by this server; leave it out", {"param": name})
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Raises ApiError, status 400, that names the field to blame."""
        content = read_json(body)
        try:
            asked = cls.model_validate(content)
        except ValidationError as error:
            raise refusal(error) from None
        asked._ignored = [key for key in content if key not in cls.model_fields and re.fullmatch(r"[\w.-]{1,40}", key, re.ASCII)][:20]
        return asked

    @property
    def ignored(self) -> list[str]:
        """Names of top-level fields that nobody here knows."""
        return self._ignored


def read_json(body: bytes) -> dict[str, Any]:
    """A body's object. Raises ApiError, status 400."""
    try:
        content = json.loads(body, parse_constant=_not_json)
        json.dumps(content, ensure_ascii=False).encode()  # an escape may spell half a character, which no answer could repeat
    except UnicodeEncodeError as error:
        raise invalid(None, f"the body has an unpaired surrogate ({error.object[error.start]!a}), which is no character") from None
    except (ValueError, RecursionError) as error:
        raise invalid(None, f"the body is not JSON: {error or 'nested too deeply'}"[:300]) from None
    if not isinstance(content, dict):
        raise invalid(None, "the body must be a JSON object")
    if _deeper(content, DEEPEST):
        raise invalid(None, f"the body is nested more than {DEEPEST} levels deep")
    return content


def _deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels < 0 or any(_deeper(item, levels - 1) for item in inner if isinstance(item, dict | list))


def _not_json(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def refusal(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    path = ".".join(str(part) for part in first["loc"] if not (isinstance(part, str) and re.search(r"[^\w]", part)))[:100]
    param = first.get("ctx", {}).get("param") or path or None
    message = first["msg"]
    return invalid(param, message[0].lower() + message[1:])


def is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(is_id(part) for part in value)


def _prompts(value: Any) -> Any:
    """A prompt in any of its four forms, as a list of prompts."""
    if isinstance(value, str) or (isinstance(value, list) and value and all(is_id(part) for part in value)):
        return [value]
    if isinstance(value, list) and value and (all(isinstance(part, str) for part in value) or all(_is_ids(part) for part in value)):
        return value
    raise PydanticCustomError("prompt", "must be a string, a list of strings, a list of token ids, or a list of lists of token ids")


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


_IDS = {"type": "array", "items": {"type": "integer"}}
_TEXTS = {"type": "array", "items": {"type": "string"}}
Prompts = Annotated[
    list[Prompt],
    BeforeValidator(_prompts),
    WithJsonSchema({"anyOf": [{"type": "string"}, _TEXTS, _IDS, {"type": "array", "items": _IDS}]}),
]
"""A string, several strings, token ids, or several lists of token ids."""

_Stop = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]
Stops = Annotated[
    list[_Stop],
    BeforeValidator(_listed),
    Field(max_length=4),
    WithJsonSchema({"anyOf": [{"type": "string"}, {**_TEXTS, "maxItems": 4}]}),
]

Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
]
"""What a client wants to find again."""


class StreamOptions(Wire):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    """vLLM's: every chunk has the usage so far, so that a client which stops knows it."""


class Drawn(Wire):
    """How tokens are drawn: common to completions and chats."""

    model: str
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    top_k: int = Field(0, ge=0, le=2**31)
    min_p: float = Field(0.0, ge=0, le=1)
    n: int = Field(1, ge=1, le=128)
    stop: Stops = []
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = {}
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()


class Format(Wire):
    """What the text must look like: `response_format` of chats, `text.format` of responses."""

    type: str
    json_schema: dict[str, Any] = {}
    """{"name", "schema", "strict", "description"}."""
    grammar: str = ""
    """A Lark grammar, in llguidance's dialect."""
    pattern: str = ""
    """A regular expression."""
