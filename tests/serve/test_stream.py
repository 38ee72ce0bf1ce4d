"""The untouched `openai` client against a real server: streams, clients that go away, and a full queue."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types import Completion

from openbook.engine import Engine
from serve.serving import NAME, Served, running

PROMPT = "def fibonacci(n):\n"


def stream(served: Served, prompt: Any = PROMPT, **values: Any) -> list[Completion]:
    return list(served.client.completions.create(model=NAME, prompt=prompt, stream=True, **values))


def whole(served: Served, prompt: Any = PROMPT, **values: Any) -> Completion:
    return served.client.completions.create(model=NAME, prompt=prompt, **values)


def raw(served: Served, **values: Any) -> list[str]:
    with httpx.stream("POST", f"{served.url}/v1/completions", json={"model": NAME, "prompt": PROMPT, "stream": True, **values}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        return response.read().decode().split("\n\n")


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"n": 3},
        {"echo": True},
        {"logprobs": 2},
        {"echo": True, "logprobs": 2, "n": 2},
        {"echo": True, "logprobs": 1, "max_tokens": 0},
        {"echo": True, "max_tokens": 0},
        {"stop": ["e", "\n"], "n": 3, "logprobs": 1},
        {"prompt": ["a", "naïve ✓"], "echo": True},
        {"temperature": 0, "max_tokens": 1},
    ],
    ids=str,
)
def test_a_stream_put_together_is_the_whole_answer(served: Served, values: dict[str, Any]) -> None:
    values = {"seed": 4, "max_tokens": 30} | values
    answer = whole(served, **values)
    chunks = stream(served, stream_options={"include_usage": True}, **values)
    assert len({chunk.id for chunk in chunks}) == 1
    *chunks, last = chunks
    assert last.choices == [] and last.usage == answer.usage
    assert all(chunk.usage is None for chunk in chunks)
    for choice in answer.choices:
        parts = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == choice.index]
        assert "".join(part.text for part in parts) == choice.text
        assert [part.finish_reason for part in parts] == [None] * (len(parts) - 1) + [choice.finish_reason]
        assert all(part.text for part in parts[:-1]), "only a last chunk may be empty"
        for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
            if choice.logprobs is None:
                assert all(part.logprobs is None for part in parts)
            else:
                assert [item for part in parts for item in getattr(part.logprobs, name)] == getattr(choice.logprobs, name)


def test_the_usage_so_far_in_each_chunk(served: Served) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = stream(served, stream_options=options, max_tokens=9, temperature=0)
    drawn = [chunk.usage.completion_tokens for chunk in chunks]
    assert drawn == sorted(drawn) and drawn[0] < drawn[-1] == last.usage.completion_tokens
    assert all(chunk.usage.prompt_tokens == last.usage.prompt_tokens > 0 for chunk in chunks)


def test_text_comes_as_it_is_drawn(weights: Path) -> None:
    step = threading.Semaphore(3)
    with running(weights, slow=step.acquire) as served:
        chunks = iter(served.client.completions.create(model=NAME, prompt="a", stream=True, temperature=0, max_tokens=50))
        assert next(chunks).choices[0].text
        step.release(100)
        list(chunks)


def test_the_frames_end_with_done(served: Served) -> None:
    *frames, done, rest = raw(served)
    assert (done, rest) == ("data: [DONE]", "")
    contents = [json.loads(frame.removeprefix("data: ")) for frame in frames]
    assert all("usage" not in content for content in contents), "usage was not asked for"


def test_stream_options_without_a_stream_do_no_harm(served: Served) -> None:
    assert whole(served, extra_body={"stream_options": {"include_usage": True}}).choices


def test_a_refusal_of_a_stream_is_a_refusal(served: Served) -> None:
    with pytest.raises(openai.BadRequestError):
        stream(served, temperature=3)


def test_a_failure_in_mid_stream_is_an_error_event(weights: Path) -> None:
    passes = iter(range(1000))

    def fail_later() -> None:
        if next(passes) == 5:
            raise RuntimeError("secret detail")

    with running(weights, slow=fail_later) as served:
        seen: list[Completion] = []
        with pytest.raises(openai.APIError) as caught:
            seen.extend(served.client.completions.create(model=NAME, prompt="a", stream=True, max_tokens=50, temperature=0))
        assert caught.value.message and "secret" not in caught.value.message
        assert caught.value.type == "server_error"
        assert "".join(chunk.choices[0].text for chunk in seen), "what was drawn before has been sent"
        frames = raw(served, max_tokens=3)
        assert frames[-2] == "data: [DONE]"


@pytest.fixture
def slow(weights: Path) -> Iterator[Served]:
    """A server of one slot and a queue of two, with a model that takes its time."""
    with running(weights, slots=1, queue=2, slow=lambda: time.sleep(0.01)) as served:
        yield served


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def idle(engine: Engine) -> bool:
    return engine.running == engine.waiting == 0


LONG: dict[str, Any] = {"model": NAME, "prompt": "a", "max_tokens": 240, "temperature": 0}
"""Over two seconds of the slow model's work; at temperature 0 it never draws its end token."""


def test_a_stream_that_is_closed_stops_the_work(slow: Served) -> None:
    chunks = slow.client.completions.create(**LONG, stream=True)
    next(iter(chunks))
    chunks.close()
    eventually(lambda: idle(slow.engine))
    assert slow.engine.tokens < 100


def test_a_client_that_gives_up_on_a_whole_answer_stops_the_work(slow: Served) -> None:
    with pytest.raises(openai.APITimeoutError):
        slow.client.with_options(timeout=0.3).completions.create(**LONG)
    eventually(lambda: idle(slow.engine))
    assert slow.engine.tokens < 100


@pytest.mark.parametrize("streaming", [False, True])
def test_a_client_that_gives_up_in_the_queue_leaves_it(slow: Served, streaming: bool) -> None:
    first = slow.client.completions.create(**LONG, stream=True)
    eventually(lambda: slow.engine.running == 1)
    with pytest.raises(openai.APITimeoutError):
        list(slow.client.with_options(timeout=0.3).completions.create(**LONG, n=2, stream=streaming))
    eventually(lambda: slow.engine.waiting == 0)
    assert slow.engine.running == 1, "the others go on"
    first.close()
    eventually(lambda: idle(slow.engine))


def test_a_stop_string_ends_the_work_and_not_only_the_text(slow: Served) -> None:
    text = whole(slow, "a", max_tokens=40, seed=1).choices[0].text
    drawn = slow.engine.tokens
    whole(slow, "a", max_tokens=200, seed=1, stop=text[3:5])
    eventually(lambda: idle(slow.engine))
    assert slow.engine.tokens - drawn < 40


def test_a_full_queue_is_said_at_once(slow: Served) -> None:
    first = slow.client.completions.create(**LONG, stream=True)
    eventually(lambda: slow.engine.running == 1)
    second = slow.client.completions.create(**LONG, stream=True, n=2)
    with pytest.raises(openai.RateLimitError) as caught:
        slow.client.completions.create(**LONG)
    assert caught.value.code == "queue_full" and int(caught.value.response.headers["retry-after"]) > 0
    first.close()
    second.close()
    eventually(lambda: idle(slow.engine))
    assert slow.client.completions.create(model=NAME, prompt="a", max_tokens=1).choices
