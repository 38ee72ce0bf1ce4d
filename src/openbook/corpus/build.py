"""The corpus stage: every component's texts, checked, deduplicated, split, and written down with what was left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from openbook.corpus.raw import RawText
from openbook.corpus.sources import facts, read
from openbook.documents import Document, DocumentWriter, Dropped, Split, document_id, is_held_out, write_dropped
from openbook.errors import InputError
from openbook.files import remove, write_text
from openbook.progress import say, track
from openbook.recipe import Recipe
from openbook.recipe_corpus import AnyComponent, CorpusSection, MachineComponent, ReadComponent
from openbook.run import Outcome, Run, Stage

SHOWN_DROPS = 5
"""How many dropped texts of a component are named on the screen; all of them are in the component's dropped.parquet."""


@dataclass
class _Component:
    """One component while it is read: where kept documents go, what was dropped."""

    name: str
    section: CorpusSection
    wanted: AnyComponent
    seen: set[str]
    writers: dict[Split, DocumentWriter]
    dropped: list[Dropped] = field(default_factory=list)
    licences: Counter[str] = field(default_factory=Counter)

    def is_full(self) -> bool:
        limit = self.wanted.max_bytes
        return limit is not None and sum(writer.bytes for writer in self.writers.values()) >= limit

    def take(self, raw: RawText) -> None:
        """Decides about one text."""
        reason = self._excluded(raw.origin) or raw.problem or (None if raw.text.strip() else ("empty", "no characters but white space"))
        identifier = "" if reason else document_id(raw.text)
        if not reason and identifier in self.seen:
            reason = ("duplicate", f"same text as document {identifier}")
        if reason:
            self.dropped.append(Dropped(raw.origin, self.name, raw.bytes, *reason))
            return
        self.seen.add(identifier)
        split = raw.split or ("valid" if is_held_out(identifier, self.section.holdout) else "train")
        self.writers[split].add(Document(identifier, raw.text, self.name, raw.licence, raw.origin))
        self.licences[raw.licence or "unknown"] += 1

    def _excluded(self, origin: str) -> tuple[str, str] | None:
        return next((("excluded", f"matches {pattern!r}") for pattern in self.wanted.exclude if fnmatchcase(origin, pattern)), None)


def parameters(run: Run) -> Any:
    """The recipe's corpus, and the state of the files that the user named: name, size and time of each. The machine's own text is
    taken once, when the run is made, so that installing a package later does not undo a run."""
    section = run.recipe.corpus
    found = {name: facts(part, run.recipe_folder, f"corpus.components.{name}") for name, part in section.components.items()}
    files = {name: state for name, state in found.items() if state}
    mixing = {"weight", "max_epochs", "why", "published"}  # how often training sees a component, and why, changes nothing in what it is
    named = {name: part.model_dump(mode="json", exclude=mixing) for name, part in section.components.items()}
    return {"components": named, "holdout": section.holdout, "max_document_bytes": section.max_document_bytes, "files": files}


def build(run: Run) -> Outcome:
    """Reads all components in the recipe's order; of equal texts the first one stays."""
    section = run.recipe.corpus
    seen: set[str] = set()
    figures: dict[str, Any] = {}
    remove(run.path / "corpus")  # components of an earlier recipe
    with track("corpus", len(section.components)) as bar:
        for index, (name, component) in enumerate(section.components.items()):
            bar.update(index, name)
            figures[name] = _build_component(run, name, component, seen)
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
    return Outcome([*(f"corpus/{name}" for name in figures), "corpus/DATASHEET.md"], {"components": figures})


def _build_component(run: Run, name: str, component: AnyComponent, seen: set[str]) -> dict[str, Any]:
    section, folder, where = run.recipe.corpus, run.path / "corpus" / name, f"corpus.components.{name}"
    with DocumentWriter(folder / "train.parquet") as train, DocumentWriter(folder / "valid.parquet") as valid:
        part = _Component(name, section, component, seen, {"train": train, "valid": valid})
        for raw in read(component, run.recipe_folder, where, section.max_document_bytes):
            if part.is_full():
                break
            part.take(raw)
    write_dropped(folder / "dropped.parquet", part.dropped)
    _tell(part)
    dropped = {
        reason: {"documents": count, "bytes": sum(item.bytes for item in part.dropped if item.reason == reason)}
        for reason, count in Counter(item.reason for item in part.dropped).items()
    }
    splits: dict[str, Any] = {split: {"documents": writer.count, "bytes": writer.bytes} for split, writer in part.writers.items()}
    return splits | {"dropped": dropped, "licences": dict(part.licences.most_common())}


def _tell(part: _Component) -> None:
    """Says what was left out; raises InputError if nothing is left of what the user named."""
    if not part.wanted.available:
        say(f"  {part.name}: not available: {part.wanted.unavailable}")
        return
    reasons = Counter(item.reason for item in part.dropped)
    if reasons:
        listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        say(f"  {part.name}: left out {len(part.dropped)} texts ({listed})")
    telling = [item for item in part.dropped if item.reason not in ("duplicate", "empty", "excluded")]
    for item in telling[:SHOWN_DROPS]:
        say(f"    {item.origin}: {item.reason}: {item.detail}")
    if part.writers["train"].count:
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
