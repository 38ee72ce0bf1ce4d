"""Semantic Kernel with nothing told but an address: `python semantic_kernel.py URL MODEL`."""

import asyncio
import sys
from typing import Literal

import openai

sys.path.pop(0)  # this file has the name of what it tries

from pydantic import BaseModel
from semantic_kernel import Kernel
from semantic_kernel.connectors.ai.function_choice_behavior import FunctionChoiceBehavior
from semantic_kernel.connectors.ai.open_ai import (
    OpenAIChatCompletion,
    OpenAIChatPromptExecutionSettings,
    OpenAITextCompletion,
    OpenAITextEmbedding,
    OpenAITextPromptExecutionSettings,
)
from semantic_kernel.contents import ChatHistory
from semantic_kernel.functions import kernel_function

url, model = sys.argv[1:]
client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none")


class Verdict(BaseModel):
    answer: Literal["yes", "no"]


class Clock:
    @kernel_function(description="The time")
    def now(self) -> str:
        return "noon"


async def main() -> None:
    chat = OpenAIChatCompletion(ai_model_id=model, async_client=client)
    history = ChatHistory()
    history.add_user_message("Hello")
    short = OpenAIChatPromptExecutionSettings(max_tokens=20, seed=1)
    (said,) = await chat.get_chat_message_contents(history, short)
    assert said.metadata["usage"].completion_tokens <= 20
    pieces = [piece[0].content async for piece in chat.get_streaming_chat_message_contents(history, short)]
    assert "".join(pieces) == said.content

    formed = OpenAIChatPromptExecutionSettings(max_tokens=100, seed=1, response_format=Verdict)
    (said,) = await chat.get_chat_message_contents(history, formed)
    assert Verdict.model_validate_json(said.content)

    kernel = Kernel()
    kernel.add_plugin(Clock(), "clock")
    behaviour = FunctionChoiceBehavior.Required(auto_invoke=False)
    calling = OpenAIChatPromptExecutionSettings(max_tokens=300, seed=1, function_choice_behavior=behaviour)
    (called,) = await chat.get_chat_message_contents(history, calling, kernel=kernel)
    assert called.items[0].name == "clock-now", called.items
    calling.function_choice_behavior = FunctionChoiceBehavior.Auto()
    assert await chat.get_chat_message_contents(history, calling, kernel=kernel)

    text = OpenAITextCompletion(ai_model_id=model, async_client=client)
    settings = OpenAITextPromptExecutionSettings(max_tokens=8)
    assert (await text.get_text_contents("def f(", settings))[0].text is not None
    assert [piece async for piece in text.get_streaming_text_contents("def f(", settings)]
    vectors = await OpenAITextEmbedding(ai_model_id=model, async_client=client).generate_embeddings(["a", "b"])
    assert vectors.shape[0] == 2


asyncio.run(main())
