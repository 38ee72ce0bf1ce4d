"""What follows from a size and a budget of tokens: shape, batch, learning rates, weight decay, warm-up.

Each rule is a published fit, and its constant is set where something was measured: this project's pocket recipe (4 layers of width 128,
2.25 million tokens; docs/experiments.md) at the small end, GPT-3's table or nanochat's 12-layer model at the large one. N stands for all
parameters, D for the tokens of the run, B for the tokens of a step.
"""

from __future__ import annotations

ASPECT, ASPECT_SIZE, ASPECT_GROWTH = 64, 124e6, 0.1
"""Width over layers is 64 at GPT-2's 124M (as in nanochat), and grows with N^0.1: 132 at 175B, where GPT-3's is 128; 81 at 1.3B, 85 in
GPT-3's; 39 at 1M, where 32 was measured to be better than 64 (docs/experiments.md)."""
NARROW, WIDE = 64, 1024
"""Widths are multiples of the first; from the second on of 128, with heads as wide (nanochat; GPT-3 from 13B on)."""
NEAR = 0.1
"""A size within this share of the one asked for is as good as it."""
MICROBATCH_TOKENS = 16_384
POCKET_TOKENS, POCKET_BATCH, POCKET_WIDTH = 2.25e6, 4096, 128
NANOCHAT_TOKENS, NANOCHAT_BATCH = 1.4e9, 2**19


def parameters(layers: int, width: int, vocab_size: int, tables: int) -> int:
    """About all of them: 12 * width^2 a layer (Kaplan et al. 2020, section 2.1), and one or two tables of the vocabulary."""
    return 12 * layers * width**2 + tables * vocab_size * width


def shape(size: float, vocab_size: int, tables: int, layers: int | None = None, width: int | None = None) -> tuple[int, int]:
    """(layers, width) for a number of parameters: of those within 10 % of it the nearest to the aspect, else the nearest to it.

    What is given stays.
    """
    widest = int((size / 12) ** 0.5) + 256
    widths = [width] if width else [w for w in range(NARROW, widest, NARROW) if w < WIDE or w % 128 == 0]
    choices = []
    for wide in widths:
        fitting = max(1, round((size - tables * vocab_size * wide) / (12 * wide**2)))
        choices.append((layers or fitting, wide))

    def misfit(choice: tuple[int, int]) -> tuple[float, float]:
        off = abs(parameters(*choice, vocab_size, tables) / size - 1)
        aspect = choice[1] / choice[0] / (ASPECT * (size / ASPECT_SIZE) ** ASPECT_GROWTH)
        return (0.0, max(aspect, 1 / aspect)) if off <= NEAR else (off, 0.0)

    return min(choices, key=misfit)


def batch_tokens(tokens: float) -> float:
    """B: grows with D^(2/3) from the pocket recipe's, and with D^0.383 from nanochat's; the smaller of both, which meet at 10 billion.

    The first is the OLMo ladder's rule for a fixed D/N, the second a fit over many D/N (Bergsma et al. 2025, "Power Lines").
    """
    return min(POCKET_BATCH * (tokens / POCKET_TOKENS) ** (2 / 3), NANOCHAT_BATCH * (tokens / NANOCHAT_TOKENS) ** 0.383)


def nearest_power_of_two(value: float) -> int:
    """In proportion; at least 1."""
    low = 1 << max(1, int(value)).bit_length() - 1
    return 2 * low if value > low * 2**0.5 else low


def rows_and_microbatches(batch: float, context: int, rows: int | None, microbatches: int | None) -> tuple[int, int]:
    """(rows of a microbatch, microbatches of a step) for about `batch` tokens; what is given stays.

    A microbatch has up to 16,384 tokens.
    """
    if rows is None:
        wanted = nearest_power_of_two(batch / context / (microbatches or 1))
        rows = wanted if microbatches else min(wanted, nearest_power_of_two(MICROBATCH_TOKENS / context))
    return rows, microbatches or nearest_power_of_two(batch / context / rows)


def muon_rates(width: int, batch: float, tokens: float) -> dict[str, float]:
    """The pocket recipe's rates, which for matrices and embedding are also nanochat's at width 768.

    The head's falls with the root of the width (nanochat). A batch other than the rule's takes rates in proportion to its root
    (nanochat; Malladi et al. 2022).
    """
    root = (batch / batch_tokens(tokens)) ** 0.5
    head = 0.012 * (POCKET_WIDTH / width) ** 0.5
    rates = {"matrix_rate": 0.02, "embedding_rate": 0.2, "head_rate": head, "norm_rate": 0.01}
    return {name: three_digits(rate * root) for name, rate in rates.items()}


def adamw_rate(size: float, batch: float, tokens: float) -> float:
    """GPT-3's 6e-4 at 125 million parameters, falling with N^(1/3) as in the OLMo ladder: within 60 % of GPT-3's table up to 175B."""
    return three_digits(6e-4 * (size / 125e6) ** (-1 / 3) * (batch / batch_tokens(tokens)) ** 0.5)


def weight_decay(rate: float, steps: int, size: float, tokens: float) -> float:
    """Such that weights forget in a share of the run that falls with D/N: 1 / (rate * steps * share), share = 1.084 * (D/N)^-0.527.

    For AdamW; under Muon the same decay was measured to harm (docs/experiments.md). The time scale is Wang and Aitchison's (2024), the
    law in D/N Bergsma et al.'s (2025, "Power Lines"). It gives 0.15 to 0.32 for GPT-3's models, which took 0.1.
    """
    return three_digits(1 / (rate * steps * 1.084 * (tokens / size) ** -0.527))


def warmup(size: float, tokens: float) -> float:
    """The pocket recipe's 3 % of the run, or N tokens (the OLMo ladder) if that is less."""
    return three_digits(min(0.03, size / tokens))


def three_digits(value: float) -> float:
    return float(f"{value:.3g}")
