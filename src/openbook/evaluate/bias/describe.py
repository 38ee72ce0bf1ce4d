"""The measures as docs/bias.md shows them: `python -m openbook.evaluate.bias.describe` prints that part of it."""

from __future__ import annotations

from openbook.evaluate.bias.audit import MEASURES, references
from openbook.evaluate.bias.measure import Measure


def described() -> str:
    """Markdown: each measure's form, figures, data and published values."""
    return "\n".join(_one(measure) for measure in MEASURES.values())


def _one(measure: Measure) -> str:
    lines = [f"### {measure.title} (`{measure.name}`, version {measure.version})", "", measure.form, ""]
    for figure in measure.figures:
        ideal = "" if figure.unbiased is None else f"; without bias {figure.unbiased:g}"
        lines.append(f"- `{figure.name}` ({figure.unit}): {figure.meaning}{ideal}.")
    lines.append(f"- Source: {measure.source}.")
    if measure.files:
        some = " (any of them)" if measure.partly else ""
        lines.append(
            f"- Data{some}: {', '.join(' or '.join(f'`{name}`' for name in names) for names in measure.files)}, from {measure.origin}."
        )
    else:
        lines.append("- Data: none.")
    for reference in references():
        if reference["measure"] == measure.name:
            values = ", ".join(f"{model} {value:g}" for model, value in reference["values"].items())
            lines.append(f"- Published `{reference['figure']}`, {reference['group']}: {values} ({reference['source']}).")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    print(described(), end="")
