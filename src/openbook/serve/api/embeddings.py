"""`POST /v1/embeddings`: the mean of the final hidden states of a text's tokens, scaled to length 1."""

from __future__ import annotations

import base64
from typing import Any, Literal

import numpy as np
from pydantic import Field

from openbook.model.generate import Sampling
from openbook.serve.api.answers import Answer, Sequences
from openbook.serve.api.choices import Choice
from openbook.serve.api.desk import Account, Desk, check_room, encode
from openbook.serve.api.wire import Prompts, Wire
from openbook.serve.engine import Job
from openbook.serve.errors import invalid
from openbook.serve.served import Served

MOST_INPUTS = 2048


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
    jobs = [Job(ids, Sampling(0), None, embed=True) for ids in texts]
    return Embeddings(served, asked, Sequences(served, jobs, [Choice(served.tokenizer, ()) for _ in jobs], account), account)


class Embeddings(Answer):
    """Texts that the engine is reading."""

    def __init__(self, served: Served, asked: EmbeddingRequest, sequences: Sequences, account: Account) -> None:
        self._name, self._asked, self._sequences, self._account = served.name, asked, sequences, account
        self.ignored = asked.ignored

    def abandon(self) -> None:
        self._sequences.abandon()

    async def whole(self) -> dict[str, Any]:
        await self._sequences.whole()
        vectors = [self._wire(choice.vector) for choice in self._sequences.choices]
        data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        read = self._account.prompt_tokens
        return {"object": "list", "data": data, "model": self._name, "usage": {"prompt_tokens": read, "total_tokens": read}}

    def _wire(self, vector: list[float]) -> list[float] | str:
        """The first `dimensions`, again of length 1."""
        kept = np.array(vector)[: self._asked.dimensions]
        kept = (kept / max(float(np.linalg.norm(kept)), 1e-12)).astype("<f4")
        return base64.b64encode(kept.tobytes()).decode() if self._asked.encoding_format == "base64" else kept.tolist()
