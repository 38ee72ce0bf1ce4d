"""Llama (Touvron et al. 2023) and the families that differ from it by a switch: Mistral's window, Qwen2's biases, Qwen3's normalised
queries and keys."""

from __future__ import annotations

from typing import Any

from openbook.model.config import TransformerConfig, Window
from openbook.model.exchange.facts import LAYERS, Facts
from openbook.model.exchange.family import Family, in_layers
from openbook.model.exchange.rope import read_rotary, written_rotary
from openbook.model.exchange.shared import GATED, head_width, repeating, written_activation

NAMES = {
    "embedding": "model.embed_tokens",
    "final_norm": "model.norm",
    "head": "lm_head",
    **in_layers(
        "model.layers.N",
        {
            "attention_norm": "input_layernorm",
            "attention.query": "self_attn.q_proj",
            "attention.key": "self_attn.k_proj",
            "attention.value": "self_attn.v_proj",
            "attention.output": "self_attn.o_proj",
            "attention.query_norm": "self_attn.q_norm",
            "attention.key_norm": "self_attn.k_norm",
            "mlp_norm": "post_attention_layernorm",
            "mlp.gate": "mlp.gate_proj",
            "mlp.up": "mlp.up_proj",
            "mlp.down": "mlp.down_proj",
        },
    ),
}
BUFFERS = r"\.rotary_emb\.inv_freq$"


def read_common(facts: Facts, theta: float = 10_000.0, norm_eps: float = 1e-6, **own: Any) -> TransformerConfig:
    """What all families of this shape have; `own` is what one of them has besides."""
    width, heads = facts.whole("hidden_size"), facts.whole("num_attention_heads")
    each = facts.whole("head_dim") if "head_dim" in facts else head_width(facts, width, heads)
    common: dict[str, Any] = {
        "vocab_size": facts.whole("vocab_size"),
        "context": facts.whole("max_position_embeddings"),
        "layers": facts.whole("num_hidden_layers", most=LAYERS),
        "width": width,
        "heads": heads,
        "kv_heads": facts.whole("num_key_value_heads", heads),
        "head_width": each,
        "mlp_width": facts.whole("intermediate_size"),
        "norm_eps": facts.number("rms_norm_eps", norm_eps),
        "rotary": read_rotary(facts, theta=theta),
        "activation": facts.choice("hidden_act", GATED, "silu"),
        "tied_head": facts.flag("tie_word_embeddings", False),
    }
    return TransformerConfig(**common | own)


def write_common(config: TransformerConfig) -> dict[str, Any]:
    return {
        "max_position_embeddings": config.context,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "hidden_act": written_activation(config.activation),
        "rms_norm_eps": config.norm_eps,
        "attention_dropout": 0.0,
        **written_rotary(config),
    }


def read_llama(facts: Facts) -> TransformerConfig:
    biased = facts.flag("attention_bias", False)
    return read_common(facts, qkv_bias=biased, output_bias=biased, mlp_bias=facts.flag("mlp_bias", False))


def write_llama(config: TransformerConfig) -> dict[str, Any]:
    return {**write_common(config), "attention_bias": config.qkv_bias, "mlp_bias": config.mlp_bias}


def one_window(facts: Facts) -> tuple[Window | None, ...]:
    """The same in every layer."""
    return (Window(facts.whole("sliding_window")) if "sliding_window" in facts else None,)


def read_mistral(facts: Facts) -> TransformerConfig:
    absent = (Window(4096),)  # the architecture's default
    return read_common(facts, windows=one_window(facts) if "sliding_window" in facts.content else absent)


def write_mistral(config: TransformerConfig) -> dict[str, Any]:
    window = config.window(0)
    return {**write_common(config), "sliding_window": window.width if window else None}


def _late_windows(facts: Facts) -> tuple[Window | None, ...]:
    """Of Qwen: where it is switched on, in the layers from max_window_layers on, or as layer_types says."""
    layers = facts.whole("num_hidden_layers", most=LAYERS)
    if not facts.flag("use_sliding_window", False):
        facts.require({"layer_types": ["full_attention"] * layers})
        return (None,)
    window = Window(facts.whole("sliding_window", 4096))
    first = facts.whole("max_window_layers", 28, least=0)
    late = ["sliding_attention" if layer >= first else "full_attention" for layer in range(layers)]
    kinds = facts.content.get("layer_types") or late
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in ("sliding_attention", "full_attention") for kind in kinds):
        raise facts.wrong("layer_types", f"should name full_attention or sliding_attention for each of {layers} layers")
    return repeating([window if kind == "sliding_attention" else None for kind in kinds])


def _written_windows(config: TransformerConfig) -> dict[str, Any]:
    windows = [config.window(layer) for layer in range(config.layers)]
    width = next((window.width for window in windows if window), None)
    return {
        "use_sliding_window": width is not None,
        "sliding_window": width,
        "max_window_layers": next((layer for layer, window in enumerate(windows) if window), config.layers),
        "layer_types": ["sliding_attention" if window else "full_attention" for window in windows],
    }


def read_qwen2(facts: Facts) -> TransformerConfig:
    return read_common(facts, qkv_bias=True, windows=_late_windows(facts))


def write_qwen2(config: TransformerConfig) -> dict[str, Any]:
    return {**write_common(config), **_written_windows(config)}


def read_qwen3(facts: Facts) -> TransformerConfig:
    biased = facts.flag("attention_bias", False)
    each = facts.whole("head_dim", 128)
    return read_common(facts, head_width=each, qkv_bias=biased, output_bias=biased, query_key_norm=True, windows=_late_windows(facts))


def write_qwen3(config: TransformerConfig) -> dict[str, Any]:
    return {**write_common(config), "attention_bias": config.qkv_bias, **_written_windows(config)}


LLAMA = Family("LlamaForCausalLM", "llama", "model.", NAMES, read_llama, write_llama, buffers=BUFFERS)
MISTRAL = Family("MistralForCausalLM", "mistral", "model.", NAMES, read_mistral, write_mistral, buffers=BUFFERS)
QWEN2 = Family("Qwen2ForCausalLM", "qwen2", "model.", NAMES, read_qwen2, write_qwen2, buffers=BUFFERS)
QWEN3 = Family("Qwen3ForCausalLM", "qwen3", "model.", NAMES, read_qwen3, write_qwen3, buffers=BUFFERS)
