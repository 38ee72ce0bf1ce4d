from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch

from engine.text import CONTEXT, HELD_OUT, engine_over
from openbook.engine.linear import Int8, Int8Product, Packed, Plain, Pointwise, Product, product, require_precision
from openbook.engine.pages import lay_in_large_pages
from openbook.errors import InputError

SHAPES = [(96, 64), (100, 48), (2304, 768), (768, 2048), (8, 768), (300, 8)]
BACKENDS = {
    "plain": (lambda weight, bias: Plain(weight, bias, torch.float32), 3e-6),
    "pointwise": (Pointwise, 3e-6),
    "packed": (lambda weight, bias: Packed(weight, bias, torch.float32), 3e-6),
    "packed bf16": (lambda weight, bias: Packed(weight, bias, torch.bfloat16), 0.02),
    "int8": (Int8, 0.03),
    "int8 product": (Int8Product, 0.03),
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if request.param == "int8" and not torch.cpu._is_vnni_supported():
        pytest.skip("this CPU has no VNNI")
    return request.param


def made(backend: str, outputs: int, inputs: int) -> tuple[Product, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(outputs)
    weight, bias, x = torch.randn(outputs, inputs) * inputs**-0.5, torch.randn(outputs) * 0.1, torch.randn(140, inputs)
    x[3] *= 20  # an outlier, whose scale must be its own
    made, _ = BACKENDS[backend]
    return made(weight, bias), weight, bias, x.to(torch.bfloat16) if "bf16" in backend else x


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@torch.inference_mode()
def test_a_product_is_that_of_fp32(backend: str, outputs: int, inputs: int) -> None:
    one, weight, bias, x = made(backend, outputs, inputs)
    expected = x.float() @ weight.T + bias
    errors = (one(x).float() - expected).norm(dim=1) / expected.norm(dim=1)
    assert float(errors.max()) < BACKENDS[backend][1]


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@torch.inference_mode()
def test_a_row_has_the_same_bits_whatever_is_beside_it(backend: str, outputs: int, inputs: int, threads: int) -> None:
    one, _, _, x = made(backend, outputs, inputs)
    whole = one(x)
    some = (1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 40, 64, 65, 100)
    for rows in some if threads == 1 else (1, 4, 8, 9, 33):  # threads that wait for each other are slow on a busy machine
        for start in (0, 37):
            if rows >= one.least_rows:
                assert torch.equal(one(x[start : start + rows].contiguous()), whole[start : start + rows]), f"{rows} rows"


def test_int8_takes_rows_of_zeros_and_huge_numbers() -> None:
    one = product(torch.eye(32), None, "int8")
    with torch.inference_mode():
        rows = one(torch.cat((torch.zeros(1, 32), torch.full((1, 32), 1e30), -torch.ones(1, 32))))
    assert (
        rows[0].tolist() == [0] * 32
        and torch.allclose(rows[1], torch.tensor(1e30), rtol=0.01)
        and torch.allclose(rows[2], torch.tensor(-1.0))
    )


@torch.inference_mode()
def test_weights_in_large_pages_keep_their_values() -> None:
    plain = torch.randn(1500, 1000)
    laid, copy = Pointwise(plain[:700], None), plain.clone()
    x = torch.randn(3, 1000)
    before = laid(x)
    lay_in_large_pages([plain, laid.weight])
    assert torch.equal(plain, copy) and torch.equal(laid(x), before)


def test_a_precision_is_one_of_three() -> None:
    assert require_precision("int8") == "int8"
    with pytest.raises(InputError, match=r"'int4'.*fp32, bf16, int8"):
        require_precision("int4")


def test_perplexity_on_real_text_hardly_changes() -> None:
    texts = [list(HELD_OUT[start : start + CONTEXT]) for start in range(0, 40 * CONTEXT, CONTEXT)]
    losses = {}
    for precision in ("fp32", "int8", "bf16"):
        with engine_over(precision=precision, slots=16) as engine:
            found = [-token.logprob for scores in engine.score(texts) for token in scores if token]
        losses[precision] = sum(found) / len(found)
    assert losses["fp32"] < 3, "the model has learnt something"
    changes = {precision: math.exp(loss - losses["fp32"]) - 1 for precision, loss in losses.items()}
    print(f"perplexity {math.exp(losses['fp32']):.2f}; int8 {changes['int8']:+.3%}, bf16 {changes['bf16']:+.3%}")
    assert abs(changes["int8"]) < 0.01 and abs(changes["bf16"]) < 0.01
