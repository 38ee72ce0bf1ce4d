"""Encoding: the number of processes changes nothing, memory is that of row groups, a pathological text costs what others cost."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest

from openbook.documents import Document, DocumentWriter, document_id, groups_in
from openbook.errors import OpenbookError
from openbook.model.tokenizer import Tokenizer
from openbook.recipe import TokenizerSection
from openbook.tokens.encode import Group, dtype_for, encode_all, processes_for
from openbook.tokens.shards import Shard, write_shard
from openbook.tokens.vocabulary import learn
from tiny import sentences


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return learn([sentences(1, 300), Path(__file__).read_text(encoding="utf-8")], TokenizerSection(vocab_size=600))


@pytest.fixture
def groups(tmp_path: Path) -> list[Group]:
    """Documents in many small row groups."""
    path = tmp_path / "train.parquet"
    with DocumentWriter(path, group_bytes=3_000) as writer:
        for seed in range(60):
            text = sentences(seed, random.Random(seed).randint(1, 20))
            writer.add(Document(document_id(text), text, "prose", "CC0-1.0", f"{seed}.txt"))
    return [Group(path, number) for number in range(groups_in(path))]


def test_any_number_of_processes_gives_the_same_tokens_in_the_same_order(groups: list[Group], tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    assert len(groups) > 8
    alone, together = (list(encode_all(groups, tokenizer, tmp_path / "tokenizer.json", count)) for count in (1, 2))
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.ids, other.ids)
        assert (one.lengths, one.facts) == (other.lengths, other.facts)


def test_a_damaged_file_is_named_by_every_process(groups: list[Group], tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    content = bytearray(groups[0].path.read_bytes())
    content[100:4000] = bytes(3900)
    groups[0].path.write_bytes(content)
    with pytest.raises(OpenbookError, match=r"train\.parquet: cannot be read as documents"):
        list(encode_all(groups, tokenizer, tmp_path / "tokenizer.json", 2))


def test_processes_are_started_only_where_they_pay() -> None:
    assert processes_for(1_000_000) == 1
    assert processes_for(10**12) >= 1


@pytest.mark.parametrize("piece", ["a", " ", "\n", "=", "7", "é", "中", " \n", "ab", "é", "\u00a0"], ids=ascii)
def test_a_megabyte_of_one_thing_takes_no_longer_than_a_megabyte_of_text(tokenizer: Tokenizer, piece: str) -> None:
    """A splitter or merger that is quadratic in a run takes minutes over it."""
    text = piece * (1_000_000 // len(piece.encode()))
    begin = time.process_time()
    ids = tokenizer.encode(text)
    assert time.process_time() - begin < 3
    assert tokenizer.decode(ids) == text


def test_a_file_without_documents_makes_an_empty_shard(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with DocumentWriter(tmp_path / "none.parquet"):
        pass
    parts = encode_all([Group(tmp_path / "none.parquet", 0)], tokenizer, tmp_path / "tokenizer.json", 1)
    assert list(write_shard(tmp_path, "none", parts, dtype_for(600))) == [0]
    shard = Shard(tmp_path / "none.bin", dtype_for(600))
    assert (len(shard), len(shard.ends), shard.documents.num_rows) == (0, 0, 0)
