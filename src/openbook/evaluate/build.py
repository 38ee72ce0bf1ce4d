"""The evaluate stage: bits per byte on held-out text, beside compressors and an n-gram model, and samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from openbook.documents import Document, read_documents
from openbook.errors import InputError
from openbook.evaluate.baselines import XZ, ZSTD, Scorer, archive_bits
from openbook.evaluate.interval import bits_per_byte
from openbook.evaluate.network import Network
from openbook.evaluate.samples import write_samples
from openbook.files import write_json
from openbook.model.exchange import load_weights
from openbook.model.tokenizer import Tokenizer, load_tokenizer
from openbook.model.transformer import Transformer
from openbook.ngram import ORDER, NGram
from openbook.progress import say, track
from openbook.run import Outcome, Run, Stage

NGRAM_BYTES = 100_000_000
"""Training text that the n-gram model counts at most; of more text it takes a share, chosen by hash."""


def build(run: Run) -> Outcome:
    section, seed = run.recipe.evaluate, run.recipe.seed
    if run.imported:
        raise InputError(
            f"{run.path}: an imported model has no held-out text here; `openbook evaluate {run.path} --text FILE` scores it on a file"
        )
    held_out, without = held_out_documents(run)
    tokenizer = load_tokenizer(run.verified("tokenize", "tokenizer/tokenizer.json"))
    model = _model(run)
    stride = section.stride or max(1, model.config.context // 2)
    ngram, counted = _ngram(run)
    scorers: dict[str, Scorer] = {"model": Network(model, tokenizer, stride), "xz": XZ, "zstd": ZSTD, "ngram": ngram}
    texts = {name: [document.text.encode() for document in documents] for name, documents in held_out.items()}
    components, everything = score(texts, scorers, seed)
    for row, own in (*((components[name], texts[name]) for name in components), (everything, [t for some in texts.values() for t in some])):
        row["perplexity"] = perplexity(tokenizer, own, row)
    scores = {
        "stride": stride,
        "context": model.config.context,
        "ngram": {"order": ORDER, "training_bytes": counted},
        "components": components,
        "all": everything,
    }
    samples = write_samples(model, tokenizer, held_out, section, seed)
    write_json(run.path / "scores" / "bits_per_byte.json", scores)  # a file each: tasks' scores stand beside them
    write_json(run.path / "scores" / "samples.json", samples)
    summary = {"components": {name: _compact(row) for name, row in components.items()}, "all": _compact(everything)}
    return Outcome(["scores/bits_per_byte.json", "scores/samples.json"], {**summary, "without_held_out": without})


def held_out_documents(run: Run) -> tuple[dict[str, list[Document]], list[str]]:
    """The documents to score, by component, and the components that have none.

    Of each component whole documents in the order of the file, at most evaluate.max_bytes of them, but at least one document.
    Raises InputError if no component has any.
    """
    held_out = {name: _first_documents(run, name) for name in run.recipe.corpus.components}
    without = [name for name, documents in held_out.items() if not documents]
    if len(without) == len(held_out):
        share = run.recipe.corpus.holdout
        raise InputError(
            f"{run.path}: no held-out text to score: corpus.holdout = {share} set no document aside; raise it, or add more text"
        )
    return {name: documents for name, documents in held_out.items() if documents}, without


def _first_documents(run: Run, name: str) -> list[Document]:
    taken: list[Document] = []
    size = 0
    for document in read_documents(run.verified("corpus", f"corpus/{name}/valid.parquet")):
        size += document.bytes
        if taken and size > run.recipe.evaluate.max_bytes:
            break
        taken.append(document)
    return taken


def _model(run: Run) -> Transformer:
    """The trained model, on the device that the recipe trains on where this machine has it."""
    for name in run.weights():
        run.verified("train", name)
    on_gpu = run.recipe.train.device != "cpu" and torch.cuda.is_available()
    return load_weights(run.path / "weights", "cuda" if on_gpu else "cpu")


def _ngram(run: Run) -> tuple[NGram, int]:
    """The n-gram model of the training text, and how many bytes it has counted."""
    paths = [run.verified("corpus", f"corpus/{name}/train.parquet") for name in run.recipe.corpus.components]
    record = run.stage_record("corpus")
    assert record is not None  # the stage reads corpus
    total = sum(figures["train"]["bytes"] for figures in record["summary"]["components"].values())
    expected = min(total, NGRAM_BYTES)
    counted = 0
    with track("evaluate: n-gram counts", expected) as bar:

        def texts() -> Iterator[bytes]:
            nonlocal counted
            for path in paths:
                for document in read_documents(path):
                    # bits of the id that the held-out split does not look at
                    if int(document.id[8:16], 16) * total < expected * 2**32:
                        text = document.text.encode()
                        counted += len(text)
                        bar.update(min(counted, expected), path.parent.name)
                        yield text

        ngram = NGram.train(texts())
    return ngram, counted


def score(texts: Mapping[str, Sequence[bytes]], scorers: Mapping[str, Scorer], seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Scores each component's documents by each scorer; returns a row for each component, and one for all documents together."""
    bits = {}
    for number, (name, documents) in enumerate(texts.items(), 1):
        say(f"  evaluate: {name}, {number} of {len(texts)}")
        bits[name] = {title: scorer.bits(documents) for title, scorer in scorers.items()}
    rows = {name: _row(texts[name], bits[name], seed) for name in texts}
    together = [text for documents in texts.values() for text in documents]
    all_bits = {title: [part for name in texts for part in bits[name][title]] for title in scorers}
    return rows, _row(together, all_bits, seed)


def perplexity(tokenizer: Tokenizer, texts: Sequence[bytes], row: Mapping[str, Any]) -> dict[str, float]:
    """2 to the model's bits for each token, and for each word between white space: (Σ bits / Σ units)."""
    bits = row["model"]["bpb"] * row["bytes"]
    tokens = sum(len(tokenizer.encode(text.decode())) for text in texts)
    words = sum(len(text.split()) for text in texts)
    return {name: 2 ** min(bits / max(units, 1), 1000.0) for name, units in (("token", tokens), ("word", words))}


def _row(texts: Sequence[bytes], bits: Mapping[str, Sequence[float]], seed: int) -> dict[str, Any]:
    sizes = [len(text) for text in texts]
    estimates = {title: asdict(bits_per_byte(values, sizes, seed)) for title, values in bits.items()}
    archive = {"xz_archive": {"bpb": archive_bits(texts) / sum(sizes)}}
    return {"documents": len(texts), "bytes": sum(sizes), "model": estimates.pop("model"), "baselines": {**estimates, **archive}}


def _compact(row: dict[str, Any]) -> dict[str, Any]:
    """Only the values, unrounded: the console and the report round the same number, once."""
    values = {title: estimate["bpb"] for title, estimate in {"model": row["model"], **row["baselines"]}.items()}
    return {**values, "bytes": row["bytes"], "documents": row["documents"]}


def parameters(run: Run) -> Any:
    while_training = {"tasks", "every", "limit", "shots", "generated"}  # the stage does not look at them
    return {"evaluate": run.recipe.evaluate.model_dump(mode="json", exclude=while_training), "seed": run.recipe.seed}


STAGE = Stage("evaluate", 1, ("corpus", "tokenize", "train"), parameters, build)
