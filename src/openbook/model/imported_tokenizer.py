"""The tokenizer of a model from elsewhere, as its own `tokenizer.json` says, encoded by the package that such files are made for.

Beside it lies `tokenizer_config.json`, which says which token ends a document and whether one stands before every text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from openbook.errors import InputError
from openbook.files import write_text
from openbook.model.tokenizer import TO_BYTE, Tokenizer

LARGEST_FILE = 256 * 2**20
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
SPACE = "▁"
"""sentencepiece's stand-in for a space."""


class ImportedTokenizer(Tokenizer):
    """Text to ids and back, as `Tokenizer`; ids without a token stand for nothing."""

    def __init__(self, whole: tokenizers.Tokenizer, begin: str | None, end: str, add_begin: bool | None) -> None:
        """begin, end: spellings of the tokens that begin and end a document. add_begin: whether `begin` stands before every text; None
        for what the tokenizer itself does. Raises ValueError if one of them is no token."""
        self._whole = whole
        whole.encode_special_tokens = True
        whole.no_padding()
        whole.no_truncation()
        added = whole.get_added_tokens_decoder()
        ends: dict[str, int] = {}
        for content in (end, begin or end):
            identifier = whole.token_to_id(content)
            if identifier is None:
                raise ValueError(f"{content!r} is not in its vocabulary")
            ends[content] = identifier
        self.special_tokens = ends | {token.content: identifier for identifier, token in added.items() if token.special}
        self._literal = {identifier: token.content.encode() for identifier, token in added.items()}
        self.prefix = tuple(whole.encode("", add_special_tokens=True).ids)
        if add_begin and begin is not None and not self.prefix:
            self.prefix = (ends[begin],)
        elif add_begin is False:
            self.prefix = ()
        self._begin = ends[begin or end]

    @cached_property
    def vocab_size(self) -> int:
        """The highest id that has a token, and one."""
        return 1 + max(self._whole.get_vocab(with_added_tokens=True).values())

    @property
    def begin_of_document(self) -> int:
        return self.prefix[0] if self.prefix else self._begin

    def encode(self, text: str) -> list[int]:
        identifiers: list[int] = self._whole.encode(text, add_special_tokens=False).ids
        return identifiers

    def encode_batch(self, texts: list[str], threads: int) -> list[list[int]]:
        """The package has threads of its own; `threads` is for the other kind of tokenizer."""
        return [encoding.ids for encoding in self._whole.encode_batch(texts, add_special_tokens=False)]

    def token_bytes(self, identifier: int) -> bytes:
        literal = self._literal.get(identifier)
        token = None if literal is not None else self._whole.id_to_token(identifier)
        if literal is not None or token is None:
            return literal or b""
        if self._byte_level:
            return bytes(TO_BYTE[character] for character in token)
        byte = _BYTE.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace(SPACE, " ").encode()

    @cached_property
    def _byte_level(self) -> bool:
        """Whether tokens are spelled in GPT-2's alphabet of bytes."""
        return '"ByteLevel"' in json.dumps(json.loads(self._whole.to_str())["decoder"])

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self._whole.to_str())
        return content

    def save(self, path: Path) -> None:
        self._whole.encode_special_tokens = False  # a setting of this process, not of the file
        write_text(path, self._whole.to_str(pretty=True))
        self._whole.encode_special_tokens = True


def load_imported(path: Path, settings: Mapping[str, Any]) -> ImportedTokenizer:
    """Reads a `tokenizer.json` of any kind; `settings` is what `tokenizer_config.json` says. Raises InputError that names the file."""
    if path.stat().st_size > LARGEST_FILE:
        raise InputError(f"{path}: has {path.stat().st_size:,} bytes; a tokenizer has at most {LARGEST_FILE:,}")
    try:
        whole = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package raises nothing narrower
        raise InputError(f"{path}: not a tokenizer.json ({str(error).splitlines()[0][:200]})") from None
    begin, end = (spelling(settings.get(key)) for key in ("bos_token", "eos_token"))
    if end is None:
        raise InputError(f"{path.with_name('tokenizer_config.json')}: has no eos_token, the token that ends a document")
    try:
        return ImportedTokenizer(whole, begin, end, settings.get("add_bos_token"))
    except ValueError as error:
        raise InputError(f"{path}: does not go with tokenizer_config.json: {error}") from None


def spelling(token: Any) -> str | None:
    """Of a token in `tokenizer_config.json`, which is a text or a table with it."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
