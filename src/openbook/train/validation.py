"""Looking at held-out text while training."""

from __future__ import annotations

import math
from pathlib import Path

from openbook.documents import read_documents
from openbook.model.score import document_bits
from openbook.model.tokenizer import load_tokenizer
from openbook.run import Run
from openbook.train.step import Trainer


def validation_texts(path: Path, limit: int) -> list[str]:
    """Documents that together have at most `limit` bytes; where each of them is longer than that, the beginning of the first one."""
    texts: list[str] = []
    size, first = 0, ""
    for document in read_documents(path):
        first = first or document.text
        if size + document.bytes <= limit:
            texts.append(document.text)
            size += document.bytes
    return texts or ([first.encode()[:limit].decode(errors="ignore")] if first else [])


class Validation:
    """A fixed part of each component's held-out documents, scored now and then while training."""

    def __init__(self, run: Run) -> None:
        self.tokenizer = load_tokenizer(run.path / "tokenizer" / "tokenizer.json")
        self.stride = run.recipe.model.context  # windows side by side: half the work of the final evaluation
        self.note = ""
        self.documents: dict[str, tuple[list[list[int]], int]] = {}
        for name in run.recipe.corpus.components:
            texts = validation_texts(run.path / "corpus" / name / "valid.parquet", run.recipe.train.validate_bytes)
            if texts:
                self.documents[name] = ([self.tokenizer.encode(text) for text in texts], sum(len(text.encode()) for text in texts))

    def score(self, trainer: Trainer) -> tuple[dict[str, float], float]:
        """Bits per byte of each component, and of all the bytes together."""
        bits: dict[str, float] = {}
        for name, (ids, _) in self.documents.items():
            bits[name] = math.fsum(part for _, part in document_bits(trainer.model, ids, self.tokenizer.end_of_document, self.stride))
        total = sum(size for _, size in self.documents.values())
        mean = sum(bits.values()) / total if total else math.nan
        self.note = f"{mean:.3f} bits/byte  "
        return {name: round(bits[name] / size, 4) for name, (_, size) in self.documents.items()}, round(mean, 4)
