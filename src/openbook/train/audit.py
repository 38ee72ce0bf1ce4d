"""Silent corruption: now and then a neighbour computes one of a worker's microbatches too, and the two compare bits.

A processor that computes wrong without a word spoils a training that goes on looking healthy. All workers must get the same bits for
the same microbatch, so comparing needs no tolerance and has no false alarms. Where two differ, both compute again and a third worker
computes as well: who is alone with a result, or does not get the same one twice, is named.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from openbook.errors import OpenbookError
from openbook.tokens.order import key
from openbook.train.fingerprint import element_sum
from openbook.train.tree import Gradients

MARK_BITS = 52
"""A mark is gathered as a float64."""


class Corruption(OpenbookError):
    """A worker goes on computing wrong: its machine should be taken out."""


def audited(step: int, replica: int, rounds: range) -> int:
    """Which of its rounds a replica is audited in."""
    return rounds[key("audit", step, replica) % len(rounds)]


def mark(leaf: Gradients) -> int:
    """A short fingerprint of a microbatch's gradients, or of this worker's rows of them."""
    sums = torch.stack([element_sum(tensor.reshape(-1)) for tensor in leaf.values()])
    odd = torch.arange(1, 2 * len(sums), 2, device=sums.device)
    return int((sums * odd).sum()) % 2**MARK_BITS


def disputed(table: Sequence[tuple[float, ...]], width: int) -> list[int]:
    """Ranks whose own mark is not that of their auditor. table: (own mark, mark of the replica after it) by rank."""
    return [rank for rank in range(len(table)) if table[rank][0] != table[(rank - width) % len(table)][1]]


def accused(first: Sequence[tuple[float, ...]], second: Sequence[tuple[float, ...]], width: int) -> list[int]:
    """The ranks that computed wrong. Rows by rank: marks of the own round, of the next replica's, and of the one after that.

    The right mark is the one that most workers came to at least once; all of the opponents are named where no mark has a majority.
    """
    world = len(first)
    names: set[int] = set()
    for rank in disputed(first, width):
        opinions: dict[int, set[float]] = {}
        for table in (first, second):
            for column in range(len(table[0])):
                opinions.setdefault((rank - column * width) % world, set()).add(table[(rank - column * width) % world][column])
        votes: dict[float, int] = {}
        for values in opinions.values():
            for value in values:
                votes[value] = votes.get(value, 0) + 1
        best = [value for value, count in votes.items() if count == max(votes.values())]
        names |= {who for who, values in opinions.items() if len(best) > 1 or values != set(best)}
    return sorted(names)
