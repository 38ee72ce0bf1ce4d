"""Shards and rows: every token traces back to its document, every byte is checked, any row is found at once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from openbook.documents import read_documents
from openbook.errors import InputError, OpenbookError
from openbook.model.tokenizer import load_tokenizer
from openbook.recipe import load_recipe
from openbook.run import Run
from openbook.tokens import Rows
from openbook.tokens.encode import dtype_for
from openbook.tokens.shards import Shard


def shard_of(run: Run, name: str = "prose") -> Shard:
    return Shard(run.path / "tokens" / "train" / f"{name}.bin", dtype_for(run.recipe.tokenizer.vocab_size))


def test_a_shard_is_its_documents_one_after_another(tokenized: Run) -> None:
    tokenizer = load_tokenizer(tokenized.path / "tokenizer" / "tokenizer.json")
    expected: list[int] = []
    for document in read_documents(tokenized.path / "corpus" / "prose" / "train.parquet"):
        expected += [*tokenizer.encode(document.text), tokenizer.end_of_document]
    assert shard_of(tokenized).tokens.tolist() == expected


def test_every_token_traces_back_to_its_document(tokenized: Run) -> None:
    shard = shard_of(tokenized)
    tokenizer = load_tokenizer(tokenized.path / "tokenizer" / "tokenizer.json")
    texts = {document.id: document for document in read_documents(tokenized.path / "corpus" / "prose" / "train.parquet")}
    for position in range(0, len(shard), 37):
        found = shard.document_of(position)
        start, end = int(str(found["start"])), int(str(found["end"]))
        assert start <= position < end
        document = texts[str(found["id"])]
        assert tokenizer.decode(shard.tokens[start : end - 1].tolist()) == document.text
        assert (found["licence"], found["origin"]) == ("CC0-1.0", document.origin)
    with pytest.raises(IndexError):
        shard.document_of(len(shard))


def test_rows_are_a_pure_function(tokenized: Run) -> None:
    first, second = Rows.open(tokenized), Rows.open(tokenized)
    late = first(5, 1)
    for step in range(6):
        for microbatch in range(2):
            assert np.array_equal(first(step, microbatch), second(step, microbatch))
    assert np.array_equal(second(5, 1), late)
    assert late.shape == (2, 33)
    assert late.dtype == np.int64


def test_rows_come_from_the_component_and_place_that_the_order_names(tokenized: Run) -> None:
    rows = Rows.open(tokenized)
    name, index = rows.order.locate(rows.sample(3, 1, 0))
    assert np.array_equal(rows(3, 1)[0], rows.shards[name].tokens[index * 32 : index * 32 + 33])


def test_a_growing_batch_and_a_skipped_range_read_every_row_once(tokenized: Run) -> None:
    """Microbatches of 1, 1, 2, 2, 4, 4 to a step, two of which are passed over before the fourth step."""
    grown, _ = load_recipe(
        tokenized.recipe_folder / "tiny.toml", ["train.steps=6", "train.microbatches=4", "train.ramp={start = 1, over = 0.43}"]
    )
    rows = Rows({"prose": shard_of(tokenized), "code": shard_of(tokenized, "code")}, grown)
    sizes = [rows.batches.microbatches_at(step) for step in range(6)]
    assert sizes == [1, 1, 2, 2, 4, 4]
    read = [rows.sample(step, number, row, 2 * (step > 2)) for step in range(6) for number in range(sizes[step]) for row in range(2)]
    assert read == [*range(8), *range(12, 32)]
    assert np.array_equal(rows(3, 0, 2), rows(4, 0))
    rows.require(skipped=2)
    with pytest.raises(InputError, match="training needs"):
        rows.require(skipped=10_000)


def test_a_flipped_byte_of_a_shard_is_found_and_named(tokenized: Run, tmp_path: Path) -> None:
    shutil.copytree(tokenized.path, tmp_path / "run")
    path = tmp_path / "run" / "tokens" / "train" / "code.bin"
    content = bytearray(path.read_bytes())
    content[1001] ^= 4
    path.write_bytes(bytes(content))
    with pytest.raises(OpenbookError, match=r"code\.bin: its bytes are not those in the manifest; `openbook tokenize"):
        Rows.open(Run(tmp_path / "run"))
    path.unlink()
    with pytest.raises(OpenbookError, match=r"code\.bin: is missing"):
        Rows.open(Run(tmp_path / "run"))


def test_a_large_vocabulary_takes_four_bytes_a_token(tmp_path: Path) -> None:
    assert dtype_for(65_536).itemsize == 2
    assert dtype_for(65_537).itemsize == 4
    (tmp_path / "x.bin").write_bytes(b"\0" * 7)
    with pytest.raises(OpenbookError, match="no whole number of 4-byte tokens"):
        Shard(tmp_path / "x.bin", dtype_for(65_537))


def test_a_corpus_shorter_than_one_row_is_told(tokenized: Run, tmp_path: Path) -> None:
    long, _ = load_recipe(tokenized.recipe_folder / "tiny.toml", ["model.context=100000"])
    with pytest.raises(InputError, match="no component holds a row of 100001 tokens"):
        Rows({"prose": shard_of(tokenized), "code": shard_of(tokenized, "code")}, long)
