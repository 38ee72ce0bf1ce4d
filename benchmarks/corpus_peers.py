"""What datatrove does with the same texts, as JSON: run by benchmarks/corpus.py in an environment that has datatrove.

python benchmarks/corpus_peers.py filters TEXTS.jsonl shipped|whitespace
python benchmarks/corpus_peers.py minhash TEXTS.jsonl FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import datatrove.pipeline.filters.gopher_quality_filter as quality
import datatrove.pipeline.filters.gopher_repetition_filter as repetition
from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.formatters.pii import PIIFormatter


def filters(texts: list[str], words: str) -> dict[str, Any]:
    """For each text the rule of quality and of repetition that drops it, "" if none; and CPU seconds."""
    if words == "whitespace":
        quality.split_into_words = repetition.split_into_words = lambda text, language: text.split()
    kept, repeated, masked = quality.GopherQualityFilter(), repetition.GopherRepetitionFilter(), PIIFormatter()
    kept.filter(Document(text="a warm start for the segmenter", id="0"))
    rows, seconds = [], {"quality": 0.0, "repetition": 0.0, "pii": 0.0}
    for text in texts:
        document = Document(text=text, id="0")
        row = []
        for name, look in (("quality", kept.filter), ("repetition", repeated.filter), ("pii", lambda it: masked.format(it.text))):
            begin = time.process_time()
            found = look(document)
            seconds[name] += time.process_time() - begin
            row.append("" if found is True or name == "pii" else found[1])
        rows.append(row[:2])
    return {"rows": rows, "seconds": seconds}


def minhash(texts: list[str], folder: Path) -> dict[str, Any]:
    """All four stages as shipped, in one process; returns how many texts stay, and CPU seconds."""
    config = MinhashConfig()
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
    begin = time.process_time()
    MinhashDedupSignature(str(folder / "signatures"), config=config).run(documents, 0, 1)
    for bucket in range(config.num_buckets):
        MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"), config=config).run(None, bucket, config.num_buckets)
    MinhashDedupCluster(str(folder / "buckets"), str(folder / "remove"), config=config).run(None, 0, 1)
    left = sum(1 for _ in MinhashDedupFilter(str(folder / "remove")).run(iter(documents), 0, 1))
    return {"left": left, "seconds": time.process_time() - begin}


if __name__ == "__main__":
    lines = [json.loads(line) for line in Path(sys.argv[2]).read_bytes().splitlines()]
    print(json.dumps(filters(lines, sys.argv[3]) if sys.argv[1] == "filters" else minhash(lines, Path(sys.argv[3]))))
