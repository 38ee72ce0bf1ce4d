"""A task: one TOML file that says which data, in which form, scored how. `openbook evaluate … --task my.toml` takes a user's own.

Texts in [form] are jinja2 templates, and `fields`, `choices`, `gold`, `answers` jinja2 expressions, over an item's fields; both run in
jinja2's sandbox. See docs/evaluation.md.
"""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from openbook.complaints import explain
from openbook.errors import InputError
from openbook.files import sha256_json
from openbook.section import Section
from openbook.written import alone

CHOICE_METRICS = ("accuracy", "accuracy_per_character", "accuracy_per_byte", "accuracy_per_token", "accuracy_unconditional")
COMPLETION_METRICS = ("accuracy", "perplexity", "bits_per_byte")
ROLLING_METRICS = ("bits_per_byte", "byte_perplexity", "word_perplexity", "token_perplexity")
GENERATE_METRICS = (
    "exact",
    "exact_match",
    "f1",
    "f1_coqa",
    "f1_drop",
    "exact_match_drop",
    "number_match",
    "bleu",
    "pass@1",
    "content_overlap",
)
METRICS = {"choice": CHOICE_METRICS, "completion": COMPLETION_METRICS, "rolling": ROLLING_METRICS, "generate": GENERATE_METRICS}
NEEDED = {"choice": ("choices", "gold"), "completion": ("context", "target"), "rolling": ("text",), "generate": ("context", "answers")}


class Hub(Section):
    """Where the Hugging Face hub has the set, as the parquet files that the hub makes of every one."""

    dataset: str
    config: str = "default"
    split: str
    revision: str = "refs/convert/parquet"
    fields: dict[str, str] = {}
    """What the file below the data folder calls them: name = expression over a row; all columns where there are none."""


class DataSection(Section):
    """Where items come from. `fields` adds fields to an item, or replaces them: name = expression."""

    file: str = ""
    """Below the data folder: .jsonl, .json (a list), .txt (a line an item), .lst beside it; each also with .gz. Without one, items are
    always generated."""
    labels: str | None = None
    """A file with a line for each item, which becomes its field `label`, a whole number."""
    beside: dict[str, str] = {}
    """Of a text file: name = another file with a line for each item, which becomes the item's field of that name."""
    keep: str | None = None
    """An expression; items for which it is false are no part of the task."""
    split: str | None = None
    """A regular expression that parts a text file into items; without one, each line is an item."""
    fields: dict[str, str] = {}
    origin: str = ""
    """Where a person finds the set."""
    hub: Hub | None = None
    generator: str | None = None
    """What makes such items from a seed (openbook.evaluate.generated)."""


class Examples(Section):
    """Where demonstrations are drawn from, where not from the items themselves."""

    file: str
    labels: str | None = None
    beside: dict[str, str] = {}
    keep: str | None = None
    split: str | None = None
    fields: dict[str, str] = {}


class Form(Section):
    context: str = ""
    contexts: str | None = None
    """choice: a list of contexts instead of choices, of which one makes `continuation` likely (Trinh and Le 2018)."""
    continuation: str | None = None
    choices: str | None = None
    gold: str | None = None
    """choice: the right one's place, from 0."""
    target: str | None = None
    answers: str | None = None
    """generate: every text that is right; demonstrations show the first."""
    shown: str | None = None
    """generate: what a demonstration answers, where not the first of `answers`."""
    text: str | None = None
    """rolling: what is scored."""
    delimiter: str = " "
    """Between a context and a choice or an answer."""
    program: str | None = None
    """generate: a program over the item's fields and `written`, which passes if it comes to its end (openbook.evaluate.sandbox)."""
    unconditional: str | None = None
    """choice: the context that says nothing, for accuracy_unconditional."""


class Task(Section):
    name: str = ""
    version: Annotated[int, Field(gt=0)]
    """Rises when the task's numbers could change."""
    title: str
    kind: Literal["choice", "completion", "rolling", "generate"]
    suites: list[str] = []
    source: str
    """Where the form comes from."""
    note: str = ""
    shots: Annotated[int, Field(ge=0)] = 0
    """K, as published."""
    draw: Literal["random", "first"] = "random"
    """Demonstrations: drawn for each item by the seed, or always the first ones."""
    alike: str | None = None
    """A field: demonstrations are drawn from the items that have the same value of it."""
    description: str = ""
    separator: str = "\n\n"
    metric: str
    """The one that the table shows."""
    stop: list[str] = []
    max_tokens: Annotated[int, Field(gt=0)] = 32
    extract: str | None = None
    """generate: a regular expression whose last match is the answer."""
    samples: Annotated[int, Field(gt=0)] = 1
    """form.program: answers drawn for each item, for pass@k; one is greedy."""
    temperature: Annotated[float, Field(gt=0)] = 0.8
    """Of several samples."""
    bleu: Literal["13a", "zh", "char"] = "13a"
    """metric = "bleu": how sacrebleu takes texts apart."""
    data: DataSection
    examples: Examples | None = None
    form: Form

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.metric not in METRICS[self.kind]:
            facts = {"known": ", ".join(METRICS[self.kind]), "kind": self.kind, "key": "metric"}
            raise PydanticCustomError("metric", "should be one of {known} for kind = {kind}", facts)
        by_context = self.kind == "choice" and self.form.contexts is not None
        needed = ("contexts", "continuation", "gold") if by_context else NEEDED[self.kind]
        for name in needed:
            if not getattr(self.form, name):
                raise PydanticCustomError("form", "kind = {kind} needs form.{name}", {"kind": self.kind, "name": name, "key": "form"})
        if self.metric == "accuracy_unconditional" and self.form.unconditional is None:
            raise PydanticCustomError("form", "metric = accuracy_unconditional needs form.unconditional", {"key": "form"})
        if (self.metric == "pass@1") != (self.form.program is not None):
            raise PydanticCustomError("form", "metric = pass@1 and form.program need each other", {"key": "form"})
        if not self.data.file and self.data.generator is None:
            raise PydanticCustomError("data", "needs data.file or data.generator", {"key": "data"})
        if self.kind == "generate" and not self.stop:
            raise PydanticCustomError("stop", "kind = generate needs stop strings", {"key": "stop"})
        return self

    @property
    def digest(self) -> str:
        """Changes with everything that the numbers depend on but the data."""
        return sha256_json(self.model_dump(mode="json", exclude={"title", "note", "source", "suites"}))


def load_task(path: Path) -> Task:
    """Reads a task file. Raises InputError, one line that names file, line and key."""
    try:
        text = path.read_text(encoding="utf-8")
        document: dict[str, Any] = tomllib.loads(text)
        return Task.model_validate({"name": path.stem, **document})
    except FileNotFoundError:
        raise InputError(f"{path}: no such task file; the built-in ones are {', '.join(builtin())}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML: {error}") from None
    except ValidationError as error:
        raise InputError(explain(error, document, alone(text, path, document), {})) from None


def _folder() -> Path:
    return Path(str(files("openbook.evaluate") / "tasks"))


def builtin() -> list[str]:
    """Names of the tasks that come with openbook."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def task_named(name: str) -> Task:
    """A built-in task, or the one in a file whose name ends in .toml; or in .yaml, as lm-eval has them."""
    if name.endswith((".yaml", ".yml")):
        from openbook.evaluate.harness_task import load_harness_task

        return load_harness_task(Path(name))
    return load_task(Path(name) if name.endswith(".toml") else _folder() / f"{name}.toml")


def suites() -> dict[str, list[str]]:
    """Names of tasks by suite; "all" has every one."""
    found: dict[str, list[str]] = {"all": builtin()}
    for name in builtin():
        for suite in task_named(name).suites:
            found.setdefault(suite, []).append(name)
    return found
