"""A task's questions put to a model, and what they come to: NAME.json, with every item's record in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from openbook.errors import InputError
from openbook.evaluate.answers import extracted
from openbook.evaluate.bleu import statistics
from openbook.evaluate.contamination import Overlap, overlaps
from openbook.evaluate.data import examples_of, items_of
from openbook.evaluate.journal import collect, finish
from openbook.evaluate.metrics import Record, chance, choice_scores, credit, probabilities, summarise, written_scores
from openbook.evaluate.models import CannotScore, LanguageModel, Request, Score
from openbook.evaluate.programs import tried
from openbook.evaluate.questions import Question, Questions
from openbook.evaluate.task import Task
from openbook.files import write_json
from openbook.model.initialise import generator


@dataclass(frozen=True)
class Settings:
    """shots: K, or None for the task's own. limit: items, drawn by the seed. draws: sets of demonstrations for each item. samples: programs
    that are written for each item, or None for the task's own number."""

    shots: int | None = None
    limit: int | None = None
    seed: int = 0
    draws: int = 1
    generated: bool = False
    samples: int | None = None


def evaluate(
    model: LanguageModel, task: Task, settings: Settings, data: Path, out: Path, corpus: Sequence[Path] | None = None
) -> dict[str, Any]:
    """Answers what is not answered yet, and returns what NAME.json holds. corpus: training documents, to tell clean items from dirty ones.

    Raises InputError for a task that cannot be asked.
    """
    if settings.samples and task.form.program:
        task = task.model_copy(update={"samples": settings.samples})
    items = items_of(task, data, settings.generated, settings.seed)
    pool = examples_of(task, data, items)
    shots = task.shots if settings.shots is None else settings.shots
    if shots and task.kind == "rolling":
        raise InputError(f"{task.name}: --shots {shots}: text is scored with nothing before it; leave it out")
    questions = Questions(task, items, pool, shots, settings.seed)
    facts = {
        "task": task.name,
        "version": task.version,
        "task_sha256": task.digest,
        "data_sha256": items.digest,
        "examples_sha256": pool.digest,
        "model": model.identity,
        "shots": shots,
        "seed": settings.seed,
    }
    order = generator(settings.seed, "items", task.name).permutation(len(items.items))[: settings.limit]
    wanted = [(draw, int(index)) for draw in range(settings.draws) for index in sorted(order)]
    asked = [questions.question(index, draw) for draw, index in wanted]  # all of them first: a bad item stops nothing half-way
    asked.sort(key=lambda question: sum(map(len, question.pairs[0])))  # batches of questions of about one length
    done = collect(task.name, f"evaluate: {task.name}", facts, asked, lambda some: answer(model, task, some), out)
    records = [done[draw, index + 1] for draw, index in wanted]
    result = {**facts, "title": task.title, "kind": task.kind, "metric": task.metric, **_figures(task, records, settings)}
    if corpus is not None:
        overlap = overlaps({task.name: items.items}, corpus)[task.name]
        result["contamination"] = {**overlap.parts(), **_split(task, records, overlap, settings.seed)}
    write_json(out / f"{task.name}.json", {**result, "items": records})
    finish(task.name, out)
    return {**result, "items": records}


def _figures(task: Task, records: Sequence[Record], settings: Settings) -> dict[str, Any]:
    dropped = [record["dropped"] for record in records]
    figures: dict[str, Any] = {
        "count": len({record["item"] for record in records}),
        "chance": chance(task, records),
        "truncated": {"prompts": sum(count > 0 for count in dropped), "tokens": sum(dropped)},
        "metrics": summarise(task, records, settings.seed),
    }
    if settings.draws > 1:
        figures["draws"] = _over_draws(task, records, settings)
    return figures


def _split(task: Task, records: Sequence[Record], overlap: Overlap, seed: int) -> dict[str, Any]:
    """The task's metric over all items, clean ones and dirty ones, with counts; None where there are none."""
    chosen = {
        "all": records,
        "clean": [record for record in records if record["item"] not in overlap.dirty | overlap.short],
        "dirty": [record for record in records if record["item"] in overlap.dirty],
    }
    counted = {part: len({record["item"] for record in some}) for part, some in chosen.items()}
    return {part: {"count": counted[part], **summarise(task, some, seed)[task.metric]} if some else None for part, some in chosen.items()}


def _over_draws(task: Task, records: Sequence[Record], settings: Settings) -> dict[str, Any]:
    """The task's metric by each draw of demonstrations, their mean and their standard deviation."""
    by_draw = [[record for record in records if record["draw"] == draw] for draw in range(settings.draws)]
    values = [summarise(task, some, settings.seed)[task.metric]["value"] for some in by_draw]
    known = [value for value in values if value is not None]
    return {"values": values, "mean": fmean(known), "deviation": stdev(known)}


def answer(model: LanguageModel, task: Task, questions: Sequence[Question]) -> list[Record]:
    """A record for each question: everything that was asked and answered."""
    if task.kind == "rolling":
        scores = model.loglikelihood_rolling([question.own.continuations[0] for question in questions])
        return [_rolling(question, score) for question, score in zip(questions, scores, strict=True)]
    pairs = [pair for question in questions for pair in question.pairs]
    blank = task.form.unconditional if task.kind == "choice" else None
    alone = [(blank, text) for question in questions for text in question.own.continuations] if blank is not None else []
    try:
        scores = model.loglikelihood(pairs + alone)
    except CannotScore:
        if task.kind != "generate":
            raise
        scores = []
    own, others = iter(scores[: len(pairs)]), iter(scores[len(pairs) :])
    records = []
    for question in questions:
        mine = list(islice(own, len(question.pairs)))
        records.append(_scored(task, question, mine, list(islice(others, len(mine))) if blank is not None else None))
    if task.kind == "generate":
        _write(model, task, questions, records)
    return records


def _common(question: Question, scores: Sequence[Score]) -> Record:
    own = question.own
    return {
        "item": question.item,
        "draw": question.draw,
        "prompt_sha256": question.digest,
        "contexts": list(own.contexts),
        "continuations": list(own.continuations),
        "logprobs": [score.logprob for score in scores],
        "tokens": [score.tokens for score in scores],
        "bytes": [score.bytes for score in scores],
        "dropped": max((score.dropped for score in scores), default=0),
    }


def _scored(task: Task, question: Question, scores: Sequence[Score], alone: Sequence[Score] | None) -> Record:
    record = _common(question, scores)
    if task.kind == "generate":
        return record
    if task.kind == "completion":
        return {**record, "greedy": scores[0].greedy, "scores": {"accuracy": float(scores[0].greedy)}}
    own = question.own
    compared = choice_scores(own.continuations, scores, alone)
    shown = compared[task.metric]
    return {
        **record,
        "unconditional": None if alone is None else [score.logprob for score in alone],
        "gold": own.gold,
        "prediction": shown.index(max(shown)),
        "probabilities": probabilities(shown),
        "scores": {name: credit(values, own.gold) for name, values in compared.items()},
    }


def _rolling(question: Question, score: Score) -> Record:
    text = question.own.continuations[0]
    record = {**_common(question, [score]), "words": [len(re.split(r"\s+", text))], "scores": {}}
    return {**record, "continuations": [text[:200]]}  # the whole text would make the file as long as the data


def _write(model: LanguageModel, task: Task, questions: Sequence[Question], records: Sequence[Record]) -> None:
    """Adds to records what the model writes, and what that is worth."""
    heat = task.temperature if task.samples > 1 else 0.0
    asked = [(question, sample) for question in questions for sample in range(task.samples)]
    requests = [
        Request(question.pairs[0][0], tuple(task.stop), task.max_tokens, heat, seed=int(question.digest[:7], 16) + sample)
        for question, sample in asked
    ]
    told = model.generate_until(requests)
    texts = [told[start : start + task.samples] for start in range(0, len(told), task.samples)]
    for question, record, written in zip(questions, records, texts, strict=True):
        said = extracted(written[0].text, task.extract)
        record |= {"written": written[0].text, "prediction": said, "answers": list(question.own.answers)}
        record["dropped"] = max(record["dropped"], *(text.dropped for text in written))
        if not task.form.program:
            record["scores"] = written_scores(task, said, question.own.answers)
        if task.metric == "bleu":
            record["bleu"] = statistics(said, question.own.answers, task.bleu)
        if task.metric == "content_overlap" and (word := question.fields["word"]):
            record["scores"]["word"] = float(word in said.lower())
    if task.form.program:
        tries = [(question.fields, [text.text for text in written]) for question, written in zip(questions, texts, strict=True)]
        for record, found in zip(records, tried(task, tries, f"{task.name}: form.program"), strict=True):
            record |= found
    if task.metric == "content_overlap":
        _add_fluency(model, records)


def _add_fluency(model: LanguageModel, records: Sequence[Record]) -> None:
    """The model's own nats and tokens of what it wrote; nothing of an empty text, or from an endpoint that gives no log-probabilities."""
    said = [record for record in records if record["prediction"]]
    try:
        scores = model.loglikelihood_rolling([record["prediction"] for record in said])
    except InputError:
        return
    for record, score in zip(said, scores, strict=True):
        record["fluency"] = [-score.logprob, float(score.tokens)]
