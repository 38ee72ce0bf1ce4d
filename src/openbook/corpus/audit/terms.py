"""Term lists: the words by which texts name groups of people, from a TOML file of the package or of the user."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from openbook.errors import InputError
from openbook.parts import LETTERS
from openbook.section import Name, Positive, Section

BUNDLED = Path(__file__).with_name("terms.toml")
LIST = re.compile(r"<([a-z0-9_-]+)>")


class GroupSection(Section):
    terms: Annotated[list[str], Field(min_length=1)]
    exceptions: list[str] = []
    """Phrases around a term in which it means something else."""
    ambiguous: str = ""
    """What the terms may mean besides, for readers of the figures."""


class SkipSection(Section):
    words: str = ""


class TermsFile(Section):
    """A term list as it is written. Its head says how terms are read."""

    version: Positive
    language: str = "en"
    sources: list[str] = []
    limits: str = ""
    lists: dict[Name, list[str]] = {}
    groups: Annotated[dict[Name, Annotated[dict[Name, GroupSection], Field(min_length=1)]], Field(min_length=1)]
    skip: SkipSection = SkipSection()


@dataclass(frozen=True)
class Group:
    """A group of people: its place is its number. `terms` counts them with lists expanded."""

    name: str
    category: str
    terms: int
    ambiguous: str


@dataclass(frozen=True)
class Phrase:
    """Words in a row, and the group they stand for in their category; None where they stand for none. `exact` minds the case."""

    words: tuple[str, ...]
    category: int
    group: int | None
    exact: bool


@dataclass(frozen=True)
class Terms:
    """A term list, ready to be looked for. `phrases` come in the order in which they overrule each other: the longest last, and of equal
    length those that stand for no group."""

    groups: tuple[Group, ...]
    categories: tuple[str, ...]
    phrases: tuple[Phrase, ...]
    skip: frozenset[str]
    version: int
    language: str
    sources: tuple[str, ...]
    limits: str
    sha256: str


@lru_cache(maxsize=4)
def load(path: Path) -> Terms:
    """Raises InputError that names the file, the group and the term."""
    try:
        data = path.read_bytes()
        file = TermsFile.model_validate(tomllib.loads(data.decode()))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of terms ({error})") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML ({error})") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    categories = tuple(file.groups)
    groups: list[Group] = []
    known: dict[tuple[int, tuple[str, ...]], Phrase] = {}
    for number, category in enumerate(categories):
        for name, section in file.groups[category].items():
            where = f"{path}: groups.{category}.{name}"
            phrases = [_phrase(text, number, len(groups), where) for term in section.terms for text in _expanded(term, file.lists, where)]
            phrases += [_phrase(text, number, None, where) for text in section.exceptions]
            for phrase in dict.fromkeys(phrases):
                other = known.setdefault((number, phrase.words), phrase)
                if other.group != phrase.group:
                    raise InputError(f"{where}: {' '.join(phrase.words)!r} stands for something else in {category} already; name it once")
            terms = sum(phrase.group is not None for phrase in dict.fromkeys(phrases))
            groups.append(Group(name, category, terms, section.ambiguous))
    ordered = tuple(sorted(known.values(), key=lambda phrase: (len(phrase.words), phrase.group is None)))
    skip = frozenset(file.skip.words.lower().split())
    digest = hashlib.sha256(data).hexdigest()
    return Terms(tuple(groups), categories, ordered, skip, file.version, file.language, tuple(file.sources), file.limits, digest)


def _expanded(term: str, lists: Mapping[str, list[str]], where: str) -> list[str]:
    match = LIST.search(term)
    if not match:
        return [term]
    if match[1] not in lists:
        raise InputError(f"{where}: {term!r} names the list {match[1]!r}; lists here: {', '.join(lists) or 'none'}")
    return [text for word in lists[match[1]] for text in _expanded(term[: match.start()] + word + term[match.end() :], lists, where)]


def _phrase(text: str, category: int, group: int | None, where: str) -> Phrase:
    words = tuple(LETTERS.findall(text))
    if not words:
        raise InputError(f"{where}: {text!r} holds no word")
    return Phrase(words, category, group, exact=text != text.lower())
