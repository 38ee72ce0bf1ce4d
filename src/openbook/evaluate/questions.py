"""From items to what a model is asked: the item's own text after demonstrations that the seed draws."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from openbook.errors import InputError
from openbook.evaluate.data import ItemSource
from openbook.evaluate.task import Task
from openbook.evaluate.templates import evaluated, rendered
from openbook.model.initialise import generator


@dataclass(frozen=True)
class Own:
    """An item's own part. contexts: one for all continuations, or one for each. answers: what is right, for kind = "generate"."""

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    gold: int = 0
    answers: tuple[Any, ...] = ()

    @property
    def solved(self) -> str:
        """The item as a demonstration."""
        return self.contexts[self.gold if len(self.contexts) > 1 else 0] + self.continuations[self.gold]


@dataclass(frozen=True)
class Question:
    """Item number `item` (from 1) after the demonstrations of one draw. pairs: of a context and a continuation, one for each choice."""

    item: int
    draw: int
    prefix: str
    own: Own
    fields: Mapping[str, Any]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        contexts = self.own.contexts * (len(self.own.continuations) if len(self.own.contexts) == 1 else 1)
        return [(self.prefix + context, text) for context, text in zip(contexts, self.own.continuations, strict=True)]

    @property
    def digest(self) -> str:
        return hashlib.sha256("\0".join(text for pair in self.pairs for text in pair).encode()).hexdigest()[:16]


class Questions:
    """All questions of a task. Raises InputError that names the file and the item for one that cannot be asked."""

    def __init__(self, task: Task, items: ItemSource, pool: ItemSource, shots: int, seed: int) -> None:
        self.task, self.items, self.pool, self.shots, self.seed = task, items, pool, shots, seed
        self._solved: dict[int, str] = {}
        self._groups: dict[Any, list[int]] = {}
        for place, item in enumerate(pool.items if task.alike else ()):
            self._groups.setdefault(item.get(task.alike or ""), []).append(place)
        enough = min(map(len, self._groups.values()), default=len(pool.items)) - (pool is items)
        if shots > enough:
            raise InputError(f"{pool.place}: {shots} demonstrations wanted, only {enough} items to draw from; lower --shots")

    def question(self, index: int, draw: int) -> Question:
        """Of item `index` (from 0)."""
        shown = [self._demonstration(example) for example in self._drawn(index, draw)]
        prefix = self.task.description + "".join(text + self.task.separator for text in shown)
        fields = self.items.items[index]
        return Question(index + 1, draw, prefix, own_part(self.task, fields, f"{self.items.place}: item {index + 1}"), fields)

    def _drawn(self, index: int, draw: int) -> list[int]:
        """Places in the pool, in the order in which they are shown; never the item itself."""
        if not self.shots:
            return []
        own = self.pool is self.items
        if self.task.draw == "first":
            return [place for place in range(self.shots + 1) if not (own and place == index)][: self.shots]
        dice = generator(self.seed, "shots", self.task.name, draw, index)
        if self.task.alike:
            alike = [place for place in self._groups[self.items.items[index].get(self.task.alike)] if not (own and place == index)]
            return [alike[place] for place in dice.choice(len(alike), self.shots, replace=False)]
        places = dice.choice(len(self.pool.items) - own, self.shots, replace=False)
        return [int(place) + (own and place >= index) for place in places]

    def _demonstration(self, place: int) -> str:
        if place not in self._solved:
            self._solved[place] = own_part(self.task, self.pool.items[place], f"{self.pool.place}: item {place + 1}").solved
        return self._solved[place]


def own_part(task: Task, fields: Mapping[str, Any], where: str) -> Own:
    form = task.form
    if task.kind == "rolling":
        return Own(("",), (_full(rendered(form.text or "", fields, f"{where}: form.text"), f"{where}: form.text"),))
    if task.kind == "choice":
        return _choice(task, fields, where)
    context = rendered(form.context, fields, f"{where}: form.context")
    if task.kind == "completion":
        return Own((context,), (_full(rendered(form.target or "", fields, f"{where}: form.target"), f"{where}: form.target"),))
    answers = evaluated(form.answers or "", fields, f"{where}: form.answers")
    if not isinstance(answers, list) or not answers:
        raise InputError(f"{where}: form.answers = {answers!r}: should be a list of at least one answer")
    if form.shown is not None:
        shown = rendered(form.shown, fields, f"{where}: form.shown")
    else:
        shown = answers[0] if isinstance(answers[0], str) else ", ".join(answers[0])
    return Own((context,), (form.delimiter + _full(shown, f"{where}: the first answer"),), 0, tuple(answers))


def _choice(task: Task, fields: Mapping[str, Any], where: str) -> Own:
    form = task.form
    gold = evaluated(form.gold or "", fields, f"{where}: form.gold")
    options = _options(form.contexts or form.choices or "", fields, f"{where}: choices")
    if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(options):
        raise InputError(f"{where}: form.gold = {gold!r}: should be the place of one of its {len(options)} choices, from 0")
    if form.contexts is None:
        context = rendered(form.context, fields, f"{where}: form.context")
        return Own((context,), tuple(form.delimiter + option for option in options), gold)
    continuation = form.delimiter + rendered(form.continuation or "", fields, f"{where}: form.continuation")
    return Own(options, (continuation,) * len(options), gold)


def _options(expression: str, fields: Mapping[str, Any], where: str) -> tuple[str, ...]:
    options = evaluated(expression, fields, where)
    if not isinstance(options, list) or len(options) < 2 or not all(isinstance(option, str) for option in options):
        raise InputError(f"{where} = {options!r}: should be a list of at least two texts")
    return tuple(_full(option, f"{where}: number {number}") for number, option in enumerate(options, 1))


def _full(text: str, where: str) -> str:
    if not text.strip():
        raise InputError(f"{where} is empty: there would be nothing to score")
    return text
