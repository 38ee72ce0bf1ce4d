from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openbook.engine.kv import BLOCK, Blocks, chained, root

CONTENT = torch.zeros(1)


def tokens(*blocks: int) -> list[int]:
    return [block for block in blocks for _ in range(BLOCK)]


def read(blocks: Blocks, salt: bytes, text: list[int], held: list[int]) -> None:
    """Publishes a text's whole blocks, as a sequence does that has read it."""
    before = salt
    for index in range(len(text) // BLOCK):
        before = blocks.publish(held[index], before, text[index * BLOCK : (index + 1) * BLOCK], CONTENT)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.lists(st.integers(0, 2), max_size=5), st.integers(0, 1)), max_size=60))
def test_the_books_balance_after_any_operations(operations: list[tuple[int, list[int], int]]) -> None:
    blocks = Blocks(12)
    held: list[list[int]] = []
    for action, text, tenant in operations:
        salt = root(str(tenant))
        if action <= 2:  # a sequence begins, and reads its prompt
            found = blocks.find(salt, tokens(*text))
            blocks.hold(found)
            new = blocks.take(len(text) + 1 - len(found))
            if new is None:
                blocks.release(found)
            else:
                held.append([*found, *new])
                read(blocks, salt, tokens(*text), held[-1])
                assert len(blocks.find(salt, tokens(*text))) == len(text)
        elif action == 3 and held:
            blocks.release(held.pop(tenant % len(held)))
        elif action == 4 and held and (more := blocks.take(1)):
            held[-1] += more
        elif action == 5 and not text:
            blocks.forget()
        blocks.check(held)
        assert blocks.available == blocks.count - len({block for table in held for block in table})
    for table in held:
        blocks.release(table)
    blocks.check([])
    assert blocks.available == blocks.count


def test_the_longest_unused_goes_first_and_from_its_end() -> None:
    blocks = Blocks(4)
    salt = root()
    for text in (tokens(1, 2), tokens(3, 4)):
        held = blocks.take(2)
        assert held is not None
        read(blocks, salt, text, held)
        blocks.release(held)
    assert blocks.take(1) is not None
    assert (len(blocks.find(salt, tokens(1, 2))), len(blocks.find(salt, tokens(3, 4)))) == (1, 2)


def test_a_hash_that_two_texts_share_is_not_taken_for_the_text() -> None:
    blocks = Blocks(2)
    held = blocks.take(1)
    assert held is not None
    read(blocks, root(), tokens(1), held)
    page = blocks.page(held[0])
    blocks._found[chained(root(), tokens(2))] = held[0]  # as if it were a collision
    assert page.tokens != tuple(tokens(2)) and blocks.find(root(), tokens(2)) == []


def test_whose_it_is_decides_what_is_found() -> None:
    blocks = Blocks(2)
    held = blocks.take(1)
    assert held is not None
    read(blocks, root("one"), tokens(1), held)
    assert blocks.find(root("one"), tokens(1)) == held
    assert blocks.find(root("other"), tokens(1)) == blocks.find(root("one", ""), tokens(1)) == []
