"""Rows out of documents: every token once, few documents cut, and where each document is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.files import sha256_file
from openbook.pipeline import update
from openbook.recipe import load_recipe
from openbook.run import Run, open_run
from openbook.tokens import Rows
from openbook.tokens.packing import BestFit, Stream, segments_of, tokens_of

LENGTHS = st.lists(st.integers(1, 90), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(lengths=LENGTHS, context=st.integers(1, 40))
def test_best_fit_reads_every_token_once_but_less_than_a_row(lengths: list[int], context: int) -> None:
    ends = np.cumsum(lengths)
    packing = BestFit(ends, context)
    seen = np.zeros(ends[-1], np.int64)
    cut = 0
    for row in range(len(packing)):
        pieces = packing.pieces(row)
        assert sum(length for _, length in pieces) == context
        for number, (start, length) in enumerate(pieces):
            seen[start : start + length] += 1
            document = int(np.searchsorted(ends, start, side="right"))
            assert start + length <= ends[document]  # a piece is of one document
            complete = start + length == ends[document]
            assert complete or number == len(pieces) - 1  # so what follows it in the row begins after an end of a document
            cut += not complete and length < context
    assert seen.max(initial=0) <= 1
    assert ends[-1] - seen.sum() < context
    assert cut <= len(packing)


def test_documents_that_fit_are_not_cut() -> None:
    lengths = [30, 12, 20, 2, 7, 25, 32, 32 + 5, 23]  # 30 + 2, 12 + 20, 7 + 25, 32, 32, and 5 + 23 is no row
    packing = BestFit(np.cumsum(lengths), 32)
    whole = sorted(sorted(length for _, length in packing.pieces(row)) for row in range(len(packing)))
    assert whole == [[2, 30], [7, 25], [12, 20], [32], [32]]


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, context=st.integers(1, 40), best=st.booleans())
def test_a_row_says_which_of_its_tokens_are_of_one_document(lengths: list[int], context: int, best: bool) -> None:
    """Tokens that spell their document and place; 0 ends a document."""
    ends = np.cumsum(lengths)
    shard = np.concatenate([[*(100 * (number + 1) + np.arange(length - 1)), 0] for number, length in enumerate(lengths)]).astype(np.int64)
    packing = BestFit(ends, context) if best else Stream(len(shard), context)
    for row in range(len(packing)):
        pieces = packing.pieces(row)
        tokens, segments = tokens_of(shard, pieces), segments_of(ends, pieces)
        assert len(tokens) == context + 1 and len(segments) == context and segments[0] == 0
        assert np.concatenate([shard[start : start + length] for start, length in pieces]).tolist() == tokens[1:].tolist()
        for place in range(1, context):
            begins = tokens[place] == 0
            assert segments[place] - segments[place - 1] == begins
            if not begins and tokens[place - 1]:
                assert tokens[place] == tokens[place - 1] + 1


def test_a_training_in_which_documents_are_masked_and_packed(tokenized: Run, tmp_path: Path) -> None:
    """It differs from the plain one, and again gives the same bits."""
    overrides = ["train.packing=best-fit", "train.documents=masked", "train.steps=3", "model.context=256"]
    hashes = []
    for name, settings_ in (("a", overrides), ("b", overrides), ("c", [overrides[0], *overrides[2:]])):
        recipe, _ = load_recipe(tokenized.recipe_folder / "tiny.toml", settings_)
        run = open_run(tmp_path / name, recipe, tokenized.recipe_folder / "tiny.toml")
        list(update(run, ["corpus", "tokenize", "mixture", "train"]))
        hashes.append(sha256_file(run.path / "weights" / "model.safetensors"))
    assert hashes[0] == hashes[1] != hashes[2]
    rows = Rows.open(run)
    assert rows.segments(0, 0).shape == (2, 256)
    assert run.stage_record("mixture")["summary"]["packing"] == "best-fit"  # type: ignore[index]


@pytest.mark.parametrize("context", [1, 31, 32, 33])
def test_a_stream_reads_every_token_in_order(context: int) -> None:
    packing = Stream(1000, context)
    read = np.concatenate([tokens_of(np.arange(1000), packing.pieces(row))[1:] for row in range(len(packing))])
    assert read.tolist() == list(range(1, len(packing) * context + 1))
    assert 1000 - len(read) - 1 < context
