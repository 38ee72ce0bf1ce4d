"""A tokenizer as stored in `tokenizer.json`, the interchange format of Hugging Face, encoded by tiktoken.

The file says all: vocabulary in rank order, merges, the splitting pattern, special tokens. `save` and `load` are inverse; the ids are
those that `tokenizers` and `transformers` give for the same file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tiktoken

from openbook.errors import InputError
from openbook.files import write_json

PATTERN = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
"""How text is split before merging: GPT-4's pattern, with digits in pairs rather than triples, which suits a small vocabulary."""

CHARACTER = r"[\s\S]"
"""The pattern that splits text into its characters, for a vocabulary of characters."""

LONG = 100_000
"""Characters beyond which a text is encoded in pieces: the splitter's regular expression exhausts its stack on millions of spaces."""


def _byte_alphabet() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte (Radford et al. 2019, `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + index) for index, byte in enumerate(others)}


TO_CHARACTER = _byte_alphabet()
TO_BYTE = {character: byte for byte, character in TO_CHARACTER.items()}


class Tokenizer:
    """Text to ids and back. `ranks` maps each token's bytes to its id; special tokens have ids above them.

    A vocabulary of characters has no tokens for all 256 bytes, so it spells only texts of characters that it knows; it has no merges.
    """

    alphabet: set[str] | None = None
    """The characters that it can spell; None for all."""
    prefix: tuple[int, ...] = ()
    """What stands before every text that a model reads, if anything."""

    def __init__(self, ranks: dict[bytes, int], special_tokens: dict[str, int], pattern: str = PATTERN) -> None:
        self.ranks, self.special_tokens, self.pattern = ranks, special_tokens, pattern
        spells_all = all(bytes([byte]) in ranks for byte in range(256))
        self.alphabet = None if spells_all else {token.decode() for token in ranks}
        self._encoding = tiktoken.Encoding("openbook", pat_str=pattern, mergeable_ranks=ranks, special_tokens=special_tokens)

    @property
    def vocab_size(self) -> int:
        return len(self.ranks) + len(self.special_tokens)

    @property
    def end_of_document(self) -> int:
        return next(iter(self.special_tokens.values()))

    @property
    def begin_of_document(self) -> int:
        """What a document begins with: here, what ends the one before."""
        return self.end_of_document

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a text that a model is to read from its beginning: with the prefix, where there is one."""
        return [*self.prefix, *self.encode(text)]

    def require_fits(self, vocab_size: int, where: Path) -> None:
        """Raises InputError if a model has fewer rows than this has tokens; a model may have more, for speed."""
        if self.vocab_size > vocab_size:
            raise InputError(
                f"{where}: the tokenizer has ids up to {self.vocab_size - 1}, config.json says vocab_size = {vocab_size}; "
                "they are not of the same model"
            )

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; a special token's spelling inside the text is text like any other.

        Raises InputError for a character that a vocabulary of characters lacks.
        """
        self._require(text)
        return [identifier for piece in _pieces(text) for identifier in self._encoding.encode_ordinary(piece)]

    def _require(self, text: str) -> None:
        if self.alphabet is not None and (unknown := set(text) - self.alphabet):
            raise InputError(
                f"the tokenizer has no token for {min(unknown)!r}: it knows the {len(self.alphabet)} characters of its training text and "
                'no others; tokenizer.kind = "bpe" spells any text'
            )

    def token_bytes(self, identifier: int) -> bytes:
        """The bytes a token stands for; of a special token, its spelling; nothing for a row of the model that has no token."""
        try:
            return self._encoding.decode_single_token_bytes(identifier)
        except KeyError:
            return b""

    def decode_bytes(self, identifiers: Sequence[int]) -> bytes:
        return b"".join(map(self.token_bytes, identifiers))

    def decode(self, identifiers: Sequence[int]) -> str:
        return self.decode_bytes(identifiers).decode("utf-8", errors="replace")

    @cached_property
    def merges(self) -> list[tuple[bytes, bytes]]:
        """The two parts that each merged token is made of, in rank order: found by merging its bytes with lower ranks only."""
        merges: list[tuple[bytes, bytes]] = []
        if self.alphabet is not None:
            return merges
        for token, rank in sorted(self.ranks.items(), key=lambda item: item[1]):
            if len(token) > 1:
                first, second = _parts(token, rank, self.ranks)
                merges.append((first, second))
        return merges

    def to_json(self) -> dict[str, Any]:
        """The content of `tokenizer.json`."""
        spell = {token: "".join(TO_CHARACTER[byte] for byte in token) for token in self.ranks}
        added = [
            {
                "id": identifier,
                "content": content,
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for content, identifier in self.special_tokens.items()
        ]
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            **_around(self.pattern),
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": True,
                "vocab": {spell[token]: rank for token, rank in sorted(self.ranks.items(), key=lambda item: item[1])},
                "merges": [[spell[first], spell[second]] for first, second in self.merges],
            },
        }

    def save(self, path: Path) -> None:
        write_json(path, self.to_json())


def _pieces(text: str) -> Iterator[str]:
    """A text in pieces of at most LONG characters, cut after a line end where there is one."""
    start = 0
    while start < len(text):
        stop = start + LONG
        cut = text.rfind("\n", start, stop) + 1
        if stop < len(text) and cut > start:
            stop = cut
        yield text[start:stop]
        start = stop


def _parts(token: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Merges the bytes of a token by ranks lower than its own until two parts are left."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        candidates = [(ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1)]
        lowest, index = min(candidates)
        if lowest >= rank:
            raise ValueError(f"token {rank} cannot be built from tokens of lower rank")
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return parts[0], parts[1]


def load_tokenizer(path: Path) -> Tokenizer:
    """Reads a `tokenizer.json`: one that openbook wrote, or, with `tokenizer_config.json` beside it, any that `tokenizers` reads.

    Raises InputError that names the file for anything else.
    """
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such tokenizer file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a tokenizer.json ({type(error).__name__}: {error})") from None
    settings = _settings(path.with_name("tokenizer_config.json"))
    try:
        if _is_own(content, settings) or not settings:
            return _own(content)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{path}: not a byte-level BPE tokenizer.json ({type(error).__name__}: {error})") from None
    from openbook.model.imported_tokenizer import load_imported

    return load_imported(path, settings)


def _settings(path: Path) -> dict[str, Any]:
    """What `tokenizer_config.json` says, or nothing if there is none."""
    try:
        settings = json.loads(path.read_bytes()) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(settings, dict):
        raise InputError(f"{path}: should be a JSON object")
    return settings


def _is_own(content: Any, settings: Mapping[str, Any]) -> bool:
    """Whether openbook wrote the file, or might have: then the other encoder gives the same ids, faster."""
    try:
        pattern = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
        rest = {key: content[key] for key in ("normalizer", "pre_tokenizer", "post_processor", "decoder")}
        first = content["added_tokens"][0]
        plain = content["model"]["ignore_merges"] is True and all(token["special"] for token in content["added_tokens"])
    except (KeyError, TypeError, IndexError):
        return False
    return plain and rest == _around(pattern) and settings.get("eos_token", first["content"]) == first["content"]


def _around(pattern: str) -> dict[str, Any]:
    """What stands around the vocabulary in a file of ours."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
    }


def _own(content: Any) -> Tokenizer:
    special = {token["content"]: int(token["id"]) for token in content["added_tokens"] if token["special"]}
    splitter = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    ranks = {bytes(TO_BYTE[character] for character in spelled): int(rank) for spelled, rank in content["model"]["vocab"].items()}
    return Tokenizer(ranks, special, splitter)
