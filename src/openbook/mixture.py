"""The mixture stage: the table of The Pile for this run. The recipe gives weights, tokens or epochs; the other two follow.

Where the recipe has a language step, its model also says how many bytes a token has in each language.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from openbook.corpus.steps import language
from openbook.corpus.steps.fasttext import Identify
from openbook.documents import read_documents
from openbook.files import sha256_json, write_json
from openbook.recipe_steps import LanguageStep
from openbook.run import Outcome, Run, Stage
from openbook.tokens.order import Mixture, Plan
from openbook.tokens.rows import Rows
from openbook.tokens.shards import opened_shards

LOOKED_AT = 200
"""About so many documents of a component are looked at for their languages."""
NOTABLE = 0.02
"""A component that gets this much more or less than its share is told of."""


def parameters(run: Run) -> Any:
    """What decides how often training reads what."""
    recipe = run.recipe
    parts = {name: [part.amount, part.max_epochs] for name, part in recipe.corpus.components.items()}
    train = recipe.train.model_dump(mode="json", include={"steps", "microbatch_rows", "microbatches", "ramp", "packing"})
    return {"measure": recipe.corpus.measure, "components": parts, "context": recipe.model.context, "seed": recipe.seed, "train": train}


def table(run: Run) -> dict[str, Any]:
    """The mixture as mixture.json has it; see docs/formats.md. Raises InputError if the recipe asks for what there is not."""
    rows = Rows.open(run)
    recipe, context = run.recipe, rows.context
    rows.require()
    corpus = (run.stage_record("corpus") or {})["summary"]["components"]
    wanted = _shares(rows, recipe.corpus.measure)
    drawn, total = rows.drawn, sum(rows.drawn.values())
    components: dict[str, Any] = {}
    for name, part in recipe.corpus.components.items():
        raw, tokens = corpus[name]["train"], len(rows.shards[name]) if name in rows.shards else 0
        count, there = drawn.get(name, 0), len(rows.packing[name]) if name in rows.packing else 0
        epochs = count / there if there else 0.0
        components[name] = {
            "given": part.amount,
            "documents": raw["documents"],
            "bytes": raw["bytes"],
            "mean_document_bytes": round(raw["bytes"] / raw["documents"], 1) if raw["documents"] else None,
            "tokens": tokens,
            "bytes_per_token": round(raw["bytes"] / tokens, 4) if tokens else None,
            "rows": there,
            "wanted": round(wanted.get(name, 0.0), 6),
            "weight": round(count / total, 6),
            "epochs": round(epochs, 4),
            "rows_read": count,
            "tokens_read": count * context,
            "effective_bytes": round(raw["bytes"] * epochs),
        }
    summed = ("documents", "bytes", "tokens", "tokens_read", "effective_bytes")
    return {
        "measure": recipe.corpus.measure,
        "packing": recipe.train.packing,
        "context": context,
        "components": components,
        "all": {key: sum(part[key] for part in components.values()) for key in summed},
        "languages": {},
        "notes": list(_notes(rows, components)),
    }


def _shares(rows: Rows, measure: str) -> dict[str, float]:
    """Of the training tokens, as the recipe asks for them."""
    parts, there = rows.recipe.corpus.components, {name: len(packing) for name, packing in rows.packing.items()}
    amounts = {name: parts[name].amount * (count if measure == "epochs" else 1) for name, count in there.items() if count}
    return {name: amount / sum(amounts.values()) for name, amount in amounts.items()}


def _notes(rows: Rows, components: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What is not as the recipe says it, and why."""
    needed, there = rows.batches.total * rows.microbatch_rows, rows.mixture.samples
    for name, part in components.items():
        if part["wanted"] and abs(part["weight"] / part["wanted"] - 1) > NOTABLE:
            yield f"{name} has {part['weight']:.2%} of the tokens instead of {part['wanted']:.2%}: {_why(rows.mixture, name, needed)}"
        elif not part["rows"]:
            yield f"{name} has no row of training text; its share goes to the others"
    if rows.recipe.corpus.measure != "weight" and needed < there:
        share = f"{needed / there:.0%} of the tokens or epochs that the recipe gives"
        yield f"training reads {needed:,} of the mixture's {there:,} rows: {share}"


def _why(mixture: Plan, name: str, needed: int) -> str:
    if not isinstance(mixture, Mixture):
        return "rows are whole, and these are few"
    place = mixture.names.index(name)
    if not mixture.spans[0].quotas[place]:
        return f"its share, or what max_epochs allows, is less than a row in each block of {mixture.block} rows"
    ended = next((span for span in mixture.spans if not span.quotas[place]), None)
    if ended and ended.first_block * mixture.block < needed:
        return f"at its max_epochs after {ended.first_block * mixture.block / needed:.0%} of the training; the others take its place"
    others = any(not span.quotas[i] for span in mixture.spans for i in range(len(span.quotas)) if span.first_block * mixture.block < needed)
    return "others are at their max_epochs, and it takes their place" if others else "its rows in a block are whole"


def by_language(run: Run, identify: Identify) -> dict[str, Any]:
    """Documents, bytes, tokens and bytes per token of each component's languages, the most common first, from documents chosen by hash."""
    found: dict[str, Any] = {}
    for name, shard in opened_shards(run)["train"].items():
        share = LOOKED_AT / max(1, len(shard.ends))
        tokens = dict(zip(shard.documents["id"].to_pylist(), np.diff(shard.ends, prepend=0).tolist(), strict=True))
        figures: dict[str, dict[str, Any]] = {}
        for document in read_documents(run.path / "corpus" / name / "train.parquet"):
            if int(sha256_json(document.id)[:8], 16) / 2**32 < share:
                language = identify(document.text)[0] or "none"
                figure = figures.setdefault(language, {"documents": 0, "bytes": 0, "tokens": 0})
                for key, value in (("documents", 1), ("bytes", document.bytes), ("tokens", tokens[document.id])):
                    figure[key] += value
        ranked = sorted(figures.items(), key=lambda item: (-item[1]["tokens"], item[0]))
        found[name] = {language: {**figure, "bytes_per_token": round(figure["bytes"] / figure["tokens"], 4)} for language, figure in ranked}
    return found


def _identifier(settings: LanguageStep, folder: Path) -> Identify:
    """The step's own model, made anew."""
    if settings.model:
        settings = settings.model_copy(update={"model": str(folder / settings.model)})
    with TemporaryDirectory() as aside:
        language.prepare(None, settings).write(Path(aside) / "model")  # type: ignore[arg-type]  # it learns nothing from the corpus
        whole = language.load(Path(aside) / "model")
    return lambda text: whole(language.sample(text, settings.max_chars))


def build(run: Run) -> Outcome:
    found = table(run)
    step = next((step for step in run.recipe.corpus.steps if isinstance(step, LanguageStep)), None)
    if step:
        found["languages"] = by_language(run, _identifier(step, run.recipe_folder))
    write_json(run.path / "tokens" / "mixture.json", found)
    return Outcome(["tokens/mixture.json"], found)


STAGE = Stage("mixture", 1, ("corpus", "tokenize"), parameters, build)
