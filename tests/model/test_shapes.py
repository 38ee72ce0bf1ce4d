"""Every dial of the transformer: the model, with a cache and without, is what plain formulas say; costs are counted right; styles train."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain import logits, shown

from openbook.errors import InputError
from openbook.model.config import Experts, Rotary, RotaryScaling, TransformerConfig, Window
from openbook.model.count import BYTES, active_parameters, cache_bytes_per_token, flops_per_token, parameters, seen, total_parameters
from openbook.model.initialise import initialise
from openbook.model.positions import frequencies, tables
from openbook.model.styles import STYLES
from openbook.model.transformer import Cache, Transformer
from openbook.recipe import load_recipe
from openbook.recipe_model import config_of
from openbook.train.step import Trainer
from tiny import RECIPE

VOCABULARY, CONTEXT = 40, 24
FEW = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
WINDOWS = st.none() | st.builds(Window, st.integers(1, 30), st.none() | st.integers(1, 9))


@st.composite
def shapes(draw: st.DrawFn) -> TransformerConfig:
    """Any combination of dials."""
    kv_heads = draw(st.sampled_from([1, 2]))
    head_width = draw(st.sampled_from([8, 12]))
    positions = draw(st.sampled_from(["rotary", "learned", "none"]))
    return TransformerConfig(
        vocab_size=VOCABULARY,
        context=CONTEXT,
        layers=draw(st.integers(1, 3)),
        width=draw(st.sampled_from([16, 24])),
        heads=kv_heads * draw(st.sampled_from([1, 2])),
        kv_heads=kv_heads,
        head_width=head_width,
        mlp_width=20,
        norm=draw(st.sampled_from(["rms", "layer"])),
        norm_place=draw(st.sampled_from(["pre", "post", "parallel", "parallel-shared"])),
        norm_eps=1e-5,
        positions=positions,
        rotary=Rotary(50.0, draw(st.sampled_from([0.5, 1.0])), draw(st.sampled_from(["halves", "neighbours"]))),
        position_offset=draw(st.sampled_from([0, 2])) if positions == "learned" else 0,
        windows=tuple(draw(st.lists(WINDOWS, min_size=1, max_size=3))),
        qkv_bias=draw(st.booleans()),
        output_bias=draw(st.booleans()),
        query_key_norm=draw(st.booleans()),
        score_scale=draw(st.sampled_from([None, 1.0, 0.1])),
        score_softcap=draw(st.sampled_from([None, 2.0])),
        activation=draw(st.sampled_from(["swiglu", "geglu", "gelu", "gelu-tanh", "relu", "relu2"])),
        mlp_bias=draw(st.booleans()),
        tied_head=draw(st.booleans()),
        head_bias=draw(st.booleans()),
        embedding_width=draw(st.sampled_from([None, 8])),
        embedding_scale=draw(st.sampled_from([1.0, 3.0])),
        residual_scale=draw(st.sampled_from([1.0, 0.5])),
        logit_softcap=draw(st.sampled_from([None, 5.0])),
    )


def random_model(config: TransformerConfig) -> Transformer:
    model = Transformer(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4 + name.endswith("norm.weight"))
    return model


@FEW
@given(config=shapes(), cuts=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_with_a_cache_and_without_it_is_what_plain_formulas_say(config: TransformerConfig, cuts: list[int]) -> None:
    model = random_model(config)
    tokens = torch.randint(0, VOCABULARY, (2, CONTEXT), generator=torch.Generator().manual_seed(1))
    expected = logits(config, model.state_dict(), tokens)
    pieces = tokens.split([*cuts, CONTEXT - sum(cuts)] if sum(cuts) < CONTEXT else [CONTEXT // 2, CONTEXT - CONTEXT // 2], dim=1)
    with torch.no_grad():
        whole = model.logits(model(tokens))
        cache = Cache(model, CONTEXT, batch=2)
        pieced = torch.cat([model.logits(model(piece, cache)) for piece in pieces], 1)
    assert torch.allclose(whole, expected, atol=1e-4, rtol=1e-4), (whole - expected).abs().max()
    assert torch.allclose(pieced, expected, atol=1e-4, rtol=1e-4), (pieced - expected).abs().max()


@FEW
@given(config=shapes())
def test_the_loss_and_its_gradients_are_those_of_plain_formulas(config: TransformerConfig) -> None:
    model = random_model(config)
    tokens = torch.randint(0, VOCABULARY, (2, CONTEXT + 1), generator=torch.Generator().manual_seed(1))
    loss = model.loss(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    leaves = {name: parameter.detach().clone().requires_grad_() for name, parameter in model.named_parameters()}
    expected = torch.nn.functional.cross_entropy(logits(config, leaves, tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    largest = max(float(leaf.grad.abs().max()) for leaf in leaves.values() if leaf.grad is not None)
    for name, parameter in model.named_parameters():
        if leaves[name].grad is None:  # a table of positions that nothing reads
            continue
        assert torch.allclose(parameter.grad, leaves[name].grad, atol=1e-4 * largest, rtol=1e-3), name


@FEW
@given(config=shapes())
def test_parameters_are_counted_exactly(config: TransformerConfig) -> None:
    with torch.device("meta"):
        model = Transformer(config)
    assert total_parameters(config) == active_parameters(config) == sum(parameter.numel() for parameter in model.parameters())


def test_experts_are_counted_by_what_a_token_takes() -> None:
    config = TransformerConfig(100, 32, 4, 16, 2, 2, 8, 64, experts=Experts(8, 2, 24, every=2, shared=40))
    one, shared, router = 3 * 16 * 24, 3 * 16 * 40, 8 * 16
    found = parameters(config)
    assert found["experts"].total == 2 * (8 * one + shared + router)
    assert found["experts"].active == found["experts"].matrices == 2 * (2 * one + shared + router)
    assert found["mlp"].total == 2 * 3 * 16 * 64
    assert total_parameters(config) - active_parameters(config) == 2 * 6 * one


@pytest.mark.parametrize("window", [None, Window(7), Window(7, 5), Window(100), Window(8, 8)])
def test_what_a_token_sees_is_counted(window: Window | None) -> None:
    counted = shown(window, 60).sum(1).float().mean() - 0.5  # half a position: the token's own
    assert seen(window, 60) == pytest.approx(float(counted), rel=0.1)
    config = TransformerConfig(100, 60, 2, 16, 2, 1, 8, 64, windows=(window,))
    matrices = sum(count.matrices for count in parameters(config).values())
    assert flops_per_token(config) == pytest.approx(6 * matrices + 12 * 2 * 2 * 8 * seen(window, 60))


def test_a_cache_takes_the_bytes_that_are_counted() -> None:
    config = TransformerConfig(100, 60, 3, 16, 4, 2, 8, 64)
    cache = Cache(random_model(config), 60)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    assert held == 60 * cache_bytes_per_token(config, "fp32") == 60 * cache_bytes_per_token(config, "bf16") * BYTES["fp32"] / BYTES["bf16"]


SCALINGS = {
    "default": None,
    "linear": RotaryScaling("linear", 4.0, 64),
    "llama3": RotaryScaling("llama3", 8.0, 64, 1.0, 4.0),
    "yarn": RotaryScaling("yarn", 4.0, 64, 1.0, 32.0),
    "yarn, told": RotaryScaling("yarn", 16.0, 4096, 2.0, 24.0, attention=1.7),
}


@pytest.mark.parametrize("name", SCALINGS)
@pytest.mark.parametrize("theta", [10_000.0, 500_000.0])
def test_scaled_positions_are_those_of_transformers(name: str, theta: float) -> None:
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    scaling = SCALINGS[name]
    parameters: dict[str, object] = {"rope_type": name.split(",")[0], "rope_theta": theta}
    if scaling is not None:
        parameters["factor"] = scaling.factor
        low, high = ("low_freq_factor", "high_freq_factor") if scaling.kind == "llama3" else ("beta_slow", "beta_fast")
        if scaling.kind != "linear":
            parameters |= {low: scaling.slow, high: scaling.fast, "original_max_position_embeddings": scaling.original_context}
        if scaling.attention is not None:
            parameters["attention_factor"] = scaling.attention
    peer = LlamaRotaryEmbedding(
        LlamaConfig(hidden_size=128, num_attention_heads=2, head_dim=64, max_position_embeddings=256, rope_parameters=parameters)
    )
    cos, sin = peer(torch.zeros(1), torch.arange(256)[None])
    rotary = Rotary(theta, scaling=scaling)
    mine = tables(rotary, 64, 256, torch.float32, torch.device("cpu"))
    assert torch.allclose(frequencies(rotary, 64), peer.inv_freq, rtol=1e-5)
    assert torch.allclose(mine[0], cos[0, :, :32], atol=1e-5)
    assert torch.allclose(mine[1], sin[0, :, :32], atol=1e-5)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


def rows(step: int, microbatch: int, skipped: int = 0) -> np.ndarray:
    return np.random.default_rng(microbatch % 2).integers(0, 300, (2, 33))  # the same rows in every step


@pytest.mark.parametrize("style", STYLES)
def test_every_style_learns(style: str, recipe: Path) -> None:
    trainer = Trainer(load_recipe(recipe, [f"model.style={style}"])[0], torch.device("cpu"))
    losses = [trainer.step(step, rows).loss for step in range(8)]
    assert losses[0] == pytest.approx(np.log(300), abs=0.3)
    assert losses[-1] < losses[0] - 0.05, losses


@pytest.mark.parametrize("style", ["modern", "gpt-neo"])
def test_compiled_it_trains_alike(style: str, recipe: Path) -> None:
    loaded, _ = load_recipe(recipe, [f"model.style={style}", "model.layers=1"])
    torch._dynamo.reset()  # of another style's sizes, which it would take for variables
    losses = []
    for compiled in (False, True):
        trainer = Trainer(loaded, torch.device("cpu"))
        if compiled:
            trainer.model.compile(backend="aot_eager")
        losses.append([trainer.step(step, rows).loss for step in range(2)])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("start", ["identity", "normal"])
def test_narrow_embeddings_start_as_the_other_matrices(start: str) -> None:
    model = Transformer(TransformerConfig(400, 32, 2, 256, 2, 2, 64, 256, embedding_width=128, head_bias=True))
    initialise(model, 1, 0.02, start)
    for name, inwards in (("embedding_projection", 128), ("head_projection", 256)):
        wanted = 0.02 if start == "normal" else inwards**-0.5
        assert model.get_parameter(f"{name}.weight").std().item() == pytest.approx(wanted, rel=0.03)
    assert not model.get_parameter("head.bias").any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.rotary.share=0.3"], "model.rotary.share = 0.3 of model.head_width = 16 is 4.8 elements"),
        (["model.position_offset=2"], 'needs model.positions = "learned", not "rotary"'),
        (["model.windows=[0, -3]"], "model.windows.1 = -3"),
        (["model.windows=[{width = 4, strid = 2}]"], "did you mean 'stride'"),
        (["model.experts={count = 4}"], "model.experts.top_k is missing"),
        (["model.experts={count = 4, top_k = 5}"], "model.experts.top_k = 5 should be at most model.experts.count = 4"),
        (["model.experts={count = 4, top_k = 2, every = 3}"], "leave no layer of 2 for experts"),
        (["model.experts={count = 4, top_k = 1}"], "model.experts.top_k = 1 needs model.experts.normalised = false"),
        (["model.experts={count = 4, top_k = 2, mlp_width = 20}"], "model.experts.mlp_width = 20 should be a multiple of 8"),
        (["model.experts={count = 4, top_k = 2}", "model.mlp_bias=true"], "experts have no biases"),
        (["model.rotary.scaling={kind = 'yarn', factor = 2.0, original_context = 16, slow = 50.0}"], "slow = 50.0 should be below"),
    ],
)
def test_a_contradiction_is_named(recipe: Path, settings: list[str], message: str) -> None:
    with pytest.raises(InputError) as error:
        load_recipe(recipe, settings)
    assert message in str(error.value)


def test_a_dial_goes_before_its_style(recipe: Path) -> None:
    settings = ["model.style=gpt-neox", "model.rotary.theta=77.0", "model.activation=relu2", "model.windows=[0, {width = 4, stride = 2}]"]
    loaded, derived = load_recipe(recipe, settings)
    config = config_of(loaded.model, 300)
    assert (config.rotary, config.norm_place, config.activation) == (Rotary(77.0, 0.25), "parallel", "relu2")
    assert (config.mlp_width, config.windows) == (4 * 32, (None, Window(4, 2)))
    assert "model.rotary.share = 0.25" in derived
    assert not any("theta" in line for line in derived)
