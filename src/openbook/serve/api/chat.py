"""`POST /v1/chat/completions`: a conversation in, the assistant's next message out, with tools and structured outputs."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError
from starlette.concurrency import run_in_threadpool

from openbook.engine import Job
from openbook.serve.api.answers import (
    Sequences,
    Streamed,
    compiled,
    event,
    grammar_of,
    json_term,
    logit_bias_of,
    sampling_of,
    usage,
    usage_so_far,
)
from openbook.serve.api.choices import Choice, Part, Placed, chat_logprobs
from openbook.serve.api.desk import Account, Desk, blamed, check_room
from openbook.serve.api.wire import Drawn, Format, Wire
from openbook.serve.served import Served
from openbook.serve.text.grammar import GrammarMask, json_schema
from openbook.serve.text.tools import Argued, Called, CallReader, Function, Said, calls_grammar

MOST_TOOLS = 128


class ContentPart(Wire):
    """A piece of a message: text. Pictures and sound are refused."""

    type: Literal["text", "refusal"]
    text: str = ""
    refusal: str = ""

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(kind := values.get("type"), str) and kind not in ("text", "refusal"):
            raise PydanticCustomError("content", f"{kind[:40]} is not something this server reads: it reads text")
        return values


class CalledFunction(Wire):
    name: str = Field(min_length=1)
    arguments: str = "{}"

    @field_validator("arguments")
    @classmethod
    def _json(cls, value: str) -> str:
        try:
            if isinstance(json.loads(value or "{}"), dict):
                return value or "{}"
        except (ValueError, RecursionError):
            pass
        raise PydanticCustomError("arguments", "must be the text of a JSON object")


class PastCall(Wire):
    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Wire):
    """A turn of the conversation."""

    UNSUPPORTED = ("audio", "function_call")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[ContentPart] = ""
    name: str | None = None
    tool_calls: list[PastCall] = []
    tool_call_id: str | None = None

    def shown(self) -> dict[str, Any]:
        """As chat templates expect it: text in one piece, arguments as an object, and developers are the system."""
        content = self.content if isinstance(self.content, str) else "".join(part.text or part.refusal for part in self.content)
        shown: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": content}
        shown |= {key: value for key, value in (("name", self.name), ("tool_call_id", self.tool_call_id)) if value}
        if self.tool_calls:
            calls = [(call.id, call.function) for call in self.tool_calls]
            functions = [(key, {"name": called.name, "arguments": json.loads(called.arguments)}) for key, called in calls]
            shown["tool_calls"] = [{"id": key, "type": "function", "function": function} for key, function in functions]
        return shown


class ToolFunction(Wire):
    name: str = Field(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")
    description: str = ""
    parameters: dict[str, Any] = {}
    strict: bool = False


class Tool(Wire):
    type: Literal["function"]
    function: ToolFunction


class ChosenFunction(Wire):
    name: str


class ChosenTool(Wire):
    type: Literal["function"]
    function: ChosenFunction


class ChatRequest(Drawn):
    """The body of `POST /v1/chat/completions`."""

    UNSUPPORTED = ("functions", "function_call", "audio", "web_search_options")

    messages: list[Message] = Field(min_length=1, max_length=10_000)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    tools: list[Tool] = Field([], max_length=MOST_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | ChosenTool = "auto"
    parallel_tool_calls: bool = True
    response_format: Format | None = None
    modalities: list[Literal["text"]] = ["text"]

    @model_validator(mode="after")
    def _together(self) -> ChatRequest:
        if self.top_logprobs and not self.logprobs:
            raise PydanticCustomError("top_logprobs", "needs logprobs = true", {"param": "top_logprobs"})
        names = [tool.function.name for tool in self.tools]
        chosen = self.tool_choice.function.name if isinstance(self.tool_choice, ChosenTool) else None
        if (self.tool_choice == "required" and not names) or (chosen is not None and chosen not in names):
            raise PydanticCustomError("tool_choice", "asks for a tool that is not among tools", {"param": "tool_choice"})
        if len(set(names)) < len(names):
            raise PydanticCustomError("tools", "has two functions of one name", {"param": "tools"})
        return self

    @property
    def offered(self) -> list[Function]:
        """The functions that may be called."""
        if self.tool_choice == "none":
            return []
        chosen = self.tool_choice.function.name if isinstance(self.tool_choice, ChosenTool) else None
        return [function_of(tool.function) for tool in self.tools if chosen in (None, tool.function.name)]


def function_of(asked: ToolFunction) -> Function:
    parameters = asked.parameters or {"type": "object", "properties": {}, "additionalProperties": False}
    return Function(asked.name, asked.description, parameters)


async def begin(desk: Desk, body: bytes, account: Account) -> Chat:
    """Raises ApiError."""
    return await begin_chat(desk, ChatRequest.parse(body), account)


async def begin_chat(desk: Desk, asked: ChatRequest, account: Account) -> Chat:
    served = desk.model(asked.model)
    prompt = await run_in_threadpool(_encode, served, asked)
    check_room(served, len(prompt), 1, "messages")
    bias = logit_bias_of(asked, served)
    mask = await run_in_threadpool(_mask, served, asked)
    most = min(limit for limit in (asked.max_tokens, asked.max_completion_tokens, served.context) if limit is not None)
    top = asked.top_logprobs if asked.logprobs else 0
    jobs = [
        Job(prompt, sampling_of(asked, index, most, top), served.end, mask=mask and mask.fork(), logit_bias=bias)
        for index in range(asked.n)
    ]
    stop = [*asked.stop, *served.turn_stops]
    return Chat(served, asked, Sequences(served, jobs, [Choice(served.tokenizer, stop) for _ in jobs], account), account)


def _encode(served: Served, asked: ChatRequest) -> list[int]:
    with blamed("messages"):
        shown = [function.shown() for function in asked.offered]
        return served.chat.encode([message.shown() for message in asked.messages], shown)


def _mask(served: Served, asked: ChatRequest) -> GrammarMask | None:
    grammar = grammar_of(asked.response_format, "response_format")
    functions = asked.offered
    if functions:
        for function in functions:
            with blamed(f"tools.{function.name}.parameters"):
                json_schema(function.parameters)
        forced = asked.tool_choice != "auto"
        grammar = calls_grammar(functions, forced, asked.parallel_tool_calls, json_term(asked.response_format))
    param = "tools" if functions else "response_format"
    return None if grammar is None else compiled(served.grammars, grammar, param)


@dataclass
class Spoken:
    """What one choice has said and called so far, and the differences that make it up, each as a stream sends it."""

    reader: CallReader | None
    content: str = ""
    calls: list[dict[str, Any]] = field(default_factory=list)

    def take(self, part: Part) -> list[dict[str, Any]]:
        """The deltas of a part, with none for its end."""
        if self.reader is None:
            events: Sequence[Said | Called | Argued] = [Said(part.text)] if part.text else []
        else:
            events = self.reader.push(part.text)
            if part.finish_reason is not None:
                events = [*events, *self.reader.finish()]
        return [self._delta(found) for found in events]

    def _delta(self, found: Said | Called | Argued) -> dict[str, Any]:
        match found:
            case Said():
                self.content += found.text
                return {"content": found.text}
            case Called():
                function = {"name": found.name, "arguments": ""}
                self.calls.append({"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function})
                return {"tool_calls": [{"index": len(self.calls) - 1, **self.calls[-1], "function": dict(function)}]}
            case Argued():
                self.calls[-1]["function"]["arguments"] += found.text
                return {"tool_calls": [{"index": len(self.calls) - 1, "function": {"arguments": found.text}}]}

    def finish_reason(self, reason: str) -> str:
        return "tool_calls" if self.calls and reason == "stop" else reason

    def message(self) -> dict[str, Any]:
        calls = {"tool_calls": self.calls} if self.calls else {}
        return {"role": "assistant", "content": self.content if self.content or not self.calls else None, "refusal": None, **calls}


class Chat(Streamed):
    """A chat completion that the engine is working on."""

    def __init__(self, served: Served, asked: ChatRequest, sequences: Sequences, account: Account) -> None:
        self._tokenizer, self._asked, self._sequences, self.account = served.tokenizer, asked, sequences, account
        self.stream, self.ignored = asked.stream, asked.ignored
        self.spoken = [
            Spoken(CallReader(after_text=json_term(asked.response_format) is None) if asked.offered else None) for _ in range(asked.n)
        ]
        self._facts = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": asked.model}

    def abandon(self) -> None:
        self._sequences.abandon()

    async def deltas(self) -> AsyncIterator[tuple[int, list[dict[str, Any]], Part]]:
        """(choice, its new deltas, the part they came from)."""
        async for index, part in self._sequences.parts():
            yield index, self.spoken[index].take(part), part

    async def whole(self) -> dict[str, Any]:
        tokens: list[list[Placed]] = [[] for _ in self.spoken]
        reasons = [""] * len(self.spoken)
        async for index, _, part in self.deltas():
            tokens[index] += part.tokens
            if part.finish_reason is not None:
                reasons[index] = self.spoken[index].finish_reason(part.finish_reason)
        choices = [
            {"index": index, "message": spoken.message(), "logprobs": self.logprobs(tokens[index]), "finish_reason": reasons[index]}
            for index, spoken in enumerate(self.spoken)
        ]
        return {**self._facts, "object": "chat.completion", "choices": choices, "usage": usage(self.account)}

    def logprobs(self, tokens: list[Placed]) -> dict[str, Any] | None:
        return {"content": chat_logprobs(self._tokenizer, tokens), "refusal": None} if self._asked.logprobs else None

    async def frames(self) -> AsyncIterator[bytes]:
        """For each choice a chunk with its role, its deltas, one with its reason; and if asked for, a last one with the usage alone."""
        facts = {**self._facts, "object": "chat.completion.chunk"}
        options = self._asked.stream_options

        def chunk(index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None = None, reason: str | None = None) -> bytes:
            choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
            return event({**facts, "choices": [choice], **usage_so_far(options, self.account)})

        begun: set[int] = set()
        async for index, deltas, part in self.deltas():
            if index not in begun:
                begun.add(index)
                yield chunk(index, {"role": "assistant", "content": ""})
            logprobs = self.logprobs(part.tokens) if part.tokens else None
            for delta in deltas or ([{}] if logprobs else []):
                yield chunk(index, delta, logprobs)
                logprobs = None
            if part.finish_reason is not None:
                yield chunk(index, {}, logprobs, self.spoken[index].finish_reason(part.finish_reason))
        if options.include_usage:
            yield event({**facts, "choices": [], "usage": usage(self.account)})
