"""Documents in one row that do not see each other: each gets the logits and the gradients that it gets alone."""

from __future__ import annotations

import pytest
import torch

from openbook.model import attention
from openbook.model.config import Window
from openbook.model.transformer import Transformer, TransformerConfig, positions

LENGTHS = (70, 1, 9, 48)


def a_model(style: str, kv_heads: int) -> Transformer:
    shape = {"layers": 2, "width": 32, "heads": 2, "kv_heads": kv_heads, "head_width": 16, "mlp_width": 64}
    dials = {
        "modern": {"query_key_norm": True},
        "gpt": {"norm": "layer", "positions": "learned", "activation": "gelu-tanh", "windows": (None, Window(12))},
        "capped": {"score_softcap": 5.0, "windows": (None, Window(12))},
        "strided": {"windows": (Window(4, 16),)},
    }
    model = Transformer(TransformerConfig(vocab_size=90, context=128, **shape, **dials[style]))  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    return model


@pytest.mark.parametrize(("style", "kv_heads"), [("modern", 1), ("gpt", 2), ("capped", 1), ("strided", 2)])
@pytest.mark.parametrize("blockwise", [True, False])
def test_a_document_in_a_row_gets_what_it_gets_alone(style: str, kv_heads: int, blockwise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """By our own blockwise attention, and by torch's with a mask, as on a GPU."""
    if not blockwise:
        monkeypatch.setattr(attention, "BLOCKWISE_CONTEXT", 0)
    model = a_model(style, kv_heads)
    generator = torch.Generator().manual_seed(1)
    tokens, targets = (torch.randint(0, 90, (2, 128), generator=generator) for _ in range(2))
    segments = torch.repeat_interleave(torch.arange(4), torch.tensor(LENGTHS)).expand(2, -1)
    whole = model.logits(model(tokens, segments=segments))
    alone = torch.cat([model.logits(model(part)) for part in tokens.split(LENGTHS, 1)], 1)
    torch.testing.assert_close(whole, alone, rtol=1e-4, atol=1e-4)
    assert (whole[:, 70:] - model.logits(model(tokens))[:, 70:]).abs().max() > 0.01
    model.loss(tokens, targets, segments).backward()
    packed = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    parts = zip(tokens.split(LENGTHS, 1), targets.split(LENGTHS, 1), LENGTHS, strict=True)
    sum(model.loss(part, wanted) * length / 128 for part, wanted, length in parts).backward()  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_one_document_in_a_row_is_no_mask_to_the_bit() -> None:
    model = a_model("modern", 1)
    tokens = torch.randint(0, 90, (2, 128), generator=torch.Generator().manual_seed(2))
    assert torch.equal(model(tokens), model(tokens, segments=torch.zeros(2, 128, dtype=torch.long)))


def test_positions_begin_again() -> None:
    assert positions(torch.tensor([[0, 0, 0, 1, 1, 2], [5, 6, 6, 6, 6, 6]])).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]]
