"""nanoGPT's checkpoints: `ckpt.pt` with the model's arguments, and GPT-2's modules with matrices as (out, in)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openbook.errors import InputError
from openbook.model.config import TransformerConfig
from openbook.model.exchange.facts import Facts
from openbook.model.exchange.family import Family, layout
from openbook.model.exchange.gpt2 import GPT2
from openbook.model.exchange.tensors import unpickle
from openbook.model.transformer import Transformer

COMPILED = "_orig_mod."
"""What torch.compile puts before every name."""
NANOGPT = replace(GPT2, architecture="nanoGPT", transposed=False)


def read_checkpoint(path: Path, allow_extra: bool) -> Transformer:
    """The model of a checkpoint. Raises InputError if it is none of nanoGPT's, or is not whole."""
    content = unpickle(path)
    arguments, state = content.get("model_args"), content.get("model")
    if not isinstance(arguments, dict) or not isinstance(state, dict):
        raise InputError(f"{path}: not a checkpoint of nanoGPT, which holds model and model_args; has {', '.join(map(str, content))[:200]}")
    tensors = {str(name).removeprefix(COMPILED): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    config = _config(Facts(path, arguments, "model_args."))
    with torch.device("meta"):
        described = dict(Transformer(config).named_parameters())
    _require(path, NANOGPT, config, described, tensors, allow_extra)
    model = Transformer(config)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, stored in layout(NANOGPT, config, parameters).items():
            if name in tensors:
                stored.read(tensors[name], parameters)
            else:  # a norm without bias
                for part, _ in stored.parts:
                    parameters[part].zero_()
    return model.eval()


def _config(facts: Facts) -> TransformerConfig:
    width, heads, biased = facts.whole("n_embd"), facts.whole("n_head"), facts.flag("bias", True)
    if width % heads:
        raise facts.wrong("n_head", f"should divide n_embd = {width}")
    return TransformerConfig(
        vocab_size=facts.whole("vocab_size"),
        context=facts.whole("block_size"),
        layers=facts.whole("n_layer", most=1024),
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        mlp_width=4 * width,
        norm="layer",
        norm_eps=1e-5,
        positions="learned",
        qkv_bias=biased,
        output_bias=biased,
        activation="gelu",
        mlp_bias=biased,
        tied_head=True,
    )


def _require(
    path: Path, family: Family, config: TransformerConfig, described: Mapping[str, Any], tensors: Mapping[str, Tensor], allow_extra: bool
) -> None:
    """Everything is there, has its shape, and there is nothing else."""
    wanted = layout(family, config, described)
    for name, stored in wanted.items():
        if name not in tensors:
            if name.endswith(".bias") and not config.mlp_bias:
                continue
            raise InputError(f"{path}: tensor {name} is missing")
        if list(tensors[name].shape) != (shape := stored.shape(described)):
            raise InputError(f"{path}: tensor {name} has shape {list(tensors[name].shape)}; model_args call for {shape}")
    buffers = {name for name in tensors if name.endswith(".attn.bias")}
    extra = sorted(set(tensors) - set(wanted) - {"lm_head.weight"} - buffers)
    if extra and not allow_extra:
        raise InputError(f"{path}: tensor {extra[0]} is unknown to nanoGPT; --allow-extra leaves such tensors out")
