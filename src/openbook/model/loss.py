"""Cross-entropy of an output head whose logits never exist all at once.

The loss is taken a few rows at a time and its gradient is computed in the same pass, while the logits are still in the processor's
cache: the cost is that of the three matrix products. (The idea is that of Liger-Kernel's fused linear cross-entropy, Hsu et al. 2024.)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from openbook.model.elementwise import pieces

LOGITS_AT_ONCE = {"cpu": 2**20, "cuda": 2**27}
"""Elements of the logits in one chunk: 4 MB of fp32 stay in a CPU's cache, a GPU wants large products."""
ROWS_AT_LEAST = 128
"""Rows in one chunk however large the vocabulary: products of fewer rows run at half the speed."""


class _HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
        rows = hidden.shape[0]
        chunk = max(ROWS_AT_LEAST, LOGITS_AT_ONCE[hidden.device.type] // weight.shape[0])
        cast = weight.to(hidden.dtype)
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight)
        bias_gradient = None if bias is None else torch.zeros_like(bias)
        total = torch.zeros((), device=hidden.device)
        for start in range(0, rows, chunk):
            part, wanted = hidden[start : start + chunk], targets[start : start + chunk, None]
            logits = (part @ cast.t()).float()  # (chunk, vocabulary)
            if bias is not None:
                logits += bias
            if softcap is not None:
                for (flat,) in pieces(logits.div_(softcap)):
                    flat.tanh_()
                slope = 1 - logits.square()
                logits *= softcap
            largest = logits.amax(1, keepdim=True)
            picked = logits.gather(1, wanted)
            gradient = torch.softmax(logits, 1, out=logits)
            total += (largest - picked - gradient.amax(1, keepdim=True).log()).sum()  # the likeliest has the probability 1 / sum
            gradient.scatter_add_(1, wanted, gradient.new_full((), -1.0).expand_as(wanted))
            if softcap is not None:
                gradient *= slope
            if bias_gradient is not None:
                bias_gradient.add_(gradient.sum(0), alpha=1.0 / rows)
            narrow = gradient.to(hidden.dtype)
            torch.addmm(part, narrow, cast, beta=0, alpha=1.0 / rows, out=hidden_gradient[start : start + chunk])
            if narrow.dtype == weight.dtype:
                weight_gradient.addmm_(narrow.t(), part, alpha=1.0 / rows)
            else:
                weight_gradient.add_(narrow.t() @ part, alpha=1.0 / rows)
        ctx.save_for_backward(hidden_gradient, weight_gradient, bias_gradient)
        return total / rows

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, Tensor, None, Tensor | None, None]:
        hidden_gradient, weight_gradient, bias_gradient = ctx.saved_tensors
        by_bias = None if bias_gradient is None else bias_gradient * outputs[0]
        return hidden_gradient * outputs[0], weight_gradient * outputs[0], None, by_bias, None


def head_loss(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, softcap: float | None = None) -> Tensor:
    """Mean cross-entropy in nats. hidden: (rows, width); weight: (vocabulary, width); targets: (rows,) of int64; bias: (vocabulary,).

    With `softcap`, logits become softcap * tanh(logits / softcap).
    """
    loss: Tensor = _HeadLoss.apply(hidden, weight, targets, bias, softcap)  # type: ignore[no-untyped-call]
    return loss
