"""The cheap half of `openbook verify`: everything on disk against what was recorded when it was written. Nothing is computed again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openbook.errors import InputError
from openbook.files import sha256_file, sha256_json
from openbook.logbook import Broken, Event, check
from openbook.progress import track
from openbook.recipe import load_recipe
from openbook.run import Run, differences


@dataclass(frozen=True)
class Findings:
    """What was looked at, and what is wrong with it: files by their names in the run, keys of the recipe as "key: old -> new"."""

    artifacts: int
    checkpoints: int
    files: Mapping[str, str]
    keys: list[str]
    broken: Broken | None

    def problems(self, root: Path) -> list[str]:
        """One line each."""
        lines = [f"{root / name}: {why}" for name, why in self.files.items()]
        lines += [f"{root / 'recipe.resolved.json'}: was altered: {change}" for change in self.keys]
        return [*lines, f"{root / 'logbook.jsonl'}:{self.broken.line}: {self.broken.why}"] if self.broken else lines


def inspect(run: Run) -> Findings:
    """Checks every artifact's and checkpoint's bytes, the logbook's chain and, against it, the manifest and the recipe."""
    broken = check(run.logbook_path)
    events = [] if broken else [event for _, event in legible(run.logbook_path)]
    artifacts = {name: entry for record in run.manifest["stages"].values() for name, entry in record["artifacts"].items()}
    checkpoints = sorted((run.path / "checkpoints").glob("step-????????"))
    files: dict[str, str] = {}
    with track("verify", len(artifacts) + len(checkpoints)) as bar:
        for index, (name, entry) in enumerate(artifacts.items()):
            bar.update(index, name)
            path = run.path / name
            if not path.is_file():
                files[name] = "is missing"
            elif sha256_file(path) != entry["sha256"]:
                files[name] = "its bytes are not those in the manifest"
        for index, folder in enumerate(checkpoints, len(artifacts)):
            bar.update(index, folder.name)
            why = damage(folder)
            if why and folder.is_dir():  # a training at work may have removed it meanwhile
                files[str(folder.relative_to(run.path))] = why
    if forged := [name for name in run.manifest["stages"] if not _is_as_logged(run, name, events)]:
        files["manifest.json"] = f"its record of {', '.join(forged)} is not the logbook's"
    return Findings(len(artifacts), len(checkpoints), files, altered_keys(run, events), broken)


def _is_as_logged(run: Run, stage: str, events: list[Event]) -> bool:
    """Whether the manifest's hashes of a stage are those with which it ended, as far as the logbook tells."""
    record = run.manifest["stages"][stage]
    logged = [event["sha256"] for event in events if event["event"] == "stage.end" and event["stage"] == stage]
    present = sha256_json({name: entry["sha256"] for name, entry in record["artifacts"].items()})
    return present == record["sha256"] == (logged[-1] if logged else present)


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, naming the file; None if every byte is as it was written."""
    try:
        hashes = json.loads((folder / "hashes.json").read_bytes())
    except (OSError, ValueError):
        return "hashes.json is missing or unreadable"
    for name, expected in hashes.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256_file(folder / name) != expected:
            return f"{name} has other bytes than were written"
    return None


def legible(logbook: Path) -> Iterator[tuple[int, Event]]:
    """(line, event) of every line that can still be read: a logbook under suspicion may hold anything."""
    for number, line in enumerate(logbook.read_bytes().splitlines() if logbook.is_file() else [], 1):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and "event" in event:
            yield number, event


def altered_keys(run: Run, events: list[Event]) -> list[str]:
    """Keys of recipe.resolved.json that do not have the values which were hashed, as "key: then -> now"; empty if the hash holds."""
    logged = [event["sha256"] for event in events if event["event"] == "recipe"]
    expected = logged[-1] if logged else run.manifest["recipe"]["sha256"]
    present = json.loads((run.path / "recipe.resolved.json").read_bytes())
    if sha256_json(present) == expected:
        return [] if expected == run.manifest["recipe"]["sha256"] else ["its hash is in the logbook, but not in manifest.json"]
    try:
        original, _ = load_recipe(run.path / "recipe.toml")
    except InputError as error:
        return [f"its hash is not the recorded one, and recipe.toml does not tell why ({error})"]
    values, changed = original.model_dump(mode="json"), differences(original, run.recipe)
    if sha256_json(values) != expected:  # values that were set on the command line differ too, and rightly
        for change in changed:
            if sha256_json(_restored(present, values, change.partition(": ")[0])) == expected:
                return [change]
    return changed or ["its hash is not the recorded one"]


def _restored(present: Any, original: Any, key: str) -> Any:
    """A copy of one document with the value that a key has in the other."""
    head, _, rest = key.partition(".")
    value = _restored(present.get(head, {}), original.get(head, {}), rest) if rest else original.get(head)
    return {**present, head: value}
