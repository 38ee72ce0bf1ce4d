"""The evaluate stage on a small run, made for real except for the training of its weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from openbook.corpus import STAGE as CORPUS
from openbook.documents import DocumentWriter, read_documents
from openbook.errors import InputError, OpenbookError
from openbook.evaluate import STAGE, build
from openbook.files import sha256_file
from openbook.model.exchange import load_weights, save_weights
from openbook.model.score import document_bits
from openbook.model.tokenizer import load_tokenizer
from openbook.model.transformer import Transformer, TransformerConfig
from openbook.ngram import NGram
from openbook.recipe import EvaluateSection, load_recipe
from openbook.run import Outcome, Run, Stage, open_run
from openbook.tokens import STAGE as TOKENIZE

RECIPE = """
name = "small"
seed = 7
corpus.holdout = {holdout}
corpus.components.stories = {{ source = "files", path = "stories", weight = 1.0 }}
corpus.components.notes = {{ source = "files", path = "notes", weight = 1.0 }}
tokenizer.vocab_size = 290
model = {{ layers = 1, width = 16, head_width = 8, context = 48 }}
train = {{ steps = 1, microbatch_rows = 1, device = "cpu" }}
evaluate = {{ sample_tokens = 12{evaluate} }}
"""

MakeRun = Callable[..., Run]


def random_weights(run: Run) -> Outcome:
    """Stands in for training."""
    shape = run.recipe.model
    assert shape.heads is not None and shape.kv_heads is not None and shape.mlp_width is not None
    sizes = (shape.context, shape.layers, shape.width, shape.heads, shape.kv_heads, shape.head_width, shape.mlp_width)
    model = Transformer(TransformerConfig(run.recipe.tokenizer.vocab_size, *sizes, query_key_norm=True))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    save_weights(model, run.path / "weights", run.recipe.tokenizer.vocab_size - 1)
    return Outcome(["weights/config.json", "weights/model.safetensors"])


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    def make(stories: int = 24, notes: int = 1, holdout: float = 0.3, evaluate: str = "") -> Run:
        for folder, count in (("stories", stories), ("notes", notes)):
            (tmp_path / folder).mkdir()
            for number in range(count):
                lines = [f"{folder} {number}, line {line}: {number * line % 17} of them went home.\n" for line in range(3 + number)]
                (tmp_path / folder / f"{number:02}.txt").write_text("".join(lines))
        path = tmp_path / "small.toml"
        path.write_text(RECIPE.format(holdout=holdout, evaluate=evaluate))
        run = open_run(tmp_path / "run", load_recipe(path)[0], path)
        with run.locked():
            for stage in (CORPUS, TOKENIZE, Stage("train", 1, ("tokenize",), lambda run: None, random_weights)):
                run.carry_out(stage)
        return run

    return make


def evaluate(run: Run) -> dict[str, Any]:
    with run.locked():
        return run.carry_out(STAGE)


def stored(run: Run, name: str) -> Any:
    return json.loads((run.path / "scores" / name).read_bytes())


def test_scores_can_be_recomputed_from_the_run_s_files(make_run: MakeRun) -> None:
    run = make_run(notes=8)
    record = evaluate(run)
    scores = stored(run, "bits_per_byte.json")
    model, tokenizer = load_weights(run.path / "weights"), load_tokenizer(run.path / "tokenizer" / "tokenizer.json")
    training = [text.text.encode() for name in ("stories", "notes") for text in read_documents(run.path / f"corpus/{name}/train.parquet")]
    ngram = NGram.train(training)
    totals = {"model": 0.0, "ngram": 0.0, "bytes": 0.0}
    for name, row in scores["components"].items():
        texts = [document.text for document in read_documents(run.path / f"corpus/{name}/valid.parquet")]
        size = sum(len(text.encode()) for text in texts)
        parts = document_bits(model, [tokenizer.encode(text) for text in texts], tokenizer.end_of_document, stride=24)
        bits = {"model": sum(part for _, part in parts), "ngram": sum(ngram.bits([text.encode() for text in texts]))}
        assert (row["documents"], row["bytes"]) == (len(texts), size)
        assert row["model"]["bpb"] == pytest.approx(bits["model"] / size)
        assert row["baselines"]["ngram"]["bpb"] == pytest.approx(bits["ngram"] / size)
        totals = {"model": totals["model"] + bits["model"], "ngram": totals["ngram"] + bits["ngram"], "bytes": totals["bytes"] + size}
    assert scores["all"]["model"]["bpb"] == pytest.approx(totals["model"] / totals["bytes"])
    assert scores["all"]["baselines"]["ngram"]["bpb"] == pytest.approx(totals["ngram"] / totals["bytes"])
    assert (scores["stride"], scores["context"]) == (24, 48)
    assert scores["ngram"] == {"order": 5, "training_bytes": sum(map(len, training))}
    assert record["summary"]["all"]["model"] == pytest.approx(scores["all"]["model"]["bpb"], abs=1e-4)
    assert set(record["artifacts"]) == {"scores/bits_per_byte.json", "scores/samples.json"}


def test_every_value_lies_in_its_interval(make_run: MakeRun) -> None:
    run = make_run()
    evaluate(run)
    row = stored(run, "bits_per_byte.json")["components"]["stories"]
    assert row["documents"] > 3
    assert set(row["baselines"]) == {"xz", "xz_archive", "zstd", "ngram"}
    for estimate in (row["model"], row["baselines"]["xz"], row["baselines"]["zstd"], row["baselines"]["ngram"]):
        assert estimate["low"] < estimate["bpb"] < estimate["high"]


def test_a_component_without_held_out_text_is_named_and_left_out(make_run: MakeRun) -> None:
    run = make_run(notes=1)  # one document is not held out: there would be nothing to train on
    summary = evaluate(run)["summary"]
    assert summary["without_held_out"] == ["notes"]
    assert list(summary["components"]) == list(stored(run, "bits_per_byte.json")["components"]) == ["stories"]


def test_no_held_out_text_at_all_is_one_clear_line(make_run: MakeRun) -> None:
    run = make_run()
    entries = run.manifest["stages"]["corpus"]["artifacts"]
    for name in ("stories", "notes"):  # a corpus that another tool made
        with DocumentWriter(run.path / f"corpus/{name}/valid.parquet"):
            pass
        entries[f"corpus/{name}/valid.parquet"]["sha256"] = sha256_file(run.path / f"corpus/{name}/valid.parquet")
    (run.path / "manifest.json").write_text(json.dumps(run.manifest))
    with pytest.raises(InputError, match=r"no held-out text.*corpus\.holdout = 0.3.*raise it, or add more text") as caught:
        evaluate(run)
    assert "\n" not in str(caught.value)
    assert not (run.path / "scores").exists()


def test_whole_documents_up_to_max_bytes_and_at_least_one(make_run: MakeRun) -> None:
    run = make_run(evaluate=", max_bytes = 1")
    first = next(read_documents(run.path / "corpus/stories/valid.parquet"))
    assert evaluate(run)["summary"]["components"]["stories"]["bytes"] == first.bytes
    sizes = [document.bytes for document in read_documents(run.path / "corpus/stories/valid.parquet")]
    limit = sum(sizes[:3]) + 1
    wider = run.recipe.model_copy(update={"evaluate": run.recipe.evaluate.model_copy(update={"max_bytes": limit})})
    run.recipe = wider
    assert evaluate(run)["summary"]["components"]["stories"]["bytes"] == sum(sizes[:3])


def test_repeats_itself_leaves_scores_of_tasks_and_is_current(make_run: MakeRun) -> None:
    run = make_run()
    first = evaluate(run)
    assert run.is_current(STAGE)
    (run.path / "scores" / "piqa.json").write_text("{}")
    (run.path / "scores" / "samples.json").write_text("[]")
    assert evaluate(run)["artifacts"] == first["artifacts"]
    assert sorted(path.name for path in (run.path / "scores").iterdir()) == ["bits_per_byte.json", "piqa.json", "samples.json"]


@pytest.mark.parametrize("change", [{"seed": 8}, {"evaluate": EvaluateSection(stride=24, sample_tokens=12, temperature=0.5)}])
def test_depends_on_the_seed_and_its_part_of_the_recipe(make_run: MakeRun, change: dict[str, Any]) -> None:
    run = make_run()
    evaluate(run)
    run.recipe = run.recipe.model_copy(update=change)
    assert not run.is_current(STAGE)


@pytest.mark.parametrize("name", ["weights/model.safetensors", "tokenizer/tokenizer.json", "corpus/stories/train.parquet"])
def test_refuses_files_that_are_not_those_of_the_run(make_run: MakeRun, name: str) -> None:
    run = make_run()
    damaged = bytearray((run.path / name).read_bytes())
    damaged[-1] ^= 1
    (run.path / name).write_bytes(damaged)
    with pytest.raises(OpenbookError, match=f"{name}: its bytes are not those in the manifest"):
        evaluate(run)


def test_ngram_counts_a_share_of_a_large_corpus(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(stories=60)
    record = run.stage_record("corpus")
    assert record is not None
    total = sum(figures["train"]["bytes"] for figures in record["summary"]["components"].values())
    monkeypatch.setattr(build, "NGRAM_BYTES", total // 2)
    evaluate(run)
    assert 0.25 * total < stored(run, "bits_per_byte.json")["ngram"]["training_bytes"] < 0.75 * total


def test_samples_continue_held_out_documents(make_run: MakeRun) -> None:
    run = make_run()
    evaluate(run)
    (sample,) = stored(run, "samples.json")
    documents = {document.id: document for document in read_documents(run.path / "corpus/stories/valid.parquet")}
    tokenizer = load_tokenizer(run.path / "tokenizer" / "tokenizer.json")
    document = documents[sample["document"]]
    assert len(document.text) >= 400
    assert sample["prompt"] in document.text[:200] and sample["prompt"].endswith("\n")
    assert 0 < len(tokenizer.encode(sample["prompt"])) <= 48 - 12
    assert sample["continuation"]
    assert {key: sample[key] for key in ("component", "seed", "temperature", "top_p")} == {
        "component": "stories",
        "seed": 7,
        "temperature": 0.8,
        "top_p": 0.95,
    }
