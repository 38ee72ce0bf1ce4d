"""GPT-Neo (Black et al. 2021): GPT-2 with local attention in some layers, no biases on query, key and value, and scores not divided."""

from __future__ import annotations

from typing import Any

from openbook.model.config import TransformerConfig, Window
from openbook.model.exchange.facts import LAYERS, Facts
from openbook.model.exchange.family import Family, in_layers
from openbook.model.exchange.gpt2 import NAMES as GPT2_NAMES
from openbook.model.exchange.shared import PLAIN, Sizes, repeating, written_activation

SIZES = Sizes("max_position_embeddings", "num_layers", "hidden_size", "num_heads", "intermediate_size")
NAMES = {
    **GPT2_NAMES,
    **in_layers(
        "transformer.h.N.attn.attention",
        {"attention.query": "q_proj", "attention.key": "k_proj", "attention.value": "v_proj", "attention.output": "out_proj"},
    ),
}


def read(facts: Facts) -> TransformerConfig:
    return SIZES.read(
        facts,
        norm_eps=facts.number("layer_norm_epsilon", 1e-5),
        positions="learned",
        windows=repeating(_windows(facts)),
        output_bias=True,
        score_scale=1.0,
        activation=facts.choice("activation_function", PLAIN, "gelu_new"),
        tied_head=facts.flag("tie_word_embeddings", True),
    )


def _windows(facts: Facts) -> list[Window | None]:
    """From [[["global", "local"], 12]], which repeats each list so many times."""
    local = Window(facts.whole("window_size", 256))
    layers, groups = facts.whole("num_layers", most=LAYERS), facts.content.get("attention_types")
    try:
        kinds = [kind for names, count in groups for kind in names * min(count, layers)]  # type: ignore[union-attr]
        if len(kinds) != layers or not {"global", "local"} >= set(kinds):
            raise ValueError
    except (TypeError, ValueError):
        raise facts.wrong("attention_types", f'should be [[["global", "local"], N], …] for {layers} layers') from None
    return [local if kind == "local" else None for kind in kinds]


def write(config: TransformerConfig) -> dict[str, Any]:
    windows = [config.window(layer) for layer in range(config.layers)]
    return {
        **SIZES.write(config),
        "attention_types": [[["local" if window else "global"], 1] for window in windows],
        "window_size": next((window.width for window in windows if window), 256),
        "activation_function": written_activation(config.activation),
        "layer_norm_epsilon": config.norm_eps,
        "attention_dropout": 0.0,
        "embed_dropout": 0.0,
        "resid_dropout": 0.0,
    }


GPT_NEO = Family(
    architecture="GPTNeoForCausalLM",
    model_type="gpt_neo",
    prefix="transformer.",
    names=NAMES,
    read=read,
    write=write,
    buffers=r"\.attn\.attention\.(masked_)?bias$",
    scaled_query=True,
)
