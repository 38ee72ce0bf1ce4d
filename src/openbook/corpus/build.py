"""The corpus stage: every component's texts, checked, deduplicated, split, and written down with what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from openbook.corpus.decisions import DECISION, Rulings, in_datasheet
from openbook.corpus.raw import RawText
from openbook.corpus.sources import facts, read
from openbook.corpus.steps import Shard, ShardWriter, Steps, first_shards, outside_files, survivors, versions
from openbook.documents import (
    DROPPED_SCHEMA,
    TRACE_SCHEMA,
    Document,
    DocumentWriter,
    Dropped,
    Split,
    Trace,
    document_id,
    is_held_out,
)
from openbook.errors import InputError
from openbook.files import canonical_json, remove, write_json, write_text
from openbook.progress import say, track
from openbook.recipe import Recipe
from openbook.recipe_corpus import MEASURES, AnyComponent, CorpusSection, MachineComponent, ReadComponent
from openbook.run import Outcome, Run, Stage

SPLITS: tuple[Split, ...] = ("train", "valid")
ASIDE_BYTES = 4_000_000
"""How much of each component that was left out, or rewritten, waits in memory: all components do at once."""
SHOWN_DROPS = 5
"""How many dropped texts of a component are named on the screen; all of them are in the component's dropped.parquet."""


class _Aside:
    """What of a component was left out, and what happened to the rest, on its way to disk. A context manager."""

    def __init__(self, run: Run, name: str) -> None:
        folder = run.path / "corpus" / name
        self._dropped = DocumentWriter(folder / "dropped.parquet", DROPPED_SCHEMA, ASIDE_BYTES)
        self._traces = DocumentWriter(folder / "traces.parquet", TRACE_SCHEMA, ASIDE_BYTES)
        self.figures: dict[str, dict[str, int]] = {}
        """Documents and bytes by reason."""
        self.telling: list[Dropped] = []
        """The first ones that are worth a line on the screen."""
        self.first: Dropped | None = None
        self._stack = ExitStack()

    def __enter__(self) -> _Aside:
        self._stack.enter_context(self._dropped)
        self._stack.enter_context(self._traces)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def drop(self, item: Dropped) -> None:
        figure = self.figures.setdefault(item.reason, {"documents": 0, "bytes": 0})
        figure["documents"] += 1
        figure["bytes"] += item.bytes
        self.first = self.first or replace(item, text=None)
        if item.step == "read" and item.reason not in ("duplicate", "empty", "excluded") and len(self.telling) < SHOWN_DROPS:
            self.telling.append(item)
        self._dropped.add(item)

    def trace(self, item: Trace) -> None:
        self._traces.add(item)


@dataclass
class _Component:
    """One component while it is read: where kept documents go, and what becomes of the others."""

    name: str
    section: CorpusSection
    wanted: AnyComponent
    seen: set[str]
    rulings: Rulings
    aside: _Aside
    keep: Callable[[Document, Split], None]
    bytes: int = 0

    def is_full(self) -> bool:
        return self.wanted.max_bytes is not None and self.bytes >= self.wanted.max_bytes

    def take(self, raw: RawText) -> None:
        """Decides about one text."""
        unfit = raw.problem or (None if raw.text.strip() else ("empty", "no characters but white space"))
        excluded = self._excluded(raw.origin)
        if unfit:
            self.aside.drop(Dropped(raw.origin, self.name, raw.bytes, *(excluded or unfit)))
            return
        identifier = document_id(raw.text)
        meta = canonical_json(raw.meta) if raw.meta else None
        ruling = self.rulings.on(raw, self.name, identifier, excluded is not None)
        reason = ruling.out or (None if ruling.invited else excluded)
        if reason:
            step = DECISION if ruling.out else "read"
            left = Dropped(raw.origin, self.name, raw.bytes, *reason, identifier, step, raw.licence, meta, raw.text)
            self.aside.drop(left)
            return
        if identifier in self.seen:
            same = ("duplicate", f"same text as document {identifier}")
            self.aside.drop(Dropped(raw.origin, self.name, raw.bytes, *same, identifier, "read", raw.licence, meta))
            return
        self.seen.add(identifier)
        split = raw.split or ("valid" if is_held_out(identifier, self.section.holdout) else "train")
        document = Document(identifier, ruling.text, self.name, raw.licence, raw.origin, meta)
        for change in ruling.changes(identifier, raw):
            self.aside.trace(change)
        if ruling.invited and ruling.rescued:
            against = "an earlier decision" if excluded is None else f"components.{self.name}.exclude"
            self.aside.trace(Trace(identifier, raw.origin, DECISION, ruling.invited, "kept", against))
        self.rulings.keep(ruling, self.name, identifier, document.bytes)
        self.bytes += document.bytes
        self.keep(document, split)

    def _excluded(self, origin: str) -> tuple[str, str] | None:
        return next((("excluded", f"matches {pattern!r}") for pattern in self.wanted.exclude if fnmatchcase(origin, pattern)), None)


def parameters(run: Run) -> Any:
    """The recipe's corpus, and the state of the files that the user named: name, size and time of each. The machine's own text is
    taken once, when the run is made, so that installing a package later does not undo a run."""
    section = run.recipe.corpus
    found = {name: facts(part, run.recipe_folder, f"corpus.components.{name}") for name, part in section.components.items()}
    files = {name: state for name, state in found.items() if state}
    mixing = {*MEASURES, "max_epochs", "why", "published"}  # how often training sees a component, and why, changes nothing in what it is
    named = {name: part.model_dump(mode="json", exclude=mixing) for name, part in section.components.items()}
    whole = {"components": named, "holdout": section.holdout, "max_document_bytes": section.max_document_bytes, "files": files}
    if section.decisions:
        whole |= {"decisions": [decision.model_dump(mode="json") for decision in section.decisions]}
    if not section.steps:
        return whole
    steps = [step.model_dump(mode="json") for step in section.steps]
    return whole | {"steps": steps, "versions": versions(section.steps), "outside": outside_files(section.steps, run.recipe_folder)}


def build(run: Run) -> Outcome:
    """Reads all components in the recipe's order, of equal texts the first one stays; then applies the steps."""
    section = run.recipe.corpus
    remove(run.path / "corpus")  # components of an earlier recipe
    rulings = Rulings(section.decisions)
    with ExitStack() as stack:
        asides = {name: stack.enter_context(_Aside(run, name)) for name in section.components}
        figures, told = _build_in_steps(run, rulings, asides) if section.steps else (_build_at_once(run, rulings, asides), [])
    present = [name for name in figures if figures[name]["train"]["documents"]]
    if not present:
        raise InputError("no component holds any training text; add a component with source = 'files'")
    if not any(figure["valid"]["documents"] for figure in figures.values()):
        count = sum(figure["train"]["documents"] for figure in figures.values())
        raise InputError(
            f"corpus.holdout = {section.holdout} held none of the {count} documents out, so nothing could be scored; "
            "raise it, add documents, or cut long text files into documents with split_bytes"
        )
    decided = rulings.told(figures)
    write_text(run.path / "corpus" / "DATASHEET.md", datasheet(run.recipe, figures, decided))
    artifacts = [*(f"corpus/{name}" for name in figures), "corpus/DATASHEET.md"]
    for name, rows in (("steps", told), ("decisions", decided)):
        if rows:
            write_json(run.path / "corpus" / f"{name}.json", rows)
            artifacts.append(f"corpus/{name}.json")
    return Outcome(artifacts, {"components": figures})


def _build_at_once(run: Run, rulings: Rulings, asides: dict[str, _Aside]) -> dict[str, Any]:
    seen: set[str] = set()
    figures: dict[str, Any] = {}
    with track("corpus", len(run.recipe.corpus.components)) as bar:
        for index, name in enumerate(run.recipe.corpus.components):
            bar.update(index, name)
            with _Written(run, name) as written:
                part = _read(run, name, seen, rulings, asides[name], written.add)
            figures[name] = _finish(part, written)
    rulings.warn()
    return figures


def _build_in_steps(run: Run, rulings: Rulings, asides: dict[str, _Aside]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """As above, but from shards, to which the recipe's steps are applied."""
    section, work = run.recipe.corpus, run.path / "corpus.work"
    seen: set[str] = set()
    parts: dict[str, _Component] = {}
    shards: list[Shard] = []
    with track("corpus", len(section.components)) as bar:
        for index, name in enumerate(section.components):
            bar.update(index, name)
            writer = ShardWriter(work, name)
            parts[name] = _read(run, name, seen, rulings, asides[name], writer.add)
            writer.flush()
            shards += first_shards(work, name, writer.keys)
    rulings.warn()

    def drop(item: Dropped) -> None:
        asides[item.component].drop(item)

    def trace(component: str, item: Trace) -> None:
        asides[component].trace(item)

    steps = Steps(work, section.engine, drop, trace, rulings.spared)
    shards = steps.apply(section.steps, shards, run.recipe_folder)
    figures = {}
    for name, part in parts.items():
        with _Written(run, name) as written:
            for document, split in survivors(work, [shard for shard in shards if shard.component == name]):
                written.add(document, split)
        figures[name] = _finish(part, written)
    steps.tidy(shards)
    return figures, [asdict(step) for step in steps.told]


class _Written:
    """A component's documents on their way to disk. A context manager."""

    def __init__(self, run: Run, name: str) -> None:
        folder = run.path / "corpus" / name
        self.writers: dict[Split, DocumentWriter] = {split: DocumentWriter(folder / f"{split}.parquet") for split in SPLITS}
        self.licences: Counter[str] = Counter()
        self._stack = ExitStack()

    def __enter__(self) -> _Written:
        for writer in self.writers.values():
            self._stack.enter_context(writer)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, document: Document, split: Split) -> None:
        self.writers[split].add(document)
        self.licences[document.licence or "unknown"] += 1


def _read(run: Run, name: str, seen: set[str], rulings: Rulings, aside: _Aside, keep: Callable[[Document, Split], None]) -> _Component:
    section, component = run.recipe.corpus, run.recipe.corpus.components[name]
    part = _Component(name, section, component, seen, rulings, aside, keep)
    for raw in read(component, run.recipe_folder, f"corpus.components.{name}", section.max_document_bytes):
        if part.is_full():
            break
        part.take(raw)
    if not part.bytes:
        rulings.require_some(name)
    return part


def _finish(part: _Component, written: _Written) -> dict[str, Any]:
    """The component in figures."""
    _tell(part, written.writers["train"].count)
    splits: dict[str, Any] = {split: {"documents": writer.count, "bytes": writer.bytes} for split, writer in written.writers.items()}
    return splits | {"dropped": part.aside.figures, "licences": dict(written.licences.most_common())}


def _tell(part: _Component, left: int) -> None:
    """Says what was left out; raises InputError if nothing is left of what the user named."""
    if not part.wanted.available:
        say(f"  {part.name}: not available: {part.wanted.unavailable}")
        return
    reasons = {reason: figure["documents"] for reason, figure in part.aside.figures.items()}
    if reasons:
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items(), key=lambda item: -item[1]))
        say(f"  {part.name}: left out {sum(reasons.values())} texts ({listed})")
    for item in part.aside.telling:
        say(f"    {item.origin}: {item.reason}: {item.detail}")
    if left:
        return
    if not isinstance(part.wanted, MachineComponent):
        first = part.aside.first
        why = f"{first.origin}: {first.reason}: {first.detail}" if first else "all of it is held out"
        raise InputError(f"corpus.components.{part.name}: no text left to train on ({why})")
    say(f"  {part.name}: nothing of the kind on this machine; its weight goes to the other components")


def _ends(recipe: Recipe) -> str:
    """What the datasheet adds about components that are split otherwise."""
    shares = {name: part.holdout_end for name, part in recipe.corpus.components.items() if isinstance(part, ReadComponent)}
    return "".join(f" Of each text of {name}, the last {share:g} of its characters is held out." for name, share in shares.items() if share)


def datasheet(recipe: Recipe, figures: dict[str, Any], decided: list[dict[str, Any]]) -> str:
    """The corpus in numbers, as Markdown: what is in it, under which licences, what was left out and why, and what was decided."""
    lines = [f"# Corpus of {recipe.name}", "", recipe.description, "", "## What is in it", ""]
    lines += ["| component | source | documents | bytes | held-out documents | held-out bytes |"]
    lines += ["|---|---|---:|---:|---:|---:|"]
    for name, component in recipe.corpus.components.items():
        train, valid = figures[name]["train"], figures[name]["valid"]
        lines.append(
            f"| {name} | {component.source}: {component.place} | {train['documents']:,} | {train['bytes']:,} "
            f"| {valid['documents']:,} | {valid['bytes']:,} |"
        )
    lines += ["", "## What was left out", "", "| component | reason | documents | bytes |", "|---|---|---:|---:|"]
    for name, figure in figures.items():
        lines += [f"| {name} | {reason} | {drop['documents']:,} | {drop['bytes']:,} |" for reason, drop in figure["dropped"].items()]
    lines += ["", "Each text that was left out is a row of its component's `dropped.parquet`, with the reason."]
    lines += ["", *in_datasheet(decided)] if decided else []
    absent = {name: component.unavailable for name, component in recipe.corpus.components.items() if not component.available}
    if absent:
        lines += ["", "## What is not available", "", "| component | why not |", "|---|---|"]
        lines += [f"| {name} | {reason} |" for name, reason in absent.items()]
    lines += ["", "## Licences", ""]
    lines += ["| component | licence | documents |", "|---|---|---:|"]
    for name, figure in figures.items():
        lines += [f"| {name} | {licence} | {count:,} |" for licence, count in list(figure["licences"].items())[:12]]
    lines += [
        "",
        f"Of equal texts the first one stays, across all components. A document is held out when the hash of its text falls below "
        f"{recipe.corpus.holdout}, so a held-out text has no exact copy in the training part."
        f"{_ends(recipe)}",
    ]
    return "\n".join(lines) + "\n"


STAGE = Stage("corpus", 2, (), parameters, build)
