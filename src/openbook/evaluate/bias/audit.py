"""`openbook audit`: measures of bias put to a model. Each leaves NAME.json, with every item's record and the published values beside it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from openbook.errors import InputError
from openbook.evaluate.bias.bbq import BBQ
from openbook.evaluate.bias.continuations import BOLD, TOXICITY
from openbook.evaluate.bias.coreference import WINOBIAS, WINOGENDER
from openbook.evaluate.bias.crows import CROWS
from openbook.evaluate.bias.holistic import HOLISTIC
from openbook.evaluate.bias.judges import Absent, Judges
from openbook.evaluate.bias.measure import Item, Measure, Options, Told
from openbook.evaluate.bias.probes import DESCRIPTORS, OCCUPATIONS, RACE_SENTIMENT, RELIGION_WORDS
from openbook.evaluate.bias.stereoset import STEREOSET
from openbook.evaluate.journal import Record, collect, finish
from openbook.evaluate.models import CannotScore, DoesNotFit, LanguageModel
from openbook.evaluate.models.endpoint import Endpoint
from openbook.files import sha256_file, write_json
from openbook.model.initialise import generator

MEASURES: Mapping[str, Measure] = {
    measure.name: measure
    for measure in (
        CROWS,
        STEREOSET,
        WINOGENDER,
        WINOBIAS,
        BBQ,
        HOLISTIC,
        OCCUPATIONS,
        DESCRIPTORS,
        RACE_SENTIMENT,
        RELIGION_WORDS,
        BOLD,
        TOXICITY,
    )
}
FIRST_WORD = (
    "The endpoint gives no probability of a text's first token: texts that would begin a document are scored after their first word, with "
    "nothing before it, and items whose texts begin with different words are left out. The figures are not those of the weights."
)


class Unfit(InputError):
    """A model that a measure cannot be put to: its window is too short, or it tells no probabilities."""


def measures(names: Sequence[str]) -> list[Measure]:
    """Those named, or all. Raises InputError for a name that is none."""
    for name in names:
        if name not in MEASURES:
            raise InputError(f"--measure {name}: should be one of {', '.join(MEASURES)}")
    return [MEASURES[name] for name in dict.fromkeys(names)] if names else list(MEASURES.values())


def located(measure: Measure, data: Path) -> tuple[list[Path], list[str]]:
    """The files that there are, and the names of those that are absent. Raises Absent if the measure cannot do without."""
    there, absent = _found(measure, data)
    if absent and not (measure.partly and there):
        raise Absent(f"{data / absent[0]}: no such file, which {measure.title} needs; it comes from {measure.origin}")
    return [data / name for name in there], absent


def _found(measure: Measure, data: Path) -> tuple[list[str], list[str]]:
    """The names of the files that are there, and of those that are absent the first ones."""
    names = [next((name for name in some if (data / name).is_file()), None) for some in measure.files]
    return [name for name in names if name], [some[0] for some, name in zip(measure.files, names, strict=True) if name is None]


def sources(data: Path) -> list[dict[str, Any]]:
    """For each measure that needs data: its files that are there, which are absent, by their first names, and where the set comes from."""
    facts = []
    for measure in (one for one in MEASURES.values() if one.files):
        there, absent = _found(measure, data)
        missing = [str(data / name) for name in absent]
        needed = "some" if measure.partly else "all"
        facts.append({"measure": measure.name, "files": there, "absent": missing, "origin": measure.origin, "needed": needed})
    return facts


def audit(model: LanguageModel, measure: Measure, options: Options, data: Path, out: Path, judges: Judges) -> dict[str, Any]:
    """Answers what is not answered yet, and returns what NAME.json holds."""
    paths, absent = located(measure, data)
    items = measure.make(paths, options)
    facts = {
        "measure": measure.name,
        "version": measure.version,
        "data_sha256": {path.name: sha256_file(path) for path in paths},
        "model": model.identity,
        "seed": options.seed,
        "judges": judges.facts(measure.judges),
    }
    drawn = _limited(items, measure.name, options)
    asked = [begun for item in drawn if (begun := _begun(item))] if isinstance(model, Endpoint) else drawn
    if not asked:
        raise Unfit(f"{measure.title}: none of {len(drawn)} items can be asked. {FIRST_WORD}")
    done = _collected(model, measure, asked, facts, out, judges)
    records = [done[item.draw, item.item] for item in asked]
    result = {**facts, **_described(measure), **_figures(measure.tell(records, options.seed))}
    result |= {"count": len({item.item for item in asked}), "of": len({item.item for item in items}), "absent": absent}
    result |= {"left_out": len(drawn) - len(asked), "dropped": sum(record["dropped"] > 0 for record in records)}
    result["note"] = FIRST_WORD if isinstance(model, Endpoint) and any(not context for item in drawn for context, _ in item.pairs) else ""
    if "toxicity" in measure.judges:
        result["scorer_quality"] = judges.quality()
    write_json(out / f"{measure.name}.json", {**result, "items": records})
    finish(measure.name, out)
    return {**result, "items": records}


def _limited(items: Sequence[Item], name: str, options: Options) -> list[Item]:
    numbers = list(dict.fromkeys(item.item for item in items))
    order = generator(options.seed, "items", name).permutation(len(numbers))[: options.limit]
    kept = {numbers[index] for index in order}
    return [item for item in items if item.item in kept]


def _begun(item: Item) -> Item | None:
    """The item for a model that cannot score a text's first token; None if its texts differ there."""
    if all(context for context, _ in item.pairs):
        return item
    split = [text.strip().partition(" ") for _, text in item.pairs]
    if len({first for first, _, _ in split}) > 1 or not all(rest for _, _, rest in split):
        return None
    return replace(item, pairs=tuple((first, space + rest) for first, space, rest in split))


def _length(item: Item) -> tuple[int, str]:
    """Texts of about one length are asked together, and equal prompts."""
    prompt = "" if item.request is None else item.request.prompt
    return len(prompt) + sum(len(context) + len(text) for context, text in item.pairs), prompt


def _collected(
    model: LanguageModel, measure: Measure, asked: Sequence[Item], facts: dict[str, Any], out: Path, judges: Judges
) -> dict[tuple[int, int], Record]:
    by_length = sorted(asked, key=_length)
    try:
        return collect(measure.name, f"audit: {measure.name}", facts, by_length, lambda some: answer(model, measure, some, judges), out)
    except (CannotScore, DoesNotFit) as error:
        raise Unfit(f"{measure.title}: {error}") from None


def answer(model: LanguageModel, measure: Measure, items: Sequence[Item], judges: Judges) -> list[Record]:
    """A record for each item: what was asked, and what the model answered."""
    records: list[Record] = [{"item": item.item, "draw": item.draw, **item.facts, "dropped": 0} for item in items]
    scores = iter(model.loglikelihood([pair for item in items for pair in item.pairs]))
    for item, record in zip(items, records, strict=True):
        if item.pairs:
            own = [next(scores) for _ in item.pairs]
            record |= {"pairs": [list(pair) for pair in item.pairs], "logprobs": [score.logprob for score in own]}
            record |= {"tokens": [score.tokens for score in own], "dropped": max(score.dropped for score in own)}
    writing = [(record, item) for item, record in zip(items, records, strict=True) if item.request is not None]
    written = model.generate_until([item.request for _, item in writing if item.request is not None])
    for (record, _), text in zip(writing, written, strict=True):
        record |= {"written": text.text, "dropped": text.dropped}
    for record, found in zip(records, judges.judge([record.get("written", "") for record in records], measure.judges), strict=True):
        record |= found
    if any(item.beside for item in items):
        for record, item, found in zip(records, items, judges.judge([item.beside for item in items], measure.judges), strict=True):
            record |= {"beside": item.beside, **{f"beside_{name}": value for name, value in found.items()}}
    return records


def _described(measure: Measure) -> dict[str, Any]:
    return {
        "title": measure.title,
        "form": measure.form,
        "source": measure.source,
        "figures": [asdict(figure) for figure in measure.figures],
        "shown": list(measure.shown),
        "references": [reference for reference in references() if reference["measure"] == measure.name],
    }


def _figures(told: Told) -> dict[str, Any]:
    return {"rows": [asdict(row) for row in told.rows], "details": dict(told.details)}


@cache
def references() -> list[dict[str, Any]]:
    """Published values: measure, group, figure, values by model, source."""
    text = (files("openbook.evaluate.bias") / "references.toml").read_text(encoding="utf-8")
    listed: list[dict[str, Any]] = tomllib.loads(text)["reference"]
    return listed


def audit_all(
    model: LanguageModel, wanted: Sequence[Measure], options: Options, data: Path, out: Path, scorer: str | None = None
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Results of measures, and why others of several were left out: data or a package is absent, or the model cannot be asked.

    Raises InputError for one measure alone that is left out, if all of several are, and for data that is wrong.
    """
    results, left_out = [], {}
    judges = Judges(data, scorer)
    for measure in wanted:
        try:
            results.append(audit(model, measure, options, data, out, judges))
        except (Absent, Unfit) as error:
            if len(wanted) == 1:
                raise
            left_out[measure.name] = str(error)
    if not results:
        raise InputError(f"nothing could be audited: {next(iter(left_out.values()))}")
    return results, left_out
