"""`POST /tokenize` and `POST /detokenize`, which take and give what vLLM's and llama-server's do."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator
from pydantic_core import PydanticCustomError
from starlette.concurrency import run_in_threadpool

from openbook.serve.api.chat import Message, Tool, function_of
from openbook.serve.api.choices import spelling
from openbook.serve.api.desk import Account, Desk, blamed, encode_one
from openbook.serve.api.wire import Wire


class TokenizeRequest(Wire):
    """The body of `POST /tokenize`: a text under either name, or a conversation."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    messages: list[Message] | None = None
    tools: list[Tool] = []
    with_pieces: bool = False

    @model_validator(mode="after")
    def _one_of(self) -> TokenizeRequest:
        if [self.prompt, self.content, self.messages].count(None) != 2:
            raise PydanticCustomError("one", "give one of prompt, content and messages", {"param": "prompt"})
        return self


class DetokenizeRequest(Wire):
    """The body of `POST /detokenize`."""

    model: str | None = None
    tokens: list[int]


async def tokenize(desk: Desk, body: bytes, account: Account) -> dict[str, Any]:
    asked = TokenizeRequest.parse(body)
    served = desk.model(asked.model)
    account.model = served.name

    def ids() -> list[int]:
        if asked.messages is None:
            text = asked.prompt if asked.prompt is not None else asked.content or ""
            return encode_one(served, text, "prompt" if asked.prompt is not None else "content")
        with blamed("messages"):
            shown = [function_of(tool.function).shown() for tool in asked.tools]
            return served.chat.encode([message.shown() for message in asked.messages], shown)

    tokens = await run_in_threadpool(ids)
    pieces = [{"id": token, "piece": spelling(served.tokenizer, token)} for token in tokens] if asked.with_pieces else tokens
    lengths = {"max_model_len": served.context, "max_echo_len": served.context + 1}
    return {"tokens": pieces, "count": len(tokens), **lengths, "beginning": served.tokenizer.begin_of_document}


async def detokenize(desk: Desk, body: bytes, account: Account) -> dict[str, Any]:
    asked = DetokenizeRequest.parse(body)
    served = desk.model(asked.model)
    account.model = served.name
    text = served.tokenizer.decode(encode_one(served, asked.tokens, "tokens"))
    return {"prompt": text, "content": text}
