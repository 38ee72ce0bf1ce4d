"""The built-in tasks as docs/evaluation.md shows them: `python -m openbook.evaluate.describe` prints that part of it."""

from __future__ import annotations

import json

from openbook.evaluate.task import Task, builtin, task_named


def described() -> str:
    """Markdown: each task's exact form, from its file."""
    return "\n".join(_one(task_named(name)) for name in builtin())


def _one(task: Task) -> str:
    form = task.form
    lines = [f"### {task.name}", "", f"{task.title}. Version {task.version}, `{task.kind}`, metric `{task.metric}`, K = {task.shots}."]
    lines += [*([f"Suites: {', '.join(task.suites)}."] if task.suites else []), ""]
    shown = {
        "description": task.description or None,
        "context": form.context or None,
        "contexts": form.contexts,
        "continuation": form.continuation,
        "choices": form.choices,
        "right choice": form.gold,
        "target": form.target,
        "answers": form.answers,
        "demonstrated answer": form.shown,
        "text": form.text,
        "without context": form.unconditional,
        "program": form.program,
        "demonstrations have the same": task.alike,
        "between context and answer": form.delimiter if form.delimiter != " " else None,
        "between demonstrations": task.separator if task.kind != "rolling" else None,
        "demonstrations are": "always the first" if task.draw == "first" else None,
        "ends at": task.stop or None,
        "tokens, at most": str(task.max_tokens) if task.kind == "generate" else None,
        "BLEU takes apart by": task.bleu if task.metric == "bleu" else None,
        "answer is the last": task.extract,
        "items": task.data.file or f"generated: {task.data.generator}",
        "beside them": ", ".join(task.data.beside.values()) or None,
        "labels": task.data.labels,
        "parted at": task.data.split,
        "only items with": task.data.keep,
        **{f"field {name}": expression for name, expression in task.data.fields.items()},
        "demonstrations": task.examples.file if task.examples else None,
        "only demonstrations with": task.examples.keep if task.examples else None,
    }
    lines += [f"- {name}: `{_spelled(value)}`" for name, value in shown.items() if value is not None]
    return "\n".join([*lines, f"- source: {task.source}.", *([f"- {task.note}"] if task.note else []), ""])


def _spelled(value: str | list[str]) -> str:
    """Line ends and quotes as in JSON."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else json.dumps(value, ensure_ascii=False)[1:-1]


if __name__ == "__main__":
    print(described())
