"""LangChain with nothing told but an address: `python langchain.py URL MODEL`."""

import sys
from typing import Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel

url, model = sys.argv[1:]
access = {"base_url": f"{url}/v1", "api_key": "none", "model": model}


class Verdict(BaseModel):
    answer: Literal["yes", "no"]
    grade: Literal[1, 2, 3]


@tool
def weather(city: Literal["Oslo", "Rome"]) -> str:
    """The weather of a city."""
    return f"fine in {city}"


chat = ChatOpenAI(**access, max_tokens=40, seed=1)
answer = chat.invoke("Hello")
assert answer.usage_metadata["output_tokens"] <= 40 and answer.response_metadata["finish_reason"]
assert sum(1 for _ in chat.stream("Hello")) > 2
scored = chat.bind(logprobs=True, top_logprobs=2).invoke("Hello").response_metadata["logprobs"]["content"]
assert len(scored[0]["top_logprobs"]) == 2

long = ChatOpenAI(**access, max_tokens=400, seed=1)
for method in ("json_schema", "function_calling"):
    assert long.with_structured_output(Verdict, method=method).invoke("Hello").answer in ("yes", "no"), method
called = long.bind_tools([weather], tool_choice="weather", parallel_tool_calls=False).invoke("Hello")
assert called.tool_calls[0]["args"]["city"] in ("Oslo", "Rome")
result = ToolMessage(weather.invoke(called.tool_calls[0]["args"]), tool_call_id=called.tool_calls[0]["id"])
assert chat.invoke([HumanMessage("Hello"), called, result]).response_metadata["finish_reason"]
streamed = None
for chunk in long.bind_tools([weather], tool_choice="any").stream("Hello"):
    streamed = chunk if streamed is None else streamed + chunk
assert streamed.tool_calls[0]["name"] == "weather"

assert ChatOpenAI(**access, max_tokens=20, use_responses_api=True).invoke("Hello").content
assert isinstance(OpenAI(**access, max_tokens=8, n=2, best_of=2, seed=1).invoke("def f("), str)
assert len(list(OpenAI(**access, max_tokens=8, seed=1).stream("def f("))) > 1
vectors = OpenAIEmbeddings(**access, check_embedding_ctx_length=False).embed_documents(["a", "b"])
assert len(vectors) == 2 and abs(sum(value**2 for value in vectors[0]) - 1) < 1e-3
