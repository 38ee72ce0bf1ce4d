"""A `config.json` from outside, read key by key: types are checked, and sizes are bounded before anything is allocated for them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from openbook.errors import InputError

T = TypeVar("T")

LARGEST = 2**24
"""No size of a published model is near this."""
LAYERS = 1024
"""The deepest published model has 118."""
LARGEST_FILE = 16 * 2**20


class Facts:
    """The keys of a `config.json`. Each method raises InputError that names file and key for a value that cannot be used."""

    def __init__(self, path: Path, content: Mapping[str, Any], where: str = "") -> None:
        self.path, self.content, self._where = path, content, where

    def __contains__(self, key: str) -> bool:
        return self.content.get(key) is not None

    def wrong(self, key: str, should: str) -> InputError:
        return InputError(f"{self.path}: {self._where}{key} = {json.dumps(self.content.get(key))[:80]} {should}")

    def whole(self, key: str, default: int | None = None, least: int = 1, most: int = LARGEST) -> int:
        value = self.content.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or not least <= value <= most:
            raise self.wrong(key, f"should be a whole number from {least} to {most}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self.content.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise self.wrong(key, "should be a number above 0")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self.content.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(key, "should be true or false")
        return value

    def choice(self, key: str, known: Mapping[str, T], default: str) -> T:
        value = self.content.get(key) or default
        if not isinstance(value, str) or value not in known:
            raise self.wrong(key, f"is not computed here; known: {', '.join(known)}")
        return known[value]

    def table(self, key: str) -> Facts | None:
        value = self.content.get(key)
        if not value:
            return None
        if not isinstance(value, dict):
            raise self.wrong(key, "should be a table")
        return Facts(self.path, value, f"{self._where}{key}.")

    def require(self, values: Mapping[str, Any]) -> None:
        """Refuses options that we do not compute: a key may be absent, null, or have the value at which it changes nothing."""
        for key, value in values.items():
            if self.content.get(key) not in (None, value):
                raise self.wrong(key, f"is not computed here; only {json.dumps(value)} is")


def read_facts(path: Path) -> Facts:
    """Raises InputError if the file is missing, huge, or not a JSON object."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise InputError(f"{path}: has {path.stat().st_size:,} bytes; a configuration has at most {LARGEST_FILE:,}")
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a Hugging Face folder has config.json beside its weights") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a model configuration ({type(error).__name__}: {error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a model configuration (a {type(content).__name__} rather than an object)")
    return Facts(path, content)
