"""The transformer, its loss, its first weights and its exchange format, against transformers and against plain formulas."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from openbook.errors import InputError
from openbook.model import loss as loss_module
from openbook.model.config import Rotary, Window
from openbook.model.count import flops_per_token, matmul_parameters
from openbook.model.exchange import exported_config, load_weights, save_weights
from openbook.model.initialise import initialise
from openbook.model.loss import head_loss
from openbook.model.transformer import Cache, Transformer, TransformerConfig

MODERN: dict[str, Any] = {"query_key_norm": True}
BANDED: dict[str, Any] = {"norm": "layer", "positions": "learned", "output_bias": True, "activation": "gelu-tanh", "mlp_bias": True}
GPT: dict[str, Any] = {**BANDED, "qkv_bias": True}
SHAPES = {
    "plain": TransformerConfig(300, 48, 2, 32, 2, 2, 16, 64, **MODERN),
    "grouped": TransformerConfig(300, 48, 2, 32, 4, 2, 16, 96, rotary=Rotary(500_000.0), norm_eps=1e-5, **MODERN),
    "one key head": TransformerConfig(300, 48, 3, 48, 3, 1, 8, 64, **MODERN),
    "tied": TransformerConfig(300, 48, 2, 32, 2, 2, 16, 64, tied_head=True, **MODERN),
    "gpt": TransformerConfig(300, 48, 2, 32, 2, 2, 16, 128, norm_eps=1e-5, tied_head=True, **GPT),
    "gpt untied": TransformerConfig(300, 48, 2, 36, 3, 3, 12, 100, **GPT),
    "banded": TransformerConfig(300, 48, 3, 32, 2, 2, 16, 128, norm_eps=1e-5, tied_head=True, windows=(None, Window(7)), **BANDED),
}


def random_model(config: TransformerConfig, seed: int = 0) -> Transformer:
    """A model whose every part matters: no zero and no one is left in its weights."""
    model = Transformer(config)
    initialise(model, seed, *((0.02, "normal") if config.norm == "layer" else (1.0, "identity")))
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * (0.3 if parameter.dim() == 1 else 0.1))
    return model.eval()


@pytest.mark.parametrize("shape", SHAPES)
def test_transformers_gives_the_same_logits(shape: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = random_model(SHAPES[shape])
    save_weights(model, tmp_path, end_of_document=299)
    peer = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    expected = {"gpt": "GPT2LMHeadModel", "gpt untied": "GPT2LMHeadModel", "banded": "GPTNeoForCausalLM"}
    assert type(peer).__name__ == expected.get(shape, "Qwen3ForCausalLM")
    tokens = torch.randint(0, 300, (3, 48))
    with torch.no_grad():
        ours, theirs = model.logits(model(tokens)), peer(tokens).logits
    assert torch.allclose(ours, theirs, atol=1e-4, rtol=0), (ours - theirs).abs().max()


@pytest.mark.parametrize("shape", SHAPES)
def test_saved_and_loaded_is_the_same_model(shape: str, tmp_path: Path) -> None:
    model = random_model(SHAPES[shape])
    save_weights(model, tmp_path, end_of_document=299)
    loaded = load_weights(tmp_path)
    banded = shape == "banded"  # GPT-Neo does not divide scores, so the query is written divided
    assert loaded.config == (replace(model.config, score_scale=1.0) if banded else model.config)
    for (name, mine), (_, other) in zip(model.named_parameters(), loaded.named_parameters(), strict=True):
        assert torch.equal(mine * 0.25 if banded and ".query." in name else mine, other), name


@pytest.mark.parametrize(
    ("shape", "dials", "named"), [("gpt", {"norm_place": "parallel"}, "norm_place"), ("plain", {"logit_softcap": 5.0}, "logit_softcap")]
)
def test_a_shape_that_no_stock_architecture_has_is_refused(shape: str, dials: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        exported_config(replace(SHAPES[shape], **dials), end_of_document=299)


def test_a_wrong_weights_file_is_named_with_its_tensor(tmp_path: Path) -> None:
    save_weights(random_model(SHAPES["plain"]), tmp_path, end_of_document=299)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file({name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}, path)
    with pytest.raises(InputError, match=r"model\.norm\.weight is missing"):
        load_weights(tmp_path)
    save_file(tensors | {"model.norm.weight": torch.ones(3)}, path)
    with pytest.raises(InputError, match=r"model\.norm\.weight has shape \[3\]; config\.json calls for \[32\]"):
        load_weights(tmp_path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="not a safetensors file"):
        load_weights(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": ["MambaForCausalLM"]}))
    with pytest.raises(InputError, match="Mamba"):
        load_weights(tmp_path)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cuts", [[1] * 20, [7, 1, 12], [20]])
def test_a_cache_changes_nothing(shape: str, cuts: list[int]) -> None:
    model = random_model(SHAPES[shape])
    tokens = torch.randint(0, 300, (2, 20))
    cache = Cache(model, capacity=20, batch=2)
    with torch.no_grad():
        parts = [model(part, cache) for part in tokens.split(cuts, dim=1)]
        assert torch.allclose(torch.cat(parts, 1), model(tokens), atol=1e-5)


def test_a_token_never_sees_what_follows() -> None:
    model = random_model(SHAPES["grouped"])
    tokens = torch.randint(0, 300, (1, 30))
    changed = tokens.clone()
    changed[0, 20:] = (changed[0, 20:] + 1) % 300
    with torch.no_grad():
        assert torch.equal(model(tokens)[:, :20], model(changed)[:, :20])


def test_more_tokens_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="49 tokens do not fit the context of 48"):
        random_model(SHAPES["plain"])(torch.zeros(1, 49, dtype=torch.long))


@pytest.mark.parametrize("at_once", [2**20, 700, 1])
def test_the_head_loss_is_cross_entropy_whatever_the_chunk(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loss_module.LOGITS_AT_ONCE, "cpu", at_once)
    hidden = torch.randn(37, 16, requires_grad=True)
    weight = torch.randn(90, 16, requires_grad=True)
    targets = torch.randint(0, 90, (37,))
    (head_loss(hidden, weight, targets) * 0.5).backward()
    found = [hidden.grad.clone(), weight.grad.clone()]  # type: ignore[union-attr]
    hidden.grad = weight.grad = None
    expected = F.cross_entropy(hidden @ weight.t(), targets)
    (expected * 0.5).backward()
    assert torch.allclose(head_loss(hidden, weight, targets), expected, atol=1e-5)
    assert torch.allclose(found[0], hidden.grad, atol=1e-6)
    assert torch.allclose(found[1], weight.grad, atol=1e-6)


def test_the_head_loss_survives_extreme_logits() -> None:
    hidden = torch.full((4, 8), 40.0, requires_grad=True)
    weight = torch.randn(50, 8) * 40
    loss = head_loss(hidden, weight, torch.zeros(4, dtype=torch.long))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hidden.grad).all()


@pytest.mark.parametrize("shape", ["grouped", "gpt", "banded"])
def test_bf16_stays_close_to_fp32(shape: str) -> None:
    model = random_model(SHAPES[shape])
    tokens, targets = torch.randint(0, 300, (2, 40)), torch.randint(0, 300, (2, 40))
    exact = float(model.loss(tokens, targets).detach())
    model.compute_dtype = torch.bfloat16
    rough = model.loss(tokens, targets)
    rough.backward()
    assert float(rough.detach()) == pytest.approx(exact, rel=0.02)
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters() if parameter.grad is not None)


def test_first_weights_depend_on_seed_and_name_alone() -> None:
    one, two, other = (Transformer(SHAPES["plain"]) for _ in range(3))
    initialise(one, 1)
    initialise(two, 1)
    initialise(other, 2)
    longer = Transformer(TransformerConfig(300, 48, 5, 32, 2, 2, 16, 64, **MODERN))
    initialise(longer, 1)
    for name, parameter in one.named_parameters():
        assert torch.equal(parameter, two.get_parameter(name))
        assert torch.equal(parameter, longer.get_parameter(name))
        if parameter.dim() == 2 and parameter.any():
            assert not torch.equal(parameter, other.get_parameter(name))


def test_first_weights_in_the_gpt_style_are_those_of_gpt2() -> None:
    model = Transformer(replace(SHAPES["gpt"], layers=8, width=128, heads=8))
    initialise(model, 1, 0.02, "normal")
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == (0.0 if name.endswith(".bias") else 1.0)).all(), name
        else:
            writes = name.endswith(("attention.output.weight", "mlp.down.weight"))
            assert parameter.std().item() == pytest.approx(0.02 / 4 if writes else 0.02, rel=0.05), name


def test_a_new_model_guesses_uniformly() -> None:
    model = Transformer(SHAPES["plain"])
    initialise(model, 1)
    loss = model.loss(torch.randint(0, 300, (4, 48)), torch.randint(0, 300, (4, 48)))
    assert float(loss.detach()) == pytest.approx(torch.tensor(300.0).log().item(), abs=0.01)


@pytest.mark.parametrize("shape", ["plain", "grouped", "gpt"])
def test_the_flop_count_is_what_torch_counts(shape: str) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    config = SHAPES[shape]
    model = random_model(config)
    tokens = torch.randint(0, 300, (1, config.context))
    with FlopCounterMode(display=False) as counter:
        model.logits(model(tokens)).sum().backward()
    attention = 6 * config.layers * config.context * config.heads * config.head_width
    products = counter.get_flop_counts()["Global"]
    counted = sum(count for operator, count in products.items() if str(operator) in ("aten.mm", "aten.addmm"))  # bmm: attention
    assert counted == (flops_per_token(config) - attention) * config.context


def test_a_band_spares_what_it_hides() -> None:
    config = SHAPES["banded"]
    pairs = [sum(min(position + 1, band or 99) - 0.5 for position in range(48)) for band in (None, 7, None)]
    dense, banded = (12 * 32 * count / 48 for count in pairs[:2])  # half a position: the one that is not full yet, on average
    assert flops_per_token(config) - 6 * matmul_parameters(config) == pytest.approx(2 * dense + banded, rel=0.02)
    assert flops_per_token(config, 4) == flops_per_token(replace(config, windows=(None,)), 4)


@pytest.mark.parametrize("shape", ["grouped", "gpt untied"])
def test_parameters_are_counted_exactly(shape: str) -> None:
    config = SHAPES[shape]
    model = Transformer(config)
    looked_up = ("embedding.weight", "position.weight")
    matrices = sum(parameter.numel() for name, parameter in model.named_parameters() if parameter.dim() == 2 and name not in looked_up)
    assert matmul_parameters(config) == matrices
