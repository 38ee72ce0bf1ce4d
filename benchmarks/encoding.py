"""Encoding by one process and by two, against tokenizers with as many threads: MB of text a second, by the clock and by the processor.

    python benchmarks/encoding.py [--texts 3000]

The texts are those of benchmarks/corpus.py, the vocabulary is learnt from them. Every measurement is a process of its own; starts count.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from corpus import VOCABULARY, sample
from openbook import documents
from openbook.documents import Document, DocumentWriter, document_id, groups_in, read_documents
from openbook.model.tokenizer import load_tokenizer
from openbook.recipe import TokenizerSection
from openbook.tokens.encode import Group, encode_all
from openbook.tokens.vocabulary import learn

ROW_GROUP = 4_000_000
"""Bytes of text: a sample of few row groups would leave a process without work at the end."""


def ours(folder: Path, processes: int) -> int:
    path, tokenizer = folder / "texts.parquet", load_tokenizer(folder / "tokenizer.json")
    groups = [Group(path, number) for number in range(groups_in(path))]
    return sum(len(part.ids) - len(part.lengths) for part in encode_all(groups, tokenizer, folder / "tokenizer.json", processes))


def theirs(folder: Path, threads: int) -> int:
    os.environ.update(RAYON_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="true" if threads > 1 else "false")
    import tokenizers

    peer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    texts = [document.text for document in read_documents(folder / "texts.parquet")]
    return sum(len(encoding.ids) for encoding in peer.encode_batch_fast(texts, add_special_tokens=False))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--texts", type=int, default=3000)
    arguments.add_argument("--measure", nargs=3, metavar=("WHO", "COUNT", "FOLDER"), help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.measure:
        who, count, folder = given.measure
        print({"ours": ours, "theirs": theirs}[who](Path(folder), int(count)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        texts = sample(given.texts)
        learn(texts, TokenizerSection(vocab_size=VOCABULARY)).save(folder / "tokenizer.json")
        documents.ROW_GROUP_BYTES = ROW_GROUP
        with DocumentWriter(folder / "texts.parquet") as writer:
            for number, text in enumerate(texts):
                writer.add(Document(f"{document_id(text)}-{number}", text, "sample", None, ""))
        print(f"{len(texts)} texts, {writer.bytes / 1e6:.1f} MB", flush=True)
        for who in ("ours", "theirs"):
            for count in (1, 2):
                measure(who, count, folder, writer.bytes / 1e6)


def measure(who: str, count: int, folder: Path, size: float) -> None:
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    command = [sys.executable, __file__, "--measure", who, str(count), str(folder)]
    tokens = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    seconds, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"{who} {count}: {tokens} tokens, {size / seconds:.2f} MB/s, {size / cpu:.2f} MB/CPU-s", flush=True)


if __name__ == "__main__":
    main()
