"""The page: whole, self-contained, true to its inputs, deaf to hostile text."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser

import pytest

from openbook.logbook import Logbook
from openbook.report import STAGE, render
from openbook.run import Run

Make = Callable[..., Run]
VOID = {"meta", "line", "br", "img", "input", "link", "hr"}
SPACE = "\N{NO-BREAK SPACE}"


class Page(HTMLParser):
    """Reads a page; fails on tags that do not balance. `text` is what people see, `tags` every element with its attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.curves = ""
        self.feed(html)
        self.close()
        assert self.open == []
        self.text = " ".join("".join(self.parts).split(None))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in <{tag}>"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("script", "style"):
            if self.tags[-1][1].get("type") == "application/json":
                self.curves += data
        else:
            self.parts.append(data)

    def elements(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_needs_nothing_from_outside(make: Make) -> None:
    html = render(make())
    page = Page(html)
    assert not [attributes for _, attributes in page.tags if "src" in attributes or "srcset" in attributes]
    links = [attributes["href"] for _, attributes in page.tags if "href" in attributes]
    assert links and all(link and link.startswith("#") for link in links)
    assert "url(" not in html and "@import" not in html and not page.elements("link")
    [policy] = [meta["content"] for meta in page.elements("meta") if meta.get("http-equiv")]
    assert policy and policy.startswith("default-src 'none'") and "http" not in policy


def test_every_link_has_a_target_and_every_table_a_name(make: Make) -> None:
    page = Page(render(make()))
    names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(names) == len(set(names))
    assert {(link["href"] or "")[1:] for link in page.elements("a")} <= set(names)
    tables = page.elements("table")
    assert tables and all(table["aria-labelledby"] in names for table in tables)


def test_the_figures_are_those_of_the_run(make: Make) -> None:
    page = Page(render(make(steps=300)))
    figures = ["1,577,088", "614,400", "8,638", "6,510,007", "2,100,000", "40.0%", "4,096", "5,150", "25.8%"]
    scores = ["1.150", "1.120 to 1.180", "1.782", "1.863", "1.380", "1.495"]  # of python: the model, its interval, the baselines
    for shown in [*figures, *scores, "duplicate 40", "GPL-3.0-or-later 12"]:
        assert shown in page.text, shown
    assert "1.58 million" in page.text and "200 GFLOP/s" in page.text
    assert "3 steps, " in page.text and "killed without a word" in page.text and "30 min 00 s" in page.text
    assert "Qwen3ForCausalLM" in page.text and "no energy counter" in page.text


def test_the_curves_are_those_of_the_logbook(make: Make) -> None:
    page = Page(render(make(steps=300)))
    curves = json.loads(page.curves)
    loss = curves["charts"]["loss"]["series"][0]
    assert (loss["step"][0], loss["step"][-1], loss["tokens"][-1]) == (1, 300, 614_400)
    assert [series["name"] for series in curves["charts"]["validation"]["series"]][:2] == ["python", "packages"]
    assert [mark["number"] for mark in curves["marks"]] == [1, 2]
    assert all(chart["text"].startswith("Line chart of") for chart in curves["charts"].values())


def test_the_report_of_a_real_run(finished: Run) -> None:
    html = (finished.path / "report.html").read_text(encoding="utf-8")
    assert render(Run(finished.path)) == html
    page = Page(html)
    train = finished.manifest["stages"]["train"]["summary"]
    assert f"{train['parameters']:,}" in page.text and f"{train['tokens']:,}" in page.text and "Not yet" not in page.text
    scores = json.loads((finished.path / "scores" / "bits_per_byte.json").read_text())
    summary = finished.manifest["stages"]["evaluate"]["summary"]["components"]
    for name, row in scores["components"].items():
        assert summary[name]["model"] == row["model"]["bpb"]  # one number, rounded once, here and on the console
        assert f"{row['model']['bpb']:.3f}" in page.text and f"{row['baselines']['xz_archive']['bpb']:.3f}" in page.text
    artifacts = {
        path: entry
        for name, record in finished.manifest["stages"].items()
        if name != "report"
        for path, entry in record["artifacts"].items()
    }
    assert artifacts and all(path in page.text and entry["sha256"] in page.text for path, entry in artifacts.items())


def test_hostile_text_stays_text(make: Make) -> None:
    html = render(make())
    page = Page(html)
    assert "alert(1)" in page.text and "{{ 7*7 }}" in page.text and "<b>odd</b>" in page.text
    assert len(page.elements("script")) == 2 and not page.elements("img")
    assert html.count("</script") == 2
    assert "\x00" not in html and "\x1b" not in html
    html.encode("utf-8")  # a lone surrogate in a sample would fail here


def test_hostile_text_in_the_logbook_stays_text(make: Make) -> None:
    run = make(upto="corpus")
    with Logbook(run.logbook_path) as book:
        book.append("stage.begin", stage="train", key="k", environment={"<i>": "</script><script>"})
        book.append("train.begin", parameters=10, steps=5)
        book.append("step", step=1, tokens=1, seconds=1.0, loss=float("nan"), norm=float("inf"), rate=1.0, tokens_per_second=1.0)
        book.append("validation", step=1, tokens=1, seconds=1.0, bits_per_byte={"python": float("nan")}, mean=float("nan"))
        book.append("interruption", cause="</script><script>alert(2)</script>", lost_steps=1, lost_seconds=1.0)
    page = Page(render(run))
    assert len(page.elements("script")) == 2 and "alert(2)" in page.text
    curves = json.loads(page.curves, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert curves["charts"]["loss"]["series"][0]["y"] == [None]


@pytest.mark.parametrize("upto", [None, "corpus", "tokenize", "train", "evaluate"])
def test_a_half_finished_run_has_a_page(make: Make, upto: str | None) -> None:
    page = Page(render(make(upto=upto, steps=20)))
    assert "Not yet" in page.text
    assert ("no training step" in page.text) == (upto in (None, "corpus", "tokenize", "mixture"))


def test_a_training_at_work_shows_what_it_has_done(make: Make) -> None:
    run = make(upto="tokenize")
    with Logbook(run.logbook_path) as book:
        book.append("stage.begin", stage="train", key="k", environment={})
        book.append("train.begin", parameters=10, flops_per_token=10.0, peak_flops_per_second=1e5, steps=500, tokens_per_step=4096)
        book.append("step", step=1, tokens=4096, seconds=2.0, loss=8.25, norm=1.0, rate=0.5, tokens_per_second=2048.0)
    page = Page(render(run))
    assert "So far, after 1 of 500 steps and 4,096 tokens" in page.text and "8.250" in page.text and "20.5 kFLOP/s" in page.text


def test_the_same_run_gives_the_same_bytes(make: Make) -> None:
    run = make(joules=True)
    before = render(run)
    with run.locked():
        run.carry_out(STAGE)
    assert (run.path / "report.html").read_text(encoding="utf-8") == before
    assert render(Run(run.path)) == before  # although the logbook and the manifest now tell of the report


def test_the_page_of_a_long_run_stays_small(make: Make) -> None:
    html = render(make(steps=3000))
    assert len(html.encode()) < 400_000
    series = [series for chart in json.loads(Page(html).curves)["charts"].values() for series in chart["series"]]
    assert max(len(one["y"]) for one in series) <= 400


def test_measured_energy_is_shown(make: Make) -> None:
    page = Page(render(make(joules=True)))
    assert "7.41 kJ (2.06 Wh)" in page.text and "gave no energy" in page.text  # six stages of 1234.5 J; two attempts had no counter
    assert "no energy counter" not in page.text


def test_the_page_says_what_is_broken(make: Make) -> None:
    run = make()
    lines = run.logbook_path.read_bytes().splitlines(keepends=True)
    lines[5] = lines[5].replace(b"2026-01-02T03", b"2026-01-02T04")
    run.logbook_path.write_bytes(b"".join(lines))
    (run.path / "scores" / "samples.json").write_text("[]")
    run.manifest["stages"]["corpus"]["sha256"] = "f" * 64
    text = Page(render(run)).text
    assert "chain does not hold: line 6 was changed" in text
    assert "scores/samples.json: its bytes are not those in the manifest" in text
    assert "openbook train RUN makes it anew" in text


def test_a_logbook_that_stops_being_one_is_read_so_far(make: Make) -> None:
    run = make()
    with run.logbook_path.open("ab") as file:
        file.write(b"not json\n")
    assert "is not a logbook line" in Page(render(run)).text
    run.logbook_path.unlink()
    assert "there is no logbook" in Page(render(run)).text


def test_without_scores_the_page_says_so(make: Make) -> None:
    run = make()
    shutil.rmtree(run.path / "scores")
    text = Page(render(run)).text
    assert "scores/bits_per_byte.json is missing" in text and "the model has not been evaluated" in text


def test_numbers_never_part_from_their_units(make: Make) -> None:
    html = render(make())
    assert re.search(rf"\d{SPACE}min{SPACE}\d", html) and not re.search(r">\d+ min \d+ s<", html)
