"""Random adapters with peft's names and files, and the models that they make."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from openbook.model.transformer import Transformer

RANK, ALPHA = 4, 16
LLAMA = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}


def matrices(model: Transformer, layer: int) -> dict[str, torch.nn.Module]:
    block = model.layers[layer]
    return {name: getattr(block.attention, name, None) or getattr(block.mlp, name) for name in LLAMA}


def adapter(seed: int, model: Transformer, modules: dict[str, str] = LLAMA, size: float = 0.15) -> tuple[dict[str, Tensor], Transformer]:
    """Random tensors with peft's names, and the model with the same change merged into its weights."""
    random = torch.Generator().manual_seed(seed)
    tensors, merged = {}, copy.deepcopy(model)
    for layer in range(len(model.layers)):
        for ours, theirs in modules.items():
            weight = matrices(merged, layer)[ours].weight
            down = torch.randn(RANK, weight.shape[1], generator=random) * size
            up = torch.randn(weight.shape[0], RANK, generator=random) * size
            name = f"base_model.model.model.layers.{layer}.{theirs}"
            tensors |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
            with torch.no_grad():
                weight += up @ down * (ALPHA / RANK)
    return tensors, merged


def written(folder: Path, tensors: dict[str, Tensor], **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    content = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "bias": "none",
        "use_dora": False,
        "target_modules": ["q_proj"],
        **settings,
    }
    (folder / "adapter_config.json").write_text(json.dumps(content))
    return folder
