"""OPT (Zhang et al. 2022): positions from the third row of their table on, ReLU; OPT-350M has its norms after each sum, none at the end,
and embeddings narrower than the residual stream."""

from __future__ import annotations

from typing import Any

from openbook.model.config import TransformerConfig
from openbook.model.exchange.facts import Facts
from openbook.model.exchange.family import Family, in_layers
from openbook.model.exchange.shared import PLAIN, Sizes, written_activation

SIZES = Sizes("max_position_embeddings", "num_hidden_layers", "hidden_size", "num_attention_heads", "ffn_dim")
NAMES = {
    "embedding": "model.decoder.embed_tokens",
    "position": "model.decoder.embed_positions",
    "embedding_projection": "model.decoder.project_in",
    "head_projection": "model.decoder.project_out",
    "final_norm": "model.decoder.final_layer_norm",
    "head": "lm_head",
    **in_layers(
        "model.decoder.layers.N",
        {
            "attention_norm": "self_attn_layer_norm",
            "attention.query": "self_attn.q_proj",
            "attention.key": "self_attn.k_proj",
            "attention.value": "self_attn.v_proj",
            "attention.output": "self_attn.out_proj",
            "mlp_norm": "final_layer_norm",
            "mlp.up": "fc1",
            "mlp.down": "fc2",
        },
    ),
}


def read(facts: Facts) -> TransformerConfig:
    width, biased = facts.whole("hidden_size"), facts.flag("enable_bias", True)
    embedded = facts.whole("word_embed_proj_dim", width)
    return SIZES.read(
        facts,
        norm_place="pre" if facts.flag("do_layer_norm_before", True) else "post",
        positions="learned",
        position_offset=2,
        qkv_bias=biased,
        output_bias=biased,
        activation=facts.choice("activation_function", PLAIN, "relu"),
        mlp_bias=biased,
        tied_head=facts.flag("tie_word_embeddings", True),
        embedding_width=None if embedded == width else embedded,
    )


def write(config: TransformerConfig) -> dict[str, Any]:
    return {
        **SIZES.write(config),
        "do_layer_norm_before": config.norm_place == "pre",
        "word_embed_proj_dim": config.embedding_width or config.width,
        "activation_function": written_activation(config.activation),
        "enable_bias": config.qkv_bias,
        "layer_norm_elementwise_affine": True,
        "_remove_final_layer_norm": False,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "layerdrop": 0.0,
    }


OPT = Family(
    architecture="OPTForCausalLM",
    model_type="opt",
    prefix="model.",
    names=NAMES,
    read=read,
    write=write,
    refused={"layer_norm_elementwise_affine": True, "_remove_final_layer_norm": False},
)
