"""A mixture of experts: each token is computed by the few MLPs that a router chooses for it (Shazeer et al. 2017).

Switch (Fedus et al. 2021): top_k = 1, a capacity, weights as they are. Mixtral: top_k = 2, weights that add up to 1, none dropped; the same
block is Qwen3-MoE's and, with weights as they are, OLMoE's. DeepSeek-V3's, with one group of experts: sigmoid scores, a balancing bias and
a shared MLP.

Tokens are sorted by expert, so that each expert's rows lie together and one grouped product serves all of them. Rows are moved by gathers,
forward and backward, and nothing is added up in an order that depends on the number of threads.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openbook.errors import InputError
from openbook.model.config import EXPERTS_ALIGNMENT, GATED, Experts, TransformerConfig
from openbook.model.parts import MLP, activated


class Routes(NamedTuple):
    """Which row of which token goes where. A choice is one of a token's top_k, numbered token by token: tokens * top_k in all."""

    order: Tensor
    """(rows,): the choices that are computed, sorted by expert and then by token."""
    place: Tensor
    """(choices,): the row of each choice; the number of rows for one that is dropped."""
    counts: Tensor
    """(2, count) of int64: how many choices each expert was given, and how many it computed."""


def choose(scores: Tensor, bias: Tensor | None, top_k: int, normalised: bool) -> tuple[Tensor, Tensor]:
    """The experts of each token, the highest score first, and their weights: (tokens, top_k) each. scores: (tokens, count).

    A bias, (count,), takes part in the choice and not in the weights (Wang et al. 2024, "Auxiliary-loss-free load balancing").
    """
    chosen = (scores.detach() if bias is None else scores.detach() + bias).topk(top_k).indices
    weights = scores.gather(1, chosen)
    return chosen, weights / (weights.sum(1, keepdim=True) + 1e-20) if normalised else weights


def routed(chosen: Tensor, count: int, limit: int | None = None) -> Routes:
    """Sorts the choices by expert; beyond an expert's first `limit` of them, in the order of tokens, they are dropped.

    chosen: (tokens, top_k) of int64.
    """
    experts = chosen.flatten()  # (choices,)
    order = experts.argsort(stable=True)
    given = torch.bincount(experts, minlength=count)
    computed = given
    if limit is not None:
        computed = given.clamp(max=limit)
        first = given.cumsum(0) - given
        rank = torch.arange(len(order), device=order.device) - first[experts[order]]  # within the expert
        order = order[rank < limit]
    place = experts.new_full(experts.shape, len(order))
    place[order] = torch.arange(len(order), device=order.device)
    return Routes(order, place, torch.stack((given, computed)))


def balance(counts: Tensor, bias: Tensor, rate: float) -> Tensor:
    """The bias after a step: `rate` up for an expert that was given less than the mean, and down for one that was given more.

    counts: (…, count), of all microbatches together; bias: the same shape (Wang et al. 2024, algorithm 1).
    """
    counts = counts.double()
    return bias + rate * (counts.mean(-1, keepdim=True) - counts).sign().to(bias.dtype)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x)). torch's own gives other bits where a thread's piece ends, so that they depend on the number of threads."""
    return (1 + x.clamp(min=-80).neg().exp()).reciprocal()


def _sent(x: Tensor, order: Tensor, place: Tensor) -> Tensor:
    """Each row's token. x: (tokens, width) -> (rows, width)."""
    return x[order // (len(place) // len(x))]


def _added(x: Tensor, place: Tensor, tokens: int) -> Tensor:
    """The sum of each token's rows. x: (rows, width) -> (tokens, width)."""
    if len(x) < len(place):  # what is dropped is the row after the last
        x = torch.cat((x, x.new_zeros(1, x.shape[1])))
    return x[place].view(tokens, -1, x.shape[1]).sum(1)


class _Dispatch(torch.autograd.Function):
    """(tokens, width) -> (rows, width)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        ctx.tokens = len(x)
        return _sent(x, order, place)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return _added(outputs[0], place, ctx.tokens), None, None


class _Collect(torch.autograd.Function):
    """(rows, width) -> (tokens, width)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, place: Tensor, tokens: int) -> Tensor:
        ctx.save_for_backward(order, place)
        return _added(x, place, tokens)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None]:
        return _sent(outputs[0], *ctx.saved_tensors), None, None, None


@torch.library.custom_op("openbook::grouped", mutates_args=())
def grouped(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    """torch's grouped product, as an operation of our own: its description for torch.compile knows bf16 only, it itself any type.

    x: (rows, in), weight: (count, in, out) -> (rows, out); or x: (in, rows), weight: (rows, out) -> (count, in, out).
    ends: (count,) of int32, the row after each group's last.
    """
    return F.grouped_mm(x, weight, offs=ends)


@grouped.register_fake
def _(x: Tensor, weight: Tensor, ends: Tensor) -> Tensor:
    return x.new_empty(*([len(ends)] if weight.dim() == 2 else []), len(x), weight.shape[-1])


def _grouped_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
    x, weight, ends = ctx.saved_tensors
    gradient = gradient.contiguous()
    return grouped(gradient, weight.mT, ends), grouped(x.mT, gradient, ends), None


grouped.register_autograd(_grouped_backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


class Router(nn.Module):
    """A score for each expert. The weight is a parameter; the bias that balances, if there is one, starts at 0; `balance` moves it."""

    def __init__(self, width: int, experts: Experts) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(experts.count, width))
        self.bias: Tensor | None
        self.register_buffer("bias", torch.zeros(experts.count) if experts.balance_rate else None)

    def forward(self, x: Tensor) -> Tensor:
        """x: (tokens, width) -> (tokens, count), in fp32 whatever the type of x: a rounded score would choose another expert."""
        return F.linear(x.float(), self.weight.float())


class ExpertWeights(nn.Module):
    """The matrices of all experts: (count, outputs, inputs)."""

    def __init__(self, width: int, experts: Experts, is_gated: bool) -> None:
        super().__init__()
        if is_gated:
            self.gate = nn.Parameter(torch.empty(experts.count, experts.mlp_width, width))
        self.up = nn.Parameter(torch.empty(experts.count, experts.mlp_width, width))
        self.down = nn.Parameter(torch.empty(experts.count, width, experts.mlp_width))


class ExpertMLP(nn.Module):
    """(batch, time, width) -> the same shape.

    After a forward pass for training, `auxiliary` is the weighted sum of the auxiliary losses, or None if the recipe has none, and `counts`
    is that of `Routes`. An expert's capacity holds in training only: otherwise a token's output would depend on its neighbours.

    Raises InputError for a shape that it cannot have.
    """

    def __init__(self, config: TransformerConfig, experts: Experts) -> None:
        super().__init__()
        for name, width in (("width", config.width), ("experts' mlp_width", experts.mlp_width)):
            if width % EXPERTS_ALIGNMENT:
                raise InputError(f"{name} = {width} should be a multiple of {EXPERTS_ALIGNMENT} with experts")
        if config.mlp_bias:
            raise InputError("mlp_bias = true: experts have no biases")
        self.settings, self.activation = experts, config.activation
        self.router = Router(config.width, experts)
        self.experts = ExpertWeights(config.width, experts, config.activation in GATED)
        self.shared = MLP(config, experts.shared) if experts.shared else None
        self.auxiliary: Tensor | None = None
        self.counts: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        settings, training = self.settings, torch.is_grad_enabled()
        flat = x.flatten(0, -2)  # (tokens, width)
        logits = self.router(flat)  # (tokens, count)
        scores = logits.softmax(1) if settings.scores == "softmax" else sigmoid(logits)
        chosen, weights = choose(scores, self.router.bias, settings.top_k, settings.normalised)
        limit = None
        if settings.capacity is not None and training:
            limit = max(1, int(settings.capacity * chosen.numel() / settings.count))
        routes = routed(chosen, settings.count, limit)
        if training:
            self.counts, self.auxiliary = routes.counts, self._auxiliary(logits, scores, routes.counts[0])
        rows = _Dispatch.apply(flat, routes.order, routes.place)  # type: ignore[no-untyped-call]
        shares = _Dispatch.apply(weights.flatten()[:, None], routes.order, routes.place)  # type: ignore[no-untyped-call]
        rows = self._computed(rows, shares, routes.counts[1].cumsum(0).to(torch.int32))
        output = _Collect.apply(rows, routes.order, routes.place, len(flat)).view(x.shape)  # type: ignore[no-untyped-call]
        return output if self.shared is None else output + self.shared(x)

    def _computed(self, rows: Tensor, shares: Tensor, ends: Tensor) -> Tensor:
        """Each expert's rows, (rows, width), through its MLP, times their weights: (rows, 1). These multiply what is inside the MLP, which
        is mostly narrower. ends: see `grouped`."""

        def product(x: Tensor, weight: Tensor) -> Tensor:
            product: Tensor = grouped(x, weight.to(x.dtype).mT, ends)
            return product

        gate = product(rows, self.experts.gate) if self.activation in GATED else None
        inner = activated(self.activation, product(rows, self.experts.up), gate)  # (rows, mlp_width)
        return product(inner * shares.to(inner.dtype), self.experts.down)

    def _auxiliary(self, logits: Tensor, scores: Tensor, given: Tensor) -> Tensor | None:
        """Fedus et al. 2021, eq. 4, with choices in place of tokens, so that it is 1 for perfect balance whatever top_k is; and Zoph et al.
        2022, eq. 5. given: (count,)."""
        settings = self.settings
        if not (settings.balance_loss or settings.z_loss):
            return None
        likely = scores if settings.scores == "softmax" else scores / scores.sum(1, keepdim=True)
        size = logits.logsumexp(1, keepdim=True).square()
        # One sum over tokens for both: torch would cut a sum with a single result into a piece for each thread.
        means = torch.cat((likely, size), 1).mean(0)  # (count + 1,)
        imbalance = settings.count * (given / given.sum() * means[:-1]).sum()
        return settings.balance_loss * imbalance + settings.z_loss * means[-1]
