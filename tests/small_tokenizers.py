"""Small tokenizers for the small models of the tests, as their makers' files would be."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = "the cat sat on the mat and the dog sat on the log — naïve, isn't it?\n" * 20
END = "<|endoftext|>"


def byte_level(folder: Path) -> None:
    """A tokenizer.json with fewer tokens than the models have rows."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=290, special_tokens=[END], initial_alphabet=alphabet))
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": END, "bos_token": {"content": END}}))


def as_pair(folder: Path) -> None:
    """The byte-level tokenizer of a folder in OpenAI's two files instead, which do not say which token ends a document."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "encoder.json").write_text(json.dumps(model["vocab"]))
    (folder / "vocab.bpe").write_text("#version: 0.2\n" + "".join(" ".join(pair) + "\n" for pair in model["merges"]))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


def pieces(folder: Path) -> None:
    """A tokenizer.json as Llama 2's is, which sentencepiece's was made into."""
    special = ["<unk>", "<s>", "</s>"]
    words = ["▁", *sorted(set("abcdefghijklmnopqrstuvwxyz.,'?")), "th", "▁th", "▁the", "▁s", "▁sat"]
    vocabulary = {token: index for index, token in enumerate([*special, *(f"<0x{byte:02X}>" for byte in range(256)), *words])}
    merges = [("t", "h"), ("▁", "th"), ("▁th", "e"), ("▁", "s"), ("▁s", "at")]
    vocabulary["at"] = len(vocabulary)
    merges.insert(0, ("a", "t"))
    made = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": "</s>"}))
