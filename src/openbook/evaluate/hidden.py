"""Tasks whose rule only the demonstrations tell: what in-context learning is, with nothing else in it, and text to train for it.

Three kinds: a secret number is added to others (arithmetic); the letters of a word change places by a secret order (word scrambling);
letters stand for other letters by a secret code. Without demonstrations one can only guess; the code is known a letter at a time.
`python -m openbook.evaluate.hidden > hidden.jsonl` prints the training text: documents of demonstrations of one rule each. What is
asked in an evaluation is never a question in its documents of that kind: see `held_out`.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from itertools import permutations
from string import ascii_lowercase, digits

import numpy as np

from openbook.model.initialise import generator

KINDS = ("hidden_sum", "hidden_scramble", "hidden_code")
TURNS = ("hidden_sum", "hidden_scramble", "hidden_sum", "hidden_code")
"""Of training documents: arithmetic takes longer to learn."""
LENGTH = 3
"""Characters of a question, and of its answer."""
CODE = 4
"""Letters that a code knows."""
ORDERS = [order for order in permutations(range(LENGTH)) if list(order) != sorted(order)]
LINES = 12
"""Demonstrations in a document."""
DOCUMENTS = 80_000
ITEMS = 1_000
"""Of an evaluation, at most."""
PER_RULE = 40
"""Questions of one rule in an evaluation."""
Rule = tuple[str, str]
"""What stands in questions, and what it becomes; of an order, the places; of sums, what is added."""


def held_out(text: str) -> bool:
    """Whether something is kept for evaluations: a question, or a whole code, whose questions are few. One in five, by hash."""
    return hashlib.blake2b(text.encode(), digest_size=1).digest()[0] % 5 == 0


def draw_rule(kind: str, dice: np.random.Generator, testing: bool) -> Rule:
    if kind == "hidden_sum":
        return digits, str(dice.integers(1, 10) if dice.integers(2) else dice.integers(10, 100))
    if kind == "hidden_scramble":
        return ascii_lowercase, "".join(map(str, ORDERS[dice.integers(len(ORDERS))]))
    while True:
        letters = "".join(ascii_lowercase[place] for place in dice.permutation(26)[: 2 * CODE])
        if held_out(letters) == testing:
            return letters[:CODE], letters[CODE:]


def ask(kind: str, rule: Rule, dice: np.random.Generator, testing: bool) -> tuple[str, str]:
    """A question and its answer."""
    known = rule[0]
    while True:
        question = "".join(known[place] for place in dice.integers(0, len(known), LENGTH))
        answer = _answer(kind, rule, question)
        if len(answer) == LENGTH and (kind == "hidden_code" or held_out(question) == testing):
            return question, answer


def _answer(kind: str, rule: Rule, question: str) -> str:
    known, told = rule
    if kind == "hidden_sum":
        return f"{int(question) + int(told):0{LENGTH}d}"
    if kind == "hidden_scramble":
        return "".join(question[int(place)] for place in told)
    return question.translate(str.maketrans(known, told))


def hidden_items(kind: str, seed: int, count: int) -> list[dict[str, str]]:
    """Items {question, answer, rule}, all different; those of one rule belong together."""
    dice = generator(seed, "items", kind)
    made: dict[tuple[Rule, str], str] = {}
    while len(made) < min(count, ITEMS):
        rule = draw_rule(kind, dice, testing=True)
        made.update({(rule, question): answer for question, answer in (ask(kind, rule, dice, True) for _ in range(PER_RULE))})
    return [{"question": question, "answer": answer, "rule": "".join(rule)} for (rule, question), answer in made.items()][
        : min(count, ITEMS)
    ]


def documents(seed: int, count: int) -> Iterator[str]:
    """Text to train on: LINES demonstrations of one rule in each document, the kinds by their turns."""
    dice = generator(seed, "hidden documents")
    for number in range(count):
        kind = TURNS[number % len(TURNS)]
        rule = draw_rule(kind, dice, testing=False)
        yield "".join(f"{question}:{answer}\n" for question, answer in (ask(kind, rule, dice, False) for _ in range(LINES)))


if __name__ == "__main__":
    sys.stdout.writelines(json.dumps({"text": text}) + "\n" for text in documents(1, DOCUMENTS))
