"""The same items through lm-eval 0.4.13 and through us: every task, three families of models, and lm-eval's own task files, both ways."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from toymodels import FAMILIES, WINDOW, make_folder

from openbook.errors import InputError
from openbook.evaluate.data import data_folder, examples_of, items_of
from openbook.evaluate.models import LanguageModel, Request, open_model
from openbook.evaluate.models.tokens import TokenModel
from openbook.evaluate.questions import Question, Questions
from openbook.evaluate.runner import Settings, answer, evaluate
from openbook.evaluate.suite import absent
from openbook.evaluate.task import Task, builtin, task_named
from openbook.model.exchange import load_weights
from openbook.model.generate import Sampling, generate
from openbook.model.tokenizer import load_tokenizer
from serve.serving import running

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed; pip install 'openbook[dev]'")

NEAR = 1e-4
"""Nats between two ways to compute a log-likelihood in fp32."""
ROUNDING = 3e-7
"""Of the whole: lm-eval adds up thousands of nats in fp32."""
WRITTEN = 16
"""Tokens that a task lets the models write here."""


@pytest.fixture(scope="module", params=FAMILIES)
def weights(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_folder(tmp_path_factory.mktemp("lm_eval") / request.param, request.param)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    yield


def harness(model: Any, folder: Path, names: list[str]) -> dict[str, Any]:
    """lm-eval's results on the task files of a folder."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    found = simple_evaluate(model, tasks=names, task_manager=manager, bootstrap_iters=0, log_samples=True, verbosity="ERROR")
    assert found is not None
    return dict(found)


def peer(weights: Path) -> Any:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(weights), device="cpu", dtype="float32", batch_size=4)


def _row(question: Question) -> dict[str, Any]:
    own = question.own
    bare = [text.removeprefix(" ") for text in own.continuations]
    contexts = [question.prefix + context for context in own.contexts]
    return {
        "context": contexts[0],
        "contexts": contexts,
        "target": own.continuations[0],
        "choices": bare,
        "gold": own.gold,
        "bare": bare[0],
    }


def _yaml(task: Task) -> dict[str, Any]:
    """The task in lm-eval's words, over rows that hold the finished prompts."""
    if task.kind == "choice" and task.form.contexts is not None:
        form: dict[str, Any] = {"doc_to_text": "{{gold}}", "doc_to_choice": "contexts", "doc_to_target": "bare"}
    elif task.kind == "choice":
        form = {"doc_to_text": "context", "doc_to_choice": "choices", "doc_to_target": "gold"}
    elif task.kind == "generate":
        form = {"doc_to_text": "context", "doc_to_target": "bare"}
        form["generation_kwargs"] = {"until": task.stop, "max_gen_toks": task.max_tokens, "do_sample": False}
    else:
        form = {"doc_to_text": "context" if task.kind == "completion" else "", "doc_to_target": "target"}
    kinds = {"choice": "multiple_choice", "completion": "loglikelihood", "rolling": "loglikelihood_rolling", "generate": "generate_until"}
    metrics = {
        "choice": ["acc", "acc_norm", "acc_bytes"],
        "completion": ["acc", "perplexity"],
        "rolling": ["word_perplexity", "byte_perplexity", "bits_per_byte"],
        "generate": ["exact_match"],
    }[task.kind]
    return {**form, "output_type": kinds[task.kind], "metric_list": [{"metric": name} for name in metrics]}


def _write(folder: Path, name: str, config: dict[str, Any], rows: Sequence[dict[str, Any]]) -> Path:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    files = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}, "test_split": "test"}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"task": name, **files, **config}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def asked() -> dict[str, tuple[Task, list[Question]]]:
    """Questions of every built-in task, with one demonstration."""
    folder, chosen = data_folder(None), {}
    for name in builtin():
        task = task_named(name)
        if task.form.program:  # right programs are longer than these models' window
            continue
        if task.kind == "generate":
            task = task.model_copy(update={"max_tokens": WRITTEN})
        if absent(task, folder):
            pytest.skip(f"{absent(task, folder)[0]}: no such file; set OPENBOOK_DATA")
        items = items_of(task, folder, False, 0)
        questions = Questions(task, items, examples_of(task, folder, items), 0 if task.kind == "rolling" else 1, 0)
        chosen[name] = (task, [questions.question(index, 0) for index in range(2 if task.kind == "choice" else 1)])
    return chosen


def test_every_task_agrees_with_lm_eval(weights: Path, asked: dict[str, tuple[Task, list[Question]]], tmp_path: Path) -> None:
    model = open_model(str(weights))
    ours = [
        (task, record, question)
        for task, questions in asked.values()
        for record, question in zip(answer(model, task, questions), questions, strict=True)
    ]
    alike: dict[str, list[tuple[Task, dict[str, Any], Question]]] = {}  # lm-eval takes long to prepare a task: one for each form
    for part in ours:
        alike.setdefault(json.dumps(_yaml(part[0])), []).append(part)
    for number, (form, parts) in enumerate(alike.items()):
        _write(tmp_path, f"form_{number}", json.loads(form), [_row(question) for _, _, question in parts])
    theirs = harness(peer(weights), tmp_path, [f"form_{number}" for number in range(len(alike))])["samples"]
    for number, parts in enumerate(alike.values()):
        samples = sorted(theirs[f"form_{number}"], key=lambda sample: sample["doc_id"])
        for (task, record, _), sample in zip(parts, samples, strict=True):
            _agree(task, record, sample)


def _agree(task: Task, record: dict[str, Any], sample: dict[str, Any]) -> None:
    answers = [response[0] for response in sample["resps"]]
    if task.kind == "generate":
        assert record["written"] == answers[0], task.name
    elif task.kind == "rolling":
        assert record["logprobs"] == pytest.approx(answers, abs=NEAR, rel=ROUNDING)
        assert sample["word_perplexity"][1] == record["words"][0]
        assert sample["byte_perplexity"][1] == record["bytes"][0]
    else:
        assert record["logprobs"] == pytest.approx([float(logprob) for logprob, _ in answers], abs=NEAR, rel=ROUNDING), task.name
    if task.kind == "choice":
        names = (
            {"accuracy": "acc"}
            if task.form.contexts
            else {"accuracy": "acc", "accuracy_per_character": "acc_norm", "accuracy_per_byte": "acc_bytes"}
        )
        for own, name in names.items():
            assert record["scores"][own] == sample[name], (task.name, own)
    if task.kind == "completion":
        assert record["greedy"] == answers[0][1]


def test_a_tokenizer_that_begins_every_text_with_a_token_does_so_here(tmp_path: Path) -> None:
    """As Llama's and OPT's do. `<|endoftext|>` is that token."""
    from lm_eval.api.instance import Instance

    weights = make_folder(tmp_path / "model", "qwen3")
    tokenizer = json.loads((weights / "tokenizer.json").read_text())
    mark = next(token["id"] for token in tokenizer["added_tokens"])
    single = [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    named = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [mark], "tokens": ["<|endoftext|>"]}}
    template = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": named}
    (weights / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": template}))
    pairs = [("Question: is it?\nAnswer:", " yes"), ("a ", "dog"), ("", "the man"), ("no " * 200, "dog")]
    theirs = [
        float(logprob)
        for logprob, _ in peer(weights).loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs], disable_tqdm=True)
    ]
    model = open_model(str(weights))
    assert isinstance(model, TokenModel) and model.prefix == (mark,)
    assert [score.logprob for score in model.loglikelihood(pairs)] == pytest.approx(theirs, abs=NEAR)
    begun = model.generate_until([Request("Question: is it?", (), 12)])[0].text
    alone = generate(load_weights(weights), [mark, *model.encode("Question: is it?")], Sampling(12, temperature=0), mark)
    assert begun == load_tokenizer(weights / "tokenizer.json").decode([token.id for token in alone])


QUESTIONS = [
    {"goal": f"to see number {n}", "sol1": f"look at {n} — twice", "sol2": "walk " * (n % 3 + 1), "label": n % 2, "word": f"it is {n}"}
    for n in range(8)
]
CHOICE = {
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{goal}}\nAnswer:",
    "doc_to_choice": "{{[sol1, sol2]}}",
    "doc_to_target": "label",
    "fewshot_config": {"sampler": "first_n"},
    "fewshot_split": "test",
    "num_fewshot": 2,
    "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}, {"metric": "acc_bytes"}, {"metric": "acc_mutual_info"}],
}
FILES = {
    "choice": CHOICE,
    "labels": {**CHOICE, "doc_to_choice": ["no", "yes"], "doc_to_target": "{{['no', 'yes'][label]}}", "description": "Say yes or no.\n\n"},
    "last": {
        "output_type": "loglikelihood",
        "doc_to_text": "goal",
        "doc_to_target": " {{word}}",
        "metric_list": [{"metric": "acc"}, {"metric": "perplexity"}],
    },
    "roll": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{goal}} {{sol1}} {{sol2}} {{word}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
    "write": {
        "output_type": "generate_until",
        "doc_to_text": "Question: {{goal}}\nAnswer:",
        "doc_to_target": "word",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    },
}  # fmt: skip
METRICS = {
    "accuracy": "acc",
    "accuracy_per_character": "acc_norm",
    "accuracy_per_byte": "acc_bytes",
    "accuracy_unconditional": "acc_mutual_info",
}


def test_lm_eval_s_task_files_run_here_and_our_model_runs_there(weights: Path, tmp_path: Path) -> None:
    from openbook.evaluate.harness import Harness

    paths = {name: _write(tmp_path, f"file_{name}", config, QUESTIONS) for name, config in FILES.items()}
    names = [f"file_{name}" for name in FILES]
    model = open_model(str(weights))
    by_them, by_both = harness(peer(weights), tmp_path, names)["results"], harness(Harness(model), tmp_path, names)["results"]
    for name in names:
        shared = [key for key in by_them[name] if "," in key and isinstance(by_them[name][key], float) and "stderr" not in key]
        assert shared
        assert [by_both[name][key] for key in shared] == pytest.approx([by_them[name][key] for key in shared], rel=NEAR)
    own = {name: evaluate(model, task_named(str(path)), Settings(), tmp_path, tmp_path / "out")["metrics"] for name, path in paths.items()}
    for name, metrics in own.items():
        for key, figure in metrics.items():
            other = METRICS.get(key, key) if key != "exact" else "exact_match"
            if name != "write" and f"{other},none" in by_them[f"file_{name}"] and (key, name) != ("bits_per_byte", "choice"):
                assert figure["value"] == pytest.approx(by_them[f"file_{name}"][f"{other},none"], rel=NEAR), (name, key)


@pytest.mark.parametrize("by_ids", [True, False], ids=["token ids", "texts"])
def test_lm_eval_asks_our_server_for_the_same_scores(by_ids: bool, tmp_path: Path) -> None:
    """Its `local-completions`: echo with log-probabilities; characters of several bytes."""
    pytest.importorskip("tenacity", reason="lm-eval asks servers with tenacity; pip install 'openbook[dev]'")
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from openbook.evaluate.harness import Harness

    folder = make_folder(tmp_path / "weights", "qwen3")
    rows = [{**row, "goal": f"naïve — {row['goal']} 聚合", "sol1": f"— é{row['sol1']}", "sol2": "聚 naïve"} for row in QUESTIONS]
    metrics = CHOICE["metric_list"][: None if by_ids else 3]  # a text cannot say the token that stands before an empty context
    _write(tmp_path, "served", {**CHOICE, "metric_list": metrics}, rows)
    _write(tmp_path, "served_last", {**FILES["last"], "doc_to_target": " {{sol1}}"}, rows)
    with running(folder) as served:
        asking = {"base_url": f"{served.url}/v1/completions", "model": "tiny", "tokenizer": str(folder), "max_length": WINDOW}
        asked = LocalCompletionsAPI(**asking, tokenizer_backend="huggingface", tokenized_requests=by_ids, num_concurrent=1, max_retries=1)
        over = harness(asked, tmp_path, ["served", "served_last"])["samples"]
    inside = harness(Harness(open_model(str(folder))), tmp_path, ["served", "served_last"])["samples"]
    for name in over:
        for one, other in zip(over[name], inside[name], strict=True):
            found, wanted = ([answer[0] for answer in sample["resps"]] for sample in (one, other))
            assert [float(logprob) for logprob, _ in found] == pytest.approx([float(logprob) for logprob, _ in wanted], abs=NEAR)
            assert [bool(greedy) for _, greedy in found] == [greedy for _, greedy in wanted]


@pytest.mark.parametrize("foreign", [False, True])
def test_any_batch_size_gives_the_same_scores(foreign: bool, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "weights", "qwen3")
    contexts = ["Question: What is this?\nAnswer:", "", "it has " * 200, "Question: What is that?\nAnswer:"]
    pairs = [(context, text) for context in contexts for text in (" true", " the man said that", " no dog — naïve", "?")]
    found = [open_model(str(folder), batch=batch, foreign=foreign).loglikelihood(pairs) for batch in (1, 3, 16)]
    for other in found[1:]:
        assert [score.logprob for score in other] == pytest.approx([score.logprob for score in found[0]], abs=NEAR / 10)
        assert [(s.greedy, s.tokens, s.bytes, s.dropped) for s in other] == [(s.greedy, s.tokens, s.bytes, s.dropped) for s in found[0]]
    assert [score.dropped > 0 for score in found[0]] == [False] * 8 + [True] * 4 + [False] * 4
    with pytest.raises(InputError, match="has no token to score"):
        open_model(str(folder), foreign=foreign).loglikelihood([("it has", "")])


def test_any_batch_size_writes_the_same_texts(tmp_path: Path) -> None:
    """Also drawn ones, to the last character, whatever is beside them; alone they are what the library draws."""
    folder = make_folder(tmp_path / "weights", "qwen3")
    prompts = ["Question: What is this?\nAnswer:", "", "it has " * 200, "Question: What is that?\nAnswer:"]
    asked = [Request(prompt, ("at",), 24, heat, 0.95, seed) for seed, prompt in enumerate(prompts) for heat in (0.0, 1.5)]
    found = [open_model(str(folder), batch=batch).generate_until(asked) for batch in (1, 3, 16)]
    assert found[1:] == found[:1] * 2 and len({written.text for written in found[0]}) > 4
    tokenizer, model = load_tokenizer(folder / "tokenizer.json"), load_weights(folder)
    for request, written in zip(asked, found[0], strict=True):
        ids = tokenizer.encode(request.prompt)[-(WINDOW - 24) :] or [tokenizer.end_of_document]
        drawn = generate(model, ids, Sampling(24, request.temperature, 0.95, request.seed), tokenizer.end_of_document)
        whole = b"".join(tokenizer.token_bytes(token.id) for token in drawn).decode(errors="replace")
        assert written.text == whole.partition("at")[0]


def test_transformers_gives_what_our_engine_gives(weights: Path, tmp_path: Path) -> None:
    task = Task.model_validate(
        {
            "name": "mine", "version": 1, "title": "mine", "kind": "generate", "source": "a test", "metric": "f1", "stop": ["\n", " a"],
            "max_tokens": 10, "data": {"file": "mine.jsonl"}, "form": {"context": "Question: {{goal}}\nAnswer:", "answers": "[word]"},
        }
    )  # fmt: skip
    _write(tmp_path, "mine", {}, QUESTIONS)

    def by(model: LanguageModel, out: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = evaluate(model, task, Settings(shots=2), tmp_path, tmp_path / out)["items"]
        return items

    for ours, theirs in zip(by(open_model(str(weights)), "ours"), by(open_model(str(weights), foreign=True), "theirs"), strict=True):
        assert ours["written"] == theirs["written"]
        assert ours["logprobs"] == pytest.approx(theirs["logprobs"], abs=NEAR)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"filter_list": []}, "filter_list: is not supported here"),
        ({"output_type": "judge"}, "output_type = 'judge': should be one of multiple_choice"),
        ({"dataset_path": "piqa"}, "dataset_path = 'piqa': should be json"),
        ({"doc_to_choice": "{{sol1}} or {{sol2}}"}, "doc_to_choice = '{{sol1}} or {{sol2}}': should be a list"),
        ({"metric_list": [{"metric": "bleu"}]}, "metric_list: has none of acc, acc_norm"),
    ],
)
def test_what_a_task_file_asks_for_in_vain_is_named(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = _write(tmp_path, "bad", {**CHOICE, **change}, QUESTIONS)
    with pytest.raises(InputError, match=re.escape(told)):
        task_named(str(path))
    path.write_text("doc_to_text: !function utils.text\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"cannot be read: could not determine a constructor for the tag '!function'"):
        task_named(str(path))
    path.unlink()
    with pytest.raises(InputError, match="no such task file"):
        task_named(str(path))
