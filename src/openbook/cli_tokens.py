"""Commands about tokens: where those of a training row come from, and files of other programs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def mixture_lines(found: Mapping[str, Any]) -> list[str]:
    """The Pile's table of a run's mixture, for people."""
    titles = ("raw size", "weight", "epochs", "effective", "mean document", "tokens read", "bytes/token")
    names = [*found["components"], "all"]
    width = max(map(len, names))
    lines = [f"{'component':{max(width, 9)}}" + "".join(f"{title:>15}" for title in titles)]
    total = found["all"]["tokens_read"]
    for name, part in [*found["components"].items(), ("all", found["all"])]:
        mean = part["bytes"] / part["documents"] if part["documents"] else 0
        per_token = f"{part['bytes'] / part['tokens']:.2f}" if part["tokens"] else ""
        share = f"{part['tokens_read'] / total:.2%}"
        epochs = f"{part['epochs']:.2f}" if "epochs" in part else ""
        cells = (_size(part["bytes"]), share, epochs, _size(part["effective_bytes"]), _size(mean), f"{part['tokens_read']:,}", per_token)
        lines.append(f"{name:{max(width, 9)}}" + "".join(f"{cell:>15}" for cell in cells))
    for name, languages in found["languages"].items():
        told = ", ".join(f"{language} {figure['bytes_per_token']:.2f}" for language, figure in languages.items())
        lines.append(f"bytes/token of {name} by language: {told}")
    return lines + [f"note: {note}" for note in found["notes"]]


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
