"""Constrained decoding: which tokens may come next so that the text follows a JSON schema, a regular expression or a Lark grammar.

llguidance compiles a grammar in milliseconds and gives a mask for each token in tens of microseconds. JSON is spelt as `json.dumps` spells
it, with one space after a comma and a colon and none elsewhere: a weak model let loose among blanks never ends.
"""

from __future__ import annotations

import json
import re
from itertools import takewhile
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from openbook.errors import InputError
from openbook.model.tokenizer import Tokenizer

SPELLING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": False}


class GrammarMask:
    """A place in a grammar; a `Mask` of `openbook.model.generate`. Not for two threads at once."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher, self._vocabulary = matcher, vocabulary

    def mask(self) -> NDArray[np.bool_]:
        """Which ids may come next, (vocabulary,): the end token alone where the text is complete, or can no longer become so."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, bitorder="little")[: self._vocabulary].astype(np.bool_)

    def accept(self, identifier: int) -> None:
        self._matcher.consume_token(identifier)

    def fork(self) -> GrammarMask:
        return GrammarMask(self._matcher.deep_copy(), self._vocabulary)


class Grammars:
    """Compiles grammars for one tokenizer, whose sequences end with the token `end`."""

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self._vocabulary = tokenizer.vocab_size
        self._tokenizer = LLTokenizer(TokenizerWrapper(_Spelling(tokenizer, end)), n_vocab=self._vocabulary, eos_token=end)

    def compile(self, grammar: str) -> GrammarMask:
        """A grammar as `json_schema`, `regex` or a Lark text gives it. Raises InputError that says what is wrong with it."""
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise InputError(_reason(matcher.get_error()))
        return GrammarMask(matcher, self._vocabulary)


class _Spelling:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, end: int) -> None:
        self._tokenizer, self.eos_token_id = tokenizer, end
        self.tokens = [tokenizer.token_bytes(identifier) for identifier in range(tokenizer.vocab_size)]
        self.special_token_ids = list(tokenizer.special_tokens.values())

    def __call__(self, text: str) -> list[int]:
        if isinstance(text, bytes):  # llguidance tries whether bytes will do
            raise TypeError("text, not bytes")
        known = self._tokenizer.alphabet
        spelt = text if known is None else "".join(takewhile(known.__contains__, text))
        return self._tokenizer.encode(spelt)


def json_schema(schema: dict[str, Any]) -> str:
    """The grammar of JSON texts that a schema describes. Raises InputError for what it cannot promise, by the keyword's name."""
    try:
        failed, said = LLMatcher.validate_grammar_with_warnings(LLMatcher.grammar_from_json_schema(json.dumps(_spelt(schema))))
    except ValueError as error:
        raise InputError(_reason(str(error))) from None
    if failed:
        raise InputError(_reason(said[0]))
    return f"start: {inline(schema)}"


def inline(schema: dict[str, Any]) -> str:
    """A schema as a term of a Lark rule."""
    return "%json " + json.dumps(_spelt(schema))


def regex(pattern: str) -> str:
    return LLMatcher.grammar_from_regex(pattern)


def _spelt(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "x-guidance": SPELLING}


def _reason(error: str) -> str:
    """llguidance's message in one line, of bounded length."""
    if found := re.match(r"Unimplemented keys: \[(.*)\]", error):
        return f"the keyword {found[1]} is not supported: leave it out"
    return " ".join(error.split())[:300]
