"""The n-gram baseline against its definition, written out slowly."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook import ngram
from openbook.ngram import NGram

few_letters = st.lists(st.sampled_from(b"ab\x00\xff"), max_size=40).map(bytes)
texts = st.lists(st.one_of(few_letters, st.binary(max_size=20)), max_size=8)


class Slow:
    """The formula of the module's docstring, with dictionaries."""

    def __init__(self, documents: Sequence[bytes], order: int) -> None:
        self.order = order
        self.followers: dict[bytes, Counter[int]] = defaultdict(Counter)
        for document in documents:
            for place, byte in enumerate(document):
                for length in range(min(order, place) + 1):
                    self.followers[document[place - length : place]][byte] += 1

    def probability(self, context: bytes, byte: int) -> float:
        value = 1 / 256
        for length in range(min(self.order, len(context)) + 1):
            seen = self.followers.get(context[len(context) - length :], Counter())
            if seen:
                value = (seen[byte] + len(seen) * value) / (sum(seen.values()) + len(seen))
        return value

    def bits(self, document: bytes) -> float:
        return -math.fsum(math.log2(self.probability(document[:place], byte)) for place, byte in enumerate(document))


@settings(deadline=None, max_examples=60)
@given(texts, texts, st.integers(0, 7))
def test_is_the_definition(training: list[bytes], held_out: list[bytes], order: int) -> None:
    slow = Slow(training, order)
    wanted = [slow.bits(document) for document in held_out]
    assert NGram.train(training, order).bits(held_out) == pytest.approx(wanted, rel=1e-12, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(texts, st.one_of(few_letters, st.binary(max_size=8)))
def test_probabilities_after_any_context_add_up_to_one(training: list[bytes], context: bytes) -> None:
    model = NGram.train(training)
    before = model.bits([context])[0]
    following = model.bits([context + bytes([byte]) for byte in range(256)])
    assert math.fsum(2 ** (before - bits) for bits in following) == pytest.approx(1, abs=1e-9)


def test_knows_nothing_without_training_text() -> None:
    assert NGram.train([]).bits([b"any text", b""]) == [64.0, 0.0]


@settings(deadline=None, max_examples=25)
@given(texts, texts)
def test_neither_the_order_of_documents_nor_the_size_of_batches_matters(training: list[bytes], held_out: list[bytes]) -> None:
    at_once = NGram.train(training).bits(held_out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngram, "BATCH_BYTES", 25)
        assert NGram.train(training[::-1]).bits(held_out[::-1])[::-1] == at_once


def test_learns_from_text() -> None:
    training = [b"the quick brown fox jumps over the lazy dog\n" * 20]
    assert NGram.train(training).bits([b"the lazy dog jumps over the quick brown fox"])[0] / 43 < 1.5
