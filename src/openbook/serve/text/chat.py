"""A conversation as token ids, by the chat template that came with the weights.

A template is a program from outside. It runs in jinja2's immutable sandbox, which gives it no way to Python's insides or to files, with
bounds on what it can make. A message is data: it is never compiled, and the spelling of a special token inside it stays text, so nobody can
end his own turn and begin another's.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from openbook.errors import InputError
from openbook.model.tokenizer import Tokenizer

LONGEST = 4_000_000
"""Characters that a template may make of a conversation."""

DEFAULT = """\
{%- for message in messages -%}
  {%- if message.role == 'system' -%}{{ message.content }}
  {%- elif message.role == 'tool' -%}{{ 'Result: ' + message.content }}
  {%- else -%}{{ message.role | capitalize }}: {{ message.content }}
  {%- endif -%}
  {%- for call in message.tool_calls or [] -%}
    {{ '\\n<tool_call>\\n' + {'name': call.function.name, 'arguments': call.function.arguments} | tojson + '\\n</tool_call>' }}
  {%- endfor -%}
  {{ '\\n\\n' }}
  {%- if loop.first and tools -%}{{ 'Functions: ' + tools | tojson + '\\n\\n' }}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}Assistant:{%- endif -%}"""
"""For a base model, which has seen conversations written as text."""

DEFAULT_STOP = ("\n\nUser:", "\n\nSystem:")


class _Generation(Extension):
    """`{% generation %}`, with which templates mark the assistant's words for training, changes nothing here."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 declares it so

    def parse(self, parser: Any) -> list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sized = [value for value in (left, right) if isinstance(value, str | list | tuple)]
        if operator == "**" or (operator == "%" and sized):
            raise jinja2.exceptions.SecurityError(f"a template may not use {operator} here")
        if sized and any(isinstance(value, int) and value * len(sized[0]) > LONGEST for value in (left, right)):
            raise jinja2.exceptions.SecurityError("a template may not make so long a text")
        return super().call_binop(context, operator, left, right)


def _environment() -> _Sandbox:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    for name in ("lipsum", "cycler", "joiner"):
        environment.globals.pop(name, None)
    return environment


def _refuse(message: str) -> None:
    raise InputError(f"the model's chat template refuses this conversation: {message}")


class ChatTemplate:
    """`stop` are texts that end an answer, `special` the spellings that the template may write as special tokens.

    Raises InputError for a source that is no template.
    """

    def __init__(self, tokenizer: Tokenizer, source: str | None = None, facts: Mapping[str, str] | None = None) -> None:
        self._tokenizer, self._facts = tokenizer, dict(facts or {})
        self.stop = DEFAULT_STOP if source is None else ()
        try:
            self._template = _environment().from_string(DEFAULT if source is None else source)
        except jinja2.TemplateError as error:
            raise InputError(f"the chat template cannot be read: {error}") from None

    def encode(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None) -> list[int]:
        """Ids of the conversation up to where the assistant's next words begin. Raises InputError with the template's own complaint."""
        mark = f"\ue000{secrets.token_hex(8)}\ue001"
        text = self._render(_unspecial(list(messages), self._special, mark), _unspecial(list(tools or []), self._special, mark) or None)
        ids: list[int] = []
        for piece in re.split(f"({self._special.pattern})", text) if self._tokenizer.special_tokens else [text]:
            special = self._tokenizer.special_tokens.get(piece)
            ids += self._tokenizer.encode(piece.replace(mark, "")) if special is None else [special]
        return ids

    @cached_property
    def _special(self) -> re.Pattern[str]:
        longest_first = sorted(self._tokenizer.special_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)))

    def _render(self, messages: Any, tools: Any) -> str:
        text = ""
        try:
            for piece in self._template.generate(messages=messages, tools=tools, add_generation_prompt=True, **self._facts):
                text += piece
                if len(text) > LONGEST:
                    raise InputError(f"the model's chat template makes more than {LONGEST} characters of this conversation")
        except InputError:
            raise
        except Exception as error:  # a template is a program: whatever it raises, this conversation is what it could not digest
            raise InputError(f"the model's chat template fails on this conversation: {error}") from None
        return text


def _unspecial(value: Any, special: re.Pattern[str], mark: str) -> Any:
    """The value with the mark inside each special token's spelling, which makes it none."""
    if isinstance(value, str):
        return special.sub(lambda found: found[0][:1] + mark + found[0][1:], value) if special.pattern else value
    if isinstance(value, Mapping):
        return {_unspecial(key, special, mark): _unspecial(item, special, mark) for key, item in value.items()}
    if isinstance(value, list):
        return [_unspecial(item, special, mark) for item in value]
    return value
