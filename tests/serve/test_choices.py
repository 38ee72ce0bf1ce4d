from __future__ import annotations

from pathlib import Path

import pytest

from openbook.engine import Finished, Scored
from openbook.model.generate import Token
from openbook.model.tokenizer import Tokenizer, load_tokenizer
from openbook.serve.api.choices import Choice, Part, legacy_logprobs, spelling


@pytest.fixture(scope="module")
def tokenizer(weights: Path) -> Tokenizer:
    return load_tokenizer(weights / "tokenizer.json")


def of_bytes(tokenizer: Tokenizer, content: bytes) -> list[Token]:
    return [Token(tokenizer.ranks[bytes([byte])], -1.0, ()) for byte in content]


def parts_of(choice: Choice, tokens: list[Token]) -> list[Part]:
    return [part for token in tokens if (part := choice.take(token))]


def test_a_stop_string_that_the_end_completes_is_a_stop(tokenizer: Tokenizer) -> None:
    choice = Choice(tokenizer, ["\ufffd"])
    assert [part.text for part in parts_of(choice, of_bytes(tokenizer, b"a\xe2"))] == ["a"]
    assert choice.take(Finished("length")) == Part("", [], "stop")


def test_a_token_comes_with_the_text_that_it_begins_in(tokenizer: Tokenizer) -> None:
    choice = Choice(tokenizer, ["ab"])
    parts = parts_of(choice, of_bytes(tokenizer, "xa€".encode()))
    assert [part.text for part in parts] == ["x", "a€"], "the a could have begun a stop string"
    logprobs = [legacy_logprobs(tokenizer, part.tokens) for part in parts]
    assert [one["tokens"] for one in logprobs] == [["x"], ["a", "bytes:\\xe2", "bytes:\\x82", "bytes:\\xac"]]
    assert [one["text_offset"] for one in logprobs] == [[0], [1, 2, 2, 2]]


def test_tokens_of_half_characters_look_different_and_whole_ones_as_they_are(tokenizer: Tokenizer) -> None:
    assert [spelling(tokenizer, token.id) for token in of_bytes(tokenizer, b"a\xe2\x82")] == ["a", "bytes:\\xe2", "bytes:\\x82"]


def test_an_echoed_prompt_comes_first_with_its_scores(tokenizer: Tokenizer) -> None:
    prompt = of_bytes(tokenizer, b"hi")
    choice = Choice(tokenizer, ["hi"], echo=[token.id for token in prompt])
    first = choice.take(Scored([None, prompt[1]]))
    assert first is not None
    logprobs = legacy_logprobs(tokenizer, first.tokens)
    assert (first.text, logprobs["token_logprobs"], logprobs["top_logprobs"]) == ("hi", [None, -1.0], [None, {"i": -1.0}])
    assert choice.take(of_bytes(tokenizer, b"!")[0]) is not None and choice.drawn == 1
