"""The model card: what a stranger needs to know before using the weights, from the run's own records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from openbook.logbook import Account
from openbook.logbook.bill import carbon_line
from openbook.recipe import Recipe
from openbook.words import NOTHING, count, duration, energy, percent

_USE = [
    "```python",
    "from transformers import AutoModelForCausalLM, AutoTokenizer",
    "",
    'tokenizer = AutoTokenizer.from_pretrained("weights")',
    'model = AutoModelForCausalLM.from_pretrained("weights")',
    "```",
    "",
]

NOT_AUDITED = ["This model has not been audited for bias.", ""]


def card(
    recipe: Recipe,
    records: Mapping[str, Any],
    account: Account,
    stock: bool = True,
    tasks: Sequence[Mapping[str, Any]] = (),
    bias: Sequence[str] = (),
) -> str:
    """Markdown with Hugging Face's front matter. `records` are the manifest's entries of corpus, tokenize, train and evaluate. `stock`:
    whether transformers has this architecture. `tasks`: the contents of `scores/TASK.json`; `bias`: the lines of that section."""
    train, corpus = records["train"]["summary"], records["corpus"]["summary"]["components"]
    text_bytes = sum(part["train"]["bytes"] for part in corpus.values())
    lines = _head(recipe.name)
    lines += [recipe.description, ""] if recipe.description else []
    lines += [
        f"A causal language model of {train['parameters']:,} parameters ({recipe.model.layers} layers, width {recipe.model.width}, "
        f"context {recipe.model.context} tokens), trained from scratch with openbook on {train['tokens']:,} tokens drawn from "
        f"{text_bytes:,} bytes of text in {train['steps']:,} steps. Its recipe has the SHA-256 `{recipe.sha256()}`.",
        "",
        *(_USE if stock else ["No other tool has this architecture: openbook generates with it, and serves it.", ""]),
    ]
    lines += [*_scores(records["evaluate"]["summary"]), *_tasks(tasks), *bias, *_data(corpus), *_decisions(recipe)]
    lines += [*_history(account), *_cost(records, account), *_licence(), *_limits(), *(() if bias else NOT_AUDITED)]
    return "\n".join(lines)


def _head(name: str) -> list[str]:
    """Hugging Face's metadata, and the title. No recipe declares a licence of the weights."""
    metadata = ["library_name: transformers", "pipeline_tag: text-generation", "license: unknown", "tags:", "- openbook"]
    return ["---", *metadata, "---", "", f"# {name}", ""]


def imported_card(recipe: Recipe, imported: Mapping[str, Any], tasks: Sequence[Mapping[str, Any]] = (), bias: Sequence[str] = ()) -> str:
    """Of a model that was trained elsewhere: what it is and where it comes from, and nothing that is not known."""
    revision = f", revision {imported['revision']}" if imported["revision"] else ""
    lines = _head(recipe.name)
    lines += [
        f"A causal language model of {imported['parameters']:,} parameters ({imported['architecture']}, {recipe.model.layers} layers, "
        f"width {recipe.model.width}, context {imported['context']} tokens), imported by openbook from {imported['source']}{revision}. "
        "openbook did not train it: its data, its licence and its cost are those that its source states.",
        "",
    ]
    return "\n".join([*lines, *_tasks(tasks), *(bias or NOT_AUDITED)])


def _scores(scores: Mapping[str, Any]) -> list[str]:
    lines = ["## Bits per byte on held-out text", "", "Lower is better; every column is measured on the same documents.", ""]
    lines += [
        "| component | this model | `xz -9e` | `zstd -19` | order-5 byte n-gram | documents | bytes |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, row in [*scores["components"].items(), ("all", scores["all"])]:
        figures = " | ".join(f"{row[column]:.3f}" for column in ("model", "xz", "zstd", "ngram"))
        lines.append(f"| {name} | {figures} | {row['documents']:,} | {row['bytes']:,} |")
    return [*lines, ""]


def _tasks(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Of each task the metric that counts, with what guessing would give, and how many demonstrations there were."""
    if not results:
        return []
    lines = ["## Tasks", "", "| task | version | metric | value | 95 % interval | chance | items | demonstrations |"]
    lines += ["|---|---:|---|---:|---|---:|---:|---:|"]
    for result in results:
        found = result["metrics"][result["metric"]]
        spread = NOTHING if found["low"] is None else f"{found['low']:.4f} … {found['high']:.4f}"
        chance = NOTHING if result["chance"] is None else f"{result['chance']:.4f}"
        lines.append(
            f"| {result['task']} | {result['version']} | {result['metric']} | {found['value']:.4f} | {spread} | {chance} "
            f"| {result['count']:,} | {result['shots']} |"
        )
    return [*lines, ""]


def _data(corpus: Mapping[str, Any]) -> list[str]:
    lines = ["## Training data", "", "| component | documents | bytes | licences |", "|---|---:|---:|---|"]
    for name, part in corpus.items():
        licences = ", ".join(f"{licence} ({count:,})" for licence, count in list(part["licences"].items())[:4])
        lines.append(f"| {name} | {part['train']['documents']:,} | {part['train']['bytes']:,} | {licences} |")
    return [*lines, "", "What was left out, and why, is in the run's `corpus/DATASHEET.md`.", ""]


def _decisions(recipe: Recipe) -> list[str]:
    """What people decided about the corpus, and why."""
    decisions = recipe.corpus.decisions
    if not decisions:
        return []
    told = [f"- {one.what.rstrip('.')}. {one.why.rstrip('.')} ({one.evidence.rstrip('.')})." for one in decisions]
    return ["### Decisions", "", *told, ""]


def _history(account: Account) -> list[str]:
    """What happened on the way, and what was checked afterwards."""
    past, found = account.training, account.verified
    times = f"{len(past.incidents)} interruption{'' if len(past.incidents) == 1 else 's'}"
    lines = ["## Training history", ""]
    lines += [
        f"{times} in {duration(past.elapsed)} from beginning to end; {percent(past.effective)} of that time was work that counts "
        "(effective training time).",
        "",
    ]
    causes = past.causes()
    if causes:
        lines += ["| cause | times | hours lost |", "|---|---:|---:|"]
        lines += [f"| {cause} | {count(row['times'])} | {row['seconds'] / 3600:.3f} |" for cause, row in causes.items()]
        lines += [""]
    for what, each in account.changes.items():
        lines += [f"- {what} changed on the way: {change}" for change in each]
    lines += [""] if lines[-1] else []
    spans = ", ".join(f"{first} to {last}" for first, last in found["spans"])
    bad = [f"{event['steps'][0]} to {event['steps'][1]} {event['verdict']}" for event in found["replays"] if event["verdict"] != "holds"]
    replayed = f"Replayed when this card was written, the same to the bit: steps {spans}." if spans else "No step had been replayed yet."
    return [*lines, replayed + (f" Replayed otherwise: {', '.join(bad)}." if bad else ""), ""]


def _cost(records: Mapping[str, Any], account: Account) -> list[str]:
    train = records["train"]["summary"]
    sources = sorted({source for cost in account.costs for source in cost.joules})
    lines = [
        "## Cost, energy and carbon",
        "",
        f"{train['seconds']:,.0f} seconds of training on {train['device']} in {train['precision']}, at {train['tokens_per_second']:,.0f} "
        f"tokens/s, {train['utilisation']:.0%} of the matrix-product rate measured on the same machine. All attempts are counted.",
        "",
        "| stage | time | CPU time | energy, and where it comes from |",
        "|---|---:|---:|---:|",
    ]
    for cost in account.costs:
        joules = ", ".join(f"{energy(value)} {source}" for source, value in cost.joules.items()) or "absent"
        lines.append(f"| {cost.stage} | {duration(cost.seconds)} | {duration(cost.cpu_seconds)} | {joules} |")
    wasted = {source: energy(account.waste.wasted.get(source)) for source in sources if account.waste.wasted.get(source)}
    told = ", ".join(f"{value} {source}" for source, value in wasted.items()) or NOTHING
    vain = f" Of the training's energy in vain, in work that does not count: {told}." if sources else ""
    lines += ["", f"Energy: {_energy(account, sources)}.{vain}", "", f"Carbon: {carbon_line(account.carbon)}.", ""]
    return lines


def _energy(account: Account, sources: Sequence[str]) -> str:
    """All stages together; where nothing was measured or declared, that is said."""
    totals = [f"{energy(sum(cost.joules.get(source, 0.0) for cost in account.costs))} {source}" for source in sources]
    absent = account.carbon.absent_seconds
    missing = [f"absent for {duration(absent)} of work, which no counter could be read for and no watts are declared for"] if absent else []
    return "; ".join([*totals, *missing]) or NOTHING


def _licence() -> list[str]:
    return [
        "## Licence",
        "",
        "The recipe declares no licence for the weights. Those of the training data are in the table above, as its sources state them.",
        "",
    ]


def _limits() -> list[str]:
    return [
        "## Limits",
        "",
        "A base model: it continues text and has not been taught to follow instructions or to avoid harmful content. It repeats "
        "patterns of its training data, right or wrong.",
        "",
    ]
