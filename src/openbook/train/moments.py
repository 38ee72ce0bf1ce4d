"""What an optimizer remembers of past gradients, in 32, 16 or 8 bits a number.

Numbers are rounded up or down at random in proportion to their distance (Connolly et al. 2021), so that on average nothing is lost: a
second moment that shrinks by a twentieth of itself a step would otherwise stand still where the codes are coarse. The randomness is a
function of the step, the column and the gradient's own bits, so rows give the same bits wherever they are kept.

In 8 bits, a row (the last dimension) shares one fp32 scale; the second moment is stored as its root, which halves the range, and never as
zero, since it divides. One-dimensional tensors stay in fp32: they are small, and a shard of one is a part of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from openbook.model.initialise import generator

Bits = Literal["fp32", "bf16", "int8"]
TINY = 1e-30
"""Stands for the scale of a row of zeros."""


class Moments:
    """Tensors by name. In int8, `NAME` holds codes and `NAME.scale` a scale for each row; all of it is in `tensors`.

    With `offload` they lie in the machine's memory, pinned where there is a GPU, and visit the gradients' device one after another.
    """

    def __init__(self, bits: Bits, offload: bool = False) -> None:
        self.bits, self.offload = bits, offload
        self.tensors: dict[str, Tensor] = {}
        self.squares: set[str] = set()
        self.columns = 0

    def add(self, name: str, like: Tensor, square: bool = False) -> None:
        """Makes room for a moment of a parameter or some rows of it: zeros."""
        dtype = torch.float32
        if like.dim() > 1 and self.bits == "bf16":
            dtype = torch.bfloat16
        if like.dim() > 1 and self.bits == "int8":
            dtype = torch.uint8 if square else torch.int8
            self.tensors[f"{name}.scale"] = self._zeros(like.shape[:-1], torch.float32, like.device)
        self.tensors[name] = self._zeros(like.shape, dtype, like.device)
        self.columns = max(self.columns, like.shape[-1])
        if square:
            self.squares.add(name)

    def _zeros(self, shape: torch.Size, dtype: torch.dtype, device: torch.device) -> Tensor:
        if not self.offload:
            return torch.zeros(shape, dtype=dtype, device=device)
        return torch.zeros(shape, dtype=dtype, pin_memory=torch.cuda.is_available())

    @property
    def one_by_one(self) -> bool:
        """Whether an open moment is a copy, of which there had better not be many."""
        return self.offload or self.bits != "fp32"

    def begin(self, step: int, device: torch.device) -> None:
        """Draws the step's randomness: 16 bits for every column."""
        if self.bits != "fp32":
            drawn = generator(step, "rounding").integers(1 << 16, size=self.columns, dtype="int32")
            self.dither = torch.from_numpy(drawn).to(device)

    @contextmanager
    def open(self, names: list[str], gradients: list[Tensor]) -> Iterator[list[Tensor]]:
        """The moments in fp32, to be changed in place; packed again on the way out."""
        values = [self._unpacked(name, gradient.device) for name, gradient in zip(names, gradients, strict=True)]
        yield values
        for name, value, gradient in zip(names, values, gradients, strict=True):
            if self.tensors[name].dtype == torch.float32:
                if self.offload:
                    self.tensors[name].copy_(value)
            else:
                noise = (gradient.view(torch.int32) ^ self.dither[: value.shape[-1]]) & 0xFFFF
                self._pack(name, value, noise)

    def _unpacked(self, name: str, device: torch.device) -> Tensor:
        stored = self.tensors[name].to(device, copy=self.offload)
        if stored.dtype == torch.float32:
            return stored
        if stored.dtype == torch.bfloat16:
            return stored.float()
        value = stored.float().mul_(self.tensors[f"{name}.scale"].to(device).unsqueeze(-1))
        return value.square_() if name in self.squares else value

    def _pack(self, name: str, value: Tensor, noise: Tensor) -> None:
        """value: fp32; noise: whole numbers below 2^16, the same shape."""
        stored = self.tensors[name]
        if stored.dtype == torch.bfloat16:  # the upper half of the bits; the noise carries into it
            stored.copy_((value.view(torch.int32) + noise).bitwise_and_(-0x10000).view(torch.float32))
            return
        square = name in self.squares
        value, low, high = (value.sqrt_(), 1, 255) if square else (value, -127, 127)
        scale = value.abs().amax(-1).div_(high).clamp_(min=TINY)
        stored.copy_(value.div_(scale.unsqueeze(-1)).add_(noise, alpha=2.0**-16).floor_().clamp_(low, high))
        self.tensors[f"{name}.scale"].copy_(scale)
