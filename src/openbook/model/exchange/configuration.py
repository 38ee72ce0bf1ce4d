"""`config.json` to our configuration and back, through the table of families."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from openbook.errors import InputError
from openbook.model.config import Experts, Rotary, TransformerConfig
from openbook.model.exchange.facts import LAYERS, Facts, read_facts
from openbook.model.exchange.families import FAMILIES
from openbook.model.exchange.family import Family
from openbook.model.exchange.own import OWN


def load_config(folder: Path) -> TransformerConfig:
    """Reads `config.json`. Raises InputError that names the file, the key, and what would be right."""
    return load_family(folder)[1]


def load_family(folder: Path) -> tuple[Family, TransformerConfig]:
    """The family of a folder of weights as well."""
    facts = read_facts(folder / "config.json")
    return (family := family_of(facts)), read_config(family, facts)


def family_of(facts: Facts) -> Family:
    """Raises InputError for custom code, quantised weights, and architectures that are not in the table."""
    names = facts.content.get("architectures") or []
    known = [family for family in (*FAMILIES, OWN) if family.architecture in names]
    if "auto_map" in facts:
        raise facts.wrong("auto_map", "names code that comes with the model, which is never run; only stock architectures are read")
    if "quantization_config" in facts:
        raise facts.wrong("quantization_config", "is not read; give the weights in float32, float16 or bfloat16")
    if not known:
        raise facts.wrong("architectures", f"is none of {', '.join(family.architecture for family in FAMILIES)}")
    return known[0]


def read_config(family: Family, facts: Facts) -> TransformerConfig:
    """Raises InputError for options that we do not compute and for sizes that contradict each other."""
    facts.require({"is_encoder_decoder": False, "add_cross_attention": False, "pruned_heads": {}} | dict(family.refused))
    try:
        config = family.read(facts)
    except ValueError as error:  # sizes that a configuration refuses to hold
        raise InputError(f"{facts.path}: {error}") from None
    for size, most in ((config.layers, LAYERS), (config.heads, 2**16), (config.head_width, 2**16)):
        if not 1 <= size <= most:
            raise InputError(f"{facts.path}: {config.layers} layers of {config.heads} heads of {config.head_width} are no model's size")
    if config.heads % config.kv_heads:
        raise InputError(f"{facts.path}: {config.heads} heads cannot share {config.kv_heads} key heads evenly")
    if config.positions == "rotary" and config.head_width * config.rotary.share % 2:
        raise InputError(f"{facts.path}: rotary positions turn an even number of a head's elements, not {config.head_width}")
    return config


def family_for(config: TransformerConfig) -> Family:
    """The first family that has this shape. Raises InputError that says where the nearest one differs."""
    misses = []
    for family in FAMILIES:
        try:
            if not (miss := _differences(family, config)):
                return family
            misses.append((len(miss), family.architecture, miss))
        except (InputError, ZeroDivisionError):  # what it writes is no model of its own
            continue
    if config.experts is not None and config.activation != "swiglu":
        raise InputError(
            f"no stock architecture decodes by a Switch-style mixture of experts ({config.activation}, top {config.experts.top_k}); "
            "those that there are mix swiglu experts"
        )
    _, nearest, miss = min(misses)
    raise InputError(f"no stock architecture has this shape; nearest is {nearest}, whose {'; '.join(miss[:3])}")


def kept_family(config: TransformerConfig) -> Family:
    """The family in whose form a run keeps weights of this shape: a stock architecture, or our own form where there is none."""
    try:
        return family_for(config)
    except InputError:
        return OWN


def architecture(config: TransformerConfig) -> str:
    """The stock architecture of this shape."""
    return family_for(config).architecture


def exported_config(config: TransformerConfig, end_of_document: int) -> dict[str, Any]:
    """The content of `config.json`. Raises InputError if no stock architecture has this shape."""
    return written_config(family_for(config), config, end_of_document)


def written_config(family: Family, config: TransformerConfig, end_of_document: int) -> dict[str, Any]:
    """The content of `config.json` in the form of a family that has the shape."""
    common = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tied_head,
        "bos_token_id": end_of_document,
        "eos_token_id": end_of_document,
        "pad_token_id": None,
        "dtype": "float32",
        "torch_dtype": "float32",
        "use_cache": True,
    }
    return common | family.write(config)


def _differences(family: Family, config: TransformerConfig) -> list[str]:
    """What the family makes of the shape where it is not the shape: "field is … rather than …"."""
    written = {"vocab_size": config.vocab_size, "tie_word_embeddings": config.tied_head} | family.write(config)
    theirs = _comparable(read_config(family, Facts(Path(family.architecture), written)))
    ours = _comparable(replace(config, score_scale=1.0) if family.scaled_query else config)
    pairs = [(name, getattr(theirs, name), getattr(ours, name)) for name in (field.name for field in fields(TransformerConfig))]
    return [f"{name} is {got!r} rather than {wanted!r}" for name, got, wanted in pairs if got != wanted]


def _comparable(config: TransformerConfig) -> TransformerConfig:
    """The same for all configurations that compute the same: without what only training reads, and in one way of writing."""
    windows = tuple(config.window(layer) for layer in range(config.layers))
    return replace(
        config,
        rotary=config.rotary if config.positions == "rotary" else Rotary(),
        windows=windows,
        score_scale=config.head_width**-0.5 if config.score_scale is None else config.score_scale,
        experts=_routed(config),
        mlp_width=config.mlp_width if any(config.experts_of(layer) is None for layer in range(config.layers)) else 0,
    )


def _routed(config: TransformerConfig) -> Experts | None:
    """The mixture without what only training reads, and with the number of its layers in place of the rule that picks them."""
    if config.experts is None:
        return None
    chosen = sum(2**layer for layer in range(config.layers) if config.experts_of(layer))
    return replace(config.experts, every=1, first=chosen, capacity=None, balance_loss=0.0, z_loss=0.0)
