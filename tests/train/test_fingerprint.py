"""Fingerprints: the same for any cut, another one for any fault."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.train.fingerprint import ROWS, WIDTH, element_sum, fingerprint

DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.int8]


def specification(values: torch.Tensor) -> int:
    """The definition, one element at a time."""
    flat = values.flatten()
    words = flat.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int32}[flat.element_size()]).tolist()
    return sum(word * (2 * index + 1) for index, word in enumerate(words)) % 2**64


def some(seed: int, size: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Values of every magnitude: random bits, whatever they mean."""
    generator = torch.Generator().manual_seed(seed)
    width = torch.empty(0, dtype=dtype).element_size()
    return torch.randint(0, 256, (size * width,), generator=generator, dtype=torch.uint8).view(dtype)


def flip(values: torch.Tensor, bit: int) -> torch.Tensor:
    changed = values.clone()
    changed.view(torch.uint8)[bit // 8] ^= 1 << bit % 8
    return changed


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [0, 1, WIDTH - 1, WIDTH, ROWS * WIDTH + 5])
def test_it_is_its_definition(dtype: torch.dtype, size: int) -> None:
    values = some(size, size, dtype)
    assert int(element_sum(values)) % 2**64 == specification(values)


def test_the_largest_words_are_summed_exactly() -> None:
    """Where a float64 product would round first, if it did."""
    values = torch.full((3 * WIDTH,), -(2**31), dtype=torch.int32)
    assert int(element_sum(values)) % 2**64 == specification(values)
    assert int(element_sum(-values - 1)) % 2**64 == specification(-values - 1)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), size=st.integers(1, 5000), cuts=st.lists(st.integers(0, 5000), max_size=4), dtype=st.sampled_from(DTYPES))
def test_any_cut_gives_the_same(seed: int, size: int, cuts: list[int], dtype: torch.dtype) -> None:
    values = some(seed, size, dtype)
    bounds = [0, *sorted(min(cut, size) for cut in cuts), size]
    parts = [element_sum(values[a:b], a) for a, b in pairwise(bounds)]
    total = sum(int(part) for part in reversed(parts))
    assert total % 2**64 == int(element_sum(values)) % 2**64


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), size=st.integers(1, 3000), data=st.data())
def test_one_or_two_flipped_bits_show(seed: int, size: int, data: st.DataObject) -> None:
    values = some(seed, size)
    first, second = (data.draw(st.integers(0, size * 32 - 1)) for _ in range(2))
    once = flip(values, first)
    assert fingerprint({"x": once}) != fingerprint({"x": values})
    assert (fingerprint({"x": flip(once, second)}) == fingerprint({"x": values})) == (first == second)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 999), size=st.integers(2, 3000), data=st.data())
def test_two_elements_that_change_places_show(seed: int, size: int, data: st.DataObject) -> None:
    values = some(seed, size)
    i, j = (data.draw(st.integers(0, size - 1)) for _ in range(2))
    swapped = values.clone()
    swapped[i], swapped[j] = values[j].clone(), values[i].clone()
    same = torch.equal(swapped.view(torch.int32), values.view(torch.int32))
    assert (fingerprint({"x": swapped}) == fingerprint({"x": values})) == same


def test_names_shapes_and_types_count_and_the_order_of_names_does_not() -> None:
    a, b = torch.ones(2, 3), torch.zeros(4)
    value = fingerprint({"a": a, "b": b})
    assert fingerprint({"b": b, "a": a}) == value
    assert fingerprint({"a": a, "c": b}) != value
    assert fingerprint({"a": a.view(3, 2), "b": b}) != value
    assert fingerprint({"a": a, "b": b.int()}) != value
    assert fingerprint({"a": a, "b": -b}) != value  # minus zero is another bit
