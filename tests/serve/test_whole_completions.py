"""What GPT-3's completions had and others dropped: suffix, best_of, biases, penalties, formats; and what editors call."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
import openai
import pytest

from openbook.model.generate import Sampling, generate, score
from serve.serving import NAME, Served

PROMPT = "def fibonacci(n):\n"


def ask(served: Served, prompt: Any = PROMPT, **values: Any) -> openai.types.Completion:
    return served.client.completions.create(model=NAME, prompt=prompt, **values)


def filled(served: Served, before: str, after: str) -> list[int]:
    """A fill-in-the-middle prompt, put together by hand."""
    special, encode = served.tokenizer.special_tokens, served.tokenizer.encode
    return [special["<|fim_prefix|>"], *encode(before), special["<|fim_suffix|>"], *encode(after), special["<|fim_middle|>"]]


def drawn(served: Served, prompt: list[int], sampling: Sampling) -> str:
    return served.tokenizer.decode([token.id for token in generate(served.model, prompt, sampling, served.tokenizer.end_of_document)])


def test_a_suffix_is_filled_in_before(chatty: Served) -> None:
    answer = ask(chatty, "def f(", suffix="):\n    return x", max_tokens=12, seed=2)
    prompt = filled(chatty, "def f(", "):\n    return x")
    assert answer.choices[0].text == drawn(chatty, prompt, Sampling(12, seed=2))
    assert answer.usage is not None and answer.usage.prompt_tokens == len(prompt)


def test_a_suffix_of_a_model_that_cannot_is_an_honest_400(served: Served) -> None:
    with pytest.raises(openai.BadRequestError, match="not trained to fill in") as caught:
        ask(served, suffix="}")
    assert (caught.value.param, caught.value.code) == ("suffix", "suffix_not_supported")
    assert ask(served, suffix="", max_tokens=1).choices


def test_best_of_gives_the_likeliest_first(served: Served) -> None:
    every = ask(served, n=6, seed=1, max_tokens=8, logprobs=0).choices
    means = {choice.text: mean(choice) for choice in every}
    best = ask(served, n=2, best_of=6, seed=1, max_tokens=8)
    assert [choice.text for choice in best.choices] == sorted(means, key=lambda text: means[text], reverse=True)[:2]
    assert [choice.index for choice in best.choices] == [0, 1]
    assert best.usage is not None and best.usage.completion_tokens >= 6, "what was drawn is counted, shown or not"
    two = ask(served, [PROMPT, "x"], best_of=3, seed=1, max_tokens=4)
    assert [choice.index for choice in two.choices] == [0, 1]
    with pytest.raises(openai.BadRequestError, match="best_of"):
        ask(served, best_of=2, stream=True)


def mean(choice: Any) -> float:
    logprobs = choice.logprobs.token_logprobs
    return float(sum(logprobs) / len(logprobs))


def test_a_bias_forces_and_forbids_and_leaves_logprobs_alone(served: Served) -> None:
    wanted = served.tokenizer.encode("Q")[0]
    choice = ask(served, max_tokens=3, temperature=0, logit_bias={str(wanted): 100}, logprobs=0).choices[0]
    assert choice.text == "QQQ"
    ids = [*served.tokenizer.encode(PROMPT), wanted]
    scored = score(served.model, ids)[-1]
    assert choice.logprobs is not None and choice.logprobs.token_logprobs is not None and scored is not None
    assert choice.logprobs.token_logprobs[0] == pytest.approx(scored.logprob, abs=1e-4)
    likeliest = next(generate(served.model, served.tokenizer.encode(PROMPT), Sampling(1, 0, logprobs=2), None))
    first, second = likeliest.top
    other = ask(served, max_tokens=1, temperature=0, logit_bias={str(first[0]): -100}, logprobs=0).choices[0]
    assert other.logprobs is not None and other.logprobs.token_logprobs == [pytest.approx(second[1], abs=1e-4)]


def test_penalties_make_tokens_rarer(served: Served) -> None:
    def variety(**values: Any) -> int:
        logprobs = ask(served, max_tokens=40, temperature=0, logprobs=0, **values).choices[0].logprobs
        return len(set(logprobs.tokens or [])) if logprobs else 0

    plain = variety()
    assert variety(presence_penalty=2) > plain and variety(frequency_penalty=2) > plain


def test_top_k_and_min_p_are_taken(served: Served) -> None:
    greedy = ask(served, max_tokens=10, temperature=0).choices[0].text
    assert ask(served, max_tokens=10, extra_body={"top_k": 1}).choices[0].text == greedy
    assert ask(served, max_tokens=10, extra_body={"min_p": 1.0}).choices[0].text == greedy


def test_formats_of_completions(served: Served) -> None:
    pattern = {"type": "regex", "pattern": "[a-c]{3}-[0-9]{2}"}
    assert re.fullmatch("[a-c]{3}-[0-9]{2}", ask(served, max_tokens=40, extra_body={"response_format": pattern}).choices[0].text)
    grammar = {"type": "grammar", "grammar": 'start: "(" start ")" | "x"'}
    text = ask(served, max_tokens=200, seed=3, extra_body={"response_format": grammar}).choices[0].text
    assert re.fullmatch(r"\(*x?\)*", text)
    schema = {"type": "json_schema", "json_schema": {"schema": {"type": "array", "items": {"enum": [1, 2]}, "maxItems": 3}}}
    for choice in ask(served, max_tokens=40, n=3, extra_body={"response_format": schema}).choices:
        assert set(json.loads(choice.text)) <= {1, 2}, "each choice follows the grammar by itself"


def test_unknown_fields_are_named_in_a_header(served: Served) -> None:
    body = {"model": NAME, "prompt": "a", "max_tokens": 1, "user": "x", "repetition_penalty": 1.1, "bad\r\nX-Evil: 1": 1}
    response = httpx.post(f"{served.url}/v1/completions", json=body)
    assert response.headers["x-ignored-fields"] == "user, repetition_penalty" and "x-evil" not in response.headers


def test_tokenize_and_back(chatty: Served) -> None:
    text = "naïve ✓ <|im_end|>"
    for name in ("content", "prompt"):
        ids = httpx.post(f"{chatty.url}/tokenize", json={name: text}).json()
        tokens, beginning = chatty.tokenizer.encode(text), chatty.tokenizer.begin_of_document
        assert ids == {"tokens": tokens, "count": len(tokens), "max_model_len": 1024, "max_echo_len": 1025, "beginning": beginning}
    pieces = httpx.post(f"{chatty.url}/tokenize", json={"content": "def ✓", "with_pieces": True}).json()["tokens"]
    assert [piece["id"] for piece in pieces] == chatty.tokenizer.encode("def ✓")
    assert httpx.post(f"{chatty.url}/detokenize", json={"tokens": ids["tokens"]}).json()["content"] == text
    assert httpx.post(f"{chatty.url}/detokenize", json={"tokens": [9999]}).status_code == 400
    assert httpx.post(f"{chatty.url}/tokenize", json={}).status_code == 400


def test_infill_as_llama_vim_calls_it(chatty: Served) -> None:
    body = {
        "input_prefix": "def f(x):\n",
        "input_suffix": "\n    return y\n",
        "input_extra": [{"filename": "a.py", "text": "y = 1", "time": 3}],
        "prompt": "    y",
        "n_predict": 8,
        "stop": ["\n"],
        "n_indent": 4,
        "top_k": 1,
        "top_p": 0.9,
        "samplers": ["top_k", "top_p", "infill"],
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 20000,
        "stream": False,
    }
    answer = httpx.post(f"{chatty.url}/infill", json=body).json()
    special, encode = chatty.tokenizer.special_tokens, chatty.tokenizer.encode
    prompt = [special["<|file_sep|>"], *encode("a.py\ny = 1\n"), *filled(chatty, "def f(x):\n", "\n    return y\n"), *encode("    y")]
    assert answer["content"] == drawn(chatty, prompt, Sampling(8, 0)).split("\n")[0]
    assert answer["stop"] is True and answer["tokens_evaluated"] == len(prompt) == answer["timings"]["prompt_n"]
    fields = {"response_fields": ["content", "timings/prompt_n", "nothing", "timings/nothing"]}
    assert httpx.post(f"{chatty.url}/infill", json=body | fields).json() == {"content": answer["content"], "timings/prompt_n": len(prompt)}
    warm = httpx.post(f"{chatty.url}/infill", json=body | {"n_predict": 0}).json()
    assert (warm["content"], warm["tokens_predicted"]) == ("", 0)
    with httpx.stream("POST", f"{chatty.url}/infill", json=body | {"stream": True}) as stream:
        chunks = [json.loads(frame.removeprefix("data: ")) for frame in stream.read().decode().split("\n\n") if frame]
    assert "".join(chunk["content"] for chunk in chunks) == answer["content"] and chunks[-1]["stop"]


def test_infill_keeps_what_is_near_the_cursor(chatty: Served) -> None:
    body = {"input_prefix": "a = 1\n" * 2000 + "near", "input_suffix": "here" + "\nb" * 2000, "n_predict": 2}
    answer = httpx.post(f"{chatty.url}/infill", json=body)
    assert answer.status_code == 200 and answer.json()["tokens_evaluated"] <= 1024


def test_infill_of_a_model_that_cannot_is_a_400(served: Served) -> None:
    response = httpx.post(f"{served.url}/infill", json={"input_prefix": "a", "input_suffix": "b"})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "infill_not_supported")
