"""Prompts to token ids: what cannot be spelt is the client's mistake."""

from __future__ import annotations

import pytest

from openbook.recipe import TokenizerSection
from openbook.serve.completions import encode
from openbook.serve.errors import ApiError
from openbook.tokens.vocabulary import learn


def test_a_character_that_the_vocabulary_lacks_is_refused() -> None:
    tokenizer = learn(["abc"], TokenizerSection(kind="characters", vocab_size=4))
    assert encode(tokenizer, ["cab"], 8, 1) == [[2, 0, 1]]
    with pytest.raises(ApiError) as caught:
        encode(tokenizer, ["cabs"], 8, 1)
    assert caught.value.status == 400
    assert "no token for 's'" in caught.value.message
