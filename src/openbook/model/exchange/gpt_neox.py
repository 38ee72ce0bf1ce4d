"""GPT-NeoX-20B (Black et al. 2022) and Pythia (Biderman et al. 2023): attention and MLP side by side, each with its own norm; rotary
positions on a part of each head; query, key and value in one matrix, head by head."""

from __future__ import annotations

import math
from typing import Any

from openbook.model.config import TransformerConfig
from openbook.model.exchange.facts import Facts
from openbook.model.exchange.family import Family, in_layers
from openbook.model.exchange.rope import read_rotary, written_rotary
from openbook.model.exchange.shared import PLAIN, Sizes, head_width, written_activation

SIZES = Sizes("max_position_embeddings", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
NAMES = {
    "embedding": "gpt_neox.embed_in",
    "final_norm": "gpt_neox.final_layer_norm",
    "head": "embed_out",
    **in_layers(
        "gpt_neox.layers.N",
        {
            "attention_norm": "input_layernorm",
            "attention.query": "attention.query_key_value",
            "attention.key": "attention.query_key_value",
            "attention.value": "attention.query_key_value",
            "attention.output": "attention.dense",
            "mlp_norm": "post_attention_layernorm",
            "mlp.up": "mlp.dense_h_to_4h",
            "mlp.down": "mlp.dense_4h_to_h",
        },
    ),
}


def read(facts: Facts) -> TransformerConfig:
    each, biased = head_width(facts, facts.whole("hidden_size"), facts.whole("num_attention_heads")), facts.flag("attention_bias", True)
    parameters = facts.table("rope_scaling") or facts.table("rope_parameters")
    held = parameters if parameters is not None and "partial_rotary_factor" in parameters else facts
    share = held.number("partial_rotary_factor", facts.number("rotary_pct", 0.25))
    turned = int(each * share)  # as transformers rounds it
    return SIZES.read(
        facts,
        norm_place="parallel" if facts.flag("use_parallel_residual", True) else "pre",
        norm_eps=facts.number("layer_norm_eps", 1e-5),
        rotary=read_rotary(facts, turned / each, facts.number("rotary_emb_base", 10_000.0)),
        qkv_bias=biased,
        output_bias=biased,
        activation=facts.choice("hidden_act", PLAIN, "gelu"),
        tied_head=facts.flag("tie_word_embeddings", False),
    )


def _written_share(config: TransformerConfig) -> float:
    """The share from which transformers, which rounds down, has the same number of elements."""
    share = config.rotary.share
    return share if int(config.head_width * share) == round(config.head_width * share) else math.nextafter(share, 1)


def write(config: TransformerConfig) -> dict[str, Any]:
    rotary = written_rotary(config)
    return {
        **SIZES.write(config),
        "use_parallel_residual": config.norm_place == "parallel",
        "rotary_pct": _written_share(config),
        "rotary_emb_base": rotary["rope_theta"],
        "rope_scaling": rotary["rope_scaling"],
        "hidden_act": written_activation(config.activation),
        "layer_norm_eps": config.norm_eps,
        "attention_bias": config.qkv_bias,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    }


GPT_NEOX = Family(
    architecture="GPTNeoXForCausalLM",
    model_type="gpt_neox",
    prefix="gpt_neox.",
    names=NAMES,
    read=read,
    write=write,
    buffers=r"\.attention\.((masked_)?bias|rotary_emb\.inv_freq)$",
    interleaved=True,
)
