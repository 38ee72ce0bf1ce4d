"""Corpus steps and tokenizers against the peers that are installed, as ratios of MB per CPU-second, one thread each.

    python benchmarks/corpus.py [--datatrove PYTHON] [--texts 1000] [--memory MEGABYTES]

The text is a fixed sample of $OPENBOOK_DATA/corpus (or ../shared/data/corpus), else of the standard library. --datatrove names the Python
of an environment with datatrove[processing] and spacy. --memory builds that much generated text and prints the largest process.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import zstandard
from pydantic import TypeAdapter

from openbook.corpus.sources.machine import SELECTIONS
from openbook.corpus.steps import ShardWriter, Steps, first_shards, gopher, minhash, pii, survivors
from openbook.corpus.steps.step import Sketch, table_rules
from openbook.documents import Document, document_id
from openbook.model.tokenizer import load_tokenizer
from openbook.parts import Batch
from openbook.recipe import TokenizerSection
from openbook.recipe_steps import AnyStep, EngineSection, GopherQualityStep, GopherRepetitionStep, MinHashStep, PiiStep
from openbook.tokens.vocabulary import learn

HERE = Path(__file__).resolve().parent
LONGEST = 60_000
"""Characters: datatrove takes minutes over a book."""
VOCABULARY = 8_000
FILTERS = ((gopher.QUALITY, GopherQualityStep(step="gopher-quality")), (gopher.REPETITION, GopherRepetitionStep(step="gopher-repetition")))
MEMORY_STEPS = ("gopher-quality", "gopher-repetition", "lines", "minhash", "substring", "pii")


def sample(count: int) -> list[str]:
    """The same share of every component's shorter texts, in a fixed random order."""
    folder = Path(os.environ.get("OPENBOOK_DATA") or HERE.parents[1] / "shared" / "data") / "corpus"
    parts = []
    for path in sorted(folder.glob("*.jsonl.zst")):
        lines = zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read().splitlines()
        parts.append([text for text in (json.loads(line)["text"] for line in lines) if len(text) < LONGEST])
    if not parts:
        parts = [[raw.text for raw in SELECTIONS["stdlib"](LONGEST) if raw.text]]
    texts = [text for part in parts for text in random.Random(1).sample(part, min(len(part), 1 + 5 * count // (4 * len(parts))))]
    random.Random(2).shuffle(texts)
    return texts[:count]


def timed(work: Callable[[], Any], repetitions: int = 3) -> tuple[Any, float]:
    """The result, and the least CPU seconds of several repetitions."""
    best = float("inf")
    for _ in range(repetitions):
        begin = time.process_time()
        result = work()
        best = min(best, time.process_time() - begin)
    return result, best


def our_filters(texts: Sequence[str]) -> list[list[str]]:
    """For each text the rule of quality and of repetition that drops it, "" if none."""
    rows = [["", ""] for _ in texts]
    for start in range(0, len(texts), 250):
        batch = Batch(texts[start : start + 250])
        for place, (step, settings) in enumerate(FILTERS):
            assert step.annotate
            columns = step.annotate(batch, {}, settings, None)
            for removal in table_rules(step, settings, columns, [""] * len(batch.texts)):
                rows[start + removal.row][place] = removal.reason
        pii.annotate(batch, {}, PiiStep(step="pii"), None)
    return rows


def our_minhash(texts: Sequence[str]) -> int:
    """How many texts stay."""
    settings = MinHashStep(step="minhash")
    parts = [pa.table(dict(minhash.annotate(Batch(texts[at : at + 250]), {}, settings, None))) for at in range(0, len(texts), 250)]
    table = pa.concat_tables(parts)
    sketch = Sketch(lambda: table, [document_id(text) for text in texts], np.ones(len(texts), bool))
    return len(texts) - len(minhash.join([sketch], settings, None).verdicts[0].removals)


def peer(python: str, *arguments: str) -> dict[str, Any]:
    command = [python, str(HERE / "corpus_peers.py"), *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": ""})
    found: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return found


def against_datatrove(python: str, texts: list[str], size: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lines = Path(folder) / "texts.jsonl"
        lines.write_text("".join(json.dumps(text) + "\n" for text in texts))
        ours, seconds = timed(lambda: our_filters(texts))
        for words in ("shipped", "whitespace"):
            theirs = peer(python, "filters", str(lines), words)
            row("quality + repetition + PII", f"datatrove, {words} words", size / seconds, size / sum(theirs["seconds"].values()))
            same = sum(bool(a[side]) == bool(b[side]) for a, b in zip(ours, theirs["rows"], strict=True) for side in (0, 1))
            print(f"  same decisions: {same} of {2 * len(texts)}")
        kept, seconds = timed(lambda: our_minhash(texts))
        theirs = peer(python, "minhash", str(lines), str(Path(folder) / "minhash"))
        row("MinHash, end to end", "datatrove, shipped", size / seconds, size / theirs["seconds"])
        print(f"  texts that stay: {kept} and {theirs['left']} of {len(texts)}")


def against_tokenizers(texts: list[str], size: float) -> None:
    import tokenizers

    section = TokenizerSection(vocab_size=VOCABULARY)
    os.environ["RAYON_NUM_THREADS"], os.environ["TOKENIZERS_PARALLELISM"] = "1", "false"
    ours, seconds = timed(lambda: learn(texts, section), 1)

    def train() -> None:
        model = tokenizers.Tokenizer(tokenizers.models.BPE())
        model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=VOCABULARY, show_progress=False, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
        )
        model.train_from_iterator(texts, trainer)

    row("BPE training", "tokenizers", size / seconds, size / timed(train, 1)[1])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        ours.save(path)
        mine, other = load_tokenizer(path), tokenizers.Tokenizer.from_file(str(path))
        ids, seconds = timed(lambda: [mine.encode(text) for text in texts])
        found, theirs = timed(lambda: [encoding.ids for encoding in other.encode_batch_fast(texts, add_special_tokens=False)])
        row("encoding", "tokenizers", size / seconds, size / theirs)
        print(f"  identical ids: {sum(a == b for a, b in zip(ids, found, strict=True))} of {len(texts)}")


def row(what: str, whom: str, ours: float, theirs: float) -> None:
    print(f"{what}: {ours:.2f} MB/CPU-s; {whom}: {theirs:.2f}; ratio {ours / theirs:.1f}", flush=True)


def memory(megabytes: int) -> None:
    """Builds generated text in this process, which does a worker's part and the main process's."""
    source = random.Random(1)
    words = [f"{source.choice('abcdefghij')}{source.randrange(50_000):x}" for _ in range(50_000)] + ["the", "of", "and", "to"] * 3_000
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        work = Path(folder)
        writer = ShardWriter(work, "generated")
        while writer.bytes < megabytes * 1_000_000:
            text = "\n".join(" ".join(source.choices(words, k=12)) + "." for _ in range(60))
            writer.add(Document(document_id(text), text, "generated", None, "generated"), "train")
        writer.flush()
        settings = [TypeAdapter(AnyStep).validate_python({"step": name}) for name in MEMORY_STEPS]
        shards = Steps(work, EngineSection(), lambda item: None).apply(settings, first_shards(work, "generated", writer.keys), work)
        left = sum(1 for _ in survivors(work, shards))
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{megabytes} MB in {len(writer.keys)} shards, {len(settings)} steps: {left} texts left")
    print(f"peak {used.ru_maxrss / 1e6:.2f} GB resident, {used.ru_utime + used.ru_stime:.0f} CPU-s")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--datatrove", metavar="PYTHON")
    arguments.add_argument("--texts", type=int, default=1000)
    arguments.add_argument("--memory", type=int, metavar="MEGABYTES")
    given = arguments.parse_args()
    if given.memory:
        memory(given.memory)
        return
    texts = sample(given.texts)
    size = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts)} texts, {size:.1f} MB")
    if given.datatrove:
        against_datatrove(given.datatrove, texts, size)
    else:
        print("datatrove: not compared; --datatrove names a Python that has it")
    against_tokenizers(texts, size)


if __name__ == "__main__":
    main()
