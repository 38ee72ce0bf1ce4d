"""The export stage: tokenizer files, generation defaults and a model card beside the weights."""

from __future__ import annotations

import shutil
from typing import Any

from openbook.audited import digests
from openbook.export.card import card
from openbook.export.card_bias import bias
from openbook.files import write_json, write_text, written_aside
from openbook.logbook import Account, readable
from openbook.model.exchange import architecture, load_config
from openbook.model.tokenizer import load_tokenizer
from openbook.run import Outcome, Run, Stage


def build(run: Run) -> Outcome:
    weights = run.path / "weights"
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
    write_text(weights / "README.md", card(run.recipe, records, told, bias(run.path)))
    names = ["tokenizer.json", "tokenizer_config.json", "generation_config.json", "README.md"]
    size = run.verified("train", "weights/model.safetensors").stat().st_size
    return Outcome(
        [f"weights/{name}" for name in names], {"architecture": architecture(load_config(weights)), "bytes": size, "folder": "weights"}
    )


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
    return [run.recipe.name, run.recipe.description, run.recipe.energy.model_dump(mode="json"), digests(run.path)]


STAGE = Stage("export", 2, ("corpus", "tokenize", "train", "evaluate"), parameters, build)
