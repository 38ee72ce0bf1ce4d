"""What OpenAI's client does with a server, step by step: each raises AssertionError, or the client's own error, if it does not go well."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import openai
import torch

PROMPT = "To be, or not to be: naïve ✓"
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Riga", "Oslo"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"], "additionalProperties": False}
HELLO: Any = [{"role": "user", "content": "hello"}]


@dataclass(frozen=True)
class Site:
    """A server with an admin's key, and the same model as `transformers` has it."""

    url: str
    key: str
    name: str
    run: Path
    store: Path
    model: Any

    @cached_property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.key, max_retries=0, timeout=120)

    @cached_property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.key}"}, timeout=120)

    def complete(self, **values: Any) -> Any:
        return self.client.completions.create(**{"model": self.name, "prompt": PROMPT, "max_tokens": 8, "temperature": 0, **values})

    def chat(self, **values: Any) -> Any:
        asked = {"model": self.name, "messages": HELLO, "max_tokens": 60, "seed": 1, **values}
        return self.client.chat.completions.create(**asked)

    def status(self, key: str) -> int:
        """Of a small request with another key."""
        asked = {"model": self.name, "prompt": "To", "max_tokens": 1}
        return httpx.post(f"{self.url}/v1/completions", json=asked, headers={"Authorization": f"Bearer {key}"}, timeout=120).status_code


def views(site: Site) -> None:
    """/health, /ready, /metrics, /v1/models, the playground and the list of endpoints; 401 without a key"""
    assert site.http.get("/health").json()["status"] == "ok" and site.http.get("/ready").status_code == 200
    assert "openbook_" in site.http.get("/metrics").text
    assert [model.id for model in site.client.models.list()] == [site.name]
    for page in ("/", "/docs", "/openapi.json"):
        assert httpx.get(site.url + page).status_code == 200, page
    assert httpx.get(f"{site.url}/v1/models").status_code == 401


def completions(site: Site) -> None:
    """completions: greedy text and its log-probabilities are transformers' own"""
    ids = site.http.post("/tokenize", json={"model": site.name, "prompt": PROMPT}).json()["tokens"]
    answer = site.complete(prompt=ids, echo=True, logprobs=0)
    logprobs = answer.choices[0].logprobs
    drawn = answer.usage.completion_tokens
    assert answer.usage.prompt_tokens == len(ids)
    with torch.no_grad():
        made = site.model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False, pad_token_id=0)[0]
        theirs = site.model(made[None]).logits[0, :-1].log_softmax(-1).gather(1, made[1:, None])[:, 0]
    ours = torch.tensor(logprobs.token_logprobs[1:])
    assert logprobs.token_logprobs[0] is None
    assert torch.allclose(ours, theirs[: len(ours)], atol=1e-3), (ours - theirs[: len(ours)]).abs().max()
    assert len(ours) == len(ids) + drawn - 1
    assert len(logprobs.tokens) == len(ours) + 1 and logprobs.text_offset[0] == 0


def choices(site: Site) -> None:
    """n, best_of, seed, stop, logit_bias, several prompts"""
    several = site.complete(n=3, temperature=1, seed=1)
    again = site.complete(n=3, temperature=1, seed=1)
    assert [c.text for c in several.choices] == [c.text for c in again.choices] and len({c.text for c in several.choices}) == 3
    assert len(site.complete(best_of=4, n=2, temperature=1).choices) == 2
    assert len(site.complete(prompt=["To", "be"]).choices) == 2
    token = site.http.post("/tokenize", json={"model": site.name, "content": "be"}).json()["tokens"][-1]
    biased = site.complete(logit_bias={str(token): 100}, max_tokens=3)
    piece = site.http.post("/detokenize", json={"model": site.name, "tokens": [token]}).json()["content"]
    assert biased.choices[0].text == piece * 3
    assert site.complete(logit_bias={str(token): 100}, stop=[piece]).choices[0].finish_reason == "stop"


def refusals(site: Site) -> None:
    """suffix: a clear 400, for a model that was not trained to fill in"""
    assert not site.http.get(f"/v1/models/{site.name}").json()["fill_in"]
    try:
        site.complete(suffix="the end")
    except openai.BadRequestError as error:
        assert error.code == "suffix_not_supported" and "was not trained" in str(error)
    else:
        raise AssertionError("a suffix was taken")
    assert site.http.post("/infill", json={"model": site.name, "input_prefix": "a", "input_suffix": "b"}).status_code == 400


def streams(site: Site) -> None:
    """streamed completions and chats, put together, are the whole ones"""
    pieces = list(site.complete(stream=True, stream_options={"include_usage": True}))
    assert "".join(piece.choices[0].text for piece in pieces if piece.choices) == site.complete().choices[0].text
    assert pieces[-1].usage.completion_tokens > 0
    said = "".join(piece.choices[0].delta.content or "" for piece in site.chat(stream=True))
    assert said == site.chat().choices[0].message.content


def structures(site: Site) -> None:
    """chat: a function that must be called, its result, a JSON schema"""
    message = site.chat(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, max_tokens=150).choices[0].message
    [call] = message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Riga", "Oslo")
    result = {"role": "tool", "tool_call_id": call.id, "content": "rain"}
    after = site.chat(messages=[*HELLO, message.model_dump(exclude_none=True), result], tools=[TOOL], max_tokens=4)
    assert after.choices[0].message.role == "assistant"
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}
    assert json.loads(site.chat(response_format=form).choices[0].message.content)["yes"] in (True, False)
    assert json.loads(site.complete(extra_body={"response_format": form}, max_tokens=60).choices[0].text)["yes"] in (True, False)


def others(site: Site) -> None:
    """responses, embeddings, tokenize and detokenize"""
    assert site.client.responses.create(model=site.name, input="hello", max_output_tokens=4).output[0].type == "message"
    whole = site.client.embeddings.create(model=site.name, input=["To be", "or not"])
    short = site.client.embeddings.create(model=site.name, input="To be", dimensions=8).data[0].embedding
    assert len(whole.data) == 2 and abs(sum(value**2 for value in whole.data[0].embedding) - 1) < 1e-4 and len(short) == 8
    ids = site.http.post("/tokenize", json={"model": site.name, "content": PROMPT}).json()["tokens"]
    assert site.http.post("/detokenize", json={"model": site.name, "tokens": ids}).json()["content"].endswith(PROMPT)


def batches(site: Site) -> None:
    """a batch of requests from a file"""
    body = {"model": site.name, "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    lines = [{"custom_id": str(index), "method": "POST", "url": "/v1/completions", "body": body} for index in range(2)]
    file = site.client.files.create(file=("in.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
    batch = site.client.batches.create(input_file_id=file.id, endpoint="/v1/completions", completion_window="24h")
    end = time.monotonic() + 60
    while batch.status not in ("completed", "failed") and time.monotonic() < end:
        time.sleep(0.1)
        batch = site.client.batches.retrieve(batch.id)
    assert batch.status == "completed" and batch.output_file_id is not None, batch
    answers = [json.loads(line) for line in site.client.files.content(batch.output_file_id).text.splitlines()]
    texts = [answer["response"]["body"]["choices"][0]["text"] for answer in answers]
    assert texts == [site.complete().choices[0].text] * 2


STEPS: tuple[Callable[[Site], None], ...] = (views, completions, choices, refusals, streams, structures, others, batches)
