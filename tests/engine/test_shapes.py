"""The engine's step against the model's own forward pass, for every style and the rest of the configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.text import engine_over, greedy, sampled
from openbook.engine import Answer, Engine
from openbook.engine.kv import BLOCK
from openbook.engine.model import Piece, Runner
from openbook.model.config import Experts, Rotary, RotaryScaling, TransformerConfig, Window
from openbook.model.styles import STYLES
from openbook.model.transformer import Transformer

SHAPE = {"vocab_size": 90, "context": 150, "layers": 4, "width": 48, "heads": 4, "head_width": 16, "mlp_width": 64}
OTHERS: dict[str, dict[str, Any]] = {
    "opt-350m": {
        "norm": "layer",
        "norm_place": "post",
        "positions": "learned",
        "position_offset": 2,
        "embedding_width": 24,
        "mlp_bias": True,
    },
    "strided": {"windows": (Window(8, 4), None), "positions": "none", "activation": "relu2", "mlp_bias": True},
    "capped": {"score_softcap": 3.0, "logit_softcap": 5.0, "embedding_scale": 3.0, "residual_scale": 0.5, "activation": "geglu"},
    "scaled": {"rotary": Rotary(scaling=RotaryScaling("yarn", 4.0, 64, 1.0, 32.0)), "score_scale": 0.2, "windows": (Window(40),)},
    "mixed": {"experts": Experts(4, 2, 16, shared=16, scores="sigmoid", balance_rate=0.1)},
}


def config_of(name: str) -> TransformerConfig:
    if name in OTHERS:
        return TransformerConfig(**SHAPE, kv_heads=2, **OTHERS[name])
    row = {key: value for key, value in STYLES[name].items() if key not in ("start", "embedding_std")}
    if "rotary" in row:
        row["rotary"] = Rotary(**row["rotary"])
    if "windows" in row:
        row["windows"] = tuple(Window(20) if width else None for width in row["windows"])
    if "experts" in row:
        row["experts"] = Experts(mlp_width=32, **row["experts"])
    multi_head = row.get("norm") == "layer"
    return TransformerConfig(**SHAPE, kv_heads=4 if multi_head else 2, **row)


@pytest.fixture(scope="module", params=[*STYLES, *OTHERS])
def model(request: pytest.FixtureRequest) -> Transformer:
    config = config_of(request.param)
    torch.manual_seed(0)
    model = Transformer(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.3 + (parameter.dim() == 1) * 0.5)
    return model.eval()


def texts(model: Transformer) -> list[list[int]]:
    return [torch.randint(0, 90, (length,), generator=torch.Generator().manual_seed(length)).tolist() for length in (3, 70, 101)]


@torch.inference_mode()
def test_read_in_blocks_and_token_by_token_it_is_the_models_own_pass(model: Transformer) -> None:
    runner = Runner(model)
    rows = [runner.new_row(150) for _ in texts(model)]
    found: list[list[torch.Tensor]] = [[] for _ in rows]
    for start in range(0, 128, BLOCK):  # the last eight tokens of each text alone, as if they were drawn
        pieces = []
        for index, text in enumerate(texts(model)):
            read = max(1, len(text) - 8)
            pieces += [(index, Piece(rows[index], start, text[start : min(start + BLOCK, read)], True))] if start < read else []
        if pieces:
            hidden = runner.forward([piece for _, piece in pieces]).split([len(piece.ids) for _, piece in pieces])
            for (index, _), part in zip(pieces, hidden, strict=True):
                found[index].append(part)
    for index, text in enumerate(texts(model)):
        start = max(1, len(text) - 8)
        found[index].append(runner.forward([Piece(rows[index], start, text[start:], False)]))
    for text, parts in zip(texts(model), found, strict=True):
        with torch.no_grad():
            hidden = model(torch.tensor([text]))[0]
        assert torch.allclose(torch.cat(parts), hidden, atol=2e-4, rtol=1e-3)
        assert torch.allclose(runner.logits(torch.cat(parts)), model.logits(hidden), atol=2e-3, rtol=1e-3)


def test_tokens_do_not_depend_on_what_is_beside_them(model: Transformer) -> None:
    jobs = [greedy(text, tokens=12) if index else sampled(text, tokens=12) for index, text in enumerate(texts(model))]

    def run(engine: Engine) -> list[Answer]:
        return [Answer(answer.tokens) for answer in engine.run(jobs)]

    with engine_over(model, slots=1) as engine:
        alone = run(engine)
    with engine_over(model) as engine:
        assert run(engine) == alone
        assert run(engine) == alone, "with the prefix cache hot"
