"""Rotary positions in `config.json`: `rope_theta` with `rope_scaling`, or `rope_parameters` with both (transformers 5)."""

from __future__ import annotations

import math
from typing import Any

from openbook.model.config import Rotary, RotaryScaling, TransformerConfig
from openbook.model.exchange.facts import Facts

KINDS = {"default": "default", "linear": "linear", "llama3": "llama3", "yarn": "yarn"}
FAST, SLOW = 32.0, 1.0
"""yarn's defaults (Peng et al. 2023, section 3.2)."""


def read_rotary(facts: Facts, share: float = 1.0, theta: float = 10_000.0) -> Rotary:
    """`theta` and `share` are the architecture's defaults."""
    parameters = facts.table("rope_scaling") or facts.table("rope_parameters")
    source = parameters if parameters is not None and "rope_theta" in parameters else facts
    theta = source.number("rope_theta", theta)
    if parameters is None:
        return Rotary(theta, share)
    key = "rope_type" if "rope_type" in parameters else "type"
    kind = parameters.choice(key, KINDS, "default")
    if kind == "default":
        return Rotary(theta, share)
    context = facts.whole("max_position_embeddings")
    factor = parameters.number("factor")
    if kind == "linear":
        return Rotary(theta, share, scaling=RotaryScaling("linear", factor, context))
    original = parameters.whole("original_max_position_embeddings", facts.whole("original_max_position_embeddings", context))
    if kind == "llama3":
        slow, fast = parameters.number("low_freq_factor"), parameters.number("high_freq_factor")
        return Rotary(theta, share, scaling=RotaryScaling("llama3", factor, original, slow, fast))
    parameters.require({"truncate": True})
    slow, fast = parameters.number("beta_slow", SLOW), parameters.number("beta_fast", FAST)
    return Rotary(theta, share, scaling=RotaryScaling("yarn", factor, original, slow, fast, _attention(parameters, factor)))


def _attention(parameters: Facts, factor: float) -> float | None:
    """yarn's factor on queries and keys, where it is not the paper's."""
    if "attention_factor" in parameters:
        return parameters.number("attention_factor")
    if "mscale" in parameters and "mscale_all_dim" in parameters:
        above, below = (0.1 * parameters.number(key) * math.log(factor) + 1 for key in ("mscale", "mscale_all_dim"))
        return above / below if factor > 1 else 1.0
    return None


def written_rotary(config: TransformerConfig) -> dict[str, Any]:
    """The keys that every version of transformers since 4.43 reads."""
    scaling = config.rotary.scaling
    if scaling is None:
        return {"rope_theta": config.rotary.theta, "rope_scaling": None}
    content: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        content |= {"low_freq_factor": scaling.slow, "high_freq_factor": scaling.fast}
    if scaling.kind == "yarn":
        content |= {"beta_slow": scaling.slow, "beta_fast": scaling.fast}
        content |= {} if scaling.attention is None else {"attention_factor": scaling.attention}
    if scaling.kind != "linear":
        content["original_max_position_embeddings"] = scaling.original_context
    return {"rope_theta": config.rotary.theta, "rope_scaling": content}
