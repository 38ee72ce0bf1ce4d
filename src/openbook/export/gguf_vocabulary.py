"""A `tokenizer.json` as llama.cpp keeps vocabularies: spellings, types, merges, and the name of the pattern that splits text.

llama.cpp knows patterns by name only (`tokenizer.ggml.pre`), so a vocabulary with any other pattern cannot be read by it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openbook.errors import InputError
from openbook.model.tokenizer import CHARACTER, PATTERN, load_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""llama.cpp's types of tokens."""
_SPELLED_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CASELESS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE = {_GPT2: "gpt-2", _CASELESS % "{1,3}": "llama-bpe", _CASELESS % "": "qwen2", PATTERN: "llama-bpe", CHARACTER: "llama-bpe"}
"""llama.cpp's name of each pattern. Ours differs from Llama 3's in digits only, which none of llama.cpp's patterns takes in pairs."""
DIGITS = (
    "llama.cpp splits digits in threes where this vocabulary was made for pairs: texts with three digits in a row become other tokens "
    "there; all other texts, and prompts given as ids, are the same"
)


@dataclass(frozen=True)
class Vocabulary:
    """`model` is llama.cpp's kind: gpt2 for byte-level merges, with `pre`; llama for sentencepiece's, with `scores`. Lists are by id."""

    model: str
    pre: str | None
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    begin: int
    end: int
    adds_begin: bool
    space_prefix: bool
    template: str | None
    notes: list[str]


def vocabulary_of(folder: Path, rows: int) -> Vocabulary:
    """The vocabulary of a folder of weights of so many rows. Raises InputError for what llama.cpp does not read."""
    path = folder / "tokenizer.json"
    tokenizer = load_tokenizer(path)
    content, settings_path = json.loads(path.read_bytes()), folder / "tokenizer_config.json"
    settings = json.loads(settings_path.read_bytes()) if settings_path.is_file() else {}
    model = content["model"]
    if model["type"] != "BPE":
        raise InputError(f"{path}: llama.cpp reads no {model['type']} from a tokenizer.json; only merges (BPE)")
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    pieces = bool(model.get("byte_fallback"))
    tokens, types = _tokens(content, rows, pieces)
    notes: list[str] = []
    return Vocabulary(
        model="llama" if pieces else "gpt2",
        pre=None if pieces else _pre(path, content, notes),
        tokens=tokens,
        types=types,
        merges=[] if pieces else [" ".join(merge) for merge in merges],
        scores=_scores(path, tokens, types, merges) if pieces else [],
        begin=tokenizer.begin_of_document,
        end=tokenizer.end_of_document,
        adds_begin=bool(tokenizer.prefix),
        space_prefix=pieces and _begins_with_space(content),
        template=settings.get("chat_template") if isinstance(settings.get("chat_template"), str) else None,
        notes=notes,
    )


def _tokens(content: Mapping[str, Any], rows: int, pieces: bool) -> tuple[list[str], list[int]]:
    """Spellings and types by id; rows of the model that have no token are unused ones."""
    tokens, types = [f"[PAD{index}]" for index in range(rows)], [UNUSED] * rows
    model = content["model"]
    for token, identifier in model["vocab"].items():
        tokens[identifier] = token
        types[identifier] = BYTE if pieces and _SPELLED_BYTE.fullmatch(token) else NORMAL
    for token in content["added_tokens"]:
        tokens[token["id"]] = token["content"]
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    if pieces and model.get("unk_token") in model["vocab"]:
        types[model["vocab"][model["unk_token"]]] = UNKNOWN
    return tokens, types


def _scores(path: Path, tokens: list[str], types: list[int], merges: list[tuple[str, ...]]) -> list[float]:
    """llama.cpp merges what has the highest score first: so less the rank of the merge that makes the token."""
    rank: dict[str, int] = {}
    for index, merge in enumerate(merges):
        rank.setdefault("".join(merge), index)
    odd = [token for token, kind in zip(tokens, types, strict=True) if kind == NORMAL and len(token) > 1 and token not in rank]
    if odd:
        raise InputError(f"{path}: no merge makes {odd[0]!r}, which llama.cpp would merge nevertheless")
    return [-1.0 - rank.get(token, len(merges)) for token in tokens]


def _begins_with_space(content: Mapping[str, Any]) -> bool:
    """Whether sentencepiece's mark of a space is put before a text."""
    return any(
        part["type"] == "Prepend" or (part["type"] == "Metaspace" and part.get("prepend_scheme", "always") != "never")
        for part in (*_parts(content["normalizer"]), *_parts(content["pre_tokenizer"]))
    )


def _parts(part: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of a normaliser or pre-tokenizer, one after the other."""
    if part is None:
        return
    inside = part.get("normalizers") or part.get("pretokenizers")
    if inside is None:
        yield part
        return
    for each in inside:
        yield from _parts(each)


def _pre(path: Path, content: Mapping[str, Any], notes: list[str]) -> str:
    """llama.cpp's name of the pattern. Raises InputError for one that it does not have."""
    patterns = []
    for part in _parts(content["pre_tokenizer"]):
        if part["type"] == "ByteLevel":
            if part["add_prefix_space"]:
                raise InputError(f"{path}: add_prefix_space, which llama.cpp does not do")
            patterns += [_GPT2] if part.get("use_regex", True) else []
        elif part["type"] == "Split" and part["behavior"] == "Isolated" and not part["invert"] and "Regex" in part["pattern"]:
            patterns.append(part["pattern"]["Regex"])
        else:
            patterns.append(part["type"])
    if len(patterns) != 1 or patterns[0] not in PRE:
        raise InputError(
            f"{path}: llama.cpp does not split text by {' then '.join(patterns) or 'nothing'}; known: {', '.join(set(PRE.values()))}"
        )
    for part in _parts(content["normalizer"]):
        if part["type"] != "NFC":
            raise InputError(f"{path}: normalises text by {part['type']}, which llama.cpp does not do")
        notes.append("llama.cpp does not bring text into Unicode's composed form (NFC) first, as this vocabulary wants it")
    if patterns[0] == CHARACTER and any(ord(character) > 126 for token in content["model"]["vocab"] for character in token):
        raise InputError(f"{path}: a vocabulary of characters beyond ASCII, which llama.cpp cannot spell without merges")
    if patterns[0] == PATTERN:
        notes.append(DIGITS)
    return PRE[patterns[0]]
