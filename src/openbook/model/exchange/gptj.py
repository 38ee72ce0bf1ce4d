"""GPT-J (Wang and Komatsuzaki 2021): one norm for attention and MLP side by side, rotary positions on neighbouring elements, a head
with a bias."""

from __future__ import annotations

from typing import Any

from openbook.model.config import Rotary, TransformerConfig
from openbook.model.exchange.facts import Facts
from openbook.model.exchange.family import Family, in_layers
from openbook.model.exchange.gpt2 import SIZES
from openbook.model.exchange.shared import PLAIN, head_width, written_activation

NAMES = {
    "embedding": "transformer.wte",
    "final_norm": "transformer.ln_f",
    "head": "lm_head",
    **in_layers(
        "transformer.h.N",
        {
            "attention_norm": "ln_1",
            "attention.query": "attn.q_proj",
            "attention.key": "attn.k_proj",
            "attention.value": "attn.v_proj",
            "attention.output": "attn.out_proj",
            "mlp.up": "mlp.fc_in",
            "mlp.down": "mlp.fc_out",
        },
    ),
}


def read(facts: Facts) -> TransformerConfig:
    each = head_width(facts, facts.whole("n_embd"), facts.whole("n_head"))
    turned = facts.whole("rotary_dim", 64 if "rotary_dim" not in facts.content else None, most=each)
    return SIZES.read(
        facts,
        norm_place="parallel-shared",
        norm_eps=facts.number("layer_norm_epsilon", 1e-5),
        rotary=Rotary(share=turned / each, pairs="neighbours"),
        activation=facts.choice("activation_function", PLAIN, "gelu_new"),
        tied_head=facts.flag("tie_word_embeddings", False),
        head_bias=True,
    )


def write(config: TransformerConfig) -> dict[str, Any]:
    return {
        **SIZES.write(config),
        "rotary_dim": round(config.head_width * config.rotary.share),
        "activation_function": written_activation(config.activation),
        "layer_norm_epsilon": config.norm_eps,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


GPTJ = Family(
    architecture="GPTJForCausalLM",
    model_type="gptj",
    prefix="transformer.",
    names=NAMES,
    read=read,
    write=write,
    buffers=r"\.attn\.((masked_)?bias|embed_positions)$",
)
