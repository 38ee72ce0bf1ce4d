"""What all pages of openbook share: their looks, and how a template becomes one self-contained file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openbook import words


def style() -> str:
    """The style sheet of every page."""
    return Path(__file__).with_name("page.css").read_text(encoding="utf-8")


def fill(folder: Path, template: str, **facts: Any) -> str:
    """A template of a folder with the facts in it; whatever a template names and `facts` lacks is an error."""
    import jinja2

    loader = jinja2.FileSystemLoader(folder)
    strict = jinja2.StrictUndefined
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=strict, trim_blocks=True, lstrip_blocks=True)
    shown = (words.count, words.figure, words.size, words.duration, words.percent, words.printable)
    environment.filters.update({show.__name__: show for show in shown})
    return environment.get_template(template).render(**facts)
