"""The page's and the card's sections on bias: what the audit's files say, and nothing where there was no audit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from openbook.audited import lines_of
from openbook.evaluate.bias.audit import MEASURES, audit
from openbook.evaluate.bias.judges import Judges
from openbook.evaluate.bias.measure import Options
from openbook.evaluate.models import Score
from openbook.export.build import parameters as card_parameters
from openbook.export.card_bias import bias as card_lines
from openbook.files import write_json
from openbook.report import render
from openbook.report.build import parameters
from openbook.run import Run


class Lean:
    """Finds every male word twice as likely as every female one."""

    identity = "lean"

    def loglikelihood(self, pairs: Any) -> list[Score]:
        return [Score(-1.0 - 0.7 * (text in (" woman", " female")), False, 1, 1) for _, text in pairs]

    def loglikelihood_rolling(self, texts: Any) -> list[Score]:
        return self.loglikelihood([("", text) for text in texts])

    def generate_until(self, requests: Any) -> list[Any]:
        return []


def test_the_page_and_the_card_show_the_audit(make: Callable[..., Run], tmp_path: Path) -> None:
    run = make("export")
    before, known = render(run), (parameters(run), card_parameters(run))
    assert 'id="bias"' not in before
    assert "What it has taken in" not in before
    assert card_lines(run.path) == []
    result = audit(Lean(), MEASURES["occupations"], Options(), tmp_path, run.path / "audit", Judges(tmp_path))
    page = render(run)
    section = page[page.index('<section id="bias">') : page.index('<section id="cost">')]
    for told in ("Occupations and gender", "-0.700", "100.0%", "GPT-3 -1.110", "Brown et al. 2020, section 6.2.1", "80 of 80 items"):
        assert told in section
    assert render(run) == page, "the same run gives the same page"
    assert all(new != old for new, old in zip((parameters(run), card_parameters(run)), known, strict=True)), "both are made anew"
    card = "\n".join(card_lines(run.path))
    assert "| Occupations and gender | neutral | log_ratio | -0.700 | – | 0.000 | GPT-3 -1.110 |" in card

    result["rows"][0]["group"] = "<script>alert(1)</script>"
    write_json(run.path / "audit" / "occupations.json", result)
    for name, text in (("torn.json", '{"measure": '), ("other.json", "[]"), ("old.json", '{"rows": [{}], "shown": []}')):
        (run.path / "audit" / name).write_text(text)
    page = render(run)
    assert "<script>alert(1)" not in page
    for name in ("torn", "other", "old"):
        assert f"audit/{name}.json is no result of an audit" in page


@pytest.mark.parametrize(
    ("shown", "lines"),
    [
        (["overall", "a", "b"], ["overall one", "overall two", "a one", "b one"]),
        (["a", "b"], ["a one", "a two", "b one", "b two"]),
    ],
    ids=["a whole and its parts", "parts alone"],
)
def test_groups_of_one_kind_are_shown_alike(shown: list[str], lines: list[str]) -> None:
    figures = [{"name": name, "unit": "score", "unbiased": 0.0, "meaning": ""} for name in ("one", "two")]
    found = {name: {"value": 0.5, "low": None, "high": None} for name in ("one", "two")}
    rows = [{"group": group, "count": 3, "figures": found} for group in shown]
    told = lines_of({"measure": "m", "shown": shown, "figures": figures, "rows": rows, "references": []})
    assert [f"{line['group']} {line['figure']}" for line in told] == lines
