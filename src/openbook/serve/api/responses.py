"""`POST /v1/responses`, the stateless part: the same chat in the shape of OpenAI's newer API. Nothing is stored.

The input is turned into a conversation, the answer into output items: a message with its text, and a function call for each call.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from openbook.serve.api import chat
from openbook.serve.api.answers import Streamed, event
from openbook.serve.api.choices import Part, Placed
from openbook.serve.api.desk import Account, Desk
from openbook.serve.api.wire import Metadata, Wire, refusal
from openbook.serve.errors import ApiError, invalid

LOGPROBS = "message.output_text.logprobs"


class TextFormat(Wire):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str = ""
    schema_: dict[str, Any] = Field({}, alias="schema")


class TextOptions(Wire):
    format: TextFormat = TextFormat()


class ResponseRequest(Wire):
    """The body of `POST /v1/responses`."""

    UNSUPPORTED = ("background", "prompt", "context_management")

    model: str
    input: str | list[dict[str, Any]] = Field(max_length=4_000_000)
    instructions: str | None = None
    max_output_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    stream: bool = False
    tools: list[dict[str, Any]] = Field([], max_length=chat.MOST_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | dict[str, Any] = "auto"
    parallel_tool_calls: bool = True
    text: TextOptions = TextOptions()
    metadata: Metadata = {}
    include: list[str] = []
    top_logprobs: int = Field(0, ge=0, le=20)
    truncation: Literal["disabled"] = "disabled"

    @model_validator(mode="before")
    @classmethod
    def _without_memory(cls, values: Any) -> Any:
        for name in ("previous_response_id", "conversation"):
            if isinstance(values, dict) and values.get(name):
                told = "nothing is stored here: send the whole conversation as input (frameworks do with store = false)"
                raise PydanticCustomError("memory", told, {"param": name})
        return values


async def begin(desk: Desk, body: bytes, account: Account) -> Response:
    """Raises ApiError."""
    asked = ResponseRequest.parse(body)
    try:
        as_chat = chat.ChatRequest.model_validate(_chat(asked))
    except ValidationError as error:
        raise refusal(error) from None
    return Response(asked, await chat.begin_chat(desk, as_chat, account))


def _chat(asked: ResponseRequest) -> dict[str, Any]:
    """The same question to the chat endpoint."""
    items = [{"role": "user", "content": asked.input}] if isinstance(asked.input, str) else asked.input
    first = [{"role": "system", "content": asked.instructions}] if asked.instructions else []
    form, schema = asked.text.format, {}
    if form.type == "json_schema":
        schema = {"json_schema": {"name": form.name, "schema": form.schema_}}
    return {
        "model": asked.model,
        "messages": first + _messages(items),
        "max_completion_tokens": asked.max_output_tokens,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "tools": [_tool(index, tool) for index, tool in enumerate(asked.tools)],
        "tool_choice": _choice(asked.tool_choice),
        "parallel_tool_calls": asked.parallel_tool_calls,
        "response_format": {"type": form.type, **schema},
        "logprobs": LOGPROBS in asked.include,
        "top_logprobs": asked.top_logprobs if LOGPROBS in asked.include else 0,
        "stream": asked.stream,
    }


def _tool(index: int, tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise invalid(f"tools.{index}.type", 'must be "function": this server has no tools of its own')
    return {"type": "function", "function": {key: tool.get(key) for key in ("name", "description", "parameters", "strict")}}


def _choice(choice: str | dict[str, Any]) -> Any:
    return choice if isinstance(choice, str) else {"type": choice.get("type"), "function": {"name": choice.get("name")}}


def _messages(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Input items as messages; calls that follow each other are one message's calls."""
    messages: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        kind = item.get("type", "message")
        if kind == "message":
            messages.append({"role": item.get("role"), "content": _content(index, item.get("content"))})
        elif kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if messages and messages[-1].get("tool_calls"):
                messages[-1]["tool_calls"].append(call)
            else:
                messages.append({"role": "assistant", "content": "", "tool_calls": [call]})
        elif kind == "function_call_output":
            content = _content(index, item.get("output"))
            messages.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        elif kind != "reasoning":
            raise invalid(f"input.{index}.type", 'must be "message", "function_call" or "function_call_output"')
    return messages


def _content(index: int, content: Any) -> Any:
    """Parts of text under the names that chats have for them."""
    if not isinstance(content, list):
        return content
    texts = ("input_text", "output_text", "text")
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in texts:
            raise invalid(f"input.{index}.content", "must be text, or parts of the types input_text and output_text")
    return [{"type": "text", "text": part.get("text")} for part in content]


class Response(Streamed):
    """A response that the engine is working on."""

    end = b""

    def __init__(self, asked: ResponseRequest, answer: chat.Chat) -> None:
        self._asked, self._chat = asked, answer
        self.stream, self.ignored = asked.stream, asked.ignored
        self._id, self._created = f"resp_{uuid.uuid4().hex}", int(time.time())
        self._items: list[dict[str, Any]] = []
        self._number = 0

    def abandon(self) -> None:
        self._chat.abandon()

    async def whole(self) -> dict[str, Any]:
        last: dict[str, Any] = {}
        async for content in self._events():
            last = content
        response: dict[str, Any] = last["response"]
        return response

    async def frames(self) -> AsyncIterator[bytes]:
        async for content in self._events():
            yield event(content, content["type"])

    def failure(self, error: ApiError) -> bytes:
        said = error.body()["error"]
        return event(self._event("error", code=said["code"], message=said["message"], param=said["param"]), "error")

    async def _events(self) -> AsyncIterator[dict[str, Any]]:
        """Every event of the stream; the last holds the whole response."""
        yield self._event("response.created", response=self._response("in_progress"))
        yield self._event("response.in_progress", response=self._response("in_progress"))
        reason = "stop"
        async for _, deltas, part in self._chat.deltas():
            for delta in deltas:
                for happened in self._take(delta, part):
                    yield happened
            reason = part.finish_reason or reason
        for happened in self._close("incomplete" if reason == "length" else "completed"):
            yield happened
        status = "incomplete" if reason == "length" else "completed"
        yield self._event(f"response.{status}", response=self._response(status))

    def _take(self, delta: dict[str, Any], part: Part) -> list[dict[str, Any]]:
        """The events of a chat's delta."""
        if "content" in delta:
            opened = self._open({"type": "message", "id": f"msg_{uuid.uuid4().hex}", "role": "assistant", "content": []})
            item, logprobs = self._items[-1], self._logprobs(part.tokens)
            if not item["content"]:
                item["content"].append({"type": "output_text", "text": "", "annotations": [], "logprobs": []})
                opened.append(self._event("response.content_part.added", **self._place(True), part={**item["content"][0]}))
            item["content"][0]["text"] += delta["content"]
            item["content"][0]["logprobs"] = item["content"][0]["logprobs"] + logprobs
            return [
                *opened,
                self._event("response.output_text.delta", **self._place(True), delta=delta["content"], logprobs=_brief(logprobs)),
            ]
        function = delta["tool_calls"][0]["function"]
        events = []
        if "id" in delta["tool_calls"][0]:
            facts = {"call_id": delta["tool_calls"][0]["id"], "name": function["name"], "arguments": ""}
            events = self._open({"type": "function_call", "id": f"fc_{uuid.uuid4().hex}", **facts}, another=True)
        if function["arguments"]:
            self._items[-1]["arguments"] += function["arguments"]
            events.append(self._event("response.function_call_arguments.delta", **self._place(), delta=function["arguments"]))
        return events

    def _open(self, item: dict[str, Any], another: bool = False) -> list[dict[str, Any]]:
        """Begins an item unless one of its type is open, or always if it is `another`."""
        if self._items and self._items[-1]["type"] == item["type"] and self._items[-1]["status"] == "in_progress" and not another:
            return []
        events = self._close("completed")
        self._items.append({**item, "status": "in_progress"})
        shown = {**self._items[-1]} | ({"content": []} if item["type"] == "message" else {})
        return [*events, self._event("response.output_item.added", output_index=len(self._items) - 1, item=shown)]

    def _close(self, status: str) -> list[dict[str, Any]]:
        if not self._items or self._items[-1]["status"] != "in_progress":
            return []
        item = self._items[-1]
        item["status"] = status
        if item["type"] == "message":
            text = item["content"][0]
            said = {"text": text["text"], "logprobs": _brief(text["logprobs"])}
            done = self._event("response.output_text.done", **self._place(True), **said)
            events = [done, self._event("response.content_part.done", **self._place(True), part=text)]
        else:
            said = {"name": item["name"], "arguments": item["arguments"]}
            events = [self._event("response.function_call_arguments.done", **self._place(), **said)]
        return [*events, self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)]

    def _place(self, content: bool = False) -> dict[str, Any]:
        place = {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1}
        return place | ({"content_index": 0} if content else {})

    def _logprobs(self, tokens: list[Placed]) -> list[dict[str, Any]]:
        found = self._chat.logprobs(tokens)
        return found["content"] if found else []

    def _event(self, kind: str, **values: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **values}

    def _response(self, status: str) -> dict[str, Any]:
        asked = self._asked
        ended = status != "in_progress"
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": asked.model,
            "output": self._items if ended else [],
            "parallel_tool_calls": asked.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "temperature": asked.temperature,
            "text": {"format": _shown(asked.text.format)},
            "tool_choice": asked.tool_choice,
            "tools": [{"strict": False, "parameters": None, **tool} for tool in asked.tools],
            "top_p": asked.top_p,
            "truncation": asked.truncation,
            "metadata": asked.metadata,
            **({"usage": self._usage()} if ended else {}),
        }

    def _usage(self) -> dict[str, Any]:
        account = self._chat.account
        return {
            "input_tokens": account.prompt_tokens,
            "input_tokens_details": {"cached_tokens": account.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": account.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": account.prompt_tokens + account.completion_tokens,
        }


def _brief(logprobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As events have them: without bytes."""

    def entry(token: dict[str, Any]) -> dict[str, Any]:
        return {"token": token["token"], "logprob": token["logprob"]}

    return [{**entry(token), "top_logprobs": [entry(other) for other in token["top_logprobs"]]} for token in logprobs]


def _shown(form: TextFormat) -> dict[str, Any]:
    return {"type": form.type} | ({"name": form.name, "schema": form.schema_} if form.type == "json_schema" else {})
