"""What the published models are and cost: each row of the table of presets as a transformer, counted."""

from __future__ import annotations

from typing import Any

from openbook.model.config import TransformerConfig
from openbook.model.count import BYTES, active_parameters, cache_bytes_per_token, flops_per_token, total_parameters, weight_bytes
from openbook.model.presets import Preset
from openbook.recipe_model import ModelSection, config_of, resolve_model


def shape_of(found: Preset) -> TransformerConfig:
    """The transformer that a preset is."""
    return config_of(resolve_model(ModelSection.model_validate(found.shape), []), found.vocab_size)


def facts(found: Preset) -> dict[str, Any]:
    """A preset in figures, JSON-ready. Floating-point operations are a token's in training, over a whole context (`flops_per_token`);
    the cache's bytes are of bf16."""
    config = shape_of(found)
    return {
        "name": found.name,
        "family": found.family,
        "parameters": total_parameters(config),
        "active": active_parameters(config),
        "printed": found.printed,
        "printed_active": found.printed_active,
        "layers": config.layers,
        "width": config.width,
        "heads": config.heads,
        "kv_heads": config.kv_heads,
        "context": config.context,
        "vocab_size": config.vocab_size,
        "flops_per_token": flops_per_token(config),
        "weight_bytes": {precision: weight_bytes(config, precision) for precision in BYTES},
        "cache_bytes_per_token": cache_bytes_per_token(config),
        "shape": found.shape,
        "training": found.training,
        "paper": found.paper,
        "source": found.source,
        "notes": list(found.notes),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The presets as a Markdown table, for docs/models.md."""
    lines = [
        "| preset | parameters | active | as printed | layers | width | context | FLOPs a token | weights in bf16 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        sizes = f"{row['layers']} | {row['width']:,} | {row['context']:,}"
        active = f"{row['active']:,}" if row["active"] != row["parameters"] else ""
        printed = row["printed"] + (f" ({row['printed_active']})" if row["printed_active"] else "")
        costs = f"{row['flops_per_token']:.3g} | {row['weight_bytes']['bf16'] / 1e9:.3g} GB"
        lines.append(f"| `{row['name']}` | {row['parameters']:,} | {active} | {printed} | {sizes} | {costs} |")
    return "\n".join(lines)
