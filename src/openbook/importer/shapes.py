"""Whether a checkpoint is whole, from the shapes of its tensors alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from openbook.errors import InputError


def require_shapes(
    path: Path, wanted: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]], source: str, allow_extra: bool
) -> list[str]:
    """Names of superfluous tensors. Raises InputError if one is missing, has another shape than `source` calls for, or is superfluous
    and not allowed."""
    for name, shape in wanted.items():
        if name not in found:
            raise InputError(f"{path}: tensor {name} is missing")
        if list(found[name]) != list(shape):
            raise InputError(f"{path}: tensor {name} has shape {list(found[name])}; {source} calls for {list(shape)}")
    extra = sorted(set(found) - set(wanted))
    if extra and not allow_extra:
        more = f", and {len(extra) - 1} more" if extra[1:] else ""
        raise InputError(f"{path}: tensor {extra[0]}{more} is unknown to this architecture; --allow-extra leaves such tensors out")
    return extra
