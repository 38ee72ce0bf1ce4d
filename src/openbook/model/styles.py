"""Styles: named rows of defaults for `[model]`, each the shape of a published family. What a recipe sets itself goes before its style.

A row holds what differs from `TransformerConfig`'s own defaults. Sizes of other people's models (widths, layers, heads) are no style.
"""

from __future__ import annotations

from typing import Any

Row = dict[str, Any]

_NORMAL: Row = {"start": "normal", "embedding_std": 0.02}
_LAYER_NORM: Row = {"norm": "layer", "norm_eps": 1e-5}
_BIASES: Row = {"qkv_bias": True, "output_bias": True, "mlp_bias": True}
_GPT: Row = {**_NORMAL, **_LAYER_NORM, "positions": "learned", "activation": "gelu-tanh", "tied_head": True}
_NO_SCALES: Row = {"tied_head": False, "rotary": {"theta": 10_000.0}}

STYLES: dict[str, Row] = {
    # Qwen3's shape; layers start as the identity, which Muon likes.
    "modern": {"start": "identity", "query_key_norm": True, "norm_eps": 1e-6, **_NO_SCALES},
    # Radford et al. 2019; with windows, GPT-3 (Brown et al. 2020); qkv_bias is then false, see openbook.recipe_model.
    "gpt": {**_GPT, **_BIASES},
    # Black et al. 2021: scores are not divided by the root of the head's width.
    "gpt-neo": {**_GPT, **_BIASES, "qkv_bias": False, "windows": [0, 256], "score_scale": 1.0},
    # Wang and Komatsuzaki 2021: 64 of a head's 256 elements are rotated.
    "gpt-j": {
        **_NORMAL,
        **_LAYER_NORM,
        "norm_place": "parallel-shared",
        "rotary": {"theta": 10_000.0, "share": 0.25, "pairs": "neighbours"},
        "activation": "gelu-tanh",
        "mlp_bias": True,
        "tied_head": False,
        "head_bias": True,
    },
    # Black et al. 2022, Pythia (Biderman et al. 2023).
    "gpt-neox": {
        **_NORMAL,
        **_LAYER_NORM,
        **_BIASES,
        "norm_place": "parallel",
        "rotary": {"theta": 10_000.0, "share": 0.25},
        "activation": "gelu",
        "tied_head": False,
    },
    # Zhang et al. 2022. OPT-350M has norm_place = "post" and embedding_width = 512 besides.
    "opt": {**_GPT, **_BIASES, "position_offset": 2, "activation": "relu"},
    # Touvron et al. 2023; Llama 3 has a theta of 500,000, more text per word and a third of the key heads.
    "llama": {**_NORMAL, "norm_eps": 1e-5, **_NO_SCALES},
    # Yang et al. 2025, with the tables tied or not as its sizes have it.
    "qwen3": {**_NORMAL, "query_key_norm": True, "norm_eps": 1e-6, "tied_head": False, "rotary": {"theta": 1_000_000.0}},
    # Fedus et al. 2021: every second MLP is a mixture, one expert a token, with a capacity. Theirs is an encoder and decoder with relative
    # positions; this is a decoder with rotary ones.
    "switch": {
        **_NORMAL,
        **_NO_SCALES,
        "norm_eps": 1e-6,
        "activation": "relu",
        "tied_head": True,
        "experts": {"count": 8, "top_k": 1, "every": 2, "capacity": 1.25, "normalised": False, "balance_loss": 0.01},
    },
    # Jiang et al. 2024 (Mixtral), whose configuration weighs the balance by 0.02.
    "moe": {
        **_NORMAL,
        "norm_eps": 1e-5,
        "tied_head": False,
        "rotary": {"theta": 1_000_000.0},
        "experts": {"count": 8, "top_k": 2, "balance_loss": 0.02},
    },
}

MULTI_HEAD = ("gpt", "gpt-neo", "gpt-j", "gpt-neox", "opt")
"""Styles whose heads share the width between them, and have a key head each: no stock program knows them otherwise."""
