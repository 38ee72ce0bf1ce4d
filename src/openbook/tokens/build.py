"""The tokenize stage: a vocabulary learnt from the training text, then every document as tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from openbook.documents import groups_in, read_documents
from openbook.errors import InputError
from openbook.files import remove, sha256_file
from openbook.model.tokenizer import Tokenizer, load_tokenizer
from openbook.progress import track
from openbook.run import Outcome, Run, Stage
from openbook.tokens.encode import Group, dtype_for, encode_all, processes_for
from openbook.tokens.shards import SPLITS, write_shard
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
    sources = {(name, split): run.verified("corpus", f"corpus/{name}/{split}.parquet") for name in names for split in SPLITS}
    paths = [sources[name, "train"] for name in names]
    given = run.recipe.tokenizer.file
    sizes = [figures[name]["train"]["bytes"] for name in names]
    tokenizer = _given(run, given) if given else learn(_interleaved(paths, sizes), run.recipe.tokenizer)
    tokenizer.save(run.path / "tokenizer" / "tokenizer.json")
    remove(run.path / "tokens")  # components of an earlier recipe
    _write(run, sources, tokenizer, sum(figures[name][split]["bytes"] for name, split in sources))
    counts: dict[str, dict[str, Any]] = {name: {} for name in names}
    for name, split in sources:
        size, width = figures[name][split]["bytes"], dtype_for(tokenizer.vocab_size).itemsize
        tokens = (run.path / "tokens" / split / f"{name}.bin").stat().st_size // width
        counts[name][split] = {"tokens": tokens, "bytes_per_token": round(size / tokens, 4) if tokens else None}
    return Outcome(["tokenizer", "tokens"], {"vocab_size": tokenizer.vocab_size, "components": counts})


def _given(run: Run, file: str) -> Tokenizer:
    """The tokenizer that the recipe names. Raises InputError if it is not the one that the recipe describes."""
    path, section = run.recipe_folder / file, run.recipe.tokenizer
    tokenizer = load_tokenizer(path)
    if tokenizer.vocab_size != section.vocab_size or list(tokenizer.special_tokens) != section.special_tokens:
        raise InputError(
            f"{path}: has {tokenizer.vocab_size} tokens, of which {list(tokenizer.special_tokens)} are special; "
            f"the recipe says tokenizer.vocab_size = {section.vocab_size} and special_tokens = {section.special_tokens}"
        )
    if sorted([*tokenizer.ranks.values(), *tokenizer.special_tokens.values()]) != list(range(tokenizer.vocab_size)):
        raise InputError(f"{path}: its ids are not 0 to {tokenizer.vocab_size - 1} without a gap")
    return tokenizer


def parameters(run: Run) -> Any:
    """The recipe's part, and which file it names."""
    section = run.recipe.tokenizer.model_dump(mode="json", exclude_none=True)
    path = run.recipe_folder / (run.recipe.tokenizer.file or "")
    return section | ({"sha256": sha256_file(path)} if path.is_file() else {})


def _write(run: Run, sources: Mapping[tuple[str, str], Path], tokenizer: Tokenizer, total: int) -> None:
    """One shard after another, while the processes are ahead in the next ones."""
    groups = {key: [Group(path, number) for number in range(groups_in(path))] for key, path in sources.items()}
    every = [group for some in groups.values() for group in some]
    parts = encode_all(every, tokenizer, run.path / "tokenizer" / "tokenizer.json", processes_for(total))
    done = 0
    with track("tokenize", total) as bar, closing(parts):
        for (name, split), some in groups.items():
            written = 0
            for written in write_shard(run.path / "tokens" / split, name, islice(parts, len(some)), dtype_for(tokenizer.vocab_size)):
                bar.update(done + written, name)
            done += written


STAGE = Stage("tokenize", 1, ("corpus",), parameters, build)
