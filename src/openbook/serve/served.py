"""A model as the server knows it: an engine, and all that turns its token ids into text and back."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from openbook.engine import Engine
from openbook.errors import InputError
from openbook.model.tokenizer import Tokenizer
from openbook.serve.text.chat import ChatTemplate
from openbook.serve.text.fim import FillIn, fill_in_of
from openbook.serve.text.grammar import Grammars


@dataclass(frozen=True)
class Served:
    """One model under its name. `end` ends a turn of a chat, `fill_in` is None for a model that was not trained to fill in.

    A model with an adapter has the model without as its `parent`, and the engine's name for its adapter."""

    name: str
    engine: Engine
    tokenizer: Tokenizer
    chat: ChatTemplate
    fill_in: FillIn | None
    end: int
    ends: tuple[int, ...] = ()
    """Tokens that end a turn besides `end`."""
    created: int = field(default_factory=lambda: int(time.time()))
    parent: Served | None = None
    adapter: str | None = None

    def adapted(self, name: str, adapter: str) -> Served:
        """The same model with an adapter that its engine has loaded, under a name of its own."""
        return replace(self, name=name, adapter=adapter, parent=self, created=int(time.time()))

    @property
    def context(self) -> int:
        return self.engine.model.config.context

    @property
    def turn_stops(self) -> tuple[str, ...]:
        """Texts that end a turn, besides its end token."""
        return (*self.chat.stop, *(self.tokenizer.decode([other]) for other in self.ends))

    @cached_property
    def grammars(self) -> Grammars:
        return self.parent.grammars if self.parent else Grammars(self.tokenizer, self.end)

    @cached_property
    def document_grammars(self) -> Grammars:
        """For texts that end as documents do."""
        if self.parent:
            return self.parent.document_grammars
        return self.grammars if self.end == self.tokenizer.end_of_document else Grammars(self.tokenizer, self.tokenizer.end_of_document)

    def card(self, name: str) -> dict[str, Any]:
        """The model object of the API, under a name that the server has for it; the last fields are our own, and vLLM's `parent`."""
        return {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "openbook",
            "context_window": self.context,
            "fill_in": self.fill_in is not None,
            **({"parent": self.parent.name} if self.parent else {}),
        }


def describe(name: str, weights: Path, engine: Engine, tokenizer: Tokenizer) -> Served:
    """A model of a folder of weights: its chat template and special tokens from `chat_template.jinja` and `tokenizer_config.json`.

    `tokenizer_config.json` may have a key "fim" with the spellings of "prefix", "suffix", "middle" and "file". Raises InputError that names
    the file that cannot be used.
    """
    path = weights / "tokenizer_config.json"
    try:
        config = json.loads(path.read_bytes()) if path.is_file() else {}
        facts = {key: _spelling(config[key]) for key in ("bos_token", "eos_token", "pad_token", "unk_token") if config.get(key)}
        fill_in = fill_in_of(tokenizer, config.get("fim"))
        template = ChatTemplate(tokenizer, _source(weights, config), facts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is not a tokenizer's configuration ({type(error).__name__}: {error})") from None
    except InputError as error:
        raise InputError(f"{weights}: {error}") from None
    end = tokenizer.special_tokens.get(facts.get("eos_token", ""), tokenizer.end_of_document)
    others = {tokenizer.end_of_document, *_ends(weights / "generation_config.json")} - {end}
    return Served(name, engine, tokenizer, template, fill_in, end, tuple(sorted(others & set(tokenizer.special_tokens.values()))))


def _ends(path: Path) -> list[int]:
    """The tokens with which generation ends, as a Hugging Face folder says it. Raises InputError that names the file."""
    try:
        said = json.loads(path.read_bytes()).get("eos_token_id") if path.is_file() else None
        return [int(identifier) for identifier in (said if isinstance(said, list) else [said]) if identifier is not None]
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: is not a configuration of generation ({type(error).__name__}: {error})") from None


def _spelling(token: Any) -> str:
    """A token is written as its spelling or as an object with it."""
    return str(token["content"] if isinstance(token, dict) else token)


def _source(weights: Path, config: dict[str, Any]) -> str | None:
    beside = weights / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text()
    said = config.get("chat_template")
    if isinstance(said, list):  # several by name
        named = {entry["name"]: entry["template"] for entry in said}
        said = named.get("default")
    return None if said is None else str(said)
