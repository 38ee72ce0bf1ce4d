"""The key-value cache: blocks that are counted, shared and found again by the tokens they hold, and the rows that attention reads.

Paging is logical. A running sequence keeps its keys and values in one piece (`Row`), because gathering pages at every step would cost more
than it saves on a CPU; its blocks say what it may use. A full block of a prompt is published: its content is kept as a page, under a hash
of all tokens up to its end, and the next sequence that begins the same way copies it instead of reading those tokens (as nano-vllm and
vLLM do; the hash is checked against the tokens).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from openbook.model.config import TransformerConfig

BLOCK = 32
"""Tokens of a block. A prompt is read in pieces of exactly one block, at the same places whatever was found in the cache, so that a
position is always computed in the same way; 32 rows already keep the matrix units of a CPU busy."""


@dataclass(frozen=True)
class Page:
    """A published block: (layers, BLOCK, 2, kv_heads, head_width) of keys and values, and what they were computed from."""

    key: bytes
    before: bytes
    tokens: tuple[int, ...]
    content: Tensor


def root(*salt: str) -> bytes:
    """The hash before the first block. Sequences with different salts share nothing."""
    return blake2b(repr(salt).encode(), digest_size=16).digest()


def chained(before: bytes, tokens: Sequence[int]) -> bytes:
    """The hash of a block, given that of all before it."""
    return blake2b(before + np.asarray(tokens, np.int64).tobytes(), digest_size=16).digest()


class Blocks:
    """`count` blocks, each of which is free, held by sequences (with a count of them), or cached: held by none, published, and the next
    to go if no block is free, the longest unused first."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = deque(range(count))
        self._cached: OrderedDict[int, None] = OrderedDict()
        self._holders = [0] * count
        self._pages: dict[int, Page] = {}
        self._found: dict[bytes, int] = {}

    @property
    def available(self) -> int:
        """Blocks that `take` can give."""
        return len(self._free) + len(self._cached)

    def take(self, count: int) -> list[int] | None:
        """New blocks, or None if there are not enough."""
        if count > self.available:
            return None
        taken = []
        for _ in range(count):
            if self._free:
                block = self._free.popleft()
            else:
                block, _ = self._cached.popitem(last=False)
                del self._found[self._pages.pop(block).key]
            self._holders[block] = 1
            taken.append(block)
        return taken

    def hold(self, blocks: Iterable[int]) -> None:
        """One more sequence holds these."""
        for block in blocks:
            self._holders[block] += 1
            self._cached.pop(block, None)

    def release(self, blocks: Sequence[int]) -> None:
        """One sequence fewer holds these. The last are the first to go from the cache, as they are of use only behind the others."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if not self._holders[block]:
                if block in self._pages:
                    self._cached[block] = None
                else:
                    self._free.append(block)

    def find(self, salt: bytes, tokens: Sequence[int]) -> list[int]:
        """The published blocks that the tokens begin with. They are not held yet."""
        found: list[int] = []
        before = salt
        for start in range(0, len(tokens) - BLOCK + 1, BLOCK):
            part = tuple(tokens[start : start + BLOCK])
            key = chained(before, part)
            block = self._found.get(key)
            if block is None or self._pages[block].tokens != part or self._pages[block].before != before:
                break
            found.append(block)
            before = key
        return found

    def publish(self, block: int, before: bytes, tokens: Sequence[int], content: Tensor) -> bytes:
        """Keeps the content of a held block to be found; gives its hash. What is there already stays."""
        key = chained(before, tokens)
        if key not in self._found and block not in self._pages:
            self._found[key] = block
            self._pages[block] = Page(key, before, tuple(tokens), content.clone())
        return key

    def page(self, block: int) -> Page:
        """Of a published block."""
        return self._pages[block]

    def forget(self) -> None:
        """Empties the cache: what nobody holds becomes free, what is held is not found again."""
        self._free.extend(self._cached)
        self._cached.clear()
        self._pages.clear()
        self._found.clear()

    def check(self, tables: Iterable[Sequence[int]]) -> None:
        """Raises AssertionError if the books do not balance with the blocks that sequences hold."""
        holders = [0] * self.count
        for table in tables:
            assert len(set(table)) == len(table), "a sequence holds a block twice"
            for block in table:
                holders[block] += 1
        assert holders == self._holders, "a block has another number of holders than are counted"
        free, cached = set(self._free), set(self._cached)
        held = {block for block in range(self.count) if holders[block]}
        assert len(free) == len(self._free), "a block is free twice"
        assert not (free & cached or free & held or cached & held), "a block is in two states"
        assert len(free) + len(cached) + len(held) == self.count, "a block is lost"
        assert cached <= set(self._pages) and not free & set(self._pages), "pages do not fit the blocks"
        assert self._found == {page.key: block for block, page in self._pages.items()}, "the index does not fit the pages"


class Row:
    """Keys and values of one running sequence, for at most `capacity` positions. The memory is touched as positions are written.

    A position's keys and values of all heads lie beside each other, so that what a step reads of a layer is one stretch of memory.
    """

    def __init__(self, config: TransformerConfig, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.whole = torch.empty((config.layers, capacity, 2, config.kv_heads, config.head_width), dtype=dtype, device=device)

    def part(self, start: int, stop: int) -> Tensor:
        """(layers, stop - start, 2, kv_heads, head_width)"""
        return self.whole[:, start:stop]
