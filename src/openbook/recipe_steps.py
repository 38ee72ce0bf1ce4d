"""The steps of a corpus: what each one may be told. `[[corpus.steps]]` lists them in the order in which they are applied.

`measures` names the keys on which a step's annotation depends. All other keys are thresholds and policies, which apply to what has been
annotated: changing one of those computes no annotation again.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from openbook.section import Name, Positive, Rate, Section, Share

Segmenter = Literal["whitespace", "letters"]
"""What a word is. whitespace: what white space parts, as in the papers. letters: a run of letters and digits."""

Count = Annotated[int, Field(ge=0)]


class EngineSection(Section):
    """Where the steps are computed. Nothing here changes a byte of the corpus."""

    on: str = "here"
    """here: this machine. ray: a local Ray. ray://HOST:PORT: a cluster that shares this file system."""
    workers: Positive = 1
    """Processes that work on shards."""

    @model_validator(mode="after")
    def _known_place(self) -> EngineSection:
        if self.on not in ("here", "ray") and not self.on.startswith("ray://"):
            raise PydanticCustomError("engine", 'on should be "here", "ray" or "ray://HOST:PORT"')
        return self


class StepSection(Section):
    """What every step has."""

    measures: ClassVar[tuple[str, ...]] = ()
    components: list[Name] | None = None
    """The components it is applied to; without it, all."""

    def measured(self) -> dict[str, Any]:
        """The parameters of the annotation."""
        return self.model_dump(mode="json", include=set(self.measures))


class UnicodeStep(StepSection):
    """Repairs UTF-8 that was once read as Windows-1252, removes control characters, unifies line ends, composes (NFC)."""

    step: Literal["unicode"]


class LengthStep(StepSection):
    step: Literal["length"]
    min_bytes: Count = 0
    max_bytes: Positive | None = None


class LicenceStep(StepSection):
    """SPDX expressions: a licence is allowed if it matches a pattern; AND asks for all its parts, OR for one."""

    step: Literal["licence"]
    allow: Annotated[list[str], Field(min_length=1)]
    """Shell patterns, such as "CC-BY-*"."""
    unknown: Literal["drop", "keep"] = "drop"


class LanguageStep(StepSection):
    """Naive Bayes on hashed character n-grams, learnt from the machine's own translation catalogues; or a fastText model."""

    step: Literal["language"]
    measures = ("catalogues", "model", "max_chars")
    keep: Annotated[list[str], Field(min_length=1)]
    """ISO 639 codes of two letters; with a model, what it calls its languages, without script (lid.176: "en", GlotLID: "eng")."""
    model: str | None = None
    """A fastText model that identifies languages, such as lid.176.ftz or GlotLID's; a relative path starts at the recipe's folder."""
    min_confidence: Share = 0.5
    catalogues: str = "/usr/share/locale"
    max_chars: Positive = 2_000
    """How much of a text is looked at."""


class GopherQualityStep(StepSection):
    """Rae et al. 2021, table A1."""

    step: Literal["gopher-quality"]
    measures = ("segmenter",)
    segmenter: Segmenter = "whitespace"
    min_words: Count = 50
    max_words: Positive = 100_000
    min_word_length: Rate = 3.0
    max_word_length: Rate = 10.0
    max_hashes_per_word: Rate = 0.1
    max_ellipses_per_word: Rate = 0.1
    max_bullet_lines: Share = 0.9
    max_ellipsis_lines: Share = 0.3
    min_alphabetic_words: Share = 0.8
    min_stop_words: Count = 2


class GopherRepetitionStep(StepSection):
    """Rae et al. 2021, table A1: shares of lines, paragraphs and characters that are repeated."""

    step: Literal["gopher-repetition"]
    measures = ("segmenter",)
    segmenter: Segmenter = "whitespace"
    max_duplicate_lines: Share = 0.3
    max_duplicate_paragraphs: Share = 0.3
    max_duplicate_line_chars: Share = 0.2
    max_duplicate_paragraph_chars: Share = 0.2
    max_top_grams: Annotated[list[Rate], Field(min_length=3, max_length=3)] = [0.2, 0.18, 0.16]
    """Share of characters in the most frequent run of 2, 3 and 4 words."""
    max_duplicate_grams: Annotated[list[Rate], Field(min_length=6, max_length=6)] = [0.15, 0.14, 0.13, 0.12, 0.11, 0.10]
    """Share of characters in repeated runs of 5 to 10 words."""


class C4Step(StepSection):
    """Raffel et al. 2020, section 2.2: lines that do not end a sentence go, then pages that are not text."""

    step: Literal["c4"]
    measures = ("min_line_words",)
    min_line_words: Count = 5
    min_sentences: Count = 3
    allow_braces: bool = False


class FineWebStep(StepSection):
    """Penedo et al. 2024, section 3.6; the rule on line ends per word is from datatrove."""

    step: Literal["fineweb"]
    measures = ("short_line",)
    min_punctuated_lines: Share = 0.12
    max_short_lines: Share = 0.67
    short_line: Positive = 30
    max_duplicate_line_chars: Share = 0.1
    max_newlines_per_word: Rate = 0.3


class QualityStep(StepSection):
    """GPT-3's classifier (Brown et al. 2020, appendix A), learnt from the recipe's own components."""

    step: Literal["quality"]
    measures = ("positive", "negative", "width", "train_documents")
    positive: Annotated[list[Name], Field(min_length=1)]
    negative: Annotated[list[Name], Field(min_length=1)]
    alpha: Annotated[float, Field(gt=0)] | None = 9.0
    """Keep if a Pareto draw exceeds 1 - score. Without it (`min_score`), a plain threshold."""
    min_score: Share | None = None
    width: Annotated[int, Field(ge=1024)] = 1 << 18
    """Places of the hashed words."""
    train_documents: Annotated[int, Field(ge=20)] = 4_000
    """At most so many of each side, by hash; a fifth of them is held out for the AUC."""
    seed: Count = 1


class PerplexityStep(StepSection):
    """Bits a byte of a byte n-gram model that is learnt from reference components (Wenzek et al. 2020, with a smaller model)."""

    step: Literal["perplexity"]
    measures = ("reference", "train_bytes", "max_bytes")
    reference: Annotated[list[Name], Field(min_length=1)]
    min_bits: Rate = 0.0
    max_bits: Rate
    train_bytes: Positive = 4_000_000
    max_bytes: Positive = 4_000
    """How much of a text is scored."""


class ProfanityStep(StepSection):
    """Share of words on a list: that of the package better-profanity, or one's own, of profane or toxic words."""

    step: Literal["profanity"]
    measures = ("word_list",)
    word_list: str | None = None
    """A text file with a word a line; a relative path starts at the recipe's folder."""
    max_share: Share = 0.01


class PiiStep(StepSection):
    """Mail addresses, public IPs, telephone numbers, IBANs and payment cards with a right checksum."""

    step: Literal["pii"]
    policy: Literal["drop", "mask", "keep"] = "mask"
    kinds: list[Literal["email", "ip", "phone", "iban", "card"]] = ["email", "ip", "phone", "iban", "card"]


class ExactStep(StepSection):
    """Of texts that are equal but for case and white space, the first stays."""

    step: Literal["exact"]


class LinesStep(StepSection):
    """Of lines (or paragraphs) that are equal, the first in the whole corpus stays."""

    step: Literal["lines"]
    measures = ("unit", "min_chars")
    unit: Literal["line", "paragraph"] = "line"
    min_chars: Positive = 40
    """Shorter ones always stay: they are list bullets, braces, headings."""


class MinHashStep(StepSection):
    """Broder 1997 with banding (Leskovec et al., section 3.4): of near-duplicates, the first stays."""

    step: Literal["minhash"]
    measures = ("segmenter", "hashes", "shingle", "seed")
    segmenter: Segmenter = "whitespace"
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """Jaccard similarity at which two texts should be found."""
    hashes: Annotated[int, Field(ge=8, le=1024)] = 112
    shingle: Annotated[int, Field(ge=1, le=32)] = 5
    """Words in a shingle."""
    seed: Count = 1


class SubstringStep(StepSection):
    """Lee et al. 2022: runs of words that stood earlier in the corpus are cut out."""

    step: Literal["substring"]
    measures = ("words",)
    words: Annotated[int, Field(ge=5)] = 50


class DecontaminateStep(StepSection):
    """Brown et al. 2020, appendix C: what the evaluation sets hold is cut out, and the texts are split around it."""

    step: Literal["decontaminate"]
    measures = ("gram",)
    data: str | None = None
    """Folder of evaluation sets, as a component's `path`. By default $OPENBOOK_DATA/eval or ../shared/data/eval."""
    gram: Annotated[int, Field(ge=5, le=32)] = 13
    """Words in a run that counts as a leak."""
    window: Count = 200
    """Characters cut away on either side."""
    min_piece: Count = 200
    """Shorter pieces are dropped."""
    max_pieces: Positive = 10
    """A text cut into more is dropped as a whole."""
    max_documents: Positive = 10
    """A run in more documents than this is a commonplace, not a leak."""


AnyStep = Annotated[
    UnicodeStep
    | LengthStep
    | LicenceStep
    | LanguageStep
    | GopherQualityStep
    | GopherRepetitionStep
    | C4Step
    | FineWebStep
    | QualityStep
    | PerplexityStep
    | ProfanityStep
    | PiiStep
    | ExactStep
    | LinesStep
    | MinHashStep
    | SubstringStep
    | DecontaminateStep,
    Field(discriminator="step"),
]
