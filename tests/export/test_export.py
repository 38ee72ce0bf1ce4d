"""The exported folder is a stock Hugging Face model: transformers loads it with no code of ours, and agrees."""

from __future__ import annotations

import json

import torch

from openbook.documents import read_documents
from openbook.files import sha256_file
from openbook.model.exchange import load_weights
from openbook.model.tokenizer import load_tokenizer
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
