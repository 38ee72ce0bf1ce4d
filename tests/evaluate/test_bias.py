"""The audit's measures: exact on published scores, right by definition for models whose answers are known, and put to real models."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from toymodels import Uniform, make_folder
from typer.testing import CliRunner

from openbook.cli import app
from openbook.errors import InputError, OpenbookError
from openbook.evaluate.bias import MEASURES, Options, audit_all, measures, table
from openbook.evaluate.bias.audit import audit, located
from openbook.evaluate.bias.describe import described
from openbook.evaluate.bias.judges import Judges
from openbook.evaluate.bias.measure import Measure, Row
from openbook.evaluate.bias.stereoset import LABELS, rows
from openbook.evaluate.journal import UNIT
from openbook.evaluate.models import Request, Score, Written
from openbook.evaluate.models.endpoint import Endpoint
from openbook.evaluate.models.opening import open_engine, open_model
from openbook.run import Run
from serve.serving import running
from shared_data import DATA, needs_data


class Planted:
    """A model that is a function of text: `likes` gives a text's log-probability, `says` a continuation."""

    def __init__(self, likes: Callable[[str], float] = lambda text: 0.0, says: Callable[[Request], str] = lambda request: "") -> None:
        self.likes, self.says, self.identity, self.asked = likes, says, "planted", 0

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
        self.asked += len(pairs)
        return [Score(self.likes(context + text), False, 1, len(text.encode())) for context, text in pairs]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[Score]:
        return self.loglikelihood([("", text) for text in texts])

    def generate_until(self, requests: Sequence[Request]) -> list[Written]:
        self.asked += len(requests)
        return [Written(self.says(request)) for request in requests]


def run_measure(name: str, model: Any, out: Path, data: Path = DATA, options: Options | None = None) -> dict[str, Any]:
    return audit(model, MEASURES[name], options or Options(), data, out, Judges(data))


def value(result: dict[str, Any], group: str, figure: str) -> Any:
    return next(row for row in result["rows"] if row["group"] == group)["figures"][figure]["value"]


def interval(result: dict[str, Any], group: str, figure: str) -> tuple[float, float]:
    found = next(row for row in result["rows"] if row["group"] == group)["figures"][figure]
    return found["low"], found["high"]


@needs_data("bias")
def test_stereoset_s_published_scores_give_its_published_figures() -> None:
    """GPT-2's score of every sentence, as its authors published them, gives the figures that they published, to the last digits."""
    items = MEASURES["stereoset"].make(located(MEASURES["stereoset"], DATA)[0], Options())
    published = json.loads((DATA / "bias/stereoset_gpt2_scores.json").read_bytes())["intrasentence"]
    scores = {entry["id"]: entry["score"] for entry in published}
    records = [{**item.facts, "means": [math.log(scores[name]) for name in item.facts["ids"]]} for item in items]
    found: dict[str, Row] = {row.group: row for row in rows(records, 0)}
    expected = json.loads((DATA / "bias/stereoset_gpt2_expected.json").read_bytes())["expected"]
    for domain in ("gender", "race", "religion"):
        for figure, name in (("lms", "LM Score"), ("ss", "SS Score"), ("icat", "ICAT Score")):
            estimate = found[f"intrasentence {domain}"].figures[figure]
            assert estimate["value"] == pytest.approx(expected[domain][name], rel=1e-13)
            assert estimate["low"] is not None
            assert estimate["low"] < expected[domain][name] < estimate["high"]


def stereoset(folder: Path) -> Path:
    """Both kinds, four targets."""
    made: dict[str, list[Any]] = {"intrasentence": [], "intersentence": []}
    for kind, entries in made.items():
        for place in range(8):
            sentences = [{"id": f"{kind}{place}{label}", "gold_label": label, "sentence": f"They are {label}."} for label in LABELS]
            entries.append({"target": f"t{place % 4}", "bias_type": "race", "context": "They came.", "sentences": sentences})
    (folder / "bias").mkdir(parents=True)
    (folder / "bias/stereoset_dev.json").write_text(json.dumps({"data": made}))
    return folder


def test_stereoset_of_models_whose_answers_are_known(tmp_path: Path) -> None:
    data = stereoset(tmp_path / "data")
    uniform = run_measure("stereoset", Uniform(), tmp_path / "uniform", data)
    stereotyped = run_measure(
        "stereoset", Planted(lambda text: (" stereotype" in text) - 9.0 * ("unrelated" in text)), tmp_path / "one", data
    )
    ideal = run_measure("stereoset", Planted(lambda text: -9.0 * ("unrelated" in text)), tmp_path / "two", data)
    for group in ("overall", "intrasentence", "intersentence", "intersentence race"):
        found = [[value(result, group, figure) for figure in ("lms", "ss", "icat")] for result in (uniform, stereotyped, ideal)]
        assert found == [[50, 50, 50], [100, 100, 0], [100, 50, 100]]
    assert uniform["items"][-1]["pairs"][0] == ["They came.", " They are stereotype."]
    assert uniform["items"][0]["pairs"][0] == ["", "They are stereotype."]


@needs_data("bias")
def test_a_planted_bias_is_found_with_its_sign(tmp_path: Path) -> None:
    poor = Planted(lambda text: float("poor" in text.lower()))
    crows = run_measure("crows_pairs", poor, tmp_path)
    assert interval(crows, "socioeconomic", "stereotype")[0] > 0.5
    assert value(crows, "socioeconomic", "log_ratio") > 0.2
    assert value(crows, "disability", "stereotype") == 0.5

    women = (DATA / "bias/winobias/female_occupations.txt").read_text().split("\n")[:-1]

    def believes(text: str) -> float:
        """A woman's pronoun is a woman's job, and a man's a man's; of the rest it knows nothing."""
        found = re.search(r'"(\w+)" refers to the (.*)', text)
        assert found, text
        female = found[1] in ("She", "Her")
        return float((found[2] in women) == female)

    winobias = run_measure("winobias", Planted(believes), tmp_path)
    for group in ("overall", "type 1", "type 2"):
        assert value(winobias, group, "difference") > 0.9
        assert interval(winobias, group, "difference")[0] > 0.8

    jobs = ("nurse", "secretary", "hairdresser", "receptionist", "librarian", "teacher", "hygienist", "dietitian", "therapist", "counselor")

    def leans(text: str) -> float:
        she, job = '"She"' in text or '"Her"' in text, any(text.endswith(name) for name in jobs)
        return float(she and job) - 0.5 * float("someone" in text[-8:])

    winogender = run_measure("winogender", Planted(leans), tmp_path)
    assert interval(winogender, "overall", "correlation")[0] > 0.1
    assert value(winogender, "overall", "to_occupation") > 0.5
    assert value(run_measure("winogender", Planted(), tmp_path / "none"), "overall", "accuracy") == 0.5


@needs_data("bias")
def test_bbq_of_models_whose_answers_are_known(tmp_path: Path) -> None:
    """Biased, contrary, right, and always "unknown": the paper's scores are 1, -1, 0 and undefined."""
    items = MEASURES["bbq"].make(located(MEASURES["bbq"], DATA)[0], Options())
    some = [item for item in items if item.facts["template"] in ("1", "2", "3")]
    short = Measure(**{**vars(MEASURES["bbq"]), "make": lambda paths, options: some})

    def told(place: Callable[[Any], int], name: str) -> list[Any]:
        likes = {item.pairs[place(item.facts)] for item in some}
        model = Planted()
        model.loglikelihood = lambda pairs: [Score(float(pair in likes), False, 1, 1) for pair in pairs]  # type: ignore[method-assign]
        result = audit(model, short, Options(), DATA, tmp_path / name, Judges(DATA))
        return [value(result, "overall", figure) for figure in ("bias_ambiguous", "bias_disambiguated", "accuracy_ambiguous")]

    assert told(lambda facts: facts["biased"], "biased") == [1, 1, 0]
    assert told(lambda facts: 3 - facts["biased"] - facts["unknown"], "contrary") == [-1, -1, 0]
    assert told(lambda facts: facts["unknown"], "unknown") == [None, None, 1]
    right = told(lambda facts: facts["label"], "right")
    assert right[0] is None  # nobody is named where the context does not say
    assert right[1] == pytest.approx(0, abs=0.1)
    assert right[2] == 1


def test_occupations_by_hand(tmp_path: Path) -> None:
    """log((P(woman) + P(female)) / (P(man) + P(male))), and the sign that a model's lean to men has."""
    odds = {"woman": 0.1, "female": 0.1, "man": 0.3, "male": 0.1}

    def likes(text: str) -> float:
        flipped = "The competent" in text
        word = text.split()[-1]
        return math.log(odds[{"woman": "man", "female": "male", "man": "woman", "male": "female"}[word] if flipped else word])

    result = run_measure("occupations", Planted(likes), tmp_path)
    assert value(result, "neutral", "log_ratio") == pytest.approx(math.log(0.2 / 0.4))
    assert value(result, "competent", "log_ratio") == pytest.approx(math.log(0.4 / 0.2))
    assert [value(result, variant, "male") for variant in ("neutral", "competent", "incompetent")] == [1, 0, 1]
    assert [row["count"] for row in result["rows"]] == [80, 80, 80]


def test_probes_find_what_a_model_says_of_whom(tmp_path: Path) -> None:
    def says(request: Request) -> str:
        if request.prompt.startswith(("She", "Muslims")):
            return " beautiful and terrible" if request.seed % 2 else " petite, and hated"
        return " lazy and kind" if request.seed % 2 else " clever, honest"

    options = Options(samples=30)
    descriptors = run_measure("gender_descriptors", Planted(says=says), tmp_path, options=options)
    assert value(descriptors, "overall", "difference") == 1
    words = [entry["word"] for entry in descriptors["details"]["favoured"]["she"]]
    assert set(words[:4]) == {"beautiful", "terrible", "petite", "hated"}
    religion = run_measure("religion_words", Planted(says=says), tmp_path, options=options)
    assert interval(religion, "islam", "valence")[1] < interval(religion, "buddhism", "valence")[0]
    assert {entry["word"] for entry in religion["details"]["favoured"]["islam"]} == {"beautiful", "terrible", "petite", "hated"}
    assert religion["judges"]["sentiment"].startswith("vaderSentiment ")


def test_a_measure_goes_on_where_it_was_left(tmp_path: Path) -> None:
    options = Options(samples=10)
    first = Planted(says=lambda request: str(request.seed))
    done = run_measure("gender_descriptors", first, tmp_path, options=options)
    again = Planted(says=lambda request: "other")
    more = run_measure("gender_descriptors", again, tmp_path, options=Options(samples=12))
    assert (first.asked, again.asked) == (40, 8)
    assert [record for record in more["items"] if record["draw"] < 10] == done["items"]
    assert len({record["written"] for record in done["items"]}) == 40, "every sample has a seed of its own"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gender_descriptors.json"]


def test_a_measure_that_dies_half_way_asks_only_for_the_rest(tmp_path: Path) -> None:
    class Dies(Planted):
        def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[Score]:
            if self.asked >= 3 * 4 * UNIT:
                raise OpenbookError("the machine is on fire")
            return super().loglikelihood(pairs)

    with pytest.raises(OpenbookError, match="on fire"):
        run_measure("occupations", Dies(), tmp_path)
    with (tmp_path / "occupations.items.jsonl").open("a") as file:
        file.write('{"item": 79, "dr')  # torn
    rest = Planted()
    whole = run_measure("occupations", rest, tmp_path)
    assert rest.asked == 4 * (240 - 3 * UNIT)
    assert whole["items"] == run_measure("occupations", Planted(), tmp_path / "alone")["items"]


def test_bad_data_is_named_with_its_line(tmp_path: Path) -> None:
    folder = tmp_path / "bias"
    folder.mkdir()

    def told(measure: str, file: str, text: str | bytes) -> str:
        path = folder / file
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(InputError) as caught:
            run_measure(measure, Planted(), tmp_path / "out", tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value).replace(str(folder) + "/", "")

    head = "sent_more,sent_less,bias_type,stereo_antistereo\n"
    crows = "crows_pairs_anonymized.csv"
    assert (
        told("crows_pairs", crows, head + "A,B,age,stereo\nA,,age,stereo\n")
        == f"{crows}:3: sent_less = '': should be a text that is not empty"
    )
    assert told("crows_pairs", crows, head + "A,B,age,maybe\n").startswith(
        f"{crows}:2: stereo_antistereo = 'maybe': should be one of stereo"
    )
    assert told("crows_pairs", crows, b"\xff\xfe\x00").startswith(f"{crows}: cannot be read")
    assert told("bbq", "bbq/Age.jsonl", '{"answer_info": 3}\n').startswith("bbq/Age.jsonl:1: answer_info: '3': should be an object")
    assert told("bbq", "bbq/Age.jsonl", "\n[" + "[" * 100_000).startswith("bbq/Age.jsonl:2: not JSON")
    assert told("bbq", "bbq/Age.jsonl.gz", b"no gzip").startswith("bbq/Age.jsonl.gz: cannot be read")
    assert told("stereoset", "stereoset_dev.json", '{"data": {"intrasentence": [{"context": "x", "sentences": []}]}}') == (
        "stereoset_dev.json: data.intrasentence[0]: has no sentence with gold_label stereotype"
    )
    assert told("toxicity", "realtoxicityprompts.jsonl", '{"prompt": {"text": " "}}').startswith("realtoxicityprompts.jsonl:1: text = ' '")
    with pytest.raises(InputError, match="no such file, which WinoGender needs; it comes from https:"):
        run_measure("winogender", Planted(), tmp_path / "out", tmp_path)
    with pytest.raises(InputError, match="--measure crows: should be one of crows_pairs, stereoset"):
        measures(["crows"])


@needs_data("bias")
def test_every_measure_runs_on_a_model_and_over_an_endpoint(tmp_path: Path) -> None:
    """An endpoint gives the same answers to the same questions; where it cannot be asked the same one, that is said."""
    folder = make_folder(tmp_path / "weights", "gpt2")
    options = Options(limit=6, generations=2, samples=2)
    engine = open_engine(folder, "here")
    inside, left_out = audit_all(engine, measures([]), options, DATA, tmp_path / "inside")
    assert not left_out
    assert {result["measure"] for result in inside} == set(MEASURES)
    shown = table(inside, {})
    assert "GPT-3 67.2%" in shown
    assert "our classifier on 6,464 held-out texts" in shown
    some = ["crows_pairs", "winobias", "occupations", "religion_words"]
    with running(folder) as served:
        over, left_out = audit_all(Endpoint(f"{served.url}/v1"), measures(some), options, DATA, tmp_path / "over")
        by_tokens, _ = audit_all(open_model(f"{served.url}/v1"), measures(some), options, DATA, tmp_path / "tokens")
    assert not left_out
    alone = {result["measure"]: result for result in inside}
    for result in over:
        there = {(record["item"], record["draw"]): record for record in alone[result["measure"]]["items"]}
        for record in result["items"]:
            mine = there[record["item"], record["draw"]]
            if result["measure"] == "religion_words":
                assert record["written"] == mine["written"]
                continue
            same = [score.logprob for score in engine.loglikelihood([(context, text) for context, text in record["pairs"]])]
            assert record["logprobs"] == pytest.approx(same, abs=1e-3)
            assert record["pairs"] == mine["pairs"] or result["measure"] == "crows_pairs"
    crows = over[0]
    assert crows["left_out"] == 6 - len(crows["items"])
    assert "first token" in crows["note"]
    for result in by_tokens:  # nothing is different here
        assert (result["note"], result["left_out"]) == ("", 0)
        for record, mine in zip(result["items"], alone[result["measure"]]["items"], strict=True):
            assert (record.get("written"), record.get("pairs")) == (mine.get("written"), mine.get("pairs"))
            assert record.get("logprobs", []) == pytest.approx(mine.get("logprobs", []), abs=1e-4)


def test_the_command_on_a_run(finished: Run, tmp_path: Path) -> None:
    """A window of 32 tokens is too short for some measures, which is said; the rest is audited."""

    def call(*arguments: object) -> str:
        done = CliRunner().invoke(app, [str(part) for part in arguments], catch_exceptions=False, standalone_mode=False)
        if done.exception:
            raise done.exception
        return done.stdout

    common = ("audit", finished.path, "--out", tmp_path, "--limit", 4, "--samples", 2)
    shown = call(*common, "--measure", "occupations", "--measure", "religion_words")
    assert shown.splitlines()[1].split()[:3] == ["occupations", "neutral", "log_ratio"]
    assert "left out  religion_words: Religion: max_tokens = 50 leaves no room" in shown
    told = json.loads(call(*common, "--measure", "occupations", "--json"))
    assert told["measures"][0]["rows"][0]["group"] == "neutral"
    assert "items" not in told["measures"][0]
    with pytest.raises(InputError, match="max_tokens = 50 leaves no room"):
        call(*common, "--measure", "religion_words")
    with pytest.raises(InputError, match="say with --out DIR where an endpoint's results go"):
        call("audit", "http://127.0.0.1:9/v1")


def test_the_documentation_shows_each_measure_as_it_is() -> None:
    text = (Path(__file__).parents[2] / "docs/bias.md").read_text(encoding="utf-8")
    assert text.endswith(described()), "the end of docs/bias.md should be what `python -m openbook.evaluate.bias.describe` prints"
