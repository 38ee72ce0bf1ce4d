"""nanoGPT's checkpoints: `ckpt.pt` with the model's arguments, and GPT-2's modules with matrices as (out, in)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from openbook.errors import InputError
from openbook.model.config import TransformerConfig
from openbook.model.exchange.facts import Facts
from openbook.model.exchange.family import Stored, layout
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
    biased = Facts(path, arguments, "model_args.").flag("bias", True)
    _require(path, layout(NANOGPT, config, described), described, tensors, biased, allow_extra)
    model = Transformer(config)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, stored in layout(NANOGPT, config, parameters).items():
            if name in tensors:
                stored.read(tensors[name], parameters)
            else:  # a bias that the model does not have
                for part, _ in stored.parts:
                    parameters[part].zero_()
    return model.eval()


def _config(facts: Facts) -> TransformerConfig:
    width, heads = facts.whole("n_embd"), facts.whole("n_head")
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
        qkv_bias=True,
        output_bias=True,
        activation="gelu",
        mlp_bias=True,
        tied_head=True,
    )


def _require(
    path: Path,
    wanted: Mapping[str, Stored],
    described: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    biased: bool,
    allow_extra: bool,
) -> None:
    """Everything is there, but for biases where there are none, has its shape, and there is nothing else."""
    for name, stored in wanted.items():
        if name not in tensors:
            if name.endswith(".bias") and not biased:
                continue
            raise InputError(f"{path}: tensor {name} is missing")
        if list(tensors[name].shape) != (shape := stored.shape(described)):
            raise InputError(f"{path}: tensor {name} has shape {list(tensors[name].shape)}; model_args call for {shape}")
    buffers = {name for name in tensors if name.endswith(".attn.bias")}
    extra = sorted(set(tensors) - set(wanted) - {"lm_head.weight"} - buffers)
    if extra and not allow_extra:
        raise InputError(f"{path}: tensor {extra[0]} is unknown to nanoGPT; --allow-extra leaves such tensors out")
