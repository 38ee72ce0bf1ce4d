"""The untouched `openai` client against a real server: whole answers."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Completion
from openai.types.completion_choice import CompletionChoice

from openbook.model.detokenize import Decoder
from openbook.model.generate import Sampling, generate, score
from openbook.serve.api import Limits
from openbook.serve.local import complete
from serve.serving import CONTEXT, NAME, Served, running

PROMPT = "def fibonacci(n):\n"


def ask(served: Served, prompt: Any = PROMPT, **values: Any) -> Completion:
    return served.client.completions.create(model=NAME, prompt=prompt, **values)


def expected(served: Served, prompt: str, sampling: Sampling) -> tuple[list[int], str, str]:
    """(ids, text, finish_reason), drawn in this process."""
    generation = generate(served.model, served.tokenizer.encode(prompt), sampling, served.tokenizer.end_of_document)
    ids = [token.id for token in generation]
    return ids, served.tokenizer.decode(ids), str(generation.finish_reason)


def long_text(served: Served, **values: Any) -> str:
    """A completion with some variety, to find stop strings in."""
    return ask(served, max_tokens=60, seed=5, **values).choices[0].text


@pytest.mark.parametrize("temperature", [0, 0.7, 2])
def test_the_text_is_what_generate_draws_for_the_same_seed(served: Served, temperature: float) -> None:
    answer = ask(served, max_tokens=40, temperature=temperature, top_p=0.9, seed=3)
    ids, text, reason = expected(served, PROMPT, Sampling(40, temperature, 0.9, 3))
    choice, usage = answer.choices[0], answer.usage
    assert (choice.text, choice.finish_reason, choice.index, choice.logprobs) == (text, reason, 0, None)
    prompt_tokens = len(served.tokenizer.encode(PROMPT))
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (prompt_tokens, len(ids), prompt_tokens + len(ids))
    assert (answer.object, answer.model) == ("text_completion", NAME)


def test_the_command_line_says_the_same(served: Served, weights: Path) -> None:
    assert (
        "".join(complete(weights, PROMPT, 30, 0.8, 0.95, 9))
        == ask(served, max_tokens=30, temperature=0.8, top_p=0.95, seed=9).choices[0].text
    )


def test_sixteen_tokens_unless_told_otherwise(served: Served) -> None:
    usage = ask(served, temperature=0).usage
    assert usage is not None and usage.completion_tokens == 16


def test_without_a_seed_answers_differ(served: Served) -> None:
    assert ask(served).choices[0].text != ask(served).choices[0].text


def test_n_choices_of_several_prompts_draw_with_seeds_that_follow(served: Served) -> None:
    prompts = [PROMPT, "# naïve", ""]
    answer = ask(served, prompts, n=2, seed=10, max_tokens=12)
    assert [choice.index for choice in answer.choices] == list(range(6))
    drawn = 0
    for index, choice in enumerate(answer.choices):
        ids, text, _ = expected(served, prompts[index // 2], Sampling(12, seed=10 + index))
        drawn += len(ids)
        assert choice.text == text
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == sum(len(served.tokenizer.encode(prompt)) for prompt in prompts)
    assert answer.usage.completion_tokens == drawn


def test_token_ids_are_as_good_as_text(served: Served) -> None:
    ids = served.tokenizer.encode(PROMPT)
    text = ask(served, seed=1).choices[0].text
    assert ask(served, ids, seed=1).choices[0].text == text
    assert ask(served, [ids, [1, 2]], seed=1).choices[0].text == text


def test_a_special_token_in_the_text_of_a_prompt_is_text(served: Served) -> None:
    usage = ask(served, next(iter(served.tokenizer.special_tokens)), max_tokens=1).usage
    assert usage is not None and usage.prompt_tokens > 1


def test_stop_cuts_before_the_string_and_says_so(served: Served) -> None:
    text = long_text(served)
    stop = text[25:28]
    choice = ask(served, max_tokens=60, seed=5, stop=stop).choices[0]
    assert (choice.text, choice.finish_reason) == (text[: text.index(stop)], "stop")
    assert ask(served, max_tokens=60, seed=5, stop=["never in there", stop]).choices[0] == choice


def test_a_stop_string_in_one_choice_leaves_the_others(served: Served) -> None:
    free = ask(served, n=4, max_tokens=40, seed=5).choices
    stop = free[1].text[10:13]
    cut = ask(served, n=4, max_tokens=40, seed=5, stop=stop).choices
    assert [choice.text for choice in cut] == [choice.text.split(stop)[0] for choice in free]


def test_the_end_of_document_stops(served: Served) -> None:
    """With enough seeds the model draws its end token somewhere; that answer says "stop" and does not show the token."""
    answer = ask(served, n=24, seed=0, temperature=2, max_tokens=60)
    stopped = [choice for choice in answer.choices if choice.finish_reason == "stop"]
    assert stopped and len(stopped) < 24
    for choice in stopped:
        ids, text, reason = expected(served, PROMPT, Sampling(60, 2, seed=choice.index))
        assert (choice.text, reason) == (text, "stop") and len(ids) < 60


def check_slices(choice: CompletionChoice) -> None:
    """What evaluation harnesses rely on: the lists are parallel, and each token stands in the text at its offset."""
    logprobs = choice.logprobs
    assert logprobs is not None and logprobs.tokens and logprobs.text_offset and logprobs.token_logprobs and logprobs.top_logprobs
    assert len(logprobs.tokens) == len(logprobs.text_offset) == len(logprobs.token_logprobs) == len(logprobs.top_logprobs)
    for token, offset in zip(logprobs.tokens, logprobs.text_offset, strict=True):
        if not token.startswith("bytes:"):
            assert choice.text[offset : offset + len(token)] == token[: len(choice.text) - offset]
    assert logprobs.text_offset == sorted(logprobs.text_offset)


def test_logprobs_are_those_of_generate(served: Served) -> None:
    choice = ask(served, max_tokens=10, seed=2, temperature=1.5, logprobs=3).choices[0]
    check_slices(choice)
    drawn = list(
        generate(served.model, served.tokenizer.encode(PROMPT), Sampling(10, 1.5, seed=2, logprobs=3), served.tokenizer.end_of_document)
    )
    assert choice.logprobs is not None and choice.logprobs.token_logprobs == pytest.approx([token.logprob for token in drawn], abs=1e-4)
    for token, top in zip(drawn, choice.logprobs.top_logprobs or [], strict=True):
        assert list(top.values())[:3] == pytest.approx([value for _, value in token.top], abs=1e-4)
        assert len(top) <= 4


def test_logprobs_zero_gives_the_drawn_token_alone(served: Served) -> None:
    logprobs = ask(served, logprobs=0, max_tokens=3, temperature=0).choices[0].logprobs
    assert logprobs is not None and [len(top) for top in logprobs.top_logprobs or []] == [1, 1, 1]


@pytest.mark.parametrize("prompt", [PROMPT, "naïve — ✓😀", "x"])
def test_echo_with_no_tokens_scores_the_prompt(served: Served, prompt: str) -> None:
    answer = ask(served, prompt, max_tokens=0, echo=True, logprobs=2)
    choice, ids = answer.choices[0], served.tokenizer.encode(prompt)
    check_slices(choice)
    scored = score(served.model, ids, top=2)
    assert (choice.text, choice.finish_reason) == (prompt, "length")
    assert choice.logprobs is not None and choice.logprobs.token_logprobs is not None and choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == pytest.approx([token.logprob for token in scored if token], abs=1e-4)
    assert choice.logprobs.top_logprobs is not None and choice.logprobs.top_logprobs[0] is None
    assert answer.usage is not None and (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), 0)


def test_echo_then_completion_is_one_text(served: Served) -> None:
    prompt = "naïve — ✓"
    plain = ask(served, prompt, max_tokens=8, seed=6, logprobs=1).choices[0]
    echoed = ask(served, prompt, max_tokens=8, seed=6, logprobs=1, echo=True).choices[0]
    check_slices(echoed)
    assert echoed.text == prompt + plain.text
    assert plain.logprobs and echoed.logprobs and plain.logprobs.tokens and echoed.logprobs.tokens
    assert echoed.logprobs.tokens[-8:] == plain.logprobs.tokens
    assert echoed.logprobs.text_offset and plain.logprobs.text_offset
    assert echoed.logprobs.text_offset[-8:] == [len(prompt) + offset for offset in plain.logprobs.text_offset]
    assert ask(served, prompt, max_tokens=8, seed=6, echo=True).choices[0].text == echoed.text


def test_echo_leaves_stop_strings_of_the_prompt_alone(served: Served) -> None:
    assert ask(served, PROMPT, max_tokens=1, echo=True, stop="fib").choices[0].text.startswith(PROMPT)


def test_tokens_behind_a_stop_string_have_no_logprobs(served: Served) -> None:
    text = long_text(served)
    choice = ask(served, max_tokens=60, seed=5, stop=text[25:28], logprobs=1).choices[0]
    check_slices(choice)
    assert choice.logprobs and choice.logprobs.text_offset and choice.logprobs.text_offset[-1] < len(choice.text)


def test_the_context_bounds_the_completion(served: Served) -> None:
    ids = [5] * (CONTEXT - 4)
    answer = ask(served, ids, max_tokens=100, temperature=0)
    assert answer.usage is not None and answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 4


def test_requests_at_once_get_what_they_get_alone(served: Served) -> None:
    def one(index: int) -> str:
        return ask(served, f"# {index}", seed=index, max_tokens=30).choices[0].text

    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(one, range(24)))
    assert together == [one(index) for index in range(24)]


def test_models(served: Served) -> None:
    assert [model.id for model in served.client.models.list()] == [NAME]
    assert served.client.models.retrieve(NAME).object == "model"
    with pytest.raises(openai.NotFoundError) as caught:
        served.client.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_health(served: Served) -> None:
    assert httpx.get(f"{served.url}/health").json()["status"] == "ok"


@pytest.mark.parametrize("length", [CONTEXT, CONTEXT + 50])
def test_a_prompt_too_long_is_refused_with_both_numbers(served: Served, length: int) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(served, [5] * length)
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")
    assert str(CONTEXT) in caught.value.message and str(length) in caught.value.message


def test_a_full_context_can_still_be_scored_and_the_token_behind_it(served: Served) -> None:
    logprobs = ask(served, [5] * (CONTEXT + 1), max_tokens=0, echo=True, logprobs=1).choices[0].logprobs
    assert logprobs is not None and len(logprobs.tokens or []) == CONTEXT + 1
    with pytest.raises(openai.BadRequestError, match=f"has {CONTEXT + 2}"):
        ask(served, [5] * (CONTEXT + 2), max_tokens=0, echo=True)


@pytest.mark.parametrize("identifier", [-1, 300, 10**30])
def test_a_token_id_of_another_vocabulary_is_refused(served: Served, identifier: int) -> None:
    with pytest.raises(openai.BadRequestError, match=f"{identifier} is not a token id") as caught:
        ask(served, [1, identifier])
    assert caught.value.param == "prompt"


def test_another_model_is_refused(served: Served) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        served.client.completions.create(model="gpt-3.5-turbo-instruct", prompt="a")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize(
    "values", [{"temperature": 2.5}, {"n": 0}, {"suffix": "}"}, {"best_of": 129}, {"logit_bias": {"300": 1}}, {"max_tokens": 0}]
)
def test_refusals_name_the_parameter(served: Served, values: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(served, **values)
    assert caught.value.param == next(iter(values)) and caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_more_choices_than_the_server_takes_are_refused(served: Served, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="3 prompts x 128"):
        ask(served, ["a", "b", "c"], n=128, stream=stream)


def error_of(response: httpx.Response) -> dict[str, Any]:
    content = response.json()
    assert set(content) == {"error"} and set(content["error"]) == {"message", "type", "param", "code"}
    assert content["error"]["message"]
    return content["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/playground.js", 404),
        ("POST", "/v1/edits", 404),
        ("POST", "/completions", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/v1/models/tiny", 405),
        ("OPTIONS", "/v1/completions", 405),
    ],
)
def test_paths_and_methods_that_are_not_there(served: Served, method: str, path: str, status: int) -> None:
    response = httpx.request(method, served.url + path)
    assert response.status_code == status
    assert "/v1/completions" in error_of(response)["message"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"model": "tiny", "temperature": NaN}', b'{"model": "tiny", "prompt": "\\ud800"}', b"\xff"]
)
def test_a_body_that_is_not_json(served: Served, content: bytes) -> None:
    response = httpx.post(f"{served.url}/v1/completions", content=content)
    assert response.status_code == 400
    error_of(response)


def test_a_body_without_the_json_content_type_is_read_as_json(served: Served) -> None:
    """What `curl -d` sends."""
    content = json.dumps({"model": NAME, "prompt": "a", "max_tokens": 1}).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert httpx.post(f"{served.url}/v1/completions", content=content, headers=headers).status_code == 200


def test_a_body_too_large(served: Served) -> None:
    """Larger than what sockets buffer: the client must hear the answer although it has not sent all."""
    with pytest.raises(openai.APIStatusError) as caught:
        ask(served, "a" * (6 * Limits().body))
    assert (caught.value.status_code, caught.value.code) == (413, "body_too_large")


def test_an_error_of_the_model_is_a_500_and_the_server_goes_on(weights: Path) -> None:
    broken = [True]

    def fail_once() -> None:
        if broken:
            broken.clear()
            raise RuntimeError("secret detail")

    with running(weights, slow=fail_once) as served:
        with pytest.raises(openai.InternalServerError) as caught:
            ask(served)
        assert caught.value.type == "server_error" and "secret" not in caught.value.message
        assert ask(served, max_tokens=2, temperature=0).choices[0].finish_reason == "length"


def test_the_text_of_an_answer_is_its_tokens_decoded_as_one(served: Served) -> None:
    """Characters that several tokens make together come out whole."""
    ids = served.tokenizer.encode("naïve ✓😀")
    decoder = Decoder()
    assert "".join(decoder.push(served.tokenizer.token_bytes(identifier)) for identifier in ids) == "naïve ✓😀"
    assert ask(served, ids, echo=True, max_tokens=0).choices[0].text == "naïve ✓😀"
