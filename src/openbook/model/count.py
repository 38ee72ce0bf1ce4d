"""What a shape costs, by formula: parameters by part, floating-point operations a token, bytes of weights and of the key-value cache."""

from __future__ import annotations

from dataclasses import dataclass

from openbook.model.config import GATED, TransformerConfig, Window

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5}
"""Of one number in each precision; scales of quantised blocks come on top."""


@dataclass(frozen=True)
class Count:
    """Parameters of a part. `active` take part in computing one token; `matrices` are the active ones in matrix products."""

    total: int
    active: int
    matrices: int


def parameters(config: TransformerConfig) -> dict[str, Count]:
    """Every parameter, in one of the parts embedding, positions, attention, mlp, experts, norms, head. A tied head counts as embedding,
    and its product as the head's."""
    width, narrow = config.width, config.embedding_width or config.width
    projection = width * narrow if config.embedding_width else 0
    table = config.vocab_size * narrow
    mixtures = sum(config.experts_of(layer) is not None for layer in range(config.layers))
    learned = (config.context + config.position_offset) * width if config.positions == "learned" else 0
    head_bias = config.vocab_size if config.head_bias else 0
    own_head = 0 if config.tied_head else table
    return {
        "embedding": Count(table + projection, table + projection, projection),
        "positions": Count(learned, learned, 0),
        "attention": _times(config.layers, _attention(config)),
        "mlp": _times(config.layers - mixtures, _mlp(config, config.mlp_width)),
        "experts": _times(mixtures, _mixture(config)),
        "norms": _norms(config),
        "head": Count(own_head + projection + head_bias, own_head + projection + head_bias, table + projection),
    }


def _times(layers: int, one: Count) -> Count:
    return Count(layers * one.total, layers * one.active, layers * one.matrices)


def _attention(config: TransformerConfig) -> Count:
    queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width
    matrices = 2 * config.width * (queries + keys)
    biases = config.qkv_bias * (queries + 2 * keys) + config.output_bias * config.width
    norms = 2 * config.head_width if config.query_key_norm else 0
    return Count(matrices + biases + norms, matrices + biases + norms, matrices)


def _mlp(config: TransformerConfig, inner: int) -> Count:
    inwards = 2 if config.activation in GATED else 1
    matrices = (inwards + 1) * config.width * inner
    biases = config.mlp_bias * (inwards * inner + config.width)
    return Count(matrices + biases, matrices + biases, matrices)


def _mixture(config: TransformerConfig) -> Count:
    if config.experts is None:
        return Count(0, 0, 0)
    one, shared = _mlp(config, config.experts.mlp_width), _mlp(config, config.experts.shared) if config.experts.shared else Count(0, 0, 0)
    router = config.experts.count * config.width
    always, matrices = router + shared.total, router + shared.matrices
    top = config.experts.top_k
    return Count(always + config.experts.count * one.total, always + top * one.total, matrices + top * one.matrices)


def _norms(config: TransformerConfig) -> Count:
    each = config.width * (1 if config.norm == "rms" else 2)
    norms = config.layers * (1 if config.norm_place == "parallel-shared" else 2) + (config.norm_place != "post")
    return Count(norms * each, norms * each, 0)


def total_parameters(config: TransformerConfig) -> int:
    return sum(count.total for count in parameters(config).values())


def active_parameters(config: TransformerConfig) -> int:
    return sum(count.active for count in parameters(config).values())


def matmul_parameters(config: TransformerConfig) -> int:
    """Parameters that take part in a matrix product for each token (the head, but not the embedding lookup)."""
    return sum(count.matrices for count in parameters(config).values())


def seen(window: Window | None, span: int) -> float:
    """Positions that a token sees in a layer, on average over a text of `span` tokens: half of it; with a window its width, less its
    incomplete beginning; with a stride one in so many of what is further back."""
    near = min(window.width, span) if window else span
    far = (span - near) ** 2 / (2 * window.stride * span) if window and window.stride else 0.0
    return near - near * near / (2 * span) + far


def flops_per_token(config: TransformerConfig, context: int | None = None) -> float:
    """Floating-point operations to train on one token: forward and backward, causal attention counted once. A third of it for the forward
    pass alone.

    6 per matmul parameter, plus 12 * heads * head_width for each position that the token sees in each layer, on average (Kaplan et al.
    2020, section 2.1, halved). Experts count as if none dropped a token.
    """
    span = context or config.context
    positions = sum(seen(config.window(layer), span) for layer in range(config.layers))
    return 6.0 * matmul_parameters(config) + 12.0 * positions * config.heads * config.head_width


def weight_bytes(config: TransformerConfig, precision: str = "bf16") -> float:
    """Bytes of all weights in one of the precisions of `BYTES`."""
    return total_parameters(config) * BYTES[precision]


def cache_bytes_per_token(config: TransformerConfig, precision: str = "bf16") -> float:
    """Bytes of keys and values that one more token adds, in layers that keep all of the context."""
    return 2.0 * config.layers * config.kv_heads * config.head_width * BYTES[precision]
