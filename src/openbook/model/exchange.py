"""Weights in and out: the Hugging Face folder of a stock architecture of exactly our shape.

modern: `Qwen3ForCausalLM`. gpt: `GPT2LMHeadModel`, and with bands `GPTNeoForCausalLM`. `save_weights` writes `config.json` and
`model.safetensors`, `load_weights` reads them back, from this project or from anywhere else. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from openbook.errors import InputError, OpenbookError
from openbook.files import write_json, written_aside
from openbook.model.config import Rotary, Window
from openbook.model.transformer import Transformer, TransformerConfig

QWEN3, GPT2, GPT_NEO = "Qwen3ForCausalLM", "GPT2LMHeadModel", "GPTNeoForCausalLM"
GPT: dict[str, Any] = {"norm": "layer", "positions": "learned", "output_bias": True, "activation": "gelu-tanh", "mlp_bias": True}
TANH_GELU = ("gelu_new", "gelu_pytorch_tanh")

_NAMES = {
    QWEN3: {"embedding": "model.embed_tokens", "final_norm": "model.norm", "head": "lm_head"},
    GPT2: {"embedding": "transformer.wte", "position": "transformer.wpe", "final_norm": "transformer.ln_f", "head": "lm_head"},
    GPT_NEO: {"embedding": "transformer.wte", "position": "transformer.wpe", "final_norm": "transformer.ln_f", "head": "lm_head"},
}
_LAYERS = {QWEN3: "model.layers", GPT2: "transformer.h", GPT_NEO: "transformer.h"}
_LAYER_NAMES = {
    QWEN3: {
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
    },
    GPT2: {
        "attention_norm": "ln_1",
        "attention.query": "attn.c_attn",
        "attention.key": "attn.c_attn",
        "attention.value": "attn.c_attn",
        "attention.output": "attn.c_proj",
        "mlp_norm": "ln_2",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    },
    GPT_NEO: {
        "attention_norm": "ln_1",
        "attention.query": "attn.attention.q_proj",
        "attention.key": "attn.attention.k_proj",
        "attention.value": "attn.attention.v_proj",
        "attention.output": "attn.attention.out_proj",
        "mlp_norm": "ln_2",
        "mlp.up": "mlp.c_fc",
        "mlp.down": "mlp.c_proj",
    },
}


@dataclass
class Stored:
    """How a tensor of the file is made: our parameters one under the other, transposed or not, times a number."""

    parts: list[str]
    transposed: bool = False
    scale: float = 1.0

    def write(self, parameters: Mapping[str, Tensor]) -> Tensor:
        whole = torch.cat([parameters[name].detach().float().cpu() for name in self.parts])
        return ((whole.t() if self.transposed else whole) * self.scale).contiguous()

    def read(self, tensor: Tensor, parameters: Mapping[str, Tensor]) -> None:
        """Fills our parameters. Raises ValueError, with the shape that would be right, if the tensor has another one."""
        shape = list(parameters[self.parts[0]].shape)
        shape[0] = sum(parameters[name].shape[0] for name in self.parts)
        if list(tensor.shape) != (wanted := shape[::-1] if self.transposed else shape):
            raise ValueError(str(wanted))
        whole = (tensor.t() if self.transposed else tensor) / self.scale
        for name, part in zip(self.parts, whole.split([parameters[name].shape[0] for name in self.parts]), strict=True):
            parameters[name].copy_(part)


def architecture(config: TransformerConfig) -> str:
    """The stock architecture of this shape."""
    if config.norm == "rms":
        return QWEN3
    return GPT2 if not any(config.windows) else GPT_NEO


def layout(model: Transformer) -> dict[str, Stored]:
    """The file's tensors by name. GPT-2 joins query, key and value and stores matrices as (in, out); GPT-Neo does not divide its scores
    by the root of the head's width, so the query's matrix is divided instead (exactly, where the width is a power of four)."""
    family = architecture(model.config)
    stored: dict[str, Stored] = {}
    for name, parameter in model.named_parameters():
        module, _, kind = name.rpartition(".")
        if module.startswith("layers."):
            _, index, inner = module.split(".", 2)
            exported = f"{_LAYERS[family]}.{index}.{_LAYER_NAMES[family][inner]}.{kind}"
            scale = model.config.head_width**-0.5 if family == GPT_NEO and inner == "attention.query" else 1.0
            new = Stored([], family == GPT2 and parameter.dim() == 2, scale)
        else:
            exported, new = f"{_NAMES[family][module]}.{kind}", Stored([])
        stored.setdefault(exported, new).parts.append(name)
    return stored


def exported_config(config: TransformerConfig, end_of_document: int) -> dict[str, Any]:
    """The content of `config.json`. Raises InputError if no stock architecture has this shape."""
    common = {
        "architectures": [architecture(config)],
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied_head,
        "bos_token_id": end_of_document,
        "eos_token_id": end_of_document,
        "dtype": "float32",
        "torch_dtype": "float32",
        "use_cache": True,
    }
    if config.norm == "rms":
        return _checked(config, common | _qwen3_facts(config))
    if config.kv_heads != config.heads or config.heads * config.head_width != config.width:
        raise InputError(
            f"{architecture(config)} has as many key heads as heads, which share its width: {config.heads} heads of {config.head_width} "
            f"with {config.kv_heads} key heads do not fit a width of {config.width}"
        )
    return _checked(config, common | (_gpt2_facts(config) if not any(config.windows) else _gpt_neo_facts(config)))


def _checked(config: TransformerConfig, content: dict[str, Any]) -> dict[str, Any]:
    """Raises InputError if the content describes another shape than this one."""
    name = content["architectures"][0]
    read = {QWEN3: _from_qwen3, GPT2: _from_gpt2, GPT_NEO: _from_gpt_neo}[name](content)
    wrong = [field.name for field in fields(config) if getattr(read, field.name) != getattr(config, field.name)]
    if wrong:
        raise InputError(f"{name} is the nearest stock architecture, and has no {wrong[0]} = {getattr(config, wrong[0])!r}")
    return content


def _qwen3_facts(config: TransformerConfig) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "max_position_embeddings": config.context,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.mlp_width,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rotary.theta,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "use_sliding_window": False,
    }


def _gpt2_facts(config: TransformerConfig) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "n_positions": config.context,
        "n_layer": config.layers,
        "n_embd": config.width,
        "n_head": config.heads,
        "n_inner": config.mlp_width,
        "activation_function": TANH_GELU[0],
        "layer_norm_epsilon": config.norm_eps,
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
    }


def _gpt_neo_facts(config: TransformerConfig) -> dict[str, Any]:
    pairs, odd = divmod(config.layers, 2)
    return {
        "model_type": "gpt_neo",
        "max_position_embeddings": config.context,
        "num_layers": config.layers,
        "hidden_size": config.width,
        "num_heads": config.heads,
        "intermediate_size": config.mlp_width,
        "attention_types": [[["global", "local"], pairs]] * bool(pairs) + [[["global"], 1]] * odd,
        "window_size": max(window.width for window in config.windows if window),
        "activation_function": TANH_GELU[0],
        "layer_norm_epsilon": config.norm_eps,
        "attention_dropout": 0.0,
        "embed_dropout": 0.0,
        "resid_dropout": 0.0,
    }


def save_weights(model: Transformer, folder: Path, end_of_document: int) -> None:
    """Writes `config.json` and `model.safetensors` (fp32), each whole or not at all."""
    write_json(folder / "config.json", exported_config(model.config, end_of_document))
    parameters = dict(model.named_parameters())
    tensors = {name: stored.write(parameters) for name, stored in layout(model).items()}
    path = folder / "model.safetensors"
    with written_aside(path) as aside:
        try:
            save_file(tensors, aside, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OpenbookError(f"{path}: cannot be written ({error}); nothing finished was lost") from None


def load_config(folder: Path) -> TransformerConfig:
    """Reads `config.json`. Raises InputError that names the file and what it lacks."""
    path = folder / "config.json"
    readers = {QWEN3: _from_qwen3, GPT2: _from_gpt2, GPT_NEO: _from_gpt_neo}
    try:
        content = json.loads(path.read_bytes())
        known = [name for name in readers if name in content["architectures"]]
        if not known:
            raise InputError(f"{path}: architecture {content['architectures']} is not {', '.join(readers)}")
        activation = content.get("activation_function", TANH_GELU[0])
        if activation not in TANH_GELU:
            raise InputError(f"{path}: activation_function {activation!r} is not {TANH_GELU[0]}")
        return readers[known[0]](content)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; train the run first") from None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a model configuration ({type(error).__name__}: {error})") from None


def _from_qwen3(content: dict[str, Any]) -> TransformerConfig:
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
        rotary=Rotary(content.get("rope_theta") or rope["rope_theta"]),
        query_key_norm=True,
        norm_eps=content["rms_norm_eps"],
        tied_head=content.get("tie_word_embeddings", False),
    )


def _from_gpt2(content: dict[str, Any]) -> TransformerConfig:
    width, heads = content["n_embd"], content["n_head"]
    return TransformerConfig(
        vocab_size=content["vocab_size"],
        context=content["n_positions"],
        layers=content["n_layer"],
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        mlp_width=content.get("n_inner") or 4 * width,
        norm_eps=content["layer_norm_epsilon"],
        tied_head=content.get("tie_word_embeddings", True),
        qkv_bias=True,
        **GPT,
    )


def _from_gpt_neo(content: dict[str, Any]) -> TransformerConfig:
    width, heads = content["hidden_size"], content["num_heads"]
    kinds = [kind for names, count in content["attention_types"] for kind in names * count]
    if kinds != [("global", "local")[layer % 2] for layer in range(content["num_layers"])]:
        raise ValueError(f"attention_types {content['attention_types']} should be global and local in turns")
    return TransformerConfig(
        vocab_size=content["vocab_size"],
        context=content["max_position_embeddings"],
        layers=content["num_layers"],
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        mlp_width=content.get("intermediate_size") or 4 * width,
        norm_eps=content["layer_norm_epsilon"],
        tied_head=content.get("tie_word_embeddings", True),
        windows=(None, Window(content["window_size"])),
        **GPT,
    )


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
    wanted, parameters = layout(model), dict(model.named_parameters())
    if odd := sorted(set(wanted) ^ set(tensors)):
        raise InputError(f"{path}: tensor {odd[0]} is {'missing' if odd[0] in wanted else 'unknown to this architecture'}")
    with torch.no_grad():
        for name, stored in wanted.items():
            try:
                stored.read(tensors[name], parameters)
            except ValueError as shape:
                raise InputError(f"{path}: tensor {name} has shape {list(tensors[name].shape)}; config.json calls for {shape}") from None
    return model.eval().to(device)
