"""Weights in and out: the Hugging Face folder of `Qwen3ForCausalLM`, a stock architecture of exactly our shape.

`save_weights` writes `config.json` and `model.safetensors`, `load_weights` reads them back, from this project or from anywhere else.
Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from openbook.errors import InputError, OpenbookError
from openbook.files import write_json, written_aside
from openbook.model.transformer import Transformer, TransformerConfig

ARCHITECTURE = "Qwen3ForCausalLM"

_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "final_norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}
_LAYER_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "attention.query_norm": "self_attn.q_norm",
    "attention.key_norm": "self_attn.k_norm",
    "mlp_norm": "post_attention_layernorm",
    "mlp.gate": "mlp.gate_proj",
    "mlp.up": "mlp.up_proj",
    "mlp.down": "mlp.down_proj",
}


def exported_name(name: str) -> str:
    """The Hugging Face name of one of our parameters."""
    if name in _NAMES:
        return _NAMES[name]
    found = re.fullmatch(r"layers\.(\d+)\.(.+)\.weight", name)
    if found is None or found[2] not in _LAYER_NAMES:
        raise ValueError(f"no exported name for parameter {name}")
    return f"model.layers.{found[1]}.{_LAYER_NAMES[found[2]]}.weight"


def exported_config(config: TransformerConfig, end_of_document: int) -> dict[str, Any]:
    """The content of `config.json`."""
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "qwen3",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tied_head,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
        "bos_token_id": end_of_document,
        "eos_token_id": end_of_document,
        "dtype": "float32",
        "torch_dtype": "float32",
        "use_cache": True,
    }


def save_weights(model: Transformer, folder: Path, end_of_document: int) -> None:
    """Writes `config.json` and `model.safetensors` (fp32), each whole or not at all."""
    write_json(folder / "config.json", exported_config(model.config, end_of_document))
    tensors = {exported_name(name): parameter.detach().float().cpu().contiguous() for name, parameter in model.named_parameters()}
    path = folder / "model.safetensors"
    with written_aside(path) as aside:
        try:
            save_file(tensors, aside, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OpenbookError(f"{path}: cannot be written ({error}); nothing finished was lost") from None


def load_config(folder: Path) -> TransformerConfig:
    """Reads `config.json`. Raises InputError that names the file and what it lacks."""
    path = folder / "config.json"
    try:
        content = json.loads(path.read_bytes())
        if ARCHITECTURE not in content["architectures"]:
            raise InputError(f"{path}: architecture {content['architectures']} is not {ARCHITECTURE}")
        rope = content.get("rope_parameters") or {}
        return TransformerConfig(
            vocab_size=content["vocab_size"],
            context=content["max_position_embeddings"],
            layers=content["num_hidden_layers"],
            width=content["hidden_size"],
            heads=content["num_attention_heads"],
            kv_heads=content["num_key_value_heads"],
            head_width=content["head_dim"],
            mlp_width=content["intermediate_size"],
            rope_theta=content.get("rope_theta") or rope["rope_theta"],
            norm_eps=content["rms_norm_eps"],
            tied_head=content.get("tie_word_embeddings", False),
        )
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; train the run first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a model configuration ({type(error).__name__}: {error})") from None


def load_weights(folder: Path, device: str | torch.device = "cpu") -> Transformer:
    """A model ready for inference. Raises InputError if a tensor is missing, superfluous or of the wrong shape."""
    config, path = load_config(folder), folder / "model.safetensors"
    model = Transformer(config)
    try:
        tensors = load_file(path, device="cpu")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; train the run first") from None
    except SafetensorError as error:
        raise InputError(f"{path}: not a safetensors file ({error})") from None
    wanted = {exported_name(name): parameter for name, parameter in model.named_parameters()}
    if odd := sorted(set(wanted) ^ set(tensors)):
        raise InputError(f"{path}: tensor {odd[0]} is {'missing' if odd[0] in wanted else 'unknown to this architecture'}")
    with torch.no_grad():
        for name, parameter in wanted.items():
            if tensors[name].shape != parameter.shape:
                raise InputError(
                    f"{path}: tensor {name} has shape {list(tensors[name].shape)}; config.json calls for {list(parameter.shape)}"
                )
            parameter.copy_(tensors[name])
    return model.eval().to(device)
