"""Models for proofs: tiny folders of three architectures with random weights, a model that knows nothing, and one that knows all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from openbook.evaluate.models import Request, Score, Written
from openbook.evaluate.questions import Question
from openbook.export.build import tokenizer_config
from openbook.files import write_json
from openbook.model.config import Window
from openbook.model.exchange import save_weights
from openbook.model.initialise import initialise
from openbook.model.transformer import Transformer, TransformerConfig
from openbook.recipe import TokenizerSection
from openbook.tokens.vocabulary import learn

WINDOW = 192
FAMILIES = ("qwen3", "gpt2", "gpt-neo")
GPT = {"kv_heads": 2, "norm": "layer", "norm_eps": 1e-5, "positions": "learned", "activation": "gelu-tanh", "tied_head": True}
GPT |= {"output_bias": True, "mlp_bias": True}
DIALS: dict[str, dict[str, Any]] = {
    "qwen3": {"kv_heads": 1, "query_key_norm": True},
    "gpt2": {**GPT, "qkv_bias": True},
    "gpt-neo": {**GPT, "windows": (None, Window(16)), "score_scale": 1.0},
}
TEXT = "Question: What is the sum of 17 plus 25?\nAnswer: the man said that it is true, she has no dog — naïve\n" * 4


def make_folder(path: Path, family: str) -> Path:
    """A Hugging Face folder with random weights, large enough that layers matter."""
    tokenizer = learn([TEXT], TokenizerSection(vocab_size=310))
    shape = {"layers": 2, "width": 32, "heads": 2, "head_width": 16, "mlp_width": 64, "context": WINDOW}
    config = TransformerConfig(tokenizer.vocab_size, **shape, **DIALS[family])
    model = Transformer(config)
    initialise(model, seed=3)
    noise = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.2)
    path.mkdir(parents=True)
    save_weights(model, path, tokenizer.end_of_document)
    tokenizer.save(path / "tokenizer.json")
    write_json(path / "tokenizer_config.json", tokenizer_config("<|endoftext|>", WINDOW))
    return path


class Uniform:
    """Every byte of every text is as likely as every other: ln 256 nats each."""

    identity = "uniform"

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        return [self._score(continuation) for _, continuation in pairs]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[Score]:
        return [self._score(text) for text in texts]

    def _score(self, text: str) -> Score:
        size = len(text.encode())
        return Score(-size * math.log(256), False, size, size)

    def generate_until(self, requests: Sequence[Request]) -> list[Written]:
        return [Written("") for _ in requests]


class Oracle:
    """Knows the right answer to each question that it was made with, and that no other is possible."""

    identity = "oracle"

    def __init__(self, questions: Sequence[Question]) -> None:
        self.right = {question.pairs[question.own.gold] for question in questions}
        self.answers = {question.pairs[0][0]: question.own.continuations[0] for question in questions}
        self.asked = 0

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        self.asked += len(pairs)
        return [self._score(text, pair in self.right) for pair in pairs for text in pair[1:]]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[Score]:
        return [self._score(text, True) for text in texts]

    def _score(self, text: str, right: bool) -> Score:
        size = len(text.encode())
        return Score(0.0 if right else -1000.0 * size, right, size, size)

    def generate_until(self, requests: Sequence[Request]) -> list[Written]:
        return [Written(self.answers[request.prompt]) for request in requests]
