"""The recipe's `[model]`: a style, sizes, and every dial of the transformer, which may each be set on their own."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from openbook.errors import InputError
from openbook.model.config import (
    EXPERTS_ALIGNMENT,
    GATED,
    Activation,
    Experts,
    Norm,
    NormPlace,
    Positions,
    Rotary,
    RotaryScaling,
    TransformerConfig,
    Window,
)
from openbook.model.styles import MULTI_HEAD, STYLES
from openbook.section import Positive, Rate, Section

AboveZero = Annotated[float, Field(gt=0)]


class WindowSection(Section):
    width: Positive
    """Positions that a token sees, its own included."""
    stride: Positive | None = None
    """Every position a multiple of this before its own is seen as well."""


def _written_as(window: Any) -> str:
    return "width" if isinstance(window, int) else "table"


AnyWindow = Annotated[Annotated[int, Field(ge=0), Tag("width")] | Annotated[WindowSection, Tag("table")], Discriminator(_written_as)]


class ScalingSection(Section):
    """See `RotaryScaling`."""

    kind: Literal["linear", "llama3", "yarn"]
    factor: Annotated[float, Field(ge=1)]
    original_context: Positive
    slow: AboveZero = 1.0
    fast: AboveZero | None = None
    """By default 4 with llama3 and 32 with yarn, as those who published them have it."""
    attention: AboveZero | None = None


class RotarySection(Section):
    """See `Rotary`. What is left out is the style's."""

    theta: AboveZero | None = None
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    pairs: Literal["halves", "neighbours"] | None = None
    scaling: ScalingSection | None = None


class ExpertsSection(Section):
    """See `Experts`. What is left out is the style's."""

    count: Positive | None = None
    top_k: Positive | None = None
    mlp_width: Positive | None = None
    """By default that of the plain MLP."""
    every: Positive | None = None
    first: Annotated[int, Field(ge=0)] | None = None
    capacity: AboveZero | None = None
    shared: Annotated[int, Field(ge=0)] | None = None
    scores: Literal["softmax", "sigmoid"] | None = None
    normalised: bool | None = None
    balance_loss: Rate | None = None
    z_loss: Rate | None = None
    balance_rate: Rate | None = None


class ModelSection(Section):
    """See `TransformerConfig` for what the dials mean. What is left out is the style's."""

    dials = ("size", "preset")
    style: Literal["modern", "gpt", "gpt-neo", "gpt-j", "gpt-neox", "opt", "llama", "qwen3", "switch", "moe"] = "modern"
    layers: Positive
    width: Positive
    context: Positive
    head_width: Annotated[int, Field(gt=0, multiple_of=2)] = 64
    heads: Positive | None = None
    kv_heads: Positive | None = None
    mlp_width: Positive | None = None
    norm: Norm | None = None
    norm_place: NormPlace | None = None
    norm_eps: AboveZero | None = None
    positions: Positions | None = None
    rotary: RotarySection | None = None
    position_offset: Annotated[int, Field(ge=0)] | None = None
    windows: Annotated[list[AnyWindow], Field(min_length=1)] | None = None
    """Of the layers in turn, from the first: a width, 0 for everything before, or a table of width and stride."""
    qkv_bias: bool | None = None
    output_bias: bool | None = None
    query_key_norm: bool | None = None
    score_scale: AboveZero | None = None
    score_softcap: AboveZero | None = None
    activation: Activation | None = None
    mlp_bias: bool | None = None
    experts: ExpertsSection | None = None
    tied_head: bool | None = None
    head_bias: bool | None = None
    embedding_width: Positive | None = None
    embedding_scale: AboveZero | None = None
    residual_scale: AboveZero | None = None
    logit_softcap: AboveZero | None = None
    start: Literal["identity", "normal"] | None = None
    """How matrices begin: identity, such that every layer changes nothing at first; normal, as GPT-2's."""
    embedding_std: AboveZero | None = None
    """With start = "normal", of all matrices; otherwise of the tables."""


def fill(section: Section, where: str, derived: list[str], **values: Any) -> Any:
    """The section with what it lacks, and a line for each value that it lacked."""
    missing = {key: value for key, value in values.items() if getattr(section, key) is None and value is not None}
    derived.extend(f"{where}.{key} = {json.dumps(value)}" for key, value in missing.items())
    return section.model_copy(update=missing)


def resolve_model(shape: ModelSection, derived: list[str]) -> ModelSection:
    """The section with every dial filled in, and in `derived` one line for each that follows from the style or from other values.

    Raises InputError if values contradict each other.
    """
    row = dict(STYLES[shape.style])
    rotary, experts = row.pop("rotary", {}), row.pop("experts", None)
    shape = fill(shape, "model", derived, heads=max(1, shape.width // shape.head_width))
    activation = shape.activation or row.get("activation", TransformerConfig.activation)
    inner = max(64, round(shape.width * 8 / 3 / 64) * 64) if activation in GATED else 4 * shape.width
    if shape.style == "gpt" and any(shape.windows or []):
        row["qkv_bias"] = False  # the stock architecture with windows is GPT-Neo's, which has none
    shape = fill(shape, "model", derived, kv_heads=shape.heads, mlp_width=inner, **row)
    shape = fill(shape, "model", derived, embedding_std=0.02 if shape.tied_head else 1.0)  # a tied table is the head, too
    shape = _with_defaults(shape, TransformerConfig).model_copy(update={"windows": shape.windows or [0]})
    if shape.positions == "rotary":
        shape = shape.model_copy(update={"rotary": _rotary(shape.rotary or RotarySection(), rotary, derived)})
    if shape.experts or experts:
        mixture = fill(shape.experts or ExpertsSection(), "model.experts", derived, **experts or {}, mlp_width=shape.mlp_width)
        shape = shape.model_copy(update={"experts": _with_defaults(mixture, Experts)})
    _require_shape(shape)
    return shape


def _rotary(section: RotarySection, row: dict[str, Any], derived: list[str]) -> RotarySection:
    section = _with_defaults(fill(section, "model.rotary", derived, **row), Rotary)
    if section.scaling is None:
        return section
    scaling = section.scaling
    fast = {"linear": RotaryScaling.fast, "llama3": 4.0, "yarn": 32.0}[scaling.kind]
    return section.model_copy(update={"scaling": fill(scaling, "model.rotary.scaling", derived, fast=fast)})


def _with_defaults(section: Any, shape: type) -> Any:
    """The section with the plain values that are a data class's own defaults, which need no telling."""
    values = {field.name: field.default for field in fields(shape) if isinstance(field.default, str | int | float)}
    return fill(section, "", [], **{key: value for key, value in values.items() if key in type(section).model_fields})


def _require_shape(shape: ModelSection) -> None:
    """Raises InputError if values of a filled section contradict each other."""
    heads, kv_heads = shape.heads or 0, shape.kv_heads or 1
    if heads % kv_heads:
        raise InputError(f"model.heads = {heads} should be a multiple of model.kv_heads = {kv_heads}")
    if shape.style in MULTI_HEAD and kv_heads != heads:
        raise InputError(f'model.kv_heads = {kv_heads} should be model.heads = {heads} with model.style = "{shape.style}"')
    if shape.style in MULTI_HEAD and heads * shape.head_width != shape.width:
        raise InputError(
            f"model.heads = {heads} times model.head_width = {shape.head_width} should be model.width = {shape.width} with "
            f'model.style = "{shape.style}"'
        )
    if shape.position_offset and shape.positions != "learned":
        raise InputError(f'model.position_offset = {shape.position_offset} needs model.positions = "learned", not "{shape.positions}"')
    if shape.positions == "rotary":
        _require_rotary(shape)
    elif shape.rotary is not None:
        raise InputError(f'model.rotary: the positions are "{shape.positions}"; leave it out, or set model.positions = "rotary"')
    if shape.experts:
        _require_experts(shape.experts, shape)


def _require_rotary(shape: ModelSection) -> None:
    assert shape.rotary is not None and shape.rotary.share is not None
    turned = shape.rotary.share * shape.head_width
    if round(turned) < 2 or round(turned) % 2 or abs(turned - round(turned)) > 1e-6:
        raise InputError(
            f"model.rotary.share = {shape.rotary.share} of model.head_width = {shape.head_width} is {turned:g} elements; "
            "it should be an even number of them"
        )
    scaling = shape.rotary.scaling
    if scaling and scaling.kind != "linear" and scaling.fast is not None and scaling.slow >= scaling.fast:
        raise InputError(f"model.rotary.scaling.slow = {scaling.slow} should be below model.rotary.scaling.fast = {scaling.fast}")


def _require_experts(experts: ExpertsSection, shape: ModelSection) -> None:
    for key in ("count", "top_k"):
        if getattr(experts, key) is None:
            raise InputError(f'model.experts.{key} is missing: model.style = "{shape.style}" has no experts of its own')
    assert experts.count is not None and experts.top_k is not None and experts.first is not None and experts.every is not None
    if experts.top_k > experts.count:
        raise InputError(f"model.experts.top_k = {experts.top_k} should be at most model.experts.count = {experts.count}")
    if experts.top_k == 1 and experts.normalised:
        raise InputError(
            "model.experts.top_k = 1 needs model.experts.normalised = false: a weight that is always 1 teaches the router nothing"
        )
    if shape.mlp_bias:
        raise InputError("model.mlp_bias = true: experts have no biases; leave it out")
    for key, width in (("model.width", shape.width), ("model.experts.mlp_width", experts.mlp_width)):
        if width and width % EXPERTS_ALIGNMENT:
            raise InputError(f"{key} = {width} should be a multiple of {EXPERTS_ALIGNMENT} with experts")
    if experts.first + experts.every > shape.layers:
        raise InputError(
            f"model.experts.first = {experts.first} and model.experts.every = {experts.every} leave no layer of {shape.layers} for experts"
        )


def config_of(section: ModelSection, vocab_size: int) -> TransformerConfig:
    """The transformer that a resolved section describes."""
    plain = {field.name for field in fields(TransformerConfig)} & set(ModelSection.model_fields) - {"rotary", "windows", "experts"}
    rotary, experts = section.rotary, section.experts
    scaling = rotary and rotary.scaling
    return TransformerConfig(
        vocab_size=vocab_size,
        rotary=Rotary(**_values(rotary) | {"scaling": RotaryScaling(**_values(scaling)) if scaling else None}) if rotary else Rotary(),
        windows=tuple(_window(window) for window in section.windows or [0]),
        experts=Experts(**_values(experts)) if experts else None,
        **{key: getattr(section, key) for key in plain},
    )


def _values(section: Section) -> dict[str, Any]:
    return {key: getattr(section, key) for key in type(section).model_fields}


def _window(written: int | WindowSection) -> Window | None:
    if isinstance(written, WindowSection):
        return Window(written.width, written.stride)
    return Window(written) if written else None
