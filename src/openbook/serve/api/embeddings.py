"""`POST /v1/embeddings`: the mean of the final hidden states of a text's tokens, scaled to length 1."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any, Literal

import numpy as np
from pydantic import Field

from openbook.engine import Job
from openbook.model.generate import Sampling
from openbook.serve.api.answers import Answer, Sequences
from openbook.serve.api.choices import Choice
from openbook.serve.api.desk import Account, Desk, check_room, encode
from openbook.serve.api.wire import Prompts, Wire
from openbook.serve.errors import ApiError, invalid
from openbook.serve.served import Served

MOST_INPUTS = 2048
AT_ONCE = 32
"""Texts of one request in the queue at a time."""


class EmbeddingRequest(Wire):
    """The body of `POST /v1/embeddings`. Token ids are this model's own."""

    model: str
    input: Prompts
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)


async def begin(desk: Desk, body: bytes, account: Account) -> Embeddings:
    """Raises ApiError."""
    asked = EmbeddingRequest.parse(body)
    served = desk.model(asked.model)
    width = served.engine.model.config.width
    if asked.dimensions is not None and asked.dimensions > width:
        raise invalid("dimensions", f"is {asked.dimensions}, and this model's embeddings have {width}")
    if len(asked.input) > MOST_INPUTS:
        raise invalid("input", f"has {len(asked.input)} texts; at most {MOST_INPUTS} go into one request")
    texts = await encode(served, asked.input, "input")
    for ids in texts:
        if not ids:
            raise invalid("input", "has an empty text, which has no embedding")
        check_room(served, len(ids), 0, "input")
    return Embeddings(served, asked, texts, account)


class Embeddings(Answer):
    """Texts that the engine is reading, a few at a time, so that a long list takes nobody's place in the queue."""

    def __init__(self, served: Served, asked: EmbeddingRequest, texts: list[list[int]], account: Account) -> None:
        self._served, self._asked, self._account = served, asked, account
        self.ignored = asked.ignored
        size = min(AT_ONCE, served.engine.queue)
        first, *self._later = [texts[start : start + size] for start in range(0, len(texts), size)]
        self._sequences = self._submit(first)
        self._abandoned = False

    def _submit(self, texts: list[list[int]]) -> Sequences:
        jobs = [Job(ids, Sampling(0), None, embed=True) for ids in texts]
        return Sequences(self._served, jobs, [Choice(self._served.tokenizer, ()) for _ in jobs], self._account)

    def abandon(self) -> None:
        self._abandoned = True
        self._sequences.abandon()

    async def _vectors(self) -> AsyncIterator[list[float]]:
        """One for each text. Once the first texts have been let in, a full queue is waited for."""
        while True:
            await self._sequences.whole()
            for choice in self._sequences.choices:
                yield choice.vector
            if not self._later or self._abandoned:
                return
            self._sequences = await self._submit_patiently(self._later.pop(0))
            if self._abandoned:  # while it waited
                self._sequences.abandon()

    async def _submit_patiently(self, texts: list[list[int]]) -> Sequences:
        while True:
            try:
                return self._submit(texts)
            except ApiError as error:
                if error.status != 429:
                    raise
            await asyncio.sleep(0.05)

    async def whole(self) -> dict[str, Any]:
        vectors = [self._wire(vector) async for vector in self._vectors()]
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        read = self._account.prompt_tokens
        return {"object": "list", "data": data, "model": self._served.name, "usage": {"prompt_tokens": read, "total_tokens": read}}

    def _wire(self, vector: list[float]) -> list[float] | str:
        """The first `dimensions`, again of length 1."""
        kept = np.array(vector)[: self._asked.dimensions]
        kept = (kept / max(float(np.linalg.norm(kept)), 1e-12)).astype("<f4")
        return base64.b64encode(kept.tobytes()).decode() if self._asked.encoding_format == "base64" else kept.tolist()
