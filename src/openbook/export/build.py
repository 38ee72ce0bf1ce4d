"""The export stage: tokenizer files, generation defaults and a model card beside the weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import Any

from openbook.audited import digests
from openbook.errors import InputError
from openbook.export.card import card, imported_card
from openbook.export.card_bias import bias
from openbook.files import sha256_json, write_json, write_text, written_aside
from openbook.logbook import Account, readable
from openbook.model.config import TransformerConfig
from openbook.model.exchange import architecture, load_config
from openbook.model.tokenizer import load_tokenizer
from openbook.progress import say
from openbook.run import IMPORT, Outcome, Run, Stage


def build(run: Run) -> Outcome:
    weights = run.path / "weights"
    if run.imported:
        return _complete_imported(run)
    source = run.verified("tokenize", "tokenizer/tokenizer.json")
    tokenizer = load_tokenizer(source)
    with written_aside(weights / "tokenizer.json") as aside:
        shutil.copyfile(source, aside)
    end = next(iter(tokenizer.special_tokens))
    write_json(weights / "tokenizer_config.json", tokenizer_config(end, run.recipe.model.context))
    write_json(weights / "generation_config.json", {"bos_token_id": tokenizer.end_of_document, "eos_token_id": tokenizer.end_of_document})
    records: dict[str, Any] = {name: record for name, record in run.manifest["stages"].items() if name in STAGE.reads}
    events = [event for event in readable(run.logbook_path) if event.get("stage") not in ("export", "report")]
    told = Account(events, records, run.recipe.energy)
    name = _architecture(load_config(weights))
    write_text(weights / "README.md", card(run.recipe, records, told, name is not None, _tasks(run), bias(run.path)))
    names = ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "README.md"]
    size = sum(run.verified("train", name).stat().st_size for name in run.weights())
    return Outcome([f"weights/{name}" for name in names], {"architecture": name or "openbook's own", "bytes": size, "folder": "weights"})


def _architecture(config: TransformerConfig) -> str | None:
    """The stock architecture of the weights; None, and one line that says why, if there is none."""
    try:
        return architecture(config)
    except InputError as error:
        say(f"export: {error}; the weights stay in openbook's own form, which other tools do not read")
        return None


def _complete_imported(run: Run) -> Outcome:
    """What an imported model's folder lacks: its other files came with it."""
    summary = (run.stage_record(IMPORT) or {})["summary"]
    size = sum(run.verified("train", name).stat().st_size for name in run.weights())
    write_text(run.path / "weights" / "README.md", imported_card(run.recipe, summary, _tasks(run), bias(run.path)))
    return Outcome(["weights/README.md"], {"architecture": summary["architecture"], "bytes": size, "folder": "weights"})


def tokenizer_config(end: str, context: int) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "bos_token": end,
        "eos_token": end,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }


def parameters(run: Run) -> Any:
    """What the card says that is not in the artifacts it reads."""
    shown = [run.recipe.name, run.recipe.description, run.recipe.energy.model_dump(mode="json"), digests(run.path)]
    return [*shown, [sha256_json(task) for task in _tasks(run)]]


def _tasks(run: Run) -> list[Mapping[str, Any]]:
    """The results of `openbook evaluate --task`, by name of the task."""
    found = [json.loads(path.read_bytes()) for path in sorted((run.path / "scores").glob("*.json"))]
    return [content for content in found if isinstance(content, dict) and "task" in content]


STAGE = Stage("export", 3, ("corpus", "tokenize", "train", "evaluate"), parameters, build)
