"""What `openbook inspect` says of a model is what a plain computation says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from openbook.cli_models import inspect
from openbook.errors import InputError
from openbook.model.anatomy import anatomy, matrix, spectral_norm
from openbook.model.config import Rotary, TransformerConfig, Window
from openbook.model.count import total_parameters
from openbook.model.exchange import save_weights
from openbook.model.tokenizer import Tokenizer
from openbook.model.trace import lens, trace
from openbook.model.transformer import Transformer

GPT: dict[str, Any] = {"norm": "layer", "positions": "learned", "activation": "gelu-tanh", "qkv_bias": True, "output_bias": True}
PLAIN = TransformerConfig(300, 48, 2, 32, 4, 2, 8, 64, query_key_norm=True)
SHAPES = {
    "plain": PLAIN,
    "windows and softcap": replace(PLAIN, windows=(Window(3, 4), None), score_softcap=5.0, score_scale=0.7),
    "gpt": replace(PLAIN, kv_heads=4, query_key_norm=False, tied_head=True, mlp_bias=True, **GPT),
    "post": replace(PLAIN, norm_place="post", embedding_width=16, residual_scale=0.5),
    "parallel": replace(PLAIN, norm_place="parallel", rotary=Rotary(share=0.25)),
    "parallel-shared": replace(PLAIN, norm_place="parallel-shared", rotary=Rotary(share=0.5, pairs="neighbours")),
}
BYTES = Tokenizer({bytes([byte]): byte for byte in range(256)}, {"<|endoftext|>": 256})


def random_model(config: TransformerConfig) -> Transformer:
    model, generator = Transformer(config), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.dim() == 1))
    return model.eval()


@pytest.mark.parametrize("shape", SHAPES)
def test_the_plain_pass_is_the_models_own(shape: str) -> None:
    model = random_model(SHAPES[shape])
    tokens = list(range(40, 60))
    seen = trace(model, tokens)
    with torch.no_grad():
        hidden = model(torch.tensor([tokens]))[0]
        last = seen.residual[-1] if model.final_norm is None else model.final_norm(seen.residual[-1])
    torch.testing.assert_close(last, hidden)
    for maps in seen.attention:
        assert maps.shape == (4, 20, 20)
        torch.testing.assert_close(maps.sum(-1), torch.ones(4, 20))
        assert maps.triu(1).abs().max() == 0


@pytest.mark.parametrize("shape", ["plain", "windows and softcap", "gpt"])
def test_the_maps_are_the_attention_that_the_model_computes(shape: str) -> None:
    """The first layer's maps times its values, through its output matrix, is what the layer's attention gives."""
    model = random_model(SHAPES[shape])
    tokens = torch.arange(40, 60)[None]
    maps = trace(model, tokens[0].tolist()).attention[0]
    with torch.no_grad():
        x, rotary = model.embedded(tokens)
        layer: Any = model.layers[0]
        normal = layer.attention_norm(x)
        _, _, value = layer.attention.projected(normal, rotary)
        value = value[0].repeat_interleave(4 // value.shape[1], dim=0)
        mixed = (maps @ value).transpose(0, 1).flatten(1)
        torch.testing.assert_close(layer.attention.output(mixed), layer.attention(normal, rotary, None)[0], rtol=1e-4, atol=1e-5)


def test_the_last_row_of_the_lens_is_what_the_model_says() -> None:
    model = random_model(PLAIN)
    text = list(b"it reads this")
    told = lens(model, trace(model, text), BYTES)
    with torch.no_grad():
        probability = F.softmax(model.logits(model(torch.tensor([text])))[0], -1)
    best = [row["probability"] for row in told["layers"][-1]["lens"]]
    torch.testing.assert_close(torch.tensor(best), probability.max(-1).values)
    assert "".join(told["tokens"]) == "it reads this" and len(told["layers"]) == 3


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (30, 30), (3, 8, 6)])
def test_spectral_norms_are_the_largest_singular_values(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(spectral_norm(weight), torch.linalg.svdvals(weight)[..., 0], rtol=2e-3, atol=0)


def test_a_planted_outlier_and_a_matrix_of_zeros() -> None:
    weight = torch.randn(40, 50, generator=torch.Generator().manual_seed(4))
    weight[3, 7] = 100.0
    found = matrix(weight)
    assert found["outlier"] == pytest.approx(100 / float(weight.std())) and found["spectral_norm"] == pytest.approx(100, rel=0.01)
    assert matrix(torch.zeros(4, 4)) == {"shape": [4, 4], "spectral_norm": 0.0, "stable_rank": 0.0, "outlier": 0.0}


def test_parts_and_memory_add_up() -> None:
    config = SHAPES["gpt"]
    found = anatomy(random_model(config))
    assert sum(part["total"] for part in found["parts"].values()) == total_parameters(config) == found["parameters"]
    cache = 48 * 2 * config.layers * config.kv_heads * config.head_width
    assert found["memory"]["fp32"]["48"] == 4 * (total_parameters(config) + cache)
    assert found["memory"]["int8"]["48"] == total_parameters(config) + 2 * cache
    assert len(found["matrices"]) == 2 + config.layers * 6  # tables; four of attention and two of the MLP


PLAIN_BYTES = replace(PLAIN, vocab_size=BYTES.vocab_size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("weights")
    save_weights(random_model(PLAIN_BYTES), made, BYTES.end_of_document)
    BYTES.save(made / "tokenizer.json")
    return made


def test_the_command_and_its_page(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    inspect(folder, "a <b> & c", page, as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["prompt"]["tokens"][0] == "<|endoftext|>" and len(told["prompt"]["layers"][1]["heads"]) == 4
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/png;base64,") == PLAIN.layers * PLAIN.heads
    assert "<b>" not in html.split("<main>")[1] and "http" not in html.split("<body>")[1]
    inspect(folder, "a", None, as_json=False)
    text = capsys.readouterr().out
    assert "layers.1.mlp.down.weight" in text and f"{total_parameters(PLAIN_BYTES):,} parameters" in text


def test_what_cannot_be_inspected_is_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^--prompt: has 60 tokens, of which at most 47 can be looked at; shorten it$"):
        inspect(folder, "x" * 60, None, as_json=False)
    with pytest.raises(InputError, match=r"not a run directory \(it has no recipe.resolved.json\)"):
        inspect(tmp_path, None, None, as_json=False)
