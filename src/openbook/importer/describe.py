"""A recipe for a model that openbook did not train: its shape in full, and of its training only that nothing is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from openbook.model.config import TransformerConfig, Window

STYLES = {
    "gpt2": "gpt",
    "gpt_neo": "gpt-neo",
    "gptj": "gpt-j",
    "gpt_neox": "gpt-neox",
    "opt": "opt",
    "qwen3": "qwen3",
    "mixtral": "moe",
    "qwen3_moe": "moe",
}
"""The recipe's style of each model type; "llama" of the others."""
UNKNOWN = "the training text of an imported model is not known to openbook"


def recipe_text(name: str, description: str, model_type: str, config: TransformerConfig) -> str:
    """A recipe as TOML. Its corpus has one component, which is not available, and its training one step, which is never taken."""
    style = STYLES.get(model_type, "llama")
    vocabulary = {"vocab_size": config.vocab_size, "kind": "bpe" if config.vocab_size >= 258 else "characters"}
    component = {"source": "files", "path": ".", "weight": 1.0, "available": False, "unavailable": UNKNOWN}
    lines = [f"name = {json.dumps(name)}", f"description = {json.dumps(description)}"]
    lines += _table("corpus.components.unknown", component)
    lines += _table("tokenizer", vocabulary)
    lines += _model(config, style)
    lines += _table("train", {"steps": 1, "microbatch_rows": 1})
    return "\n".join(lines) + "\n"


def _model(config: TransformerConfig, style: str) -> list[str]:
    """Every dial, whatever the style says of it; those that are None are None in the style, too."""
    tables = ("rotary", "experts", "windows", "vocab_size")
    plain = {field.name: getattr(config, field.name) for field in fields(TransformerConfig) if field.name not in tables}
    lines = _table("model", {"style": style, **plain, "windows": [_window(window) for window in config.windows]})
    if config.positions == "rotary":
        rotary = asdict(config.rotary)
        scaling = rotary.pop("scaling")
        lines += _table("model.rotary", rotary)
        lines += _table("model.rotary.scaling", scaling) if scaling else []
    return lines + (_table("model.experts", asdict(config.experts)) if config.experts else [])


def _window(window: Window | None) -> int:
    return window.width if window else 0


def _table(name: str, values: Mapping[str, Any]) -> list[str]:
    written = {key: value for key, value in values.items() if value is not None}
    return ["", f"[{name}]", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in written.items())]
