"""What a client may ask for: the fields of OpenAI's legacy completions API that this server honours, and those it refuses by name.

An explicit null means "unset". Fields that nobody here knows are ignored, because clients send many; known ones whose absence would
change the answer's meaning are refused.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from openbook.serve.errors import ApiError, invalid

LONGEST_STOP = 256
"""Characters of a stop string: what has to be held back, and searched, with each token."""

Prompt = str | list[int]


def _prompts(value: Any) -> Any:
    """A prompt in any of its four forms, as a list of prompts."""
    if isinstance(value, str) or (isinstance(value, list) and value and all(_is_id(part) for part in value)):
        return [value]
    if isinstance(value, list) and value and (all(isinstance(part, str) for part in value) or all(_is_ids(part) for part in value)):
        return value
    raise PydanticCustomError("prompt", "must be a string, a list of strings, a list of token ids, or a list of lists of token ids")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(_is_id(part) for part in value)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


StopString = Annotated[str, Field(min_length=1, max_length=LONGEST_STOP)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class CompletionRequest(BaseModel):
    """The body of `POST /v1/completions`."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    model: str
    prompt: Annotated[list[Prompt], BeforeValidator(_prompts)] = [""]
    max_tokens: int = Field(16, ge=0)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    n: int = Field(1, ge=1, le=128)
    stop: Annotated[list[StopString], BeforeValidator(_listed), Field(max_length=4)] = []
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    logprobs: int | None = Field(None, ge=0, le=5)
    echo: bool = False
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    best_of: int = Field(1, ge=1)
    suffix: str = ""
    logit_bias: dict[str, Any] = {}
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0

    @model_validator(mode="before")
    @classmethod
    def _null_is_unset(cls, values: Any) -> Any:
        return {key: value for key, value in values.items() if value is not None} if isinstance(values, dict) else values

    @field_validator("suffix", "logit_bias", "presence_penalty", "frequency_penalty")
    @classmethod
    def _unsupported(cls, value: Any) -> Any:
        if value:
            raise PydanticCustomError("unsupported", "is not supported by this server; leave it out")
        return value

    @model_validator(mode="after")
    def _together(self) -> CompletionRequest:
        if self.best_of > self.n:
            raise PydanticCustomError("unsupported", "is not supported by this server beyond n; leave it out", {"param": "best_of"})
        if self.max_tokens == 0 and not self.echo:
            raise PydanticCustomError("nothing", "must be at least 1, or 0 with echo, to score the prompt", {"param": "max_tokens"})
        return self


def parse(body: bytes) -> CompletionRequest:
    """Raises ApiError, status 400, that names the field to blame."""
    try:
        content = json.loads(body, parse_constant=_not_json)
        json.dumps(content, ensure_ascii=False).encode()  # an escape may spell half a character, which no answer could repeat
    except UnicodeEncodeError as error:
        raise invalid(None, f"the body has an unpaired surrogate ({error.object[error.start]!a}), which is no character") from None
    except (ValueError, RecursionError) as error:
        raise invalid(None, f"the body is not JSON: {error or 'nested too deeply'}") from None
    if not isinstance(content, dict):
        raise invalid(None, "the body must be a JSON object")
    try:
        return CompletionRequest.model_validate(content)
    except ValidationError as error:
        raise _refusal(error) from None


def _not_json(constant: str) -> float:
    raise ValueError(f"{constant} is not a JSON number")


def _refusal(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_input=False)[0]
    param = first.get("ctx", {}).get("param") or str(first["loc"][0])
    message = first["msg"]
    return invalid(param, message[0].lower() + message[1:])
