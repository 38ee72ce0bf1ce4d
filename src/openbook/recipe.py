"""A recipe: the one document that says what a run is.

A recipe is TOML, typed and strict: a key that does not exist, a value of the wrong type or out of range is an error that names the
file, the line and what would be right. `resolve` fills in what follows from other values; the resolved recipe is what gets hashed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from openbook.batches import Batches
from openbook.complaints import Misset, explain, place
from openbook.dials import turn
from openbook.errors import InputError
from openbook.files import sha256_json
from openbook.recipe_corpus import CorpusSection
from openbook.recipe_model import ModelSection, fill, resolve_model
from openbook.section import Name, Positive, Rate, Section, Share
from openbook.written import read


class TokenizerSection(Section):
    kind: Literal["bpe", "characters"] = "bpe"
    """Byte-level BPE, or the characters of the training text, for comparisons with what was measured on characters."""
    file: str | None = None
    """A tokenizer.json to use; without it, the vocabulary is learnt. A relative path starts at the recipe's folder."""
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


class EitherOptimizer(Section):
    """What both optimizers have."""

    state: Literal["fp32", "bf16", "int8"] = "fp32"
    """What the optimizer's memory of past gradients is kept in; see docs/training.md."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Gradients whose norm is above this are scaled down to it."""


class MuonSection(EitherOptimizer):
    """Peak learning rates; Muon takes the matrices inside the layers, AdamW the rest."""

    kind: Literal["muon"] = "muon"
    matrix_rate: Rate = 0.02
    embedding_rate: Rate = 0.02
    head_rate: Rate = 0.004
    norm_rate: Rate = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.95
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.8
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    weight_decay: Rate = 0.0
    """Share of itself, times the learning rate, that a matrix inside the layers loses in a step; nothing else decays."""
    newton_schulz_steps: Annotated[int, Field(gt=0, le=20)] = 5
    newton_schulz_precision: Literal["fp32", "bf16"] = "fp32"


class AdamWSection(EitherOptimizer):
    """One peak learning rate for everything. The other values are GPT-3's (Brown et al. 2020, appendix B)."""

    kind: Literal["adamw"]
    rate: Rate = 6e-4
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    eps: Annotated[float, Field(gt=0)] = 1e-8
    weight_decay: Rate = 0.1
    """Share of itself, times the learning rate, that a matrix loses in a step, embeddings and head included; norms and biases do not."""


def _kind(section: Any) -> Any:
    return section.get("kind", "muon") if isinstance(section, dict) else getattr(section, "kind", "muon")


AnyOptimizer = Annotated[Annotated[MuonSection, Tag("muon")] | Annotated[AdamWSection, Tag("adamw")], Discriminator(_kind)]


class ScheduleSection(Section):
    """How the learning rate goes: up from zero, flat, down to the floor. All are shares of the run's tokens."""

    kind: Literal["wsd", "cosine", "linear"] = "wsd"
    """`wsd` (warm up, stable, decay) falls linearly over its second half, `cosine` and `linear` fall from the warm-up's end."""
    warmup: Share = 0.03
    cooldown: Share | None = None
    """Where the fall begins, counted back from its end. By default as `kind` says."""
    end: Share = 1.0
    """Where the fall ends; from there on the floor holds."""
    floor: Share = 0.0
    """What is left of the learning rate at the end."""

    @model_validator(mode="after")
    def _fits(self) -> ScheduleSection:
        if self.warmup + (self.cooldown or 0.0) > self.end:
            raise PydanticCustomError("schedule", "warmup and cooldown should add up to at most end")
        return self

    @property
    def fall(self) -> float:
        """`cooldown`, or what follows from the kind."""
        if self.cooldown is not None:
            return self.cooldown
        rest = self.end - self.warmup
        return min(0.5, rest) if self.kind == "wsd" else rest


class RampSection(Section):
    """A batch that grows: so many microbatches a step at first, doubling until it is whole."""

    start: Positive = 1
    """Microbatches in the first step: a power of two."""
    over: Annotated[float, Field(gt=0, lt=1)]
    """Share of the run's tokens until the batch is whole."""


class AnomaliesSection(Section):
    """What counts as an anomaly of a training, and what follows from it. These values shape the weights."""

    enabled: bool = True
    """Without it, a loss or gradient that is not finite ends the training, and nothing else is looked at."""
    window: Annotated[int, Field(ge=16)] = 128
    """How many committed steps a new one is compared with."""
    min_history: Annotated[int, Field(ge=8)] = 32
    """Below this many of them, only what is not finite is an anomaly."""
    threshold: Annotated[float, Field(gt=0)] = 6.0
    """A loss this many robust deviations above the window's median is high."""
    spike: Annotated[float, Field(gt=0)] = 20.0
    """A loss or gradient norm this many above it is not committed at all."""
    patience: Annotated[int, Field(ge=2)] = 3
    """This many high losses, or skipped steps, in a row lead back to an anchor."""
    anchor_every: Positive = 100
    """A training goes back to a multiple of this step."""
    max_rollbacks: Annotated[int, Field(ge=0)] = 3
    """How often it goes back in one trouble before the learning rate is lowered as well."""
    max_lowerings: Annotated[int, Field(ge=0)] = 3
    """How often the learning rate is lowered in one trouble before the training stops and asks."""
    rate_cut: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """What a lowering leaves of the learning rate."""

    @model_validator(mode="after")
    def _ordered(self) -> AnomaliesSection:
        if self.min_history > self.window:
            raise PydanticCustomError("anomalies", "min_history should be at most window")
        if self.spike < self.threshold:
            raise PydanticCustomError("anomalies", "spike should be at least threshold")
        return self


class TrainSection(Section):
    dials = ("tokens", "tokens_per_parameter", "preset")
    steps: Positive
    microbatch_rows: Positive
    microbatches: Positive = 1
    """Microbatches in a step: a power of two, so that their gradients are summed along one binary tree."""
    ramp: RampSection | None = None
    packing: Literal["stream", "best-fit"] = "stream"
    """How documents fill rows: one after another, wherever rows end; or so that hardly any is cut that fits a row."""
    documents: Literal["joined", "masked"] = "joined"
    """masked: attention sees nothing of the other documents in a row, and positions start again with each."""
    precision: Literal["fp32", "bf16"] = "fp32"
    activations: Literal["keep", "selective", "full"] = "keep"
    """What the backward pass computes again to save memory: nothing, all but matrix products, or everything inside a layer."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Positive | None = None
    optimizer: AnyOptimizer = MuonSection()
    schedule: ScheduleSection = ScheduleSection()
    validate_every: Positive = 100
    validate_bytes: Positive = 60_000
    """Held-out bytes per component looked at during training."""
    checkpoint_every: Positive | None = None
    """Steps between checkpoints. Without it, they are as frequent as pays: see `hours_between_failures`."""
    hours_between_failures: Annotated[float, Field(gt=0)] = 6.0
    """What to expect before anything has failed; from it, from what has failed and from what a save costs follows how often to save."""
    keep_checkpoints: Annotated[int, Field(ge=2)] = 2
    """The newest ones to keep: at least two, so that a damaged one has a predecessor."""
    permanent_every: Positive | None = None
    """Checkpoints at multiples of this step are never removed: replays can start from them."""
    fingerprint_every: Positive | None = None
    """Steps between fingerprints of the weights in the logbook; every checkpoint has one in any case."""
    offload: bool = False
    """Keep the optimizer's state in the machine's memory instead of the GPU's; slower, and not one bit different."""
    shards: Positive = 1
    """Workers that hold one model together (FSDP2), a power of two; the other workers are replicas of these."""
    audit_every: Positive | None = None
    """Steps between audits, in which each worker also computes one microbatch of a neighbour and the bits are compared."""
    hang_seconds: Positive = 600
    """Without a word for so long, workers are held to hang: they are ended, and started again."""
    anomalies: AnomaliesSection = AnomaliesSection()

    @model_validator(mode="after")
    def _power_of_two(self) -> TrainSection:
        if self.microbatches & (self.microbatches - 1):
            raise PydanticCustomError("microbatches", "microbatches should be a power of two")
        if self.ramp and (self.ramp.start & (self.ramp.start - 1) or self.ramp.start > self.microbatches):
            raise PydanticCustomError("ramp", "ramp.start should be a power of two and at most microbatches")
        return self

    @property
    def batches(self) -> Batches:
        """How many microbatches each step has."""
        if self.ramp is None:
            return Batches(self.steps, self.microbatches)
        return Batches.growing(self.steps, self.microbatches, self.ramp.start, self.ramp.over)


WATCHING = {
    "activations",
    "threads",
    "validate_every",
    "validate_bytes",
    "checkpoint_every",
    "hours_between_failures",
    "keep_checkpoints",
    "permanent_every",
    "fingerprint_every",
    "offload",
    "shards",
    "audit_every",
    "hang_seconds",
}
"""Keys of `train` that change no bit of the weights, and may therefore change in mid-run."""


class EvaluateSection(Section):
    max_bytes: Positive = 400_000
    """Held-out bytes per component that are scored, whole documents."""
    stride: Positive | None = None
    """Tokens by which the scoring window moves; the rest of the window is context. Default: half the context."""
    tasks: list[str] = []
    """Tasks that are put to the model while it is trained: names, or .toml files."""
    every: Positive | None = None
    """Steps between these evaluations; the last step has one in any case."""
    limit: Positive = 100
    """Items of each such task."""
    shots: Annotated[int, Field(ge=0)] | None = None
    """Demonstrations; each task's own number by default."""
    generated: bool = False
    """Make items from the seed where a task can."""
    sample_tokens: Positive = 120
    temperature: Annotated[float, Field(ge=0)] = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95


class EnergySection(Section):
    """What is declared about the electricity; nothing here shapes a weight, and nothing that is not declared is ever guessed."""

    pue: Annotated[float, Field(ge=1)] | None = None
    """Power usage effectiveness: what the building draws over what its computers draw."""
    grid_g_per_kwh: Rate | None = None
    """Grams of CO2-equivalent that a kilowatt-hour from the grid stands for, at the place and in the year of the run."""
    declared_watts: Annotated[float, Field(gt=0)] | None = None
    """What the machines of the run draw together, on the user's word; counts only where no counter was read."""


class Recipe(Section):
    dials = ("extends",)
    name: Name
    description: str = ""
    seed: Annotated[int, Field(ge=0)] = 1
    corpus: CorpusSection
    tokenizer: TokenizerSection
    model: ModelSection
    train: TrainSection
    evaluate: EvaluateSection = EvaluateSection()
    energy: EnergySection = EnergySection()

    def sha256(self) -> str:
        return sha256_json(self.model_dump(mode="json"))

    def shaping(self) -> dict[str, Any]:
        """The values that shape the weights: all but how a training is watched and how its result is measured."""
        parts = self.model_dump(mode="json", include={"seed", "corpus", "tokenizer", "model", "train"})
        corpus = {key: value for key, value in parts["corpus"].items() if key not in ("engine", "audit")}
        return parts | {"corpus": corpus, "train": {key: value for key, value in parts["train"].items() if key not in WATCHING}}


def resolve(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """The recipe with every derived value filled in, and one sentence for each value derived. Nothing set is overridden.

    Raises InputError if sizes contradict each other.
    """
    derived: list[str] = []

    shape = resolve_model(recipe.model, derived)
    scoring = fill(recipe.evaluate, "evaluate", derived, stride=max(1, shape.context // 2))
    if scoring.stride > shape.context:
        raise InputError(f"evaluate.stride = {scoring.stride} should be at most model.context = {shape.context}")
    schedule = fill(recipe.train.schedule, "train.schedule", derived, cooldown=recipe.train.schedule.fall)
    train = recipe.train.model_copy(update={"schedule": schedule})
    corpus, told = recipe.corpus.reweighted()
    return recipe.model_copy(update={"corpus": corpus, "model": shape, "train": train, "evaluate": scoring}), derived + told


def load_recipe(path: Path, overrides: Iterable[str] = ()) -> tuple[Recipe, list[str]]:
    """Reads with what it extends, overrides ("a.b=c", c in TOML or bare text), validates and resolves.

    Returns the recipe and what was derived. Raises InputError, one line that names file, line and key.
    """
    written = read(path)
    document = written.document
    forced = dict(_override(document, item) for item in overrides)
    try:
        told = turn(document)
        recipe, derived = resolve(Recipe.model_validate(document))
    except Misset as wrong:
        raise InputError(f"{place(wrong.keys, written, forced)}: {'.'.join(wrong.keys)}: {wrong.message}") from None
    except ValidationError as error:
        raise InputError(explain(error, document, written, forced)) from None
    return recipe, told + derived


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
