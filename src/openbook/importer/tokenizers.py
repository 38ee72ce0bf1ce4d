"""A model's tokenizer from the files that come with it, as `tokenizer.json` with `tokenizer_config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from openbook.errors import InputError
from openbook.files import write_json, write_text
from openbook.model.imported_tokenizer import spelling
from openbook.model.tokenizer import TO_BYTE, Tokenizer, load_tokenizer

PAIRS = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"), ("gpt2-vocab.json", "gpt2-merges.txt"))
"""Vocabulary and merges as Hugging Face, OpenAI and metaseq call them."""
END = "<|endoftext|>"
"""What GPT-2's vocabulary calls the end of a document; its checkpoints say it nowhere."""
KEPT = ("bos_token", "eos_token", "pad_token", "unk_token", "add_bos_token", "add_eos_token", "model_max_length", "chat_template")
"""Settings that belong to the tokenizer and not to a class of transformers."""
LARGEST_FILE = 256 * 2**20


def prepare(source: Path, folder: Path, config: Mapping[str, Any], vocab_size: int) -> Tokenizer:
    """Writes the tokenizer of the files in `source` into `folder`, and reads it back.

    config: the model's `config.json`, which says by id which tokens begin and end a document where the tokenizer's own files do not by
    name. Raises InputError if there is no tokenizer, or one with more tokens than the model has.
    """
    settings = _settings(source)
    if "auto_map" in settings:
        raise InputError(f"{source / 'tokenizer_config.json'}: auto_map names code that comes with the tokenizer, which is never run")
    if (source / "tokenizer.json").is_file():
        write_text(folder / "tokenizer.json", (source / "tokenizer.json").read_text(encoding="utf-8"))
    else:
        _from_pair(source, folder / "tokenizer.json")
    write_json(folder / "tokenizer_config.json", _completed(settings, config, folder / "tokenizer.json"))
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    tokenizer.require_fits(vocab_size, source)
    return tokenizer


def _settings(source: Path) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        path = source / name
        if path.is_file():
            try:
                settings |= json.loads(path.read_bytes())
            except (ValueError, TypeError, RecursionError) as error:
                raise InputError(f"{path}: not a JSON object ({error})") from None
    return settings


def _from_pair(source: Path, path: Path) -> None:
    """A byte-level tokenizer.json from a vocabulary and its merges. Tokens that no merge makes are the special ones."""
    pair = next(((source / first, source / second) for first, second in PAIRS if (source / first).is_file()), None)
    if pair is None:
        hint = "tokenizer.model has to be converted first: AutoTokenizer of transformers saves it as tokenizer.json"
        known = " or ".join(" with ".join(names) for names in PAIRS)
        has_model = (source / "tokenizer.model").is_file()
        raise InputError(f"{source}: " + (hint if has_model else f"no tokenizer; there should be tokenizer.json, or {known}"))
    vocabulary_path, merges_path = pair
    try:
        vocabulary = {str(token): int(identifier) for token, identifier in json.loads(vocabulary_path.read_bytes()).items()}
        lines = merges_path.read_text(encoding="utf-8").splitlines()
        merges = [(left, right) for left, right in (line.split(" ") for line in lines if line and not line.startswith("#version"))]
        whole = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    except FileNotFoundError:
        raise InputError(f"{merges_path}: no such file; it belongs to {vocabulary_path.name}") from None
    except Exception as error:  # the package raises nothing narrower
        raise InputError(f"{vocabulary_path}: not the vocabulary of {merges_path.name} ({str(error).splitlines()[0][:200]})") from None
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    made = {left + right for left, right in merges} | TO_BYTE.keys()
    special = sorted((token for token in vocabulary if token not in made), key=vocabulary.__getitem__)
    whole.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    write_text(path, whole.to_str(pretty=True))


def _completed(settings: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The settings that we and transformers read. A document's ends come from names where there are any, else from the model's ids."""
    kept = {key: settings[key] for key in KEPT if settings.get(key) is not None}
    kept |= {key: spelling(value) for key, value in kept.items() if key.endswith("_token") and isinstance(value, dict)}
    try:
        content = json.loads(path.read_bytes())
        spelled = {int(token["id"]): token["content"] for token in content["added_tokens"]}
        model = content["model"]["vocab"]
        if isinstance(model, dict):
            spelled = {int(identifier): token for token, identifier in model.items()} | spelled
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path.name}: not a tokenizer.json ({type(error).__name__}: {error})") from None
    for name in ("bos_token", "eos_token"):
        identifiers = config.get(f"{name}_id")
        first = identifiers[0] if isinstance(identifiers, list) and identifiers else identifiers
        if not isinstance(kept.get(name), str) and isinstance(first, int) and first in spelled:
            kept[name] = spelled[first]
    if "eos_token" not in kept and END in spelled.values():
        kept["eos_token"] = END
    if config.get("model_type") == "opt" and "bos_token" in kept:
        kept.setdefault("add_bos_token", True)  # OPT puts </s> before every text, which its vocabulary alone does not say
    return {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **kept}
