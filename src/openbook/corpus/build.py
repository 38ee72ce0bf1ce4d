"""The corpus stage: every component's texts, checked, deduplicated, split, and written down with what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from openbook.corpus.raw import RawText
from openbook.corpus.sources import facts, read
from openbook.corpus.steps import Shard, ShardWriter, Steps, first_shards, outside_files, survivors, versions
from openbook.documents import Document, DocumentWriter, Dropped, Split, document_id, is_held_out, write_dropped
from openbook.errors import InputError
from openbook.files import remove, write_json, write_text
from openbook.progress import say, track
from openbook.recipe import Recipe
from openbook.recipe_corpus import MEASURES, AnyComponent, CorpusSection, MachineComponent, ReadComponent
from openbook.run import Outcome, Run, Stage

SPLITS: tuple[Split, ...] = ("train", "valid")
SHOWN_DROPS = 5
"""How many dropped texts of a component are named on the screen; all of them are in the component's dropped.parquet."""


@dataclass
class _Component:
    """One component while it is read: where kept documents go, how much there is of them, what was dropped."""

    name: str
    section: CorpusSection
    wanted: AnyComponent
    seen: set[str]
    keep: Callable[[Document, Split], None]
    bytes: int = 0
    dropped: list[Dropped] = field(default_factory=list)

    def is_full(self) -> bool:
        return self.wanted.max_bytes is not None and self.bytes >= self.wanted.max_bytes

    def take(self, raw: RawText) -> None:
        """Decides about one text."""
        reason = self._excluded(raw.origin) or raw.problem or (None if raw.text.strip() else ("empty", "no characters but white space"))
        identifier = None if reason else document_id(raw.text)
        if identifier in self.seen:
            reason = ("duplicate", f"same text as document {identifier}")
        if reason or identifier is None:
            self.dropped.append(Dropped(raw.origin, self.name, raw.bytes, *(reason or ("", "")), identifier))
            return
        self.seen.add(identifier)
        split = raw.split or ("valid" if is_held_out(identifier, self.section.holdout) else "train")
        document = Document(identifier, raw.text, self.name, raw.licence, raw.origin)
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
    if not section.steps:
        return whole
    steps = [step.model_dump(mode="json") for step in section.steps]
    return whole | {"steps": steps, "versions": versions(section.steps), "outside": outside_files(section.steps, run.recipe_folder)}


def build(run: Run) -> Outcome:
    """Reads all components in the recipe's order, of equal texts the first one stays; then applies the steps."""
    section = run.recipe.corpus
    remove(run.path / "corpus")  # components of an earlier recipe
    figures, told = _build_in_steps(run) if section.steps else (_build_at_once(run), [])
    present = [name for name in figures if figures[name]["train"]["documents"]]
    if not present:
        raise InputError("no component holds any training text; add a component with source = 'files'")
    if not any(figure["valid"]["documents"] for figure in figures.values()):
        count = sum(figure["train"]["documents"] for figure in figures.values())
        raise InputError(
            f"corpus.holdout = {section.holdout} held none of the {count} documents out, so nothing could be scored; "
            "raise it, add documents, or cut long text files into documents with split_bytes"
        )
    write_text(run.path / "corpus" / "DATASHEET.md", datasheet(run.recipe, figures))
    artifacts = [*(f"corpus/{name}" for name in figures), "corpus/DATASHEET.md"]
    if told:
        write_json(run.path / "corpus" / "steps.json", told)
        artifacts.append("corpus/steps.json")
    return Outcome(artifacts, {"components": figures})


def _build_at_once(run: Run) -> dict[str, Any]:
    seen: set[str] = set()
    figures: dict[str, Any] = {}
    with track("corpus", len(run.recipe.corpus.components)) as bar:
        for index, name in enumerate(run.recipe.corpus.components):
            bar.update(index, name)
            with _Written(run, name) as written:
                part = _read(run, name, seen, written.add)
            figures[name] = _finish(run, part, written)
    return figures


def _build_in_steps(run: Run) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """As above, but from shards, to which the recipe's steps are applied."""
    section, work = run.recipe.corpus, run.path / "corpus.work"
    seen: set[str] = set()
    parts: dict[str, _Component] = {}
    shards: list[Shard] = []
    with track("corpus", len(section.components)) as bar:
        for index, name in enumerate(section.components):
            bar.update(index, name)
            writer = ShardWriter(work, name)
            parts[name] = _read(run, name, seen, writer.add)
            writer.flush()
            shards += first_shards(work, name, writer.keys)
    steps = Steps(work, section.engine, lambda item: parts[item.component].dropped.append(item))
    shards = steps.apply(section.steps, shards, run.recipe_folder)
    figures = {}
    for name, part in parts.items():
        with _Written(run, name) as written:
            for document, split in survivors(work, [shard for shard in shards if shard.component == name]):
                written.add(document, split)
        figures[name] = _finish(run, part, written)
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


def _read(run: Run, name: str, seen: set[str], keep: Callable[[Document, Split], None]) -> _Component:
    section, component = run.recipe.corpus, run.recipe.corpus.components[name]
    part = _Component(name, section, component, seen, keep)
    for raw in read(component, run.recipe_folder, f"corpus.components.{name}", section.max_document_bytes):
        if part.is_full():
            break
        part.take(raw)
    return part


def _finish(run: Run, part: _Component, written: _Written) -> dict[str, Any]:
    """Writes down what was left out; returns the component in figures."""
    write_dropped(run.path / "corpus" / part.name / "dropped.parquet", part.dropped)
    _tell(part, written.writers["train"].count)
    splits: dict[str, Any] = {split: {"documents": writer.count, "bytes": writer.bytes} for split, writer in written.writers.items()}
    return splits | {"dropped": _counted(part.dropped), "licences": dict(written.licences.most_common())}


def _counted(dropped: Iterable[Dropped]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for item in dropped:
        figure = found.setdefault(item.reason, {"documents": 0, "bytes": 0})
        figure["documents"] += 1
        figure["bytes"] += item.bytes
    return found


def _tell(part: _Component, left: int) -> None:
    """Says what was left out; raises InputError if nothing is left of what the user named."""
    if not part.wanted.available:
        say(f"  {part.name}: not available: {part.wanted.unavailable}")
        return
    reasons = Counter(item.reason for item in part.dropped)
    if reasons:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        say(f"  {part.name}: left out {len(part.dropped)} texts ({listed})")
    telling = [item for item in part.dropped if item.step == "read" and item.reason not in ("duplicate", "empty", "excluded")]
    for item in telling[:SHOWN_DROPS]:
        say(f"    {item.origin}: {item.reason}: {item.detail}")
    if left:
        return
    if not isinstance(part.wanted, MachineComponent):
        why = "; ".join(f"{item.origin}: {item.reason}: {item.detail}" for item in part.dropped[:1]) or "all of it is held out"
        raise InputError(f"corpus.components.{part.name}: no text left to train on ({why})")
    say(f"  {part.name}: nothing of the kind on this machine; its weight goes to the other components")


def _ends(recipe: Recipe) -> str:
    """What the datasheet adds about components that are split otherwise."""
    shares = {name: part.holdout_end for name, part in recipe.corpus.components.items() if isinstance(part, ReadComponent)}
    return "".join(f" Of each text of {name}, the last {share:g} of its characters is held out." for name, share in shares.items() if share)


def datasheet(recipe: Recipe, figures: dict[str, Any]) -> str:
    """The corpus in numbers, as Markdown: what is in it, under which licences, what was left out and why."""
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


STAGE = Stage("corpus", 1, (), parameters, build)
