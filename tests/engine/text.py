"""A small model that has learnt some real text, byte by byte, and engines over it."""

from __future__ import annotations

import argparse
import functools
import json.decoder
import json.encoder
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from openbook.engine import Engine, Job
from openbook.model.initialise import initialise
from openbook.model.sample import Sampling
from openbook.model.transformer import Transformer, TransformerConfig

CONTEXT = 192
SOURCE = Path(argparse.__file__).read_bytes()
HELD_OUT = Path(json.decoder.__file__).read_bytes() + Path(json.encoder.__file__).read_bytes()


@functools.cache
def reader() -> Transformer:
    """Knows some Python: its loss is far below that of a model which has learnt nothing."""
    torch.manual_seed(0)
    config = TransformerConfig(256, CONTEXT, layers=2, width=64, heads=4, kv_heads=2, head_width=16, mlp_width=128, tied_head=True)
    model = Transformer(config)
    initialise(model, seed=1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, 0, 0.02 if "embedding" in name else parameter.shape[1] ** -0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    text = torch.frombuffer(bytearray(SOURCE), dtype=torch.uint8).long()
    for _ in range(120):
        starts = torch.randint(0, len(text) - 65, (8,))
        rows = torch.stack([text[start : start + 65] for start in starts])
        optimizer.zero_grad()
        model.loss(rows[:, :-1], rows[:, 1:]).backward()
        optimizer.step()
    return model.eval()


@contextmanager
def engine_over(model: Transformer | None = None, **settings: Any) -> Iterator[Engine]:
    """Checked, when it is left, to have all its books in balance and nothing held."""
    engine = Engine(model or reader(), **settings)
    try:
        yield engine
    finally:
        engine.close()
        engine._scheduler.check()
        assert not engine._scheduler.running


def prompt(start: int, length: int) -> list[int]:
    return list(HELD_OUT[start : start + length])


def greedy(ids: list[int], tokens: int = 24, **values: Any) -> Job:
    return Job(ids, Sampling(tokens, temperature=0, logprobs=2), None, **values)


def sampled(ids: list[int], tokens: int = 24, seed: int = 0, **values: Any) -> Job:
    return Job(ids, Sampling(tokens, temperature=0.9, top_p=0.95, seed=seed), None, **values)
