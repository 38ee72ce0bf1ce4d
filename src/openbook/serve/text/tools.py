"""Tool calls: the grammar that makes them well-formed, and a reader that finds them in text as it comes.

A call is written as models of the Hermes and Qwen families do, a line `<tool_call>`, a line of JSON, a line `</tool_call>`:

    <tool_call>
    {"name": "weather", "arguments": {"city": "Oslo"}}
    </tool_call>

The grammar fixes every character but those of the arguments, so the reader needs no JSON parser: inside a JSON text a line end can only be
escaped, so a raw one followed by the closing tag is the end of the call.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openbook.serve.text.grammar import inline

OPEN = "<tool_call>"
CLOSE = "}\n</tool_call>"
ANYTHING = r"/(.|\n)*/"


@dataclass(frozen=True)
class Function:
    """A function that the model may call; `parameters` is a JSON schema of an object."""

    name: str
    description: str
    parameters: dict[str, Any]

    def shown(self) -> dict[str, Any]:
        """As chat templates expect it."""
        return {"type": "function", "function": vars(self)}


def calls_grammar(functions: Sequence[Function], forced: bool, several: bool, content: str | None) -> str:
    """The Lark grammar of an answer that may, or if `forced` must, call functions, more than one if `several`.

    `content` is the Lark term of an answer in place of calls, None for free text. Free text may also come before calls, never behind one.
    """
    lines = [
        f"call_{index}: {_head(function)} {inline(function.parameters)} {json.dumps(CLOSE)}" for index, function in enumerate(functions)
    ]
    lines.append("call: " + " | ".join(f"call_{index}" for index in range(len(functions))))
    more = f' ("\\n{OPEN}" call)*' if several else ""
    if forced:
        start = f'start: "{OPEN}" call{more}'
    elif content is not None:
        start = f'start: {content} | "{OPEN}" call{more}'
    else:
        start = f"start: TEXT | opening call{more}"
        lines.append(f"opening[lazy]: {ANYTHING} {json.dumps(OPEN)}")
        lines.append(f"TEXT: {ANYTHING} & ~/(.|\\n)*{OPEN}(.|\\n)*/")
    return "\n".join(["%llguidance {}", start, *lines])


def _head(function: Function) -> str:
    """Behind the opening tag, as a Lark string: the name as JSON, itself quoted."""
    return json.dumps(f'\n{{"name": {json.dumps(function.name)}, "arguments": ')


@dataclass(frozen=True)
class Said:
    """Text outside calls."""

    text: str


@dataclass(frozen=True)
class Called:
    """A call of this name begins."""

    name: str


@dataclass(frozen=True)
class Argued:
    """A piece of the arguments, as JSON text, of the call that began last."""

    text: str


class CallReader:
    """Text in, what it says and calls out. Holds back what may yet turn out to be a tag.

    Without `after_text`, calls come in place of text only: in an answer that has begun otherwise, a tag is text.
    """

    def __init__(self, after_text: bool = True) -> None:
        self._after_text = after_text
        self._held = ""
        self._state = "text"

    def push(self, text: str) -> list[Said | Called | Argued]:
        self._held += text
        found: list[Said | Called | Argued] = []
        while (event := self._next()) is not None:
            found.append(event)
        return found

    def finish(self) -> list[Said | Called | Argued]:
        """What was held back, once nothing more comes; a call that was cut in its name is dropped."""
        held, self._held = self._held, ""
        if not held or self._state == "head":
            return []
        return [Argued(held) if self._state == "arguments" else Said(held)]

    def _next(self) -> Said | Called | Argued | None:
        if self._state == "head":
            return self._name()
        if self._state == "text" and not self._after_text and not OPEN.startswith(self._held.lstrip("\n")[: len(OPEN)]):
            self._state = "plain"
        if self._state == "plain":
            said, self._held = self._held, ""
            return Said(said) if said else None
        tag, of, then = (OPEN, Said, "head") if self._state == "text" else (CLOSE, Argued, "text")
        before, found, after = self._held.partition(tag)
        if found:
            if before.strip() or (before and of is Argued):
                self._held = found + after
                return of(before.rstrip("\n") if of is Said else before)
            self._held, self._state = after, then
            return self._next()
        settled = len(before) - _overlap(before, tag)
        if of is Said:
            settled = len(before[:settled].rstrip("\n"))  # line ends between calls are not text
        self._held = before[settled:]
        return of(before[:settled]) if settled else None

    def _name(self) -> Called | None:
        beginning, found, rest = self._held.partition(', "arguments": ')
        if not found:
            return None
        self._held, self._state = rest, "arguments"
        return Called(json.loads(beginning + "}")["name"])


def _overlap(text: str, tag: str) -> int:
    """How many characters at the end of a text could be the beginning of a tag."""
    return next((length for length in range(min(len(text), len(tag) - 1), 0, -1) if tag.startswith(text[-length:])), 0)
