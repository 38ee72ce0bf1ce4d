"""The model card's section on bias, from audit/*.json."""

from __future__ import annotations

from pathlib import Path

from openbook.audited import audit_of, lines_of, quality_line


def bias(run: Path) -> list[str]:
    """Lines of Markdown; none for a run that was never audited."""
    results, _ = audit_of(run)
    if not results:
        return []
    lines = ["## Bias", "", "Published measures, each in one fixed form (openbook's docs/bias.md); 95 % intervals by bootstrap.", ""]
    lines += ["| measure | group | figure | value | 95 % interval | unbiased | published |", "|---|---|---|---:|---:|---:|---|"]
    for result in results:
        for line in lines_of(result):
            keys = ("group", "figure", "value", "interval", "unbiased", "published")
            lines.append(f"| {result['title']} | {' | '.join(line[key] for key in keys)} |")
    scorer = next((quality_line(result["scorer_quality"]) for result in results if "scorer_quality" in result), None)
    return [*lines, "", *([f"Toxicity is scored by {scorer}.", ""] if scorer else [])]
