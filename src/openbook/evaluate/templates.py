"""jinja2 in its sandbox: a task's file decides texts, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from openbook.errors import InputError

_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
_ENVIRONMENT.filters["cut"] = lambda text, count: text[count:]


@cache
def _template(text: str) -> Template:
    return _ENVIRONMENT.from_string(text)


@cache
def _expression(text: str) -> Callable[..., Any]:
    return _ENVIRONMENT.compile_expression(text, undefined_to_none=False)


def rendered(template: str, fields: Mapping[str, Any], where: str) -> str:
    """A template's text. Raises InputError that begins with `where`."""
    return _guarded(lambda: _template(template).render(fields), fields, where)


def evaluated(expression: str, fields: Mapping[str, Any], where: str) -> Any:
    """An expression's value. Raises InputError that begins with `where`."""
    value = _guarded(lambda: _expression(expression)(fields), fields, where)
    if isinstance(value, StrictUndefined):
        raise InputError(f"{where}: {value._undefined_message}; the item has {', '.join(fields)}")
    return value


def _guarded(work: Callable[[], Any], fields: Mapping[str, Any], where: str) -> Any:
    try:
        return work()
    except UndefinedError as error:
        raise InputError(f"{where}: {error}; the item has {', '.join(fields)}") from None
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
        raise InputError(f"{where}: {type(error).__name__}: {error}") from None
