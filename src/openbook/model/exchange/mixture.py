"""Mixtures of experts: Mixtral (Jiang et al. 2024) and Qwen3-MoE. Each expert's matrices are tensors of their own."""

from __future__ import annotations

from typing import Any

from openbook.model.config import Experts, TransformerConfig
from openbook.model.exchange.facts import LAYERS, Facts
from openbook.model.exchange.family import Family, in_layers
from openbook.model.exchange.llama import BUFFERS, NAMES, one_window, read_common, write_common

MOST_EXPERTS = 65_536

MIXTRAL_NAMES = {
    **NAMES,
    **in_layers(
        "model.layers.N.block_sparse_moe",
        {
            "mlp.router": "gate",
            "mlp.experts.gate": "experts.E.w1.weight",
            "mlp.experts.up": "experts.E.w3.weight",
            "mlp.experts.down": "experts.E.w2.weight",
        },
    ),
}
QWEN3_MOE_NAMES = {
    **NAMES,
    **in_layers(
        "model.layers.N.mlp",
        {
            "mlp.router": "gate",
            "mlp.experts.gate": "experts.E.gate_proj.weight",
            "mlp.experts.up": "experts.E.up_proj.weight",
            "mlp.experts.down": "experts.E.down_proj.weight",
        },
    ),
}


def _top_k(facts: Facts, count: int, default: int) -> int:
    return facts.whole("num_experts_per_tok", min(default, count), most=count)


def read_mixtral(facts: Facts) -> TransformerConfig:
    count = facts.whole("num_local_experts", 8, most=MOST_EXPERTS)
    experts = Experts(count, _top_k(facts, count, 2), facts.whole("intermediate_size"))
    return read_common(facts, theta=1e6, norm_eps=1e-5, experts=experts, windows=one_window(facts))


def write_mixtral(config: TransformerConfig) -> dict[str, Any]:
    window, experts = config.window(0), config.experts
    content = {**write_common(config), "sliding_window": window.width if window else None}
    if experts:
        content |= {"num_local_experts": experts.count, "num_experts_per_tok": experts.top_k, "intermediate_size": experts.mlp_width}
        content |= {"router_aux_loss_coef": experts.balance_loss}
    return content


def read_qwen3_moe(facts: Facts) -> TransformerConfig:
    biased = facts.flag("attention_bias", False)
    every, first = _placed(facts)
    count = facts.whole("num_experts", facts.whole("num_local_experts", 128, most=MOST_EXPERTS), most=MOST_EXPERTS)
    experts = Experts(
        count=count,
        top_k=_top_k(facts, count, 8),
        mlp_width=facts.whole("moe_intermediate_size", 768),
        normalised=facts.flag("norm_topk_prob", False),
        every=every,
        first=first,
    )
    sliding = facts.flag("use_sliding_window", False)
    windows = one_window(facts) if sliding else (None,)
    return read_common(facts, qkv_bias=biased, output_bias=biased, query_key_norm=True, windows=windows, experts=experts)


def _placed(facts: Facts) -> tuple[int, int]:
    """Which layers have experts: every decoder_sparse_step-th, but for mlp_only_layers, which have to be the first ones."""
    layers, every = facts.whole("num_hidden_layers", most=LAYERS), facts.whole("decoder_sparse_step", 1, most=LAYERS)
    plain = facts.content.get("mlp_only_layers") or []
    if not isinstance(plain, list):
        raise facts.wrong("mlp_only_layers", "should be a list of layers")
    first = len(plain)
    theirs = [layer not in plain and (layer + 1) % every == 0 for layer in range(layers)]
    if theirs != [layer >= first and (layer - first) % every == every - 1 for layer in range(layers)]:
        raise facts.wrong("mlp_only_layers", f"is not computed here; the first N layers, N a multiple of {every}, may be without experts")
    return every, first


def write_qwen3_moe(config: TransformerConfig) -> dict[str, Any]:
    window, experts = config.window(0), config.experts
    content = {
        **write_common(config),
        "attention_bias": config.qkv_bias,
        "use_sliding_window": window is not None,
        "sliding_window": window.width if window else None,
    }
    if experts:
        content |= {
            "num_experts": experts.count,
            "num_experts_per_tok": experts.top_k,
            "moe_intermediate_size": experts.mlp_width,
            "norm_topk_prob": experts.normalised,
            "decoder_sparse_step": experts.every,
            "mlp_only_layers": list(range(experts.first)),
            "router_aux_loss_coef": experts.balance_loss,
        }
    return content


MIXTRAL = Family("MixtralForCausalLM", "mixtral", "model.", MIXTRAL_NAMES, read_mixtral, write_mixtral, buffers=BUFFERS)
QWEN3_MOE = Family("Qwen3MoeForCausalLM", "qwen3_moe", "model.", QWEN3_MOE_NAMES, read_qwen3_moe, write_qwen3_moe, buffers=BUFFERS)
