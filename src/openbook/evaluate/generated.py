"""Arithmetic and word scrambling as in GPT-3 (Brown et al. 2020, sections 3.9.1 and 3.9.2), from a seed and with no data.

Numbers are drawn as the paper says: D-digit problems uniformly from [0, 10^D); one digit with three operations in the form
(a op b) op c or a op (b op c). Words are those of five to fourteen letters that are the most frequent in public-domain books
(words.txt).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files

import numpy as np

from openbook.errors import InputError
from openbook.evaluate.hidden import KINDS, hidden_items
from openbook.evaluate.style import style_items
from openbook.model.initialise import generator

Scramble = Callable[[str, np.random.Generator], str]

COUNT = 2_000
"""Items that the paper has of each kind of arithmetic."""
DIGITS = {"two": 2, "three": 3, "four": 4, "five": 5}
OPERATIONS = {"addition": "plus", "subtraction": "minus"}
SYMBOLS = " ./!"
"""What random insertion puts between letters: those of the published file, each as often as the others."""


def kinds() -> list[str]:
    sums = [f"{digits}_digit_{operation}" for digits in DIGITS for operation in OPERATIONS]
    return [*sums, "two_digit_multiplication", "single_digit_three_ops", *SCRAMBLES, *KINDS, "style_transfer"]


def generate_items(kind: str, seed: int, count: int) -> list[dict[str, str]]:
    """Items {context, completion} in the form of GPT-3's published files, all different where the kind has enough of them."""
    if kind not in kinds():
        raise InputError(f"generator = {kind!r}: should be one of {', '.join(kinds())}")
    if kind in KINDS:
        return hidden_items(kind, seed, count)
    if kind == "style_transfer":
        return style_items()
    dice = generator(seed, "items", kind)
    made: dict[str, str] = {}
    for _ in range(20 * count):
        question, answer = _scrambled(kind, dice) if kind in SCRAMBLES else _sum(kind, dice)
        made.setdefault(question, answer)
        if len(made) == count:
            break
    return [{"context": question, "completion": f" {answer}"} for question, answer in made.items()]


def _sum(kind: str, dice: np.random.Generator) -> tuple[str, str]:
    if kind == "single_digit_three_ops":
        question, value = _three_operations(dice)
    else:
        digits, _, operation = kind.split("_", 2)
        a, b = (int(value) for value in dice.integers(0, 10 ** DIGITS[digits], 2))
        if kind == "two_digit_multiplication":
            question, value = f"{a} times {b}", a * b
        else:
            question, value = f"{a} {OPERATIONS[operation]} {b}", a + b if operation == "addition" else a - b
    return f"\n\nQ: What is {question}?\n\nA:", str(value)


def _three_operations(dice: np.random.Generator) -> tuple[str, int]:
    """Three one-digit numbers and two operations; the parentheses stand around the last two numbers, or the first two."""
    a, b, c = (int(value) for value in dice.integers(0, 10, 3))
    first, second = ("+-*"[index] for index in dice.integers(0, 3, 2))
    if dice.integers(2):
        return f"({a} {first} {b}) {second} {c}", _apply(second, _apply(first, a, b), c)
    return f"{a} {first} ({b} {second} {c})", _apply(first, a, _apply(second, b, c))


def _apply(operation: str, a: int, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b}[operation]


@cache
def words() -> tuple[str, ...]:
    return tuple((files("openbook.evaluate") / "words.txt").read_text(encoding="utf-8").split())


def _scrambled(kind: str, dice: np.random.Generator) -> tuple[str, str]:
    word = words()[dice.integers(len(words()))]
    return f"\n{SCRAMBLES[kind](word, dice)} =", word


def _cycled(word: str, dice: np.random.Generator) -> str:
    by = int(dice.integers(1, len(word)))
    return word[by:] + word[:by]


def _inner_anagram(keep: int) -> Scramble:
    def scramble(word: str, dice: np.random.Generator) -> str:
        inner = list(word[keep:-keep])
        dice.shuffle(inner)
        return word[:keep] + "".join(inner) + word[-keep:]

    return scramble


def _inserted(word: str, dice: np.random.Generator) -> str:
    marks = [SYMBOLS[index] for index in dice.integers(0, len(SYMBOLS), len(word) - 1)]
    return "".join(letter + mark for letter, mark in zip(word, [*marks, ""], strict=True))


def _reversed(word: str, dice: np.random.Generator) -> str:
    return word[::-1]


SCRAMBLES: dict[str, Scramble] = {
    "cycle_letters_in_word": _cycled,
    "mid_word_1_anagrams": _inner_anagram(1),
    "mid_word_2_anagrams": _inner_anagram(2),
    "random_insertion_in_word": _inserted,
    "reversed_words": _reversed,
}
