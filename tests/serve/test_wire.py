from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openbook.serve.api.completions import CompletionRequest
from openbook.serve.api.wire import LONGEST_STOP
from openbook.serve.errors import ApiError

parse = CompletionRequest.parse


def body(**values: Any) -> bytes:
    return json.dumps({"model": "m", **values}).encode()


def refusal(content: bytes) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parse(content)
    assert caught.value.status == 400
    return caught.value


def test_null_is_unset() -> None:
    names = ["prompt", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "logprobs", "echo", "stream", "stream_options", "best_of"]
    names += ["suffix", "logit_bias", "presence_penalty", "frequency_penalty", "user"]
    assert parse(body(**dict.fromkeys(names))).model_dump() == parse(body()).model_dump()


def test_the_defaults_are_those_of_openai() -> None:
    asked = parse(body())
    assert (asked.prompt, asked.max_tokens, asked.temperature, asked.top_p, asked.n, asked.stop) == ([""], 16, 1.0, 1.0, 1, [])


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a", ["a"]), ("", [""]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]]), ([[]], [[]])],
)
def test_the_four_forms_of_a_prompt(prompt: Any, expected: Any) -> None:
    assert parse(body(prompt=prompt)).prompt == expected


@pytest.mark.parametrize("prompt", [[], 5, {"a": 1}, [1, "a"], ["a", [1]], [1.5], [True], [[True]]])
def test_other_prompts_are_refused(prompt: Any) -> None:
    assert refusal(body(prompt=prompt)).param == "prompt"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 3),
        ("max_tokens", -1),
        ("max_tokens", 1.5),
        ("max_tokens", "16"),
        ("max_tokens", True),
        ("temperature", 2.01),
        ("temperature", -0.1),
        ("temperature", "hot"),
        ("top_p", 1.01),
        ("top_p", -0.01),
        ("n", 0),
        ("n", 129),
        ("stop", ["a", "b", "c", "d", "e"]),
        ("stop", ""),
        ("stop", [""]),
        ("stop", "x" * (LONGEST_STOP + 1)),
        ("stop", [1]),
        ("seed", 2**63),
        ("seed", 1.5),
        ("logprobs", 6),
        ("logprobs", -1),
        ("logprobs", True),
        ("echo", "yes"),
        ("stream", 1),
        ("stream_options", []),
        ("suffix", 1),
        ("best_of", 129),
        ("logit_bias", [1]),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("top_k", -1),
        ("min_p", 1.5),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(name: str, value: Any) -> None:
    error = refusal(body(**{name: value}))
    assert error.param is not None and error.param.split(".")[0] == name and error.message.startswith(f"{error.param}: ")


@pytest.mark.parametrize(
    "values",
    [
        {"suffix": ""},
        {"logit_bias": {}},
        {"presence_penalty": 0, "frequency_penalty": 0.0},
        {"best_of": 1, "n": 2},
        {"best_of": 2, "n": 2},
        {"temperature": 0, "top_p": 0},
        {"temperature": 2, "top_p": 1},
        {"stop": ["a", "b", "c", "d"]},
        {"stop": []},
        {"max_tokens": 0, "echo": True},
        {"logprobs": 0},
        {"stream_options": {"include_usage": True, "include_obfuscation": False}},
        {"user": "someone", "metadata": {"a": [1]}, "service_tier": "auto"},
    ],
)
def test_what_changes_nothing_is_accepted(values: dict[str, Any]) -> None:
    parse(body(**values))


def test_nothing_to_do_is_refused() -> None:
    assert refusal(body(max_tokens=0)).param == "max_tokens"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"\xff\xfe{",
        b'{"model": "m", "temperature": NaN}',
        b'{"model": "m", "temperature": Infinity}',
        b'{"model": "m", "user": -Infinity}',
        b'{"model": "m", "temperature": 1e999}',
        b'{"model": "m", "n": ' + b"9" * 5000 + b"}",
        b'{"model": "m", "user": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"model": "m", "prompt": "\\ud800"}',
        b'{"model": "\\udfff"}',
    ],
    ids=lambda content: str(content[:40]),
)
def test_what_is_not_json_is_refused(content: bytes) -> None:
    assert refusal(content).message


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(CompletionRequest.model_fields)), VALUES) | VALUES)
def test_no_body_is_more_than_refused(content: Any) -> None:
    try:
        asked = parse(json.dumps(content).encode())
    except ApiError as error:
        assert error.status == 400 and (error.param or "model").split(".")[0] in CompletionRequest.model_fields
    else:
        assert 0 <= asked.temperature <= 2 and len(asked.prompt) > 0


def test_the_model_must_be_named() -> None:
    assert refusal(b"{}").param == "model"
