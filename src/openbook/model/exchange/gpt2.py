"""GPT-2 (Radford et al. 2019): learned positions, one joined matrix for query, key and value, matrices stored as (in, out)."""

from __future__ import annotations

from typing import Any

from openbook.model.config import TransformerConfig
from openbook.model.exchange.facts import Facts
from openbook.model.exchange.family import Family, in_layers
from openbook.model.exchange.shared import PLAIN, Sizes, written_activation

SIZES = Sizes("n_positions", "n_layer", "n_embd", "n_head", "n_inner")
NAMES = {
    "embedding": "transformer.wte",
    "position": "transformer.wpe",
    "final_norm": "transformer.ln_f",
    "head": "lm_head",
    **in_layers(
        "transformer.h.N",
        {
            "attention_norm": "ln_1",
            "attention.query": "attn.c_attn",
            "attention.key": "attn.c_attn",
            "attention.value": "attn.c_attn",
            "attention.output": "attn.c_proj",
            "mlp_norm": "ln_2",
            "mlp.up": "mlp.c_fc",
            "mlp.down": "mlp.c_proj",
        },
    ),
}


def read(facts: Facts) -> TransformerConfig:
    return SIZES.read(
        facts,
        norm_eps=facts.number("layer_norm_epsilon", 1e-5),
        positions="learned",
        qkv_bias=True,
        output_bias=True,
        score_scale=None if facts.flag("scale_attn_weights", True) else 1.0,
        activation=facts.choice("activation_function", PLAIN, "gelu_new"),
        tied_head=facts.flag("tie_word_embeddings", True),
    )


def write(config: TransformerConfig) -> dict[str, Any]:
    return {
        **SIZES.write(config),
        "activation_function": written_activation(config.activation),
        "layer_norm_epsilon": config.norm_eps,
        "scale_attn_weights": config.score_scale != 1,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


GPT2 = Family(
    architecture="GPT2LMHeadModel",
    model_type="gpt2",
    prefix="transformer.",
    names=NAMES,
    read=read,
    write=write,
    refused={"scale_attn_by_inverse_layer_idx": False},
    buffers=r"\.attn\.(masked_)?bias$",
    transposed=True,
)
