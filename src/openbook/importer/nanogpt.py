"""nanoGPT's checkpoints: `ckpt.pt` with the model's arguments, and GPT-2's modules with matrices as (out, in)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from openbook.errors import InputError
from openbook.importer.shapes import require_shapes
from openbook.model.exchange.facts import Facts
from openbook.model.exchange.family import layout
from openbook.model.exchange.gpt2 import GPT2
from openbook.model.exchange.shared import Sizes
from openbook.model.exchange.tensors import unpickle
from openbook.model.transformer import Transformer

COMPILED = "_orig_mod."
"""What torch.compile puts before every name."""
NANOGPT = replace(GPT2, architecture="nanoGPT", transposed=False)
SIZES = Sizes("block_size", "n_layer", "n_embd", "n_head")


def read_checkpoint(path: Path, allow_extra: bool) -> tuple[Transformer, list[str]]:
    """The model of a checkpoint, and the names of superfluous tensors. Raises InputError if it is none of nanoGPT's, or is not whole."""
    content = unpickle(path)
    arguments, state = content.get("model_args"), content.get("model")
    if not isinstance(arguments, dict) or not isinstance(state, dict):
        raise InputError(f"{path}: not a checkpoint of nanoGPT, which holds model and model_args; has {', '.join(map(str, content))[:200]}")
    facts = Facts(path, arguments, "model_args.")
    tensors = {str(name).removeprefix(COMPILED): tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
    tensors = {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight" and not name.endswith(".attn.bias")}
    config = SIZES.read(facts, positions="learned", qkv_bias=True, output_bias=True, activation="gelu", tied_head=True)
    with torch.device("meta"):
        described = dict(Transformer(config).named_parameters())
    unbiased = not facts.flag("bias", True)
    wanted = {
        name: stored.shape(described)
        for name, stored in layout(NANOGPT, config, described).items()
        if not (unbiased and name.endswith(".bias") and name not in tensors)
    }
    extra = require_shapes(path, wanted, {name: tensor.shape for name, tensor in tensors.items()}, "model_args", allow_extra)
    model = Transformer(config)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, stored in layout(NANOGPT, config, parameters).items():
            if name in tensors:
                stored.read(tensors[name], parameters)
            else:  # a bias that the model does not have
                for part, _ in stored.parts:
                    parameters[part].zero_()
    return model.eval(), extra
