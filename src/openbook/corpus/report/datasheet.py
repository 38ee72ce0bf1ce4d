"""DATASHEET.md: the questions of Gebru et al. (2021), answered from what the run recorded, and "not recorded" where it did not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openbook.words import count, percent

NOT_RECORDED = "not recorded"
NEVER_RECORDED = (
    ("Who created the dataset, on whose behalf, and who funded it?", "Collection"),
    ("Who was involved in collecting the data, and how were they paid?", "Collection"),
    ("Over what time were the data created?", "Collection"),
    ("Were the people in the data told, did they agree, and can they withdraw?", "Collection"),
    ("What has the dataset been used for, and what should it not be used for?", "Uses"),
    ("How is it distributed, who maintains it, and how can errors be reported?", "Distribution and maintenance"),
)


def datasheet(facts: Mapping[str, Any]) -> str:
    """As Markdown, of what `collect` gives."""
    recipe, audit = facts["recipe"], facts["audit"]
    first, last = audit["all"]["states"][0], audit["all"]["states"][-1]
    lines = [f"# Datasheet: {recipe.name}", "", recipe.description, ""]
    lines += [
        "| component | raw size | weight | epochs | effective size | mean document | documents | held out |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    cells = ("name", "raw", "share", "epochs", "effective", "mean", "documents", "held_out")
    lines += [f"| {' | '.join(row[cell] for cell in cells)} |" for row in facts["components"]]
    lines += _asked("Motivation", "For what purpose was the dataset created?", recipe.description or NOT_RECORDED)
    lines += _asked("", "Why these components, and with these weights?", _listed({row["name"]: row["why"] for row in facts["components"]}))
    lines += _asked(
        "Composition",
        "What do the instances represent, and how many are there?",
        f"Texts: {count(last['documents'])}, with {count(last['words'])} words.",
    )
    share = percent(last["documents"] / max(1, first["documents"]))
    sample = f"Of the {count(first['documents'])} texts that were read, {share} are in; how far the sources are samples is {NOT_RECORDED}."
    lines += _asked("", "Is it a sample?", sample)
    lines += _asked(
        "", "Is information missing?", f"The dates of the texts are {NOT_RECORDED}; the years that they name are in the data report."
    )
    lines += _asked(
        "", "Are there recommended splits?", f"{recipe.corpus.holdout:.1%} of the documents, by the hash of their text, are held out."
    )
    lines += _asked(
        "",
        "Are there errors, noise or redundancies?",
        "Exact copies are removed on reading. " + (_steps(facts["steps"]) or "No further step was applied."),
    )
    lines += _asked(
        "",
        "Does it contain personal data?",
        _counted(facts["counted"]) + " These are the kinds that have a form; names are not looked for.",
    )
    lines += _asked("", "Does it contain what is offensive?", _rude(facts["counted"], audit["method"]["lexicons"]["profanity"]))
    named = ", ".join(
        f"{group} {percent(state['share'][0])}" for group, state in sorted(last["groups"].items(), key=lambda item: -item[1]["documents"])
    )
    lines += _asked("", "Does it identify subpopulations?", f"Documents that name them: {named or 'none'}. {audit['method']['limits']}")
    lines += _asked(
        "",
        "In which languages?",
        ", ".join(f"{row['name']} {row['shares'][1]}" for row in facts["bars"]["languages"])
        or f"Not measured: {audit['method']['languages']}.",
    )
    lines += _asked("Collection", "Where do the data come from?", _listed({row["name"]: row["source"] for row in facts["components"]}))
    lines += _asked(
        "Preprocessing",
        "Was it cleaned, and is the raw data kept?",
        (_steps(facts["steps"]) or "No step was applied.") + " What was removed is in dropped.parquet, with the reason.",
    )
    lines += _asked(
        "",
        "What was decided by people?",
        _listed({f"{row['action']} {row['what']}": row.get("why", "") for row in facts["decisions"]}) or "No decision is in the recipe.",
    )
    lines += _asked("", "Whom do the filters remove more than others?", _disparities(facts["forest"]["rows"]))
    lines += _asked(
        "Distribution and maintenance",
        "Under which licences?",
        ", ".join(f"{row['name']} {row['shares'][1]}" for row in facts["bars"]["licences"]) + " of documents.",
    )
    for question, part in NEVER_RECORDED:
        lines += _asked("", question, f"{NOT_RECORDED.capitalize()} ({part.lower()}).")
    return "\n".join(lines) + "\n"


def _asked(part: str, question: str, answer: str) -> list[str]:
    return [*(["", f"## {part}"] if part else []), "", f"**{question}**", "", answer]


def _listed(items: Mapping[str, str]) -> str:
    return "\n".join(f"- {name}: {text or NOT_RECORDED}" for name, text in items.items())


def _steps(rows: list[dict[str, Any]]) -> str:
    return (
        "Steps, in order: "
        + "; ".join(f"{row['step']} (removed {count(row['removed'])}, changed {count(row['changed'])})" for row in rows)
        + "."
        if rows
        else ""
    )


def _counted(rows: list[dict[str, Any]]) -> str:
    return "Documents that hold it: " + ", ".join(f"{row['kind']} {row['documents'][1]}" for row in rows if row["kind"] != "profane") + "."


def _rude(rows: list[dict[str, Any]], lexicon: Mapping[str, str]) -> str:
    known = [row for row in rows if row["kind"] == "profane"]
    return (
        f"{known[0]['documents'][1]} documents hold a word of {lexicon['package']}'s list."
        if known
        else f"Not measured: {lexicon['missing']}."
    )


def _disparities(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "Beyond chance, none of the groups that were looked for."
    shown = [f"- {row['step']}: {row['group']}, {row['removed']} removed; of the others {row['rest']}" for row in rows[:10]]
    return "\n".join([*shown, "", "The data report has intervals, and the comparison among documents of the same component and size."])
