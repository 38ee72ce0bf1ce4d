"""Whether a written answer is right: exact match and F1 as the official scripts of SQuAD, CoQA and DROP have them."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal, InvalidOperation

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces (Rajpurkar et al. 2016, evaluate-v1.1.py)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact(said: str, answers: Sequence[str]) -> float:
    """Equal but for spaces around."""
    return float(said.strip() in {answer.strip() for answer in answers})


def exact_match(said: str, answers: Sequence[str]) -> float:
    return float(any(normalised(said) == normalised(answer) for answer in answers))


def f1(said: str, answers: Sequence[str]) -> float:
    """The best answer's harmonic mean of precision and recall over words (Rajpurkar et al. 2016)."""
    return max(_overlap(normalised(said).split(), normalised(answer).split()) for answer in answers)


def f1_coqa(said: str, answers: Sequence[str]) -> float:
    """As people were compared with each other: each answer is left out in turn, and the best of the others counts (Reddy et al. 2019,
    evaluate-v1.0.py). Unlike in SQuAD, two empty answers agree."""
    if len(answers) == 1:
        return f1(said, answers)
    return sum(f1(said, [*answers[:left], *answers[left + 1 :]]) for left in range(len(answers))) / len(answers)


def _overlap(said: list[str], answer: list[str]) -> float:
    if not said or not answer:
        return float(said == answer)
    common = sum((Counter(said) & Counter(answer)).values())
    return 2 * common / (len(said) + len(answer))  # the harmonic mean of common/said and common/answer


def exact_match_drop(said: str, answers: Sequence[Sequence[str]]) -> float:
    return float(any([_drop_words(said)] == [_drop_words(span) for span in spans] for spans in answers))


def f1_drop(said: str, answers: Sequence[Sequence[str]]) -> float:
    """One written span against each answer's spans: the best span's F1, shared among all of them; 0 where numbers differ; two decimals
    (Dua et al. 2019, drop_eval.py)."""
    return max(_drop_one(_drop_bag(said), [_drop_bag(span) for span in spans]) for spans in answers)


def _drop_one(said: set[str], spans: list[set[str]]) -> float:
    best = max(_bag_f1(said, span) if _numbers_agree(said, span) else 0.0 for span in spans)
    return round(best / len(spans), 2)


def _bag_f1(said: set[str], span: set[str]) -> float:
    common = len(said & span)
    precision = common / len(said) if said else 1.0
    recall = common / len(span) if span else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _numbers_agree(said: set[str], span: set[str]) -> bool:
    wanted = {word for word in span if _is_number(word)}
    return not wanted or bool(wanted & {word for word in said if _is_number(word)})


def _drop_bag(text: str) -> set[str]:
    return set(_drop_words(text).split())


def _drop_words(text: str) -> str:
    """Words parted at spaces and hyphens, each in lower case, a number as a float, else without punctuation and articles."""
    words = []
    for word in re.split(r"[ -]", text):
        bare = word.lower() if _is_number(word) else word.lower().translate(_PUNCTUATION)
        number = str(float(bare)) if _is_number(bare) else bare
        if kept := " ".join(_ARTICLES.sub(" ", number).split()):
            words.append(kept)
    return " ".join(words)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def number_match(said: str, answers: Sequence[str]) -> float:
    """Equal as numbers, whatever separators, currency signs and final zeros they are written with."""
    own = _number(said)
    return float(own is not None and any(own == _number(answer) for answer in answers))


def _number(text: str) -> Decimal | None:
    try:
        return Decimal(re.sub(r"[,$%\s]", "", text).rstrip("."))
    except InvalidOperation:
        return None


def extracted(text: str, pattern: str | None) -> str:
    """The last match of a pattern, or its first group; the whole text, without spaces around it, for no pattern or no match."""
    matches = list(re.finditer(pattern, text)) if pattern else []
    return (matches[-1][1] if matches[-1].re.groups else matches[-1][0]) if matches else text.strip()


MEASURES: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact": exact,
    "exact_match": exact_match,
    "f1": f1,
    "f1_coqa": f1_coqa,
    "number_match": number_match,
}
SPAN_MEASURES: dict[str, Callable[[str, Sequence[Sequence[str]]], float]] = {
    "f1_drop": f1_drop,
    "exact_match_drop": exact_match_drop,
}
"""Measures whose answers are lists of spans."""
