"""The trained model as a scorer."""

from __future__ import annotations

from collections.abc import Sequence

from openbook.model.score import document_bits, windows
from openbook.model.tokenizer import Tokenizer
from openbook.model.transformer import Transformer
from openbook.progress import track


class Network:
    """Bits by the model's probability of a document's tokens, in windows that move by `stride` tokens."""

    def __init__(self, model: Transformer, tokenizer: Tokenizer, stride: int) -> None:
        self.model, self.tokenizer, self.stride = model, tokenizer, stride

    def bits(self, documents: Sequence[bytes]) -> list[float]:
        ids = [self.tokenizer.encode(document.decode()) for document in documents]
        context = self.model.config.context
        total = sum(1 for document in ids for _ in windows(len(document) + 1, context, self.stride))
        bits = [0.0] * len(documents)
        with track("evaluate: model", total) as bar:
            for done, (index, part) in enumerate(document_bits(self.model, ids, self.tokenizer.begin_of_document, self.stride), 1):
                bits[index] += part
                bar.update(done)
        return bits
