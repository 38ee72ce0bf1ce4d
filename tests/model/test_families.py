"""Every family of published models against transformers: logits, continuations and tensors, in and out; and folders that are wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import peers
from openbook.errors import InputError
from openbook.model.config import Experts, Rotary, RotaryScaling, TransformerConfig, Window
from openbook.model.exchange import architecture, exported_config, load_weights, save_weights
from openbook.model.exchange.families import FAMILIES
from openbook.model.transformer import Transformer

TOLERANCE = 1e-4


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> None:
    peers.quiet()


@pytest.mark.parametrize("case", peers.CASES)
def test_a_model_of_transformers_is_the_same_here_and_back(case: str, tmp_path: Path) -> None:
    found = peers.parity(case, tmp_path)
    assert found.logits <= TOLERANCE
    assert found.cached <= TOLERANCE
    assert found.greedy == peers.NEW
    assert found.identical == found.tensors


def test_every_family_of_the_table_has_a_case() -> None:
    assert {family.model_type for family in FAMILIES} == {model_type for model_type, _ in peers.CASES.values()}


def _sizes(draw: st.DrawFn) -> tuple[int, int, int]:
    """layers, heads, width of a head."""
    return draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([8, 16]))


PLAIN = st.sampled_from(["gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "relu2"])
INNER = st.sampled_from([8, 24, 40])
EPS = st.sampled_from([1e-6, 1e-5, 1e-3])
BOTH = st.booleans()
COMMON = {"vocab_size": peers.VOCABULARY}


@st.composite
def gpt2(draw: st.DrawFn) -> dict[str, Any]:
    layers, heads, each = _sizes(draw)
    sizes = {"n_layer": layers, "n_head": heads, "n_embd": heads * each, "n_positions": peers.CONTEXT}
    facts = {"n_inner": draw(st.none() | INNER), "activation_function": draw(PLAIN), "layer_norm_epsilon": draw(EPS)}
    return {**sizes, **facts, "scale_attn_weights": draw(BOTH), "tie_word_embeddings": draw(BOTH)}


@st.composite
def gptj(draw: st.DrawFn) -> dict[str, Any]:
    layers, heads, each = _sizes(draw)
    sizes = {"n_layer": layers, "n_head": heads, "n_embd": heads * each, "n_positions": peers.CONTEXT}
    facts = {"n_inner": draw(st.none() | INNER), "activation_function": draw(PLAIN), "layer_norm_epsilon": draw(EPS)}
    return {**sizes, **facts, "rotary_dim": draw(st.sampled_from([2, 6, 8])), "tie_word_embeddings": draw(BOTH)}


@st.composite
def gpt_neo(draw: st.DrawFn) -> dict[str, Any]:
    layers, heads, each = _sizes(draw)
    kinds = draw(st.lists(st.sampled_from(["global", "local"]), min_size=layers, max_size=layers))
    sizes = {"num_layers": layers, "num_heads": heads, "hidden_size": heads * each, "max_position_embeddings": peers.CONTEXT}
    facts = {"intermediate_size": draw(st.none() | INNER), "activation_function": draw(PLAIN), "layer_norm_epsilon": draw(EPS)}
    local = {"attention_types": [[[kind], 1] for kind in kinds], "window_size": draw(st.sampled_from([1, 5, 64, 100]))}
    return {**sizes, **facts, **local, "tie_word_embeddings": draw(BOTH)}


@st.composite
def gpt_neox(draw: st.DrawFn) -> dict[str, Any]:
    layers, heads, each = _sizes(draw)
    facts = {"intermediate_size": draw(INNER), "hidden_act": draw(PLAIN), "layer_norm_eps": draw(EPS)}
    switches = {key: draw(BOTH) for key in ("use_parallel_residual", "attention_bias", "tie_word_embeddings")}
    rotary = {"rotary_pct": draw(st.sampled_from([0.25, 0.3, 0.75, 1.0])), "rotary_emb_base": draw(st.sampled_from([100, 10_000]))}
    sizes = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": heads * each}
    return {**sizes, **facts, **switches, **rotary, "max_position_embeddings": peers.CONTEXT}


@st.composite
def opt(draw: st.DrawFn) -> dict[str, Any]:
    layers, heads, each = _sizes(draw)
    sizes = {"num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": heads * each, "ffn_dim": draw(INNER)}
    switches = {key: draw(BOTH) for key in ("do_layer_norm_before", "enable_bias", "tie_word_embeddings")}
    facts = {"activation_function": draw(PLAIN), "word_embed_proj_dim": draw(st.none() | st.just(12))}
    return {**sizes, **switches, **facts, "max_position_embeddings": peers.CONTEXT}


def _scaling(draw: st.DrawFn) -> dict[str, Any]:
    original = {"original_max_position_embeddings": draw(st.sampled_from([16, 32]))}
    kinds: list[dict[str, Any]] = [
        {"rope_type": "default"},
        {"rope_type": "linear"},
        {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 2.0, **original},
        {"rope_type": "yarn", **original},
        {"rope_type": "yarn", "beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 1.25, **original},
        {"rope_type": "yarn", "mscale": 1.0, "mscale_all_dim": 0.5, **original},
    ]
    kind = draw(st.sampled_from(kinds))
    factor = {} if kind["rope_type"] == "default" else {"factor": draw(st.sampled_from([2.0, 8.0]))}
    return {"rope_theta": draw(st.sampled_from([50.0, 10_000.0])), **kind, **factor}


def _llama(draw: st.DrawFn) -> dict[str, Any]:
    layers, kv_heads, each = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2])), draw(st.sampled_from([8, 16]))
    heads = kv_heads * draw(st.sampled_from([1, 2]))
    sizes = {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "hidden_size": heads * 8}
    facts = {"head_dim": each, "intermediate_size": draw(INNER), "rms_norm_eps": draw(EPS), "tie_word_embeddings": draw(BOTH)}
    return {**sizes, **facts, "rope_parameters": _scaling(draw), "max_position_embeddings": peers.CONTEXT}


@st.composite
def llama(draw: st.DrawFn) -> dict[str, Any]:
    return {**_llama(draw), "attention_bias": draw(BOTH), "mlp_bias": draw(BOTH), "hidden_act": draw(st.sampled_from(["silu", "gelu_new"]))}


@st.composite
def mistral(draw: st.DrawFn) -> dict[str, Any]:
    return {**_llama(draw), "sliding_window": draw(st.sampled_from([None, 1, 9, 100]))}


@st.composite
def qwen2(draw: st.DrawFn) -> dict[str, Any]:
    values = {**_llama(draw), "use_sliding_window": draw(BOTH), "sliding_window": 5, "max_window_layers": draw(st.integers(0, 2))}
    return {**values, "head_dim": values["hidden_size"] // values["num_attention_heads"]}


@st.composite
def qwen3(draw: st.DrawFn) -> dict[str, Any]:
    sliding = {"use_sliding_window": draw(BOTH), "sliding_window": 5, "max_window_layers": draw(st.integers(0, 2))}
    return {**_llama(draw), **sliding, "attention_bias": draw(BOTH)}


@st.composite
def mixtral(draw: st.DrawFn) -> dict[str, Any]:
    values = {**_llama(draw), "num_local_experts": draw(st.sampled_from([2, 5])), "num_experts_per_tok": 2}
    return {**values, "sliding_window": draw(st.sampled_from([None, 9]))}


@st.composite
def qwen3_moe(draw: st.DrawFn) -> dict[str, Any]:
    values = {**_llama(draw), "num_experts": draw(st.sampled_from([2, 5])), "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    placed = {"decoder_sparse_step": draw(st.sampled_from([1, 2])), "mlp_only_layers": []}
    if placed["decoder_sparse_step"] == 1 and values["num_hidden_layers"] > 1:
        placed["mlp_only_layers"] = draw(st.sampled_from([[], [0]]))
    sliding = {"use_sliding_window": draw(BOTH), "sliding_window": 5}
    return {**values, **placed, **sliding, "norm_topk_prob": draw(BOTH), "attention_bias": draw(BOTH)}


DIALS = {strategy.__name__: strategy for strategy in (gpt2, gpt_neo, gptj, gpt_neox, opt, llama, mistral, qwen2, qwen3, mixtral, qwen3_moe)}


@pytest.mark.parametrize("model_type", DIALS)
def test_every_dial_of_a_family(model_type: str) -> None:
    @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(DIALS[model_type]())
    def check(values: dict[str, Any]) -> None:
        with TemporaryDirectory() as scratch:
            folder = Path(scratch)
            peer = peers.made(peers.configured(model_type, COMMON | values), folder / "theirs")
            ours = load_weights(folder / "theirs")
            assert peers.distance(ours, peer) <= TOLERANCE
            _, tensors, identical = peers.exported(ours, peer, folder / "ours")
            assert identical == tensors

    check()


SHAPE = TransformerConfig(300, 64, 2, 32, 4, 4, 8, 64)
SWITCH = replace(SHAPE, activation="relu", experts=Experts(4, 1, 64, every=2, capacity=1.25, normalised=False))


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (SWITCH, "no stock architecture decodes by a Switch-style mixture of experts"),
        (replace(SHAPE, score_softcap=50.0), "nearest is .*score_softcap is None rather than 50.0"),
        (replace(SHAPE, windows=(None, Window(8, 4))), "no stock architecture has this shape; nearest is .*windows"),
        (replace(SHAPE, norm="layer", positions="none"), "no stock architecture has this shape"),
    ],
    ids=["switch", "softcap", "strided", "no positions"],
)
def test_a_shape_that_no_family_has_is_refused_with_what_is_missing(config: TransformerConfig, why: str) -> None:
    with pytest.raises(InputError, match=why):
        exported_config(config, 0)


def test_what_only_training_reads_does_not_hinder_an_export() -> None:
    mixed = replace(SHAPE, experts=Experts(4, 2, 64, capacity=1.5, balance_loss=0.02, z_loss=0.001))
    assert architecture(mixed) == "MixtralForCausalLM"
    assert exported_config(mixed, 0)["router_aux_loss_coef"] == 0.02


def test_a_shape_of_no_family_is_kept_in_our_own_form(tmp_path: Path) -> None:
    """Every dial that no stock architecture has, and the bias that balances experts, which is no parameter."""
    torch.manual_seed(0)
    scaled = Rotary(500.0, 0.5, "neighbours", RotaryScaling("linear", 2.0, 64))
    experts = Experts(4, 2, 64, every=2, scores="sigmoid", shared=16, balance_rate=0.01)
    config = replace(SHAPE, rotary=scaled, windows=(None, Window(8, 4)), experts=experts, logit_softcap=30.0, residual_scale=0.5)
    model = Transformer(config)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.normal_(0, 0.2)
    save_weights(model, tmp_path, 0)
    loaded = load_weights(tmp_path)
    assert loaded.config == config
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(InputError, match="no stock architecture has this shape"):
        architecture(loaded.config)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "transformer": {**content["transformer"], "norm": "batch"}}))
    with pytest.raises(InputError, match=r"config\.json: transformer\.norm: Input should be 'rms' or 'layer'"):
        load_weights(tmp_path)
