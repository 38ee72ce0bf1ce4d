"""A recipe: the one document that says what a run is.

A recipe is TOML, typed and strict: a key that does not exist, a value of the wrong type or out of range is an error that names the
file, the line and what would be right. `resolve` fills in what follows from other values; the resolved recipe is what gets hashed.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from openbook.errors import InputError
from openbook.files import sha256_json

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]
"""A name that is also a folder's name."""

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A table of the recipe: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for key in value:
                if key not in cls.model_fields:
                    near = difflib.get_close_matches(key, cls.model_fields, n=1, cutoff=0.5)
                    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(cls.model_fields)}"
                    raise PydanticCustomError("unknown_key", "unknown key; {hint}", {"key": key, "hint": hint})
        return value


class Component(Section):
    """What every component of a corpus has, wherever it comes from."""

    weight: Annotated[float, Field(gt=0)]
    """Share of the training tokens, relative to the other weights."""
    max_bytes: Positive | None = None
    """Take at most about this much text, chosen by hash."""
    max_epochs: Annotated[float, Field(gt=0)] = 4.0
    """How often training may see each token; later the other components fill the place."""
    exclude: list[str] = []
    """Shell patterns; a text whose origin matches one is left out, on record."""


class MachineComponent(Component):
    """Text that any machine with openbook on it has."""

    source: Literal["machine"]
    select: Literal["stdlib", "packages", "man", "system-docs", "licences"]


class FilesComponent(Component):
    """A folder or file that the user names; a relative path starts at the recipe's folder."""

    source: Literal["files"]
    path: str
    text_key: str = "text"
    """The field of a JSON line or parquet row that holds the text."""
    licence: str | None = None
    holdout_end: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Hold out this share of the characters of every text, at its end, instead of whole documents by hash."""
    split_bytes: Positive | None = None
    """Cut text files at line ends into documents of about this size; without it, a file is one document."""

    @model_validator(mode="after")
    def _one_split(self) -> FilesComponent:
        if self.holdout_end and self.split_bytes:
            raise PydanticCustomError("split", "holdout_end would cut every document of split_bytes; use one of the two")
        return self


AnyComponent = Annotated[MachineComponent | FilesComponent, Field(discriminator="source")]


class CorpusSection(Section):
    components: Annotated[dict[Name, AnyComponent], Field(min_length=1)]
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of the documents, by hash, that training never sees."""
    max_document_bytes: Positive = 2_000_000


class TokenizerSection(Section):
    kind: Literal["bpe", "characters"] = "bpe"
    """Byte-level BPE, or the characters of the training text, for comparisons with what was measured on characters."""
    vocab_size: Annotated[int, Field(ge=3, le=1_000_000)]
    """With the special tokens; with `characters`, exactly as many as there are."""
    special_tokens: list[str] = ["<|endoftext|>"]
    """The first one ends a document."""
    train_bytes: Positive = 50_000_000
    """How much text the vocabulary is learnt from."""

    @field_validator("vocab_size")
    @classmethod
    def _has_all_bytes(cls, value: int, info: ValidationInfo) -> int:
        if info.data.get("kind") == "bpe" and value < 258:
            raise PydanticCustomError("vocab_size", "should be at least 258: 256 bytes, a merge and a special token")
        return value


class ModelSection(Section):
    layers: Positive
    width: Positive
    context: Positive
    head_width: Annotated[int, Field(gt=0, multiple_of=2)] = 64
    heads: Positive | None = None
    kv_heads: Positive | None = None
    mlp_width: Positive | None = None
    rope_theta: Annotated[float, Field(gt=0)] = 10_000.0
    norm_eps: Annotated[float, Field(gt=0)] = 1e-6
    tied_head: bool = False
    embedding_std: Annotated[float, Field(gt=0)] = 1.0


class OptimizerSection(Section):
    """Peak learning rates; Muon takes the matrices inside the layers, AdamW the rest."""

    matrix_rate: Rate = 0.02
    embedding_rate: Rate = 0.02
    head_rate: Rate = 0.004
    norm_rate: Rate = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.8
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    weight_decay: Rate = 0.0
    newton_schulz_steps: Annotated[int, Field(gt=0, le=20)] = 5
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Gradients whose norm is above this are scaled down to it."""


class ScheduleSection(Section):
    """Warm up, stay flat, cool down linearly; all as shares of the run."""

    warmup: Share = 0.03
    cooldown: Share = 0.5
    floor: Share = 0.0
    """What is left of the learning rate at the end."""

    @model_validator(mode="after")
    def _fits(self) -> ScheduleSection:
        if self.warmup + self.cooldown > 1:
            raise PydanticCustomError("schedule", "warmup and cooldown should add up to at most 1")
        return self


class TrainSection(Section):
    steps: Positive
    microbatch_rows: Positive
    microbatches: Positive = 1
    """Microbatches in a step: a power of two, so that their gradients are summed along one binary tree."""
    precision: Literal["fp32", "bf16"] = "fp32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive | None = None
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    validate_every: Positive = 100
    validate_bytes: Positive = 60_000
    """Held-out bytes per component looked at during training."""
    checkpoint_every: Positive = 50
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """The newest ones to keep: at least two, so that a damaged one has a predecessor."""
    permanent_every: Positive | None = None
    """Checkpoints at multiples of this step are never removed: replays can start from them."""
    fingerprint_every: Positive | None = None
    """Steps between fingerprints of the weights in the logbook; every checkpoint has one in any case."""

    @model_validator(mode="after")
    def _power_of_two(self) -> TrainSection:
        if self.microbatches & (self.microbatches - 1):
            raise PydanticCustomError("microbatches", "microbatches should be a power of two")
        return self


WATCHING = {"threads", "validate_every", "validate_bytes", "checkpoint_every", "keep_checkpoints", "permanent_every", "fingerprint_every"}
"""Keys of `train` that change no bit of the weights, and may therefore change in mid-run."""


class EvaluateSection(Section):
    max_bytes: Positive = 400_000
    """Held-out bytes per component that are scored, whole documents."""
    stride: Positive | None = None
    """Tokens by which the scoring window moves; the rest of the window is context. Default: half the context."""
    sample_tokens: Positive = 120
    temperature: Annotated[float, Field(ge=0)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95


class Recipe(Section):
    name: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 1
    corpus: CorpusSection
    tokenizer: TokenizerSection
    model: ModelSection
    train: TrainSection
    evaluate: EvaluateSection = EvaluateSection()

    def sha256(self) -> str:
        return sha256_json(self.model_dump(mode="json"))

    def shaping(self) -> dict[str, Any]:
        """The values that shape the weights: all but how a training is watched and how its result is measured."""
        parts = self.model_dump(mode="json", include={"seed", "corpus", "tokenizer", "model", "train"})
        return parts | {"train": {key: value for key, value in parts["train"].items() if key not in WATCHING}}


def resolve(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The recipe with every derived value filled in, and one sentence for each value derived. Nothing set is overridden.

    Raises InputError if sizes contradict each other.
    """
    derived: list[str] = []

    def fill(section: Section, where: str, **values: Any) -> Any:
        missing = {key: value for key, value in values.items() if getattr(section, key) is None}
        derived.extend(f"{where}.{key} = {value}" for key, value in missing.items())
        return section.model_copy(update=missing)

    shape = recipe.model
    shape = fill(shape, "model", heads=max(1, shape.width // shape.head_width))
    shape = fill(shape, "model", kv_heads=shape.heads, mlp_width=max(64, round(shape.width * 8 / 3 / 64) * 64))
    if shape.heads % shape.kv_heads:
        raise InputError(f"model.heads = {shape.heads} should be a multiple of model.kv_heads = {shape.kv_heads}")
    scoring = fill(recipe.evaluate, "evaluate", stride=max(1, shape.context // 2))
    if scoring.stride > shape.context:
        raise InputError(f"evaluate.stride = {scoring.stride} should be at most model.context = {shape.context}")
    return recipe.model_copy(update={"model": shape, "evaluate": scoring}), derived


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> tuple[Recipe, list[str]]:
    """Reads, overrides ("a.b=c", c in TOML or bare text), validates and resolves. Returns the recipe and what was derived.

    Raises InputError, one line that names file, line and key.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except FileNotFoundError:
        raise InputError(f"{path}: no such recipe; give the path of a TOML file such as recipes/pocket.toml") from None
    except IsADirectoryError:
        raise InputError(f"{path}: is a folder; a recipe is a TOML file") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 text (byte {error.start}); a recipe is a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    forced = dict(_override(document, item) for item in overrides)
    try:
        return resolve(Recipe.model_validate(document))
    except ValidationError as error:
        raise InputError(_explain(error, document, text, path, forced)) from None


def _override(document: dict[str, Any], item: str) -> tuple[tuple[str, ...], str]:
    """Puts "a.b=c" into the document; returns its key path and the text given."""
    dotted, equals, value = item.partition("=")
    keys = tuple(key.strip() for key in dotted.split("."))
    if not equals or not all(keys):
        raise InputError(f"--set {item}: should be KEY=VALUE, such as --set train.steps=200")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    table: Any = document
    for key in keys[:-1]:
        table = table.setdefault(key, {})
        if not isinstance(table, dict):
            raise InputError(f"--set {item}: {key!r} is a value, not a table")
    table[keys[-1]] = parsed
    return keys, item


_SHOULD_BE = {
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "float_type": "should be a number",
    "string_type": "should be text in quotes",
    "bool_type": "should be true or false",
    "list_type": "should be a list in brackets",
    "dict_type": "should be a table",
    "model_type": "should be a table",
    "missing": "is missing",
    "finite_number": "should be a finite number",
    "string_pattern_mismatch": "should be a name of lower-case letters, digits, - and _",
}


def _explain(error: ValidationError, document: dict[str, Any], text: str, path: Path, forced: dict[tuple[str, ...], str]) -> str:
    """One line for the first problem of a document."""
    problems = error.errors()
    first = problems[0]
    keys = _key_path(first, document)
    message = first["msg"][0].lower() + first["msg"][1:]
    if first["type"] in ("literal_error", "union_tag_invalid"):
        expected = first.get("ctx", {}).get("expected") or first.get("ctx", {}).get("expected_tags")
        message = f"should be one of {expected}"
    elif first["type"] == "union_tag_not_found":
        message = "needs source = 'machine' or 'files'"
    message = _SHOULD_BE.get(first["type"], message).replace("input should be", "should be")
    where = f"--set {forced[keys]}" if keys in forced else f"{path}:{_line_of(keys, text)}"
    shown = "" if isinstance(first["input"], dict) or first["type"] == "missing" else f" = {first['input']!r}"
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return f"{where}: {'.'.join(keys)}{shown}: {message}{more}"


def _key_path(problem: ErrorDetails, document: dict[str, Any]) -> tuple[str, ...]:
    """The error's place as keys of the document, without the tags that pydantic adds for a union's members."""
    keys: list[str] = []
    table: Any = document
    for index, part in enumerate(problem["loc"]):
        last = index == len(problem["loc"]) - 1
        if isinstance(table, dict) and part in table:
            table = table[part]
        elif isinstance(part, int) and isinstance(table, list):
            table = table[part] if part < len(table) else None
        elif not (last and problem["type"] == "missing"):
            continue
        keys.append(str(part))
    extra = problem.get("ctx", {}).get("key")
    return (*keys, extra) if extra else tuple(keys)


def _line_of(keys: tuple[str, ...], text: str) -> int:
    """The line (from 1) where a key is set, else where its nearest enclosing table begins; 1 where there is neither."""
    best, best_depth = 1, 0
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line.startswith("["):
            table = tuple(part.strip().strip("\"'") for part in line.strip("[] ").split("]")[0].split("."))
            here = table
        elif "=" in line and not line.startswith("#"):
            here = (*table, *(part.strip().strip("\"'") for part in line.split("=", 1)[0].split(".")))
        else:
            continue
        if here == keys[: len(here)] and len(here) > best_depth:
            best, best_depth = number, len(here)
    return best
