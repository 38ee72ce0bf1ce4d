"""lm-eval's task files in our engine: YAML of multiple_choice, loglikelihood, loglikelihood_rolling and generate_until over local JSON.

What a file asks for that we do not do (code in !function, filters, chat templates, sets of the hub) is refused by name, never ignored.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from openbook.errors import InputError
from openbook.evaluate.task import Task

KINDS = {"multiple_choice": "choice", "loglikelihood": "completion", "loglikelihood_rolling": "rolling", "generate_until": "generate"}
METRICS = {
    "choice": {
        "acc": "accuracy",
        "acc_norm": "accuracy_per_character",
        "acc_bytes": "accuracy_per_byte",
        "acc_mutual_info": "accuracy_unconditional",
    },
    "completion": {"acc": "accuracy", "perplexity": "perplexity"},
    "rolling": {"word_perplexity": "word_perplexity", "byte_perplexity": "byte_perplexity", "bits_per_byte": "bits_per_byte"},
    "generate": {"exact_match": "exact"},
}
"""Our names of lm-eval's metrics."""
USED = {
    "task", "output_type", "dataset_path", "dataset_kwargs", "test_split", "validation_split", "training_split", "fewshot_split",
    "doc_to_text", "doc_to_target", "doc_to_choice", "description", "target_delimiter", "fewshot_delimiter", "fewshot_config",
    "num_fewshot", "metric_list", "generation_kwargs", "metadata",
}  # fmt: skip
HARMLESS = {"task_alias", "tag", "group", "should_decontaminate", "doc_to_decontamination_query", "repeats", "dataset_name"}
_COLUMN = re.compile(r"\w+")
_ONE_EXPRESSION = re.compile(r"\s*\{\{(?P<inside>(?:(?!\}\}).)*)\}\}\s*", re.DOTALL)


def load_harness_task(path: Path) -> Task:
    """Reads lm-eval's YAML. Raises InputError that names the file and the key that is missing or not supported."""
    config = _read(path)
    for key in config:
        if key not in USED | HARMLESS:
            raise InputError(f"{path}: {key}: is not supported here; run the file in lm-eval with openbook's model instead")
    kind = KINDS.get(config.get("output_type", "generate_until"))
    if kind is None:
        raise InputError(f"{path}: output_type = {config['output_type']!r}: should be one of {', '.join(KINDS)}")
    asked = [entry["metric"] for entry in config.get("metric_list", [])] or ["exact_match" if kind == "generate" else "acc"]
    known = [METRICS[kind][name] for name in asked if name in METRICS[kind]]
    if not known:
        raise InputError(f"{path}: metric_list: has none of {', '.join(METRICS[kind])}")
    data, examples = _data(path, config)
    shots = int(config.get("num_fewshot") or 0)
    fewshot = config.get("fewshot_config") or {}
    unknown = set(fewshot) - {"sampler"} or ({fewshot["sampler"]} - {"default", "first_n"} if fewshot else set())
    if unknown:
        raise InputError(f"{path}: fewshot_config: {', '.join(map(str, unknown))} is not supported here")
    return Task.model_validate(
        {
            "name": str(config.get("task", path.stem)),
            "version": max(1, int((config.get("metadata") or {}).get("version", 1))),
            "title": str(config.get("task", path.stem)),
            "kind": kind,
            "source": f"lm-eval task file {path.name}",
            "shots": shots,
            "draw": "first" if fewshot.get("sampler") == "first_n" else "random",
            "description": config.get("description", ""),
            "separator": config.get("fewshot_delimiter", "\n\n"),
            "metric": known[0],
            **_generation(config, kind),
            "data": {"file": data},
            **({"examples": {"file": examples}} if examples != data else {}),
            "form": _form(path, config, kind, shots, "accuracy_unconditional" in known),
        }
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ModuleNotFoundError:
        raise InputError(f"{path}: lm-eval's task files need PyYAML; pip install 'openbook[lm-eval]'") from None
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such task file") from None
    except yaml.YAMLError as error:  # also for !function, which would be code
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: not a task file: it should be a table of keys")
    return config


def _data(path: Path, config: dict[str, Any]) -> tuple[str, str]:
    """The files of the items and of the demonstrations, as absolute paths; relative ones start where the command does."""
    files = (config.get("dataset_kwargs") or {}).get("data_files")
    if config.get("dataset_path") != "json" or not files:
        raise InputError(f"{path}: dataset_path = {config.get('dataset_path')!r}: should be json, with dataset_kwargs.data_files")
    split = config.get("test_split") or config.get("validation_split")
    fewshot = config.get("fewshot_split") or config.get("training_split") or config.get("validation_split") or split
    by_split = files if isinstance(files, dict) else {"train": files}
    try:
        chosen = [by_split[name] for name in (split, fewshot)]
    except KeyError as missing:
        raise InputError(f"{path}: dataset_kwargs.data_files: has no split {missing}") from None
    first, second = (str(Path(name[0] if isinstance(name, list) else name).absolute()) for name in chosen)
    return first, second


def _generation(config: dict[str, Any], kind: str) -> dict[str, Any]:
    if kind != "generate":
        return {}
    wanted = config.get("generation_kwargs") or {}
    until = wanted.get("until") or config.get("fewshot_delimiter", "\n\n")
    return {"stop": [until] if isinstance(until, str) else list(until), "max_tokens": int(wanted.get("max_gen_toks", 256))}


def _form(path: Path, config: dict[str, Any], kind: str, shots: int, unconditional: bool) -> dict[str, Any]:
    delimiter = config.get("target_delimiter", " ")
    context, target = _template(config.get("doc_to_text", "")), config.get("doc_to_target", "")
    if kind == "rolling":
        return {"text": _template(target)}
    if kind == "completion":
        if shots and delimiter:
            raise InputError(f'{path}: target_delimiter: should be "" for loglikelihood with demonstrations')
        return {"context": context, "target": _template(target)}
    if kind == "generate":
        answer = _expression(path, "doc_to_target", target)
        return {
            "context": context,
            "delimiter": delimiter,
            "answers": f"({answer}) if ({answer}) is sequence and ({answer}) is not string else [({answer}) | string]",
        }
    choices = _expression(path, "doc_to_choice", config.get("doc_to_choice"))
    gold = str(target) if isinstance(target, int) else _expression(path, "doc_to_target", target)
    place = f"(({gold}) | int) if (({gold}) is number or (({gold}) | string).isdigit()) else ({choices}).index({gold})"
    return {
        "context": context,
        "delimiter": delimiter,
        "choices": choices,
        "gold": place,
        **({"unconditional": ""} if unconditional else {}),
    }


def _template(text: Any) -> str:
    """A template; a bare word is the name of a column."""
    return f"{{{{ {text} }}}}" if _COLUMN.fullmatch(str(text)) else str(text)


def _expression(path: Path, key: str, value: Any) -> str:
    """What a template of one expression computes; a bare word is the name of a column, a list is itself."""
    if isinstance(value, list):
        return repr([str(part) for part in value])
    text = str(value or "")
    if _COLUMN.fullmatch(text):
        return text
    if match := _ONE_EXPRESSION.fullmatch(text):
        return match["inside"].strip()
    if key == "doc_to_target" and "{{" not in text and text:
        return repr(text)
    raise InputError(f"{path}: {key} = {value!r}: should be a list, a column's name, or one {{{{ expression }}}}")
