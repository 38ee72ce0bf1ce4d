"""An endpoint that also tells how it spells texts in tokens, by `POST /tokenize`, as openbook's server and vLLM's do.

Prompts are then sent as token ids, cut by our own rules: what is written is the same as by the model in this process, and so are scores.
Other servers than openbook's want to read the last token of what is scored, too: there a prompt that is cut loses one more.
"""

from __future__ import annotations

from collections.abc import Sequence

from openbook.errors import InputError
from openbook.evaluate.models.endpoint import Endpoint, summed
from openbook.evaluate.models.interface import Request
from openbook.evaluate.models.tokens import Row, TokenModel


class SpelledEndpoint(TokenModel):
    """Raises InputError for an endpoint that does not say how texts become tokens, how a document begins, or how long its window is."""

    def __init__(self, endpoint: Endpoint, stride: int | None = None) -> None:
        self._endpoint, self.stride = endpoint, stride
        told = endpoint.ask("POST", f"{endpoint.root}/tokenize", {"model": endpoint.model, "prompt": ""})
        prefix, window = told.get("tokens"), told.get("max_model_len")
        beginning = told.get("beginning", prefix[0] if isinstance(prefix, list) and len(prefix) == 1 else None)
        if not isinstance(prefix, list) or not isinstance(window, int) or not isinstance(beginning, int):
            raise InputError(f"{endpoint.root}/tokenize: does not tell tokens, max_model_len and how a document begins")
        self.prefix, self.window, self.beginning = tuple(prefix), window, beginning
        self._longest = told.get("max_echo_len", window)
        self.identity = f"{endpoint.identity} by tokens"

    @property
    def longest(self) -> int:
        return int(self._longest)

    def encode(self, text: str) -> list[int]:
        told = self._endpoint.ask("POST", f"{self._endpoint.root}/tokenize", {"model": self._endpoint.model, "prompt": text})
        ids: list[int] = told["tokens"]
        return ids[len(self.prefix) :]

    def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
        return self._endpoint.all(self.encode, texts)

    def score_rows(self, rows: Sequence[Row]) -> list[tuple[float, bool]]:
        first = [self._score(row) for row in rows[:1]]  # alone: an endpoint that cannot score is asked once
        return first + self._endpoint.all(self._score, rows[1:])

    def _score(self, row: Row) -> tuple[float, bool]:
        length = len(row.context) + len(row.continuation)
        return summed(self._endpoint.told([*row.context, *row.continuation]), range(len(row.context), length))

    def write(self, prompts: Sequence[list[int]], requests: Sequence[Request]) -> list[str]:
        return self._endpoint.all(lambda asked: self._endpoint.write(*asked), list(zip(prompts, requests, strict=True)))
