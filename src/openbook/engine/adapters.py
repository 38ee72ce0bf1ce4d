"""LoRA adapters (Hu et al. 2021) in peft's format: `adapter_config.json` and `adapter_model.safetensors`, read as hostile files are."""

from __future__ import annotations

import json
import math
import re
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from openbook.engine.linear import Precision, activation_type, product
from openbook.engine.model import Adapter, Delta
from openbook.errors import InputError
from openbook.model.config import GATED, TransformerConfig
from openbook.model.transformer import Transformer

FILES = ("adapter_config.json", "adapter_model.safetensors")
LARGEST_CONFIG = 2**20
LARGEST_WEIGHTS = 2**30
"""Bytes of the two files."""
LARGEST_RANK = 1024

_NAME = re.compile(r"base_model\.model\.(?:[a-z_]+\.)*(?:layers|h)\.(\d{1,4})\.([a-z0-9_.]+)\.lora_([AB])\.weight")
_MODULES = {
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "c_attn": "query key value",
    "query_key_value": "heads of query key value",
    "o_proj": "output",
    "out_proj": "output",
    "attn.c_proj": "output",
    "attention.dense": "output",
    "gate_proj": "gate",
    "up_proj": "up",
    "c_fc": "up",
    "fc_in": "up",
    "fc1": "up",
    "dense_h_to_4h": "up",
    "down_proj": "down",
    "mlp.c_proj": "down",
    "fc_out": "down",
    "fc2": "down",
    "dense_4h_to_h": "down",
}
"""The ends of the names of matrices in stock architectures: Llama and its kin, GPT-2, GPT-Neo, GPT-J, GPT-NeoX, OPT."""
_REFUSED = {"use_dora": False, "bias": "none", "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "lora_bias": False}
"""What of peft is not done, and the value that means so."""


def load_adapter(folder: Path, model: Transformer, precision: Precision) -> Adapter:
    """Reads an adapter for a model. Raises InputError, which names the file and what is wrong with it, if it cannot be used."""
    scale, rank = _settings(folder / FILES[0])
    path = folder / FILES[1]
    content = _read(path, LARGEST_WEIGHTS)
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None
    pairs: dict[tuple[int, str], dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        layer, module, side = _placed(name, model, path)
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise InputError(f"{path}: tensor {name} should hold finite numbers")
        pairs.setdefault((layer, module), {})[side] = tensor.float().to(model.embedding.weight.device)
    if not pairs:
        raise InputError(f"{path}: has no tensors")
    kind: Precision = "fp32" if activation_type(precision, model.embedding.weight.device) == torch.float32 else "bf16"
    deltas: dict[tuple[int, str], list[Delta]] = {}
    for (layer, module), pair in pairs.items():
        for part, outputs in _parts(module, model.config):
            joint, start, stop, inputs = place(part, model.config)
            down, up = pair.get("A"), pair.get("B")
            whole = sum(count for _, count in _parts(module, model.config))
            if down is None or up is None or down.shape != (rank, inputs) or up.shape != (whole, rank):
                wanted, found = f"lora_A [{rank}, {inputs}] and lora_B [{whole}, {rank}]", [list(side.shape) for side in pair.values()]
                raise InputError(f"{path}: layer {layer}'s {module} should have {wanted}, not {found}")
            own = _rows(module, part, up, outputs, model.config) * scale
            delta = Delta(start, stop, product(down.contiguous(), None, kind), product(own.contiguous(), None, kind))
            deltas.setdefault((layer, joint), []).append(delta)
    return Adapter(blake2b(content + repr(scale).encode(), digest_size=16).hexdigest(), deltas)


def _read(path: Path, largest: int) -> bytes:
    try:
        if path.stat().st_size > largest:
            raise InputError(f"{path}: is larger than {largest} bytes")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def _settings(path: Path) -> tuple[float, int]:
    """What the product of an adapter's matrices is multiplied by, and its rank."""
    try:
        content: Any = json.loads(_read(path, LARGEST_CONFIG))
        if content["peft_type"] != "LORA":
            raise InputError(f"{path}: peft_type {content['peft_type']!r} should be 'LORA'")
        for key, without in _REFUSED.items():
            if content.get(key, without) not in (without, None, [], {}):
                raise InputError(f"{path}: {key} = {content[key]!r} is not supported; it should be {without!r}")
        rank, alpha = content["r"], content["lora_alpha"]
        if type(rank) is not int or not 1 <= rank <= LARGEST_RANK:
            raise InputError(f"{path}: r = {rank!r} should be between 1 and {LARGEST_RANK}")
        if not isinstance(alpha, int | float) or not math.isfinite(alpha):
            raise InputError(f"{path}: lora_alpha = {alpha!r} should be a number")
        return alpha / (math.sqrt(rank) if content.get("use_rslora") else rank), rank
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise InputError(f"{path}: not an adapter's configuration ({type(error).__name__}: {error})") from None


def _placed(name: str, model: Transformer, path: Path) -> tuple[int, str, str]:
    """(layer, module, "A" or "B") of a tensor."""
    match = _NAME.fullmatch(name)
    module = next((ours for theirs, ours in _MODULES.items() if match and f".{match[2]}".endswith(f".{theirs}")), None)
    if match is None or module is None:
        raise InputError(f"{path}: tensor {name[:200]!r} is no adapter of a matrix that this server can adapt")
    layer, config = int(match[1]), model.config
    missing = layer >= config.layers or (module == "gate" and config.activation not in GATED)
    if missing or (module in ("gate", "up", "down") and config.experts_of(layer) is not None):
        raise InputError(f"{path}: tensor {name[:200]!r}: this model has no such matrix")
    return layer, module, match[3]


def _parts(module: str, config: TransformerConfig) -> list[tuple[str, int]]:
    """The model's own matrices in one of theirs, with their outputs."""
    outputs = {
        "query": config.heads * config.head_width,
        "key": config.kv_heads * config.head_width,
        "value": config.kv_heads * config.head_width,
        "output": config.width,
        "gate": config.mlp_width,
        "up": config.mlp_width,
        "down": config.width,
    }
    return [(part, outputs[part]) for part in module.removeprefix("heads of ").split()]


def place(part: str, config: TransformerConfig) -> tuple[str, int, int, int]:
    """(product, first output, the one after the last, inputs) of a matrix."""
    heads, kv_heads = config.heads * config.head_width, config.kv_heads * config.head_width
    before = config.mlp_width if config.activation in GATED else 0
    return {
        "query": ("qkv", 0, heads, config.width),
        "key": ("qkv", heads, heads + kv_heads, config.width),
        "value": ("qkv", heads + kv_heads, heads + 2 * kv_heads, config.width),
        "output": ("output", 0, config.width, heads),
        "gate": ("up", 0, before, config.width),
        "up": ("up", before, before + config.mlp_width, config.width),
        "down": ("down", 0, config.width, config.mlp_width),
    }[part]


def _rows(module: str, part: str, up: Tensor, outputs: int, config: TransformerConfig) -> Tensor:
    """The rows of lora_B that belong to a part: (outputs, rank). GPT-NeoX has query, key and value head by head."""
    names = [name for name, _ in _parts(module, config)]
    if module.startswith("heads of"):
        return up.view(config.heads, 3, config.head_width, -1)[:, names.index(part)].flatten(0, 1)
    start = sum(count for name, count in _parts(module, config)[: names.index(part)])
    return up[start : start + outputs]
