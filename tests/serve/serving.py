"""A tiny model with random weights, and a real server with a model on a loopback port."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import openai
import torch
import uvicorn

from openbook.engine import Engine
from openbook.engine.model import Piece
from openbook.model.exchange import save_weights
from openbook.model.initialise import initialise
from openbook.model.tokenizer import Tokenizer
from openbook.model.transformer import Transformer, TransformerConfig
from openbook.recipe import TokenizerSection
from openbook.serve.adapters import Adapters
from openbook.serve.api import Desk, Limits, create_app
from openbook.serve.front import Front
from openbook.serve.local import load
from openbook.serve.protocol import PatientProtocol
from openbook.serve.served import describe
from openbook.serve.server import listen, url_of
from openbook.tokens.vocabulary import learn

NAME = "tiny"
CONTEXT = 256
TEXT = "def fibonacci(n):\n    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)\n# naïve — but ✓ clear\n" * 3


def tokenizer_of(size: int) -> Tokenizer:
    return learn([TEXT], TokenizerSection(vocab_size=size))


def random_model(vocab_size: int, context: int = CONTEXT, width: int = 32) -> Transformer:
    config = TransformerConfig(
        vocab_size, context, layers=2, width=width, heads=4, kv_heads=2, head_width=8, mlp_width=48, query_key_norm=True
    )
    model = Transformer(config)
    initialise(model, seed=1)
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():  # projections start at zero: without noise the layers would do nothing
            parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.3)
    return model.eval()


SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|file_sep|>")
TEMPLATE = """\
{%- if tools %}<|im_start|>system
Functions: {{ tools | tojson }}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' and message.content == 'complain' %}{{ raise_exception('no complaints') }}{% endif -%}
<|im_start|>{{ message.role }}
{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function.arguments | tojson }}</tool_call>{% endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def save_chatty(folder: Path) -> None:
    """Weights whose tokenizer has a chat's and fill-in-the-middle's special tokens, with a chat template."""
    ranks = tokenizer_of(300).ranks
    tokenizer = Tokenizer(ranks, {spelling: len(ranks) + index for index, spelling in enumerate(SPECIAL)})
    tokenizer.save(folder / "tokenizer.json")
    config = {"chat_template": TEMPLATE, "eos_token": "<|im_end|>", "bos_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    save_weights(random_model(tokenizer.vocab_size, context=1024), folder, tokenizer.end_of_document)


@dataclass
class Served:
    """A running server, and what its answers are compared with."""

    url: str
    engine: Engine
    model: Transformer
    tokenizer: Tokenizer
    desk: Desk

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=20)


def before_each_step(engine: Engine, action: Callable[[], object]) -> None:
    forward = engine.runner.forward

    def after_the_action(pieces: Sequence[Piece]) -> torch.Tensor:
        action()
        return forward(pieces)

    engine.runner.forward = after_the_action  # type: ignore[method-assign]


@contextmanager
def running(
    weights: Path,
    slots: int = 8,
    queue: int = 256,
    slow: Callable[[], object] | None = None,
    limits: Limits | None = None,
    data: Path | None = None,
    front: Front | None = None,
    name: str = NAME,
    adapters: Path | None = None,
) -> Iterator[Served]:
    """`slow` is called before each step of the engine. Below `adapters` some may be loaded."""
    model, tokenizer = load(weights)
    engine = Engine(model, slots, queue)
    if slow is not None:
        before_each_step(engine, slow)
    desk = Desk({name: describe(name, weights, engine, tokenizer)}, limits or Limits())
    with serving(desk, front, data, engine.close, adapters) as url:
        yield Served(url, engine, *load(weights), desk)


@contextmanager
def serving(
    desk: Desk,
    front: Front | None = None,
    data: Path | None = None,
    stop: Callable[[], object] = lambda: None,
    adapters: Path | None = None,
) -> Iterator[str]:
    """The URL of a server of a desk's models; `stop` is called when it ends."""
    listener = listen("127.0.0.1", 0)
    app = create_app(desk, data, front=front, adapters=Adapters(desk, adapters, front))
    config = uvicorn.Config(app, http=PatientProtocol, ws="none", log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        yield url_of(listener)
    finally:
        server.should_exit = True
        stop()
        thread.join()
        listener.close()
