"""`POST /infill` as llama.cpp's editor plugins (llama.vim, llama.vscode) call it: code around the cursor in, what stands between out."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from pydantic import Field
from starlette.concurrency import run_in_threadpool

from openbook.engine import Job
from openbook.model.generate import Sampling
from openbook.serve.api.answers import Sequences, Streamed, event
from openbook.serve.api.choices import Choice, Part
from openbook.serve.api.desk import Account, Desk, encode_one
from openbook.serve.api.wire import Stops, Wire
from openbook.serve.errors import invalid
from openbook.serve.served import Served
from openbook.serve.text.fim import FillIn


class Extra(Wire):
    """Another piece of the repository."""

    text: str
    filename: str = ""


class InfillRequest(Wire):
    """The body of `POST /infill`. Of a text that is too long, what is nearest to the cursor is kept."""

    model: str | None = None
    input_prefix: str
    input_suffix: str
    input_extra: list[Extra] = Field([], max_length=1000)
    prompt: str = ""
    n_predict: int = Field(128, ge=-1)
    temperature: float = Field(0.8, ge=0, le=2)
    top_k: int = Field(40, ge=0, le=2**31)
    top_p: float = Field(0.95, ge=0, le=1)
    min_p: float = Field(0.05, ge=0, le=1)
    seed: int = Field(-1, ge=-1, lt=2**63)
    stop: Stops = []
    t_max_predict_ms: int = Field(0, ge=0)
    stream: bool = False
    response_fields: list[str] = Field([], max_length=100)


async def begin(desk: Desk, body: bytes, account: Account) -> Infill:
    """Raises ApiError."""
    asked = InfillRequest.parse(body)
    served = desk.model(asked.model)
    if served.fill_in is None:
        raise invalid(None, f"{served.name!r} was not trained to fill in code", "infill_not_supported")
    wanted = served.context // 4 if asked.n_predict < 0 else min(asked.n_predict, served.context // 2)
    prompt = await run_in_threadpool(_prompt, served, served.fill_in, asked, served.context - wanted - 1)
    sampling = Sampling(wanted, asked.temperature, asked.top_p, None if asked.seed < 0 else asked.seed, 0, asked.top_k, asked.min_p)
    job = Job(prompt, sampling, served.tokenizer.end_of_document, score_prompt=not wanted)  # llama.vim warms the cache with 0 tokens
    choice = Choice(served.tokenizer, asked.stop)
    return Infill(served, asked, Sequences(served, [job], [choice], account), account)


def _prompt(served: Served, marks: FillIn, asked: InfillRequest, room: int) -> list[int]:
    """At most three quarters of the room for what is before the cursor, a quarter for what is behind, and what is left for other files."""
    room -= marks.overhead
    before = encode_one(served, asked.input_prefix, "input_prefix")[-max(room * 3 // 4, 1) :]
    after = encode_one(served, asked.input_suffix, "input_suffix")[: room // 4]
    begun = encode_one(served, asked.prompt, "prompt")
    room -= len(before) + len(after) + len(begun)
    if room < 0:
        raise invalid("prompt", f"this model's context is {served.context} tokens, which leaves no room for {len(begun)}")
    others: list[int] = []
    for extra in reversed(asked.input_extra):  # the last is the most recent
        named = f"{extra.filename}\n" if marks.file else f"# {extra.filename}\n" if extra.filename else ""
        piece = [*marks.file, *encode_one(served, f"{named}{extra.text}\n", "input_extra")]
        if len(piece) + len(others) > room:
            break
        others = piece + others
    return [*others, *marks.prompt(before, after), *begun]


class Infill(Streamed):
    """A piece of code that the engine is writing; the shape is llama-server's."""

    end = b""

    def __init__(self, served: Served, asked: InfillRequest, sequences: Sequences, account: Account) -> None:
        self._name, self._asked, self._sequences, self._account = served.name, asked, sequences, account
        self.stream, self.ignored = asked.stream, asked.ignored
        self._began, self._read = time.monotonic(), 0.0

    def abandon(self) -> None:
        self._sequences.abandon()

    async def _parts(self) -> AsyncIterator[Part]:
        """Until the end, or until the time for drawing is over."""
        limit = self._asked.t_max_predict_ms / 1000
        async for _, part in self._sequences.parts():
            now = time.monotonic() - self._began
            self._read = self._read or now
            yield part
            if limit and now - self._read > limit and part.finish_reason is None:
                yield Part("", [], "length")
                return

    async def whole(self) -> dict[str, Any]:
        text, reason = "", ""
        async for part in self._parts():
            text, reason = text + part.text, part.finish_reason or ""
        return _chosen({"content": text, **self._facts(reason)}, self._asked.response_fields)

    async def frames(self) -> AsyncIterator[bytes]:
        async for part in self._parts():
            facts = {"stop": False} if part.finish_reason is None else self._facts(part.finish_reason)
            yield event({"content": part.text, **facts})

    def _facts(self, reason: str) -> dict[str, Any]:
        account, seconds = self._account, time.monotonic() - self._began
        read, drawn = max(self._read, 1e-6), max(seconds - self._read, 1e-6)
        timings = {
            "prompt_n": account.prompt_tokens,
            "prompt_ms": read * 1000,
            "prompt_per_second": account.prompt_tokens / read,
            "predicted_n": account.completion_tokens,
            "predicted_ms": drawn * 1000,
            "predicted_per_second": account.completion_tokens / drawn,
        }
        return {
            "model": self._name,
            "stop": True,
            "stop_type": {"stop": "eos", "length": "limit"}.get(reason, "none"),
            "truncated": False,
            "tokens_predicted": account.completion_tokens,
            "tokens_evaluated": account.prompt_tokens,
            "tokens_cached": account.cached_tokens,
            "timings": timings,
        }


def _chosen(answer: dict[str, Any], fields: list[str]) -> dict[str, Any]:
    """The fields asked for, "timings/prompt_n" being one inside another; all of them if none is asked for."""
    if not fields:
        return answer
    chosen: dict[str, Any] = {}
    for name in fields:
        outer, _, inner = name.partition("/")
        value = answer.get(outer)
        if not inner and value is not None:
            chosen[name] = value
        elif isinstance(value, dict) and inner in value:
            chosen[name] = value[inner]
    return chosen
