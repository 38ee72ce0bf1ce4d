"""The model card: what a stranger needs to know before using the weights, from the run's own records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openbook.recipe import Recipe


def card(recipe: Recipe, records: Mapping[str, Any]) -> str:
    """Markdown with Hugging Face's front matter. `records` are the manifest's entries of corpus, tokenize, train and evaluate."""
    train, corpus = records["train"]["summary"], records["corpus"]["summary"]["components"]
    text_bytes = sum(part["train"]["bytes"] for part in corpus.values())
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [openbook]", "---", "", f"# {recipe.name}", ""]
    lines += [recipe.description, ""] if recipe.description else []
    lines += [
        f"A causal language model of {train['parameters']:,} parameters ({recipe.model.layers} layers, width {recipe.model.width}, "
        f"context {recipe.model.context} tokens), trained from scratch with openbook on {train['tokens']:,} tokens drawn from "
        f"{text_bytes:,} bytes of text.",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("weights")',
        'model = AutoModelForCausalLM.from_pretrained("weights")',
        "```",
        "",
    ]
    return "\n".join(lines + _scores(records["evaluate"]["summary"]) + _data(corpus) + _cost(records) + _limits())


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


def _data(corpus: Mapping[str, Any]) -> list[str]:
    lines = ["## Training data", "", "| component | documents | bytes | licences |", "|---|---:|---:|---|"]
    for name, part in corpus.items():
        licences = ", ".join(f"{licence} ({count:,})" for licence, count in list(part["licences"].items())[:4])
        lines.append(f"| {name} | {part['train']['documents']:,} | {part['train']['bytes']:,} | {licences} |")
    return [*lines, "", "What was left out, and why, is in the run's `corpus/DATASHEET.md`.", ""]


def _cost(records: Mapping[str, Any]) -> list[str]:
    cost, train = records["train"]["cost"], records["train"]["summary"]
    joules = cost.get("joules")
    energy = ", ".join(f"{value:,.0f} J ({source})" for source, value in joules.items()) if joules else "no energy counter on that machine"
    return [
        "## Cost of training",
        "",
        f"{train['seconds']:,.0f} seconds of training on {train['device']} in {train['precision']}, at {train['tokens_per_second']:,.0f} "
        f"tokens/s, {train['utilisation']:.0%} of the matrix-product rate measured on the same machine. Energy: {energy}.",
        "",
    ]


def _limits() -> list[str]:
    return [
        "## Limits",
        "",
        "A base model: it continues text and has not been taught to follow instructions or to avoid harmful content. It repeats "
        "patterns of its training data, right or wrong. The licences above are those that the sources state.",
        "",
    ]
