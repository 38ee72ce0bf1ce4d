"""Microsoft Agent Framework with nothing told but an address: `python agent_framework.py URL MODEL`."""

import asyncio
import sys
from typing import Literal

sys.path.pop(0)  # this file has the name of what it tries

from agent_framework import Agent
from agent_framework.openai import OpenAIChatClient, OpenAIChatCompletionClient, OpenAIEmbeddingClient
from pydantic import BaseModel

url, model = sys.argv[1:]
access = {"model": model, "api_key": "none", "base_url": f"{url}/v1"}


class Verdict(BaseModel):
    answer: Literal["yes", "no"]


def clock() -> str:
    """The time."""
    return "noon"


async def main() -> None:
    for kind in (OpenAIChatCompletionClient, OpenAIChatClient):  # chat completions; responses
        agent = Agent(kind(**access), instructions="Be brief.")
        short = {"max_tokens": 20}
        answer = await agent.run("Hello", options=short)
        assert answer.messages and answer.usage_details["output_token_count"] <= 20
        assert [update async for update in agent.run("Hello", stream=True, options=short)]
        formed = await agent.run("Hello", options={"max_tokens": 100, "response_format": Verdict})
        assert formed.value.answer in ("yes", "no"), kind
        calling = Agent(kind(**access), tools=[clock])
        called = await calling.run("Hello", options={"max_tokens": 300, "tool_choice": "required", "store": False})
        contents = [content for message in called.messages for content in message.contents]
        assert {"function_call", "function_result"} <= {content.type for content in contents}, kind
    vectors = await OpenAIEmbeddingClient(**access).get_embeddings(["a", "b"])
    assert len(vectors) == 2


asyncio.run(main())
