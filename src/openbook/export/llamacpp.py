"""Which of our shapes llama.cpp computes, under which of its architectures, and where a shape differs from all that it has.

A target is data: llama.cpp's name, what its graph takes for granted, and how it wants the tensors. What it takes for granted was read off
its loader and is proven by tests that run it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from openbook.errors import InputError
from openbook.model.config import Activation, TransformerConfig
from openbook.model.exchange.family import Family

NAMES = {
    "embedding": "token_embd",
    "position": "position_embd",
    "final_norm": "output_norm",
    "head": "output",
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.output": "attn_output",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "mlp_norm": "ffn_norm",
    "mlp.gate": "ffn_gate",
    "mlp.up": "ffn_up",
    "mlp.down": "ffn_down",
    "mlp.router": "ffn_gate_inp",
    "mlp.experts.gate": "ffn_gate_exps",
    "mlp.experts.up": "ffn_up_exps",
    "mlp.experts.down": "ffn_down_exps",
}
"""Our modules and llama.cpp's tensors, without "layers.N." and "blk.N."."""
JOINED = dict.fromkeys(("attention.query", "attention.key", "attention.value"), "attn_qkv")
BIASES = ("attention.query", "attention.key", "attention.value", "attention.output")


@dataclass(frozen=True)
class Target:
    """An architecture of llama.cpp.

    `activations` are those of ours that its MLP computes; GELU is always the tanh approximation there, from a table of half precision.
    `names` differ from NAMES where it wants tensors joined. `biased` are modules whose bias it requires: zeros where we have none.
    `turn` brings rows of queries and keys into its order. `scalings` are the scalings of rotary positions that its graph reads.
    """

    name: str
    activations: tuple[Activation, ...]
    names: Mapping[str, str] = field(default_factory=lambda: NAMES)
    biased: tuple[str, ...] = ()
    untied: bool = False
    turn: Callable[[Tensor, TransformerConfig], Tensor] | None = None
    scalings: tuple[str, ...] = ("linear", "yarn")
    biases: bool = True
    """Whether queries, keys and values may have biases."""


def to_neighbours(rows: Tensor, config: TransformerConfig) -> Tensor:
    """Rows of queries or keys (heads * head_width, …) from pairs of halves to pairs of neighbours, as llama.cpp's llama turns them."""
    return rows.unflatten(0, (-1, 2, config.head_width // 2)).transpose(1, 2).flatten(0, 2)


def to_halves(rows: Tensor, config: TransformerConfig) -> Tensor:
    """The other way, for the rotated part of each head."""
    heads, turned = rows.unflatten(0, (-1, config.head_width)), round(config.head_width * config.rotary.share)
    order = [*range(0, turned, 2), *range(1, turned, 2), *range(turned, config.head_width)]
    return heads[:, order].flatten(0, 1)


_GELU: tuple[Activation, ...] = ("gelu-tanh", "gelu")
_LLAMA = Target("llama", ("swiglu",), turn=to_neighbours, scalings=("linear", "yarn", "llama3"))
TARGETS = {
    "GPT2LMHeadModel": Target("gpt2", _GELU, NAMES | JOINED),
    # GPT-J's own name is known to llama.cpp and its graph is not; phi2 computes the same with other biases, all zero here.
    "GPTJForCausalLM": Target("phi2", _GELU, biased=BIASES, untied=True, turn=to_halves),
    "GPTNeoXForCausalLM": Target("gptneox", _GELU, NAMES | JOINED, biased=BIASES, untied=True),
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "MixtralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": Target("qwen2", ("swiglu",)),
    "Qwen3ForCausalLM": Target("qwen3", ("swiglu",), biases=False),
    "Qwen3MoeForCausalLM": Target("qwen3moe", ("swiglu",), biases=False),
}
"""By transformers' architecture."""


def target_of(family: Family, config: TransformerConfig) -> Target:
    """Raises InputError that says what llama.cpp does not compute."""
    target = TARGETS.get(family.architecture)
    if target is None:
        raise InputError(f"llama.cpp has no {family.architecture}; those that it runs: {', '.join(TARGETS)}")
    if miss := _missing(target, config):
        raise InputError(f"llama.cpp's {target.name} has no {miss}")
    return target


def _missing(target: Target, config: TransformerConfig) -> str | None:
    """What the shape has and the target has not."""
    windows = [window.width for layer in range(config.layers) if (window := config.window(layer))]
    scaling = config.rotary.scaling.kind if config.rotary.scaling and config.positions == "rotary" else None
    misses = {
        f"windows (here of {min(windows, default=0):,} tokens)": any(width < config.context for width in windows),
        f"activation {config.activation}": config.activation not in target.activations,
        f"rotary scaling {scaling}": scaling is not None and scaling not in target.scalings,
        "biases on queries, keys and values": config.qkv_bias and not target.biases,
        "scores that are not divided": config.score_scale not in (None, config.head_width**-0.5),
    }
    if config.experts is not None:
        misses["plain layers between those with experts"] = any(config.experts_of(layer) is None for layer in range(config.layers))
        misses["experts whose weights do not add up to 1"] = not config.experts.normalised
    return next((what for what, missing in misses.items() if missing), None)
