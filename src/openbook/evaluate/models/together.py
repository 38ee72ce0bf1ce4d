"""Continuations of prompts of one length, drawn side by side: one pass of the network gives every row its next token.

Each row draws with its own seed, as `openbook.model.generate` does alone: the same text but for the rounding of fp32 in larger products,
which moves a draw about once in a million tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from openbook.evaluate.models.interface import Request
from openbook.model.detokenize import Decoder
from openbook.model.sample import Sampling, draw
from openbook.model.tokenizer import Tokenizer
from openbook.model.transformer import Cache, Transformer


class _Row:
    def __init__(self, request: Request) -> None:
        self.sampling = Sampling(request.max_tokens, request.temperature, request.top_p, request.seed)
        self.random = torch.Generator().manual_seed(request.seed % 2**64)
        self.decoder, self.text, self.done = Decoder(request.stop), "", False

    def push(self, token: int, tokenizer: Tokenizer) -> int:
        """Takes a token in; the token to read next, which does not matter once the row is done."""
        if token == tokenizer.end_of_document:
            self.done = True
        else:
            self.text += self.decoder.push(tokenizer.token_bytes(token))
            self.done = self.decoder.stopped
        return token

    def finish(self) -> str:
        return self.text if self.decoder.stopped else self.text + self.decoder.finish()


@torch.no_grad()
def write_together(model: Transformer, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], requests: Sequence[Request]) -> list[str]:
    """prompts: of equal length. requests: with equal max_tokens, which leave room in the model's context. Texts without stop strings."""
    rows = [_Row(request) for request in requests]
    left = requests[0].max_tokens
    cache = Cache(model, len(prompts[0]) + left, len(rows))
    read = torch.tensor([list(prompt) for prompt in prompts])  # (rows, time)
    while left and not all(row.done for row in rows):
        hidden = model(read.to(model.embedding.weight.device), cache)[:, -1]  # (rows, width)
        logits = model.logits(hidden).cpu()  # (rows, vocabulary)
        tokens = [
            0 if row.done else row.push(draw(own, row.sampling, row.random), tokenizer) for row, own in zip(rows, logits, strict=True)
        ]
        read = torch.tensor(tokens)[:, None]  # (rows, 1)
        left -= 1
    return [row.finish() for row in rows]
