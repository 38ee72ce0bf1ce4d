"""What is continued, from where, and within the context."""

from __future__ import annotations

import pytest
import torch

from openbook.documents import Document
from openbook.evaluate.samples import prompt_of, write_samples
from openbook.model.generate import Sampling, generate
from openbook.model.tokenizer import Tokenizer
from openbook.model.transformer import Transformer, TransformerConfig
from openbook.recipe import EvaluateSection

END = 256
SECTION = EvaluateSection(sample_tokens=40, temperature=0.7, top_p=0.9)
TOKENIZER = Tokenizer({bytes([byte]): byte for byte in range(256)}, {"<|endoftext|>": END})


def document(text: str, component: str = "notes") -> Document:
    return Document("id of " + text[:9], text, component, None, "origin of " + text[:9])


def random_model(context: int) -> Transformer:
    torch.manual_seed(5)
    model = Transformer(
        TransformerConfig(257, context, layers=1, width=16, heads=2, kv_heads=1, head_width=8, mlp_width=32, query_key_norm=True)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("a line\n" * 60, "a line\n" * 28),
        ("no line end " * 40, ("no line end " * 40)[:200]),
        ("early\n" + "x" * 500, ("early\n" + "x" * 500)[:200]),
        ("x" * 150 + "\n" + "y" * 500, "x" * 150 + "\n"),
    ],
)
def test_a_prompt_ends_with_a_line_unless_that_makes_it_too_short(text: str, prompt: str) -> None:
    assert prompt_of(text) == prompt


def test_a_prompt_that_fits_is_read_as_the_beginning_of_a_document() -> None:
    model = random_model(512)
    (sample,) = write_samples(model, TOKENIZER, {"notes": [document("first line\n" * 40)]}, SECTION, seed=9)
    sampling = Sampling(max_tokens=40, temperature=0.7, top_p=0.9, seed=9)
    drawn = [token.id for token in generate(model, [END, *sample["prompt"].encode()], sampling, END)]
    assert sample["prompt"] == "first line\n" * 18
    assert sample["continuation"] == bytes(drawn).decode(errors="replace") != ""


@pytest.mark.parametrize(("context", "room"), [(64, 32), (120, 80), (1, 1)])
def test_a_prompt_gives_way_to_the_continuation_by_losing_its_beginning(context: int, room: int) -> None:
    text = "".join(f"{number:03} " for number in range(120))
    (sample,) = write_samples(random_model(context), TOKENIZER, {"notes": [document(text)]}, SECTION, seed=9)
    assert sample["prompt"] == text[200 - room : 200]
    assert (sample["continuation"] == "") == (context == 1)


def test_the_first_long_document_of_each_component_and_none_where_all_are_short() -> None:
    long, longer = document("long enough " * 40), document("longer still " * 90)
    documents = {"notes": [document("short"), long, longer], "scraps": [document("x" * 399, "scraps")]}
    samples = write_samples(random_model(64), TOKENIZER, documents, SECTION, seed=9)
    assert [(sample["component"], sample["document"], sample["origin"]) for sample in samples] == [("notes", long.id, long.origin)]
