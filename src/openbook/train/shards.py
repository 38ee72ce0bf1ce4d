"""Who holds which part of a model: one worker all of it, or several workers a part of every tensor each (FSDP2).

A sharded model computes the same bits as a whole one. Its gradients are summed over the workers that hold it in the order of the tree:
in round `j`, worker `r` of `S` computes microbatch `j * S + r`, so that the sum over the workers is a branch of the tree. Tensors are
cut by rows. All arithmetic on them is elementwise or by rows, but for Muon's, whose matrices are gathered at one worker each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_api import ReduceScatter
from torch.distributed.tensor import DTensor, Shard

from openbook.model.transformer import Transformer
from openbook.train.tree import Gradients, alone
from openbook.train.workers import exchange, gathered

Updates = dict[str, Tensor]
Change = Callable[[Updates], Updates]


class Holding(Protocol):
    """What this worker holds of a model. All tensors go by the parameters' names."""

    width: int
    """How many workers hold the model together, each computing another microbatch of a round."""
    rank: int
    parameters: dict[str, Tensor]
    """This worker's rows, to be updated in place."""
    shapes: dict[str, tuple[int, ...]]
    """Of the whole tensors."""

    def gather(self, *numbers: float) -> list[tuple[float, ...]]:
        """Numbers of all who hold the model."""

    def leaf(self, facts: Gradients) -> Gradients:
        """The gradients of a round after the loss's backward pass, and the sums of what is to be known of its microbatches; the model's
        gradients are emptied."""

    def of_wholes(self, change: Change) -> Change:
        """Of a function of whole matrices, one that gets and returns this worker's rows of them."""

    def whole(self, name: str, rows: Tensor) -> Tensor:
        """The rows of a tensor that belongs to the parameter `name`, as what checkpoints and fingerprints know as a part of a whole."""


class Whole:
    """All of a model."""

    width, rank = 1, 0

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self.shapes = {name: tuple(parameter.shape) for name, parameter in self.parameters.items()}

    def gather(self, *numbers: float) -> list[tuple[float, ...]]:
        return alone(*numbers)

    def leaf(self, facts: Gradients) -> Gradients:
        return taken_gradients(self.model) | facts

    def of_wholes(self, change: Change) -> Change:
        return change

    def whole(self, name: str, rows: Tensor) -> Tensor:
        return rows


class Sharded:
    """A worker's rows of a model that `fully_shard` has cut over a mesh of one dimension."""

    def __init__(self, model: Transformer, mesh: DeviceMesh) -> None:
        self.model, self.mesh = model, mesh
        self.group = mesh.get_group()
        self.width, self.rank = mesh.size(), mesh.get_local_rank()
        tensors = {name: cast(DTensor, parameter.detach()) for name, parameter in model.named_parameters()}
        self.parameters = {name: tensor.to_local() for name, tensor in tensors.items()}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def gather(self, *numbers: float) -> list[tuple[float, ...]]:
        return gathered(numbers, self.group)

    def leaf(self, facts: Gradients) -> Gradients:
        gradients = {name: cast(DTensor, tensor).to_local() for name, tensor in taken_gradients(self.model).items()}
        flat = torch.cat([fact.flatten() for fact in facts.values()])
        everybodys = flat.new_empty(self.width, len(flat))
        with exchange():
            dist.all_gather(list(everybodys.unbind()), flat, group=self.group)
        sums = ordered_sum(everybodys).split([fact.numel() for fact in facts.values()])
        return gradients | {name: part.view_as(fact) for (name, fact), part in zip(facts.items(), sums, strict=True)}

    def of_wholes(self, change: Change) -> Change:
        return lambda updates: self._at_owners(change, updates)

    def _at_owners(self, change: Change, updates: Updates) -> Updates:
        """Matrix number `k` is gathered at worker `k` modulo their number: two exchanges for all matrices together."""
        owned = [list(updates)[owner :: self.width] for owner in range(self.width)]
        mine = owned[self.rank]
        rows = {name: [len(range(*part)) for part in row_ranges(self.shapes[name][0], self.width)] for name in updates}
        columns = {name: math.prod(update.shape[1:]) for name, update in updates.items()}  # of experts, a row is a matrix
        outgoing = [torch.cat([updates[name].flatten() for name in names]) if names else self._nothing(updates) for names in owned]
        sizes = [sum(rows[name][rank] * columns[name] for name in mine) for rank in range(self.width)]
        incoming = self._exchanged(outgoing, sizes)
        slices = [part.split([rows[name][rank] * columns[name] for name in mine]) for rank, part in enumerate(incoming)]
        wholes = {name: torch.cat([part[index] for part in slices]).view(self.shapes[name]) for index, name in enumerate(mine)}
        cuts = {name: whole.split(rows[name]) for name, whole in change(wholes).items()}
        outgoing = [
            torch.cat([cuts[name][rank].flatten() for name in mine]) if mine else self._nothing(updates) for rank in range(self.width)
        ]
        sizes = [sum(updates[name].numel() for name in names) for names in owned]
        back: Updates = {}
        for names, part in zip(owned, self._exchanged(outgoing, sizes), strict=True):
            pieces = part.split([updates[name].numel() for name in names])
            back |= {name: piece.view_as(updates[name]) for name, piece in zip(names, pieces, strict=True)}
        return back

    def _nothing(self, updates: Updates) -> Tensor:
        return next(iter(updates.values())).new_empty(0)

    def _exchanged(self, outgoing: list[Tensor], sizes: list[int]) -> list[Tensor]:
        """What each worker has sent here, of the given numbers of elements; outgoing: one flat tensor for each worker."""
        flat = torch.cat(outgoing)
        incoming = flat.new_empty(sum(sizes))
        with exchange():
            dist.all_to_all_single(incoming, flat, sizes, [part.numel() for part in outgoing], group=self.group)
        return list(incoming.split(sizes))

    def whole(self, name: str, rows: Tensor) -> Tensor:
        shape = torch.Size((self.shapes[name][0], *rows.shape[1:]))
        stride = torch.empty(shape, device="meta").stride()
        return DTensor.from_local(rows, self.mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


def taken_gradients(model: nn.Module) -> Gradients:
    """The parameters' gradients, by name; the parameters are left without."""
    gradients: Gradients = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        gradients[name], parameter.grad = parameter.grad, None
    return gradients


def row_ranges(rows: int, width: int) -> list[tuple[int, int]]:
    """First row and the row after the last of each worker's part: as torch.chunk cuts, some of the last may be empty."""
    size = -(-rows // width)
    return [(min(rank * size, rows), min((rank + 1) * size, rows)) for rank in range(width)]


def ordered_sum(parts: Tensor) -> Tensor:
    """The sum over the first axis, a power of two, along the tree. parts: (workers, …), overwritten."""
    while len(parts) > 1:
        parts = parts[0::2].add_(parts[1::2])
    return parts[0]


def cut(model: Transformer, mesh: DeviceMesh) -> None:
    """Cuts a model by rows, in place, over the workers of a mesh, layer by layer.

    Weights and sums of gradients travel in fp32: a whole model rounds its matrices to bf16 in its products, but not its norms' weights,
    and FSDP2 would round all of a layer.
    """
    for layer in model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_reduce_scatter(TreeReduceScatter())
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def tie(model: Transformer) -> None:
    """Makes one parameter of embedding and head again, where the recipe says that they are one."""
    if model.config.tied_head:
        model.head.weight = cast(nn.Parameter, model.embedding.weight)


class TreeReduceScatter(ReduceScatter):
    """FSDP2's reduce-scatter with the tree's order: every worker is sent all parts of its rows, the bytes of a ring, and sums them."""

    def allocate(self, size: Sequence[int | torch.SymInt], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.empty(*size, dtype=dtype, device=device)

    def __call__(self, output_tensor: Tensor, input_tensor: Tensor, group: Any, op: Any, async_op: bool = False) -> None:
        received = torch.empty_like(input_tensor)
        with exchange():
            dist.all_to_all_single(received, input_tensor, group=group)
        output_tensor.copy_(ordered_sum(received.view(group.size(), -1)))


def whole_model(model: Transformer, keep: bool) -> Transformer:
    """A model that is not cut, made of the parts on the CPU; every worker that holds a part must call it, and one will `keep` it."""
    if not isinstance(model, FSDPModule):
        return model
    with torch.device("meta"):
        whole = Transformer(model.config)
    tensors = {}
    for name, part in model.state_dict().items():
        with exchange():
            tensor = part.full_tensor() if isinstance(part, DTensor) else part  # what balances experts is not cut
        tensors[name] = tensor.cpu() if keep else tensor.new_empty(0)
    if keep:
        whole.load_state_dict(tensors, assign=True)
        tie(whole)
    return whole
