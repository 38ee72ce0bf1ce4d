"""GGUF, the file of llama.cpp: hyper-parameters, vocabulary and tensors, written one after the other.

The types are those of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, quantised by the `gguf` package.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openbook.errors import InputError
from openbook.export.gguf_vocabulary import Vocabulary, vocabulary_of
from openbook.export.llamacpp import Target, target_of
from openbook.files import written_aside
from openbook.model.config import TransformerConfig
from openbook.model.exchange import require_weights
from openbook.model.exchange.configuration import load_family
from openbook.model.exchange.family import Stored
from openbook.model.exchange.tensors import Entry, opened
from openbook.model.positions import frequencies, rotated_width
from openbook.model.transformer import Transformer
from openbook.progress import track

TYPES = ("f32", "f16", "q8_0", "q4_0")
_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "q8_0": "MOSTLY_Q8_0", "q4_0": "MOSTLY_Q4_0"}
KEPT = ("position_embd", "ffn_gate_inp")
"""Matrices that llama.cpp wants in f32."""
BOTH_ENDS = ("token_embd", "output")
"""Matrices that are worth eight bits where the others have four."""


@dataclass(frozen=True)
class Made:
    """A tensor of the file: which of our parameters lie in it one under the other, and its shape as we write it, rows first."""

    name: str
    parts: tuple[str, ...]
    shape: tuple[int, ...]


def write_gguf(folder: Path, path: Path, name: str, kind: str = "f16") -> dict[str, Any]:
    """Writes a folder of weights, with its tokenizer beside them, as one file of llama.cpp; returns what was written.

    kind: one of TYPES, of the matrices; norms and biases are f32. Memory is that of the largest tensor, as float32, a few times. Raises
    InputError for a type that there is not, and for what llama.cpp does not compute, before anything is written.
    """
    gguf = require_gguf()
    if kind not in TYPES:
        raise InputError(f"--type {kind}: should be one of {', '.join(TYPES)}")
    family, config = load_family(folder)
    target = target_of(family, config)
    vocabulary = vocabulary_of(folder, config.vocab_size)
    config, wanted, _ = require_weights(folder, allow_extra=True)
    with torch.device("meta"):
        model = Transformer(config)
        shapes = {key: tuple(tensor.shape) for key, tensor in (*model.named_parameters(), *model.named_buffers())}
    made = list(_planned(target, config, shapes))
    with written_aside(path) as aside:
        writer = gguf.GGUFWriter(aside, target.name)
        writer.add_name(name)
        writer.add_file_type(getattr(gguf.LlamaFileType, _FILE_TYPES[kind]))
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _hyper_parameters(writer, gguf, target, config)
        _vocabulary(writer, vocabulary)
        for tensor in made:
            _announce(writer, gguf, tensor, _type_of(gguf, tensor, kind))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        with track("export: gguf", len(made)) as bar:
            for done, tensor in enumerate(made):
                bar.update(done, tensor.name)
                values = _values(tensor, target, config, wanted, shapes).numpy()
                writer.write_tensor_data(gguf.quants.quantize(values, _type_of(gguf, tensor, kind)))
        writer.close()
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "type": kind,
        "architecture": target.name,
        "tensors": len(made),
        "tokenizer": vocabulary.pre or vocabulary.model,
        "notes": [*_notes(config), *vocabulary.notes],
    }


def require_gguf() -> Any:
    """The package. Raises InputError that says how to install it."""
    try:
        import gguf
    except ModuleNotFoundError:
        raise InputError("GGUF files need the package gguf; pip install openbook[gguf]") from None
    return gguf


def _notes(config: TransformerConfig) -> list[str]:
    """What differs there, though it runs."""
    return ["llama.cpp computes GELU by its tanh approximation, in half precision"] if config.activation == "gelu" else []


def _planned(target: Target, config: TransformerConfig, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Made]:
    """The tensors of the file, for our parameters' shapes by name."""
    groups: dict[str, list[str]] = {}
    shapes = dict(shapes)
    for layer in range(config.layers):
        for module in target.biased:
            shapes.setdefault(f"layers.{layer}.{module}.bias", shapes[f"layers.{layer}.{module}.weight"][:1])
    if target.untied and config.tied_head:
        shapes["head.weight"] = shapes["embedding.weight"]
    for name in shapes:
        groups.setdefault(_their_name(target, name), []).append(name)
    for theirs, parts in groups.items():
        first = shapes[parts[0]]
        yield Made(theirs, tuple(parts), (sum(shapes[part][0] for part in parts), *first[1:]))
    if config.rotary.scaling and config.rotary.scaling.kind == "llama3":
        yield Made("rope_freqs.weight", (), (rotated_width(config.rotary, config.head_width) // 2,))


def _their_name(target: Target, name: str) -> str:
    matched = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+?)(?:\.(weight|bias))?", name)
    assert matched is not None
    layer, module, kind = matched.groups()
    return (f"blk.{layer}." if layer else "") + f"{target.names[module]}.{kind or 'weight'}"


def _values(
    made: Made, target: Target, config: TransformerConfig, wanted: list[tuple[Entry, Stored]], shapes: Mapping[str, tuple[int, ...]]
) -> Tensor:
    """The tensor in float32, read from those tensors of the files that its parts are in."""
    if not made.parts:
        plain = frequencies(type(config.rotary)(config.rotary.theta, config.rotary.share), config.head_width)
        return plain / frequencies(config.rotary, config.head_width)
    sources = ["embedding.weight" if part == "head.weight" and part not in shapes else part for part in made.parts]
    found = _read(sources, wanted, shapes)
    values = []
    for source in sources:
        value = found[source] if source in shapes else torch.zeros(made.shape[0] // len(sources))  # a bias that the model does not have
        if target.turn is not None and re.search(r"attention\.(query|key)\.", source):
            value = target.turn(value, config)
        values.append(value)
    return torch.cat(values).contiguous()


def _read(names: list[str], wanted: list[tuple[Entry, Stored]], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Our parameters of these names, and those that share a tensor of the files with them."""
    found: dict[str, Tensor] = {}
    with ExitStack() as stack:
        files: dict[Path, Any] = {}
        for entry, stored in wanted:
            if not any(name in names for name, _ in stored.parts):
                continue
            for name, _ in stored.parts:
                found.setdefault(name, torch.zeros(shapes[name]))
            if entry.path not in files:
                files[entry.path] = stack.enter_context(opened(entry.path))
            stored.read(files[entry.path].tensor(entry.name), found)
    return found


def _type_of(gguf: Any, made: Made, kind: str) -> Any:
    """Norms, biases and what is small are f32; a row that is no whole number of blocks is f16."""
    types = gguf.GGMLQuantizationType
    module = made.name.rsplit(".", 2)[-2]
    if len(made.shape) == 1 or module in KEPT or kind == "f32":
        return types.F32
    chosen = types.Q8_0 if kind == "q4_0" and module in BOTH_ENDS else getattr(types, kind.upper())
    return chosen if made.shape[-1] % gguf.GGML_QUANT_SIZES[chosen][0] == 0 else types.F16


def _announce(writer: Any, gguf: Any, made: Made, kind: Any) -> None:
    block, size = gguf.GGML_QUANT_SIZES[kind]
    writer.add_tensor_info(made.name, made.shape, np.dtype(np.float32), math.prod(made.shape) // block * size, raw_dtype=kind)


def _hyper_parameters(writer: Any, gguf: Any, target: Target, config: TransformerConfig) -> None:
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.mlp_width or (config.experts and config.experts.mlp_width))
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_key_length(config.head_width)
    writer.add_value_length(config.head_width)
    writer.add_vocab_size(config.vocab_size)
    (writer.add_layer_norm_rms_eps if config.norm == "rms" else writer.add_layer_norm_eps)(config.norm_eps)
    if target.name == "gptneox":
        writer.add_parallel_residual(config.norm_place == "parallel")
    if config.experts is not None:
        writer.add_expert_count(config.experts.count)
        writer.add_expert_used_count(config.experts.top_k)
        writer.add_expert_feed_forward_length(config.experts.mlp_width)
    if config.positions == "rotary":
        _rotary(writer, gguf, config)


def _rotary(writer: Any, gguf: Any, config: TransformerConfig) -> None:
    writer.add_rope_freq_base(config.rotary.theta)
    writer.add_rope_dimension_count(rotated_width(config.rotary, config.head_width))
    scaling = config.rotary.scaling
    if scaling is None or scaling.kind == "llama3":  # the latter's factors are a tensor
        return
    writer.add_rope_scaling_type(getattr(gguf.RopeScalingType, scaling.kind.upper()))
    writer.add_rope_scaling_factor(scaling.factor)
    writer.add_rope_scaling_orig_ctx_len(scaling.original_context)
    if scaling.kind == "yarn":
        writer.add_rope_scaling_yarn_beta_fast(scaling.fast)
        writer.add_rope_scaling_yarn_beta_slow(scaling.slow)
        if scaling.attention is not None:
            writer.add_rope_scaling_attn_factors(scaling.attention / (0.1 * math.log(scaling.factor) + 1))


def _vocabulary(writer: Any, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    if vocabulary.pre:
        writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.begin)
    writer.add_eos_token_id(vocabulary.end)
    writer.add_add_bos_token(vocabulary.adds_begin)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(vocabulary.space_prefix)
    if vocabulary.template:
        writer.add_chat_template(vocabulary.template)
