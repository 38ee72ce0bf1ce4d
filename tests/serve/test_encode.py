"""Prompts to token ids: what cannot be spelt is the client's mistake."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from openbook.model.tokenizer import Tokenizer
from openbook.recipe import TokenizerSection
from openbook.serve.api.desk import encode_one
from openbook.serve.errors import ApiError
from openbook.tokens.vocabulary import learn


@dataclass
class Spelling:
    """All of a served model that encoding needs."""

    tokenizer: Tokenizer


def test_a_character_that_the_vocabulary_lacks_is_refused() -> None:
    served: Any = Spelling(learn(["abc"], TokenizerSection(kind="characters", vocab_size=4)))
    assert encode_one(served, "cab", "prompt") == [2, 0, 1]
    with pytest.raises(ApiError) as caught:
        encode_one(served, "cabs", "input")
    assert (caught.value.status, caught.value.param) == (400, "input")
    assert "no token for 's'" in caught.value.message
