"""What is wrong with a recipe, in one line: the place, the value, what would be right."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from openbook.written import Written


class Misset(Exception):
    """A key of a document is not what it should be."""

    def __init__(self, keys: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.keys, self.message = keys, message


SHOULD_BE = {
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "string_type": "should be text in quotes",
    "bool_type": "should be true or false",
    "list_type": "should be a list in brackets",
    "dict_type": "should be a table",
    "model_type": "should be a table",
    "missing": "is missing",
    "finite_number": "should be a finite number",
    "string_pattern_mismatch": "should be a name of lower-case letters, digits, - and _",
}
PATTERNS = {
    r"^[0-9a-f]{40}$": "should be a whole commit, 40 hexadecimal digits: a branch or tag is another text tomorrow",
    r"^[0-9a-f]{64}$": "should be a SHA-256, 64 hexadecimal digits",
    r"^[\w.-]+/[\w.-]+$": "should be OWNER/NAME",
    r"\S": "should say something",
}
"""What texts should be that are not names."""


def explain(error: ValidationError, document: dict[str, Any], written: Written, forced: dict[tuple[str, ...], str]) -> str:
    """One line for the first problem of a document."""
    problems = error.errors()
    first = problems[0]
    keys = _key_path(first, document)
    message = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] in ("literal_error", "union_tag_invalid"):
        expected = first.get("ctx", {}).get("expected") or first.get("ctx", {}).get("expected_tags")
        message = f"should be one of {expected}"
    elif first["type"] == "union_tag_not_found":
        message = f"needs a key {first.get('ctx', {}).get('discriminator')} that says of what kind it is"
    usual = SHOULD_BE.get(first["type"], message).replace("input should be", "should be")
    message = PATTERNS.get(first.get("ctx", {}).get("pattern", ""), usual)
    where = place(keys, written, forced)
    shown = "" if isinstance(first["input"], dict) or first["type"] == "missing" else f" = {first['input']!r}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {'.'.join(keys)}{shown}: {message}{more}"


def place(keys: tuple[str, ...], written: Written, forced: dict[tuple[str, ...], str]) -> str:
    """Where a key was set: the override, or the file and line."""
    return f"--set {forced[keys]}" if keys in forced else written.place(_line_of(keys, written.text))


def _key_path(problem: ErrorDetails, document: dict[str, Any]) -> tuple[str, ...]:
    """The error's place as keys of the document, without the tags that pydantic adds for a union's members."""
    keys: list[str] = []
    table: Any = document
    for index, part in enumerate(problem["loc"]):
        last = index == len(problem["loc"]) - 1
        if isinstance(table, dict) and part in table:
            table = table[part]
        elif isinstance(part, int) and isinstance(table, list):
            table = table[part] if part < len(table) else None
        elif not (last and problem["type"] == "missing"):
            continue
        keys.append(str(part))
    extra = problem.get("ctx", {}).get("key")
    return (*keys, extra) if extra else tuple(keys)


def _line_of(keys: tuple[str, ...], text: str) -> int:
    """The line (from 1) where a key is set, else where its nearest enclosing table begins; 1 where there is neither."""
    best, best_depth = 1, 0
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("["):
            table = tuple(part.strip().strip("\"'") for part in line.strip("[] ").split("]")[0].split("."))
            here = table
        elif "=" in line and not line.startswith("#"):
            here = (*table, *(part.strip().strip("\"'") for part in line.split("=", 1)[0].split(".")))
        else:
            continue
        if here == keys[: len(here)] and len(here) > best_depth:
            best, best_depth = number, len(here)
    return best
