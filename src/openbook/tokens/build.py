"""The tokenize stage: a vocabulary learnt from the training text, then every document as tokens."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openbook.documents import Document, read_documents
from openbook.files import remove
from openbook.model.tokenizer import Tokenizer
from openbook.progress import track
from openbook.run import Outcome, Run, Stage
from openbook.tokens.shards import write_shard
from openbook.tokens.vocabulary import learn


def _interleaved(paths: list[Path], sizes: list[int]) -> Iterator[str]:
    """Texts of all components, always from the one that is least far through, so that any prefix is a fair mix."""
    readers = [read_documents(path) for path in paths]
    taken = [0] * len(paths)
    alive = set(range(len(paths)))
    while alive:
        index = min(alive, key=lambda i: (taken[i] / max(sizes[i], 1), i))
        document = next(readers[index], None)
        if document is None:
            alive.remove(index)
            continue
        taken[index] += document.bytes
        yield document.text


def build(run: Run) -> Outcome:
    record = run.stage_record("corpus")
    assert record is not None  # the stage reads corpus
    figures: dict[str, Any] = record["summary"]["components"]
    names = [name for name, figure in figures.items() if figure["train"]["documents"]]
    paths = [run.verified("corpus", f"corpus/{name}/train.parquet") for name in names]
    tokenizer = learn(_interleaved(paths, [figures[name]["train"]["bytes"] for name in names]), run.recipe.tokenizer)
    tokenizer.save(run.path / "tokenizer" / "tokenizer.json")
    remove(run.path / "tokens")  # components of an earlier recipe
    total = sum(figures[name][split]["bytes"] for name in names for split in ("train", "valid"))
    counts: dict[str, dict[str, Any]] = {}
    done = 0
    with track("tokenize", total) as bar:
        for name in names:
            counts[name] = {}
            for split in ("train", "valid"):
                documents = read_documents(run.verified("corpus", f"corpus/{name}/{split}.parquet"))
                for progress in _shard(run, split, name, documents, tokenizer):
                    bar.update(done + progress, name)
                size = figures[name][split]["bytes"]
                done += size
                tokens = (run.path / "tokens" / split / f"{name}.bin").stat().st_size // (2 if tokenizer.vocab_size <= 65_536 else 4)
                counts[name][split] = {"tokens": tokens, "bytes_per_token": round(size / tokens, 4) if tokens else None}
    return Outcome(["tokenizer", "tokens"], {"vocab_size": tokenizer.vocab_size, "components": counts})


def _shard(run: Run, split: str, name: str, documents: Iterator[Document], tokenizer: Tokenizer) -> Iterator[int]:
    return write_shard(run.path / "tokens" / split, name, documents, tokenizer, os.cpu_count() or 1)


STAGE = Stage("tokenize", 1, ("corpus",), lambda run: run.recipe.tokenizer.model_dump(mode="json"), build)
