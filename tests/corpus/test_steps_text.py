"""Steps that look at one text at a time, and the classifier."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from openbook.corpus.steps import language, licence, perplexity, pii, profanity, quality, text, web
from openbook.errors import InputError
from openbook.parts import Batch
from openbook.recipe_steps import C4Step, FineWebStep, LanguageStep, PerplexityStep, PiiStep, ProfanityStep, QualityStep

KINDS = list(pii.FORMS)


@pytest.mark.parametrize(
    ("shown", "kind"),
    [
        ("ada.lovelace+x@example.co.uk", "email"),
        ("8.8.8.8", "ip"),
        ("GB82 WEST 1234 5698 7654 32", "iban"),
        ("DE89370400440532013000", "iban"),
        ("4111 1111 1111 1111", "card"),
        ("378282246310005", "card"),
        ("+44 20 7946 0958", "phone"),
        ("(555) 123-4567", "phone"),
        ("555-123-4567", "phone"),
    ],
)
def test_personal_data_is_found_counted_and_masked(shown: str, kind: str) -> None:
    whole = f"Before ({shown}), after."
    settings = PiiStep(step="pii")
    assert pii.mask(whole, None, settings) == [f"Before (<{kind.upper()}>), after."]
    counts = {name: int(values[0]) for name, values in pii.annotate(Batch([whole]), {}, settings, None).items()}
    assert counts == {**dict.fromkeys(KINDS, 0), kind: 1}


HARMLESS = (
    "a @ b|192.168.1.1|1.2.3.4.5|version 3.11.7.1b|GB82 WEST 1234 5698 7654 33|4111 1111 1111 1112|0000 0000 0000 0000|2021-12-31"
    "|3.14159265358979|1234567890|user@localhost"
)


@pytest.mark.parametrize("harmless", HARMLESS.split("|"))
def test_what_only_looks_like_it_stays(harmless: str) -> None:
    assert pii.mask(f"See {harmless} there", None, PiiStep(step="pii")) == [f"See {harmless} there"]


def test_personal_data_under_each_policy() -> None:
    assert pii.limits(PiiStep(step="pii", policy="keep")) == [] and not pii.STEP.rewrites(PiiStep(step="pii", policy="keep"))
    assert len(pii.limits(PiiStep(step="pii", policy="drop"))) == 5 and not pii.STEP.rewrites(PiiStep(step="pii", policy="drop"))


def test_unicode_is_repaired_and_composed() -> None:
    good = "“Crème brûlée” – naïve café, 日本語 ☃ €5"
    assert text.repair(good) == [good]
    assert text.repair("Ã©tÃ© â€œquotedâ€\x9d cafÃ©") == ["été “quoted” café"]
    assert text.repair("e\u0301te\u0301") == ["été"]
    assert text.repair("a\r\nb\rc\x00\ufeffd\u2028e\tf") == ["a\nb\ncd\ne\tf"]
    assert text.repair("Ãber alles, Â 5 £") == ["Ãber alles, Â 5 £"], "what is no mojibake stays"


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("CC-BY-4.0", True),
        ("GPL-3.0-only", False),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("(MIT OR GPL-3.0-only) AND CC-BY-4.0", True),
        ("GPL-3.0-only OR MIT AND GPL-2.0-only", False),
        ("GPL-2.0-only WITH Classpath-exception-2.0", True),
        ("public domain, they say", False),
        ("MIT OR", False),
        ("(MIT", False),
        ("", False),
    ],
)
def test_licence_expressions(expression: str, allowed: bool) -> None:
    assert licence.is_allowed(expression, ["MIT", "CC-BY-*", "GPL-2.0-only WITH *"]) is allowed


def test_lines_of_web_pages() -> None:
    settings = C4Step(step="c4")
    page = "Home | About\nThis is a sentence of prose.\nPlease enable JavaScript to see the page.\nToo short.\n"
    page += "We ask what else there is?\nBy using it you accept our cookie policy today."
    assert web.kept_lines(page, None, settings) == ["This is a sentence of prose.\nWe ask what else there is?"]
    assert web.measure_c4(Batch([page]), {}, settings, None)["sentences"].tolist() == [2]
    columns = web.measure_fineweb(Batch(["A line that ends well and is long.\nmenu\nmenu\n\n"]), {}, FineWebStep(step="fineweb"), None)
    assert columns["punctuated_lines"].tolist() == pytest.approx([1 / 3]) and columns["short_lines"].tolist() == pytest.approx([2 / 3])
    assert columns["duplicate_line_chars"].tolist() == pytest.approx([4 / 42])


class Texts:
    """A source of two components."""

    def __init__(self, **texts: list[str]) -> None:
        self.all = texts

    def texts(self, components: Sequence[str], limit: int, source: random.Random) -> list[str]:
        return [text for name in components for text in self.all[name]][:limit]

    def digest(self, components: Sequence[str]) -> str:
        return hashlib.sha256(repr(components).encode()).hexdigest()


def spoken(words: list[str], seed: int, count: int) -> list[str]:
    source = random.Random(seed)
    return [" ".join(source.choices(words, k=60)) for _ in range(count)]


def test_classifier_and_pareto_sampling(tmp_path: Path) -> None:
    common, good, bad = [f"w{n}" for n in range(200)], [f"g{n}" for n in range(40)], [f"b{n}" for n in range(40)]
    source = Texts(books=spoken(common + good, 1, 150), web=spoken(common + bad, 2, 150))
    settings = QualityStep(step="quality", positive=["books"], negative=["web"])
    report = quality.prepare(source, settings).write(tmp_path / "model")
    assert report["auc"] > 0.95 and report["held_out"] == [30, 30]
    weights = quality.load(tmp_path / "model")
    scores = np.asarray(
        quality.annotate(Batch(spoken(common + good, 3, 20) + spoken(common + bad, 4, 20)), {}, settings, weights)["quality"]
    )
    assert scores[:20].mean() > 0.6 > 0.4 > scores[20:].mean()
    for score in (0.5, 0.9):
        names = [f"{number:032x}" for number in range(20_000)]
        gone = len(list(quality.judge({"quality": np.full(len(names), score)}, names, settings)))
        chance = (2 - score) ** -9
        assert abs(1 - gone / len(names) - chance) < 4 * (chance * (1 - chance) / len(names)) ** 0.5
    assert quality.area_under_curve(np.array([0.1, 0.2, 0.2, 0.9]), np.array([0.0, 0.0, 1.0, 1.0])) == pytest.approx(3.5 / 4)


def test_perplexity_tells_prose_from_noise(tmp_path: Path) -> None:
    settings = PerplexityStep(step="perplexity", reference=["books"], max_bits=5.0)
    words = ["the", "river", "town", "people", "lamp", "went", "and", "to"]
    perplexity.prepare(Texts(books=spoken(words, 1, 50)), settings).write(tmp_path / "model")
    noise = "".join(random.Random(1).choices("qxzjkvwpyb0189#$", k=300))
    columns = perplexity.annotate(Batch([spoken(words, 9, 1)[0], noise]), {}, settings, perplexity.load(tmp_path / "model"))
    assert columns["bits_per_byte"][0] < 2 < 6 < columns["bits_per_byte"][1]


def write_catalogue(path: Path, messages: dict[str, str]) -> None:
    """A gettext .mo file: header, two tables of (length, offset), the strings."""
    pairs = sorted({"": "Content-Type: text/plain; charset=UTF-8\n", **messages}.items())
    texts = [side.encode() + b"\0" for column in (0, 1) for side in (pair[column] for pair in pairs)]
    place, tables = 28 + 16 * len(pairs), b""
    for one in texts:
        tables += struct.pack("<II", len(one) - 1, place)
        place += len(one)
    path.parent.mkdir(parents=True)
    path.write_bytes(struct.pack("<7I", 0x950412DE, 0, len(pairs), 28, 28 + 8 * len(pairs), 0, 0) + tables + b"".join(texts))


def test_languages_are_learnt_from_translation_catalogues(tmp_path: Path) -> None:
    source = random.Random(1)
    english = [
        "the file could not be opened",
        "please choose another folder",
        "all changes have been saved",
        "there is nothing to show here",
    ]
    german = [
        "die Datei konnte nicht geöffnet werden",
        "bitte wählen Sie einen anderen Ordner",
        "alle Änderungen wurden gespeichert",
        "hier gibt es nichts",
    ]
    letters = {}
    for number in range(900):
        (a, b), (c, d) = source.sample(english, 2), source.sample(german, 2)
        mark = "".join(chr(97 + number // 26**place % 26) for place in range(3))  # each message is another
        letters[f"{a} {b} {mark}"] = f"{c} {d} {mark}"
    write_catalogue(tmp_path / "de_AT" / "LC_MESSAGES" / "program.mo", letters)
    settings = LanguageStep(step="language", keep=["de"], catalogues=str(tmp_path))
    report = language.prepare(Texts(), settings).write(tmp_path / "model")
    assert report["languages"] == 2 and report["accuracy"] > 0.99
    columns = language.annotate(
        Batch(["Alle Ordner wurden geöffnet", "All folders have been opened", "123 456"]), {}, settings, language.load(tmp_path / "model")
    )
    assert columns["language"].tolist() == ["de", "en", ""]
    with pytest.raises(InputError, match="too few"):
        empty = settings.model_copy(update={"catalogues": str(tmp_path / "none")})
        language.prepare(Texts(), empty).write(tmp_path / "other")


def test_languages_by_a_fasttext_model(tmp_path: Path) -> None:
    pytest.importorskip("fasttext", reason="languages by fastText: `pip install 'openbook[dev]'`")
    (tmp_path / "lid.bin").write_bytes(fasttext_model({"eng_Latn": ["The", "cat", "sat"], "deu_Latn": ["Die", "Katze", "ging,"]}))
    settings = LanguageStep(step="language", keep=["deu"], model=str(tmp_path / "lid.bin"))
    prepared = language.prepare(Texts(), settings)
    prepared.write(tmp_path / "model")
    batch = Batch(["The cat\nsat down.", "Die Katze ging,\nund setzte sich.", ""])
    columns = language.annotate(batch, {}, settings, language.load(tmp_path / "model"))
    assert columns["language"].tolist() == ["eng", "deu", ""]
    assert all(0.5 < sure <= 1 for sure in columns["confidence"][:2])
    (tmp_path / "lid.bin").write_bytes(b"PK" + bytes(100))
    with pytest.raises(InputError, match=r"lid\.bin: not a fastText model"):
        language.prepare(Texts(), settings)
    (tmp_path / "lid.bin").write_bytes(fasttext_head() + bytes(3))
    language.prepare(Texts(), settings).write(tmp_path / "model")
    with pytest.raises(InputError, match=r"lid\.bin: fastText cannot read it"):
        language.load(tmp_path / "model")


def fasttext_model(words: dict[str, list[str]]) -> bytes:
    """A classifier in fastText's format 12: each word's vector points to its own label, whose output is ten times that direction."""
    labels, known = list(words), [(word, label) for label, own in words.items() for word in own]
    size = len(labels)
    # dim, ws, epoch, minCount, neg, wordNgrams, loss (softmax), model (supervised), bucket, minn, maxn, lrUpdateRate
    numbers = (size, 5, 1, 1, 5, 1, 3, 3, 0, 0, 0, 100)
    content = struct.pack("<ii12id", 793712314, 12, *numbers, 0.0)
    content += struct.pack("<iiiqq", len(known) + size, len(known), size, len(known), -1)
    content += b"".join(word.encode() + b"\0" + struct.pack("<qb", 1, 0) for word, _ in known)
    content += b"".join(b"__label__" + label.encode() + b"\0" + struct.pack("<qb", 1, 1) for label in labels)

    def matrix(rows: list[str], height: float) -> bytes:
        values = [height * (row == label) for row in rows for label in labels]
        return struct.pack(f"<?qq{len(values)}f", False, len(rows), size, *values)

    return content + matrix([label for _, label in known], 1.0) + matrix(labels, 10.0)


def fasttext_head() -> bytes:
    return struct.pack("<ii", 793712314, 99)  # a version that does not exist


def test_words_of_ones_own_are_counted(tmp_path: Path) -> None:
    (tmp_path / "words").write_text("Bother\n\nblast\nnot a word\n")
    settings = ProfanityStep(step="profanity", word_list=str(tmp_path / "words"), max_share=0.3)
    prepared = profanity.prepare(Texts(), settings)
    assert prepared.write(tmp_path / "model") == {"words": 2}
    batch = Batch(["Bother, it is late", "blast and bother!", "not a word"])
    columns = profanity.annotate(batch, {}, settings, profanity.load(tmp_path / "model"))
    assert columns["profanity"].tolist() == pytest.approx([1 / 4, 2 / 3, 0])
    (tmp_path / "words").write_text("Bother\n")
    assert profanity.prepare(Texts(), settings).facts != prepared.facts  # so that another list annotates again
    (tmp_path / "words").write_text("\n")
    with pytest.raises(InputError, match="holds no word"):
        profanity.prepare(Texts(), settings)
