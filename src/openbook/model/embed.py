"""A text as one vector: the mean of the final hidden states of its tokens, scaled to length 1."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from openbook.errors import InputError
from openbook.model.generate import CHUNK
from openbook.model.transformer import Cache, Transformer


class Embedding:
    """Reads a text by bounded pieces of work, until `advance` gives its vector.

    Raises InputError for a text without tokens, or that does not fit the context.
    """

    def __init__(self, model: Transformer, ids: Sequence[int]) -> None:
        if not ids or len(ids) > model.config.context:
            raise InputError(f"{len(ids)} tokens: an embedding is of 1 to {model.config.context}")
        self._model, self._count, self._unread = model, len(ids), list(ids)
        self._cache = Cache(model, len(ids))
        self._sum = torch.zeros(model.config.width, dtype=torch.float64)

    @torch.no_grad()
    def advance(self) -> list[float] | None:
        """The vector, (width,), once all is read; None before."""
        ids, self._unread = self._unread[:CHUNK], self._unread[CHUNK:]
        hidden = self._model(torch.tensor([ids], device=self._model.embedding.weight.device), self._cache)[0]  # (time, width)
        self._sum += hidden.double().sum(0).cpu()
        if self._unread:
            return None
        vector: list[float] = F.normalize(self._sum / self._count, dim=0).tolist()
        return vector
