"""The exported folder is a stock Hugging Face model: transformers loads it with no code of ours, and agrees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch

from chronicle import Chronicle
from openbook.documents import read_documents
from openbook.export.card import card
from openbook.files import sha256_file
from openbook.logbook import Account
from openbook.model.exchange import load_weights
from openbook.model.tokenizer import load_tokenizer
from openbook.pipeline import update
from openbook.recipe import EnergySection
from openbook.run import Run


def test_transformers_loads_the_folder_and_gives_the_same_logits(finished: Run) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finished.path / "weights"
    tokenizer, peer = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    ours, own_tokenizer = load_weights(folder), load_tokenizer(folder / "tokenizer.json")
    assert tokenizer.eos_token_id == own_tokenizer.end_of_document
    documents = [document.text for name in ("prose", "code") for document in read_documents(finished.path / f"corpus/{name}/valid.parquet")]
    assert documents
    for text in documents:
        ids = tokenizer(text)["input_ids"]
        assert ids == own_tokenizer.encode(text)
        tokens = torch.tensor([ids[:32]])
        with torch.no_grad():
            assert torch.allclose(ours.logits(ours(tokens)), peer(tokens).logits, atol=1e-4, rtol=0)
        assert tokenizer.decode(ids) == text


def test_transformers_generates_from_it(finished: Run) -> None:
    from transformers import pipeline

    generate = pipeline("text-generation", model=str(finished.path / "weights"), device="cpu")
    text = generate("def return", max_new_tokens=5, do_sample=False)[0]["generated_text"]
    assert text.startswith("def return")
    assert len(text) > len("def return")


def test_the_card_tells_what_the_run_measured(finished: Run) -> None:
    text = (finished.path / "weights" / "README.md").read_text(encoding="utf-8")
    records = finished.manifest["stages"]
    scores = records["evaluate"]["summary"]["components"]
    for name, row in scores.items():
        assert f"| {name} | {row['model']:.3f} | {row['xz']:.3f} | {row['zstd']:.3f} | {row['ngram']:.3f} |" in text
    assert f"{records['train']['summary']['parameters']:,} parameters" in text
    assert "CC0-1.0" in text
    assert "Energy: " in text


def test_the_manifest_knows_every_file_of_the_folder(finished: Run) -> None:
    known = {name: entry for stage in ("train", "export") for name, entry in finished.manifest["stages"][stage]["artifacts"].items()}
    for path in (finished.path / "weights").iterdir():
        assert known[f"weights/{path.name}"]["sha256"] == sha256_file(path)


def test_the_configuration_names_the_end_of_a_document(finished: Run) -> None:
    config = json.loads((finished.path / "weights" / "config.json").read_text())
    assert config["eos_token_id"] == config["vocab_size"] - 1 == 299


def test_the_card_tells_of_interruptions_energy_and_carbon(finished: Run, tmp_path: Path) -> None:
    book = Chronicle(tmp_path)
    book.begin()
    book.steps(4)
    book.save(0, seconds=40.0, cpu_seconds=40.0, joules={"measured:rapl": 3.6e6})
    book.begin(after=3600)
    book.interrupted("hang", back=2)
    book.steps(4)
    book.end(0, seconds=40.0, cpu_seconds=40.0, joules={"measured:rapl": 3.6e6})
    book.tell("verify", steps=[0, 4], verdict="holds", differs=None)
    declared = EnergySection(pue=1.2, grid_g_per_kwh=50.0)
    records = {name: finished.manifest["stages"][name] for name in ("corpus", "tokenize", "train", "evaluate")}
    text = card(finished.recipe, records, Account(book.events(), {}, declared)).replace("\N{NO-BREAK SPACE}", " ")
    for shown in (
        "1 interruption in 1 h 01 min",
        "1.6% of that time was work that counts",
        "| hang | 1 | 1.006 |",
        "the same to the bit: steps 0 to 4.",
        "| train | 1 min 20 s | 1 min 20 s | 7.20 MJ (2.00 kWh) measured:rapl |",
        "in vain, in work that does not count: 1.80 MJ (500 Wh) measured:rapl.",
        "Carbon: 2 kWh × PUE 1.2 × 50 g/kWh = 120 g CO2e.",
    ):
        assert shown in text, shown


def test_without_declarations_the_card_says_what_is_missing(finished: Run) -> None:
    text = (finished.path / "weights" / "README.md").read_text(encoding="utf-8")
    assert "0 interruptions in " in text and "No step had been replayed yet." in text
    assert "no carbon figure without" in text and "energy.pue, energy.grid_g_per_kwh" in text
    assert "| export |" not in text and "| evaluate |" in text


def test_the_card_has_metadata_and_what_was_found_of_the_model(finished: Run, tmp_path: Path) -> None:
    """Tasks come from files of the run; without them nothing is said of a figure."""
    import yaml

    text = (finished.path / "weights" / "README.md").read_text(encoding="utf-8")
    assert yaml.safe_load(text.split("---")[1])["pipeline_tag"] == "text-generation"
    assert finished.recipe.sha256() in text
    assert "## Tasks" not in text
    assert "has not been audited for bias" in text
    result = {"task": "piqa", "version": 1, "metric": "accuracy", "chance": 0.5, "count": 1838, "shots": 2}
    result |= {"metrics": {"accuracy": {"value": 0.51234, "low": 0.4894, "high": 0.5352}}}
    shutil.copytree(finished.path, tmp_path / "run")
    run = Run(tmp_path / "run")
    (run.path / "scores" / "piqa.json").write_text(json.dumps(result))
    [done] = [item for item in update(run, ["export"]) if item.stage == "export"]
    assert not done.skipped
    text = (run.path / "weights" / "README.md").read_text(encoding="utf-8")
    assert "| piqa | 1 | accuracy | 0.5123 | 0.4894 … 0.5352 | 0.5000 | 1,838 | 2 |" in text
