"""The corpus of a recipe: its components, where each comes from, and how its files are read."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from openbook.recipe_decisions import AnyDecision, Reweight, require_components
from openbook.recipe_steps import AnyStep, EngineSection
from openbook.section import Name, Positive, Section

Format = Literal[
    "auto",
    "text",
    "jsonl",
    "parquet",
    "csv",
    "html",
    "warc",
    "mail",
    "stackexchange",
    "mediawiki",
    "latex",
    "gutenberg",
    "irc",
    "uspto",
    "uspto-background",
    "jats",
    "pdf",
]
"""How a file holds its texts. `auto` goes by the file's ending; those that endings do not tell apart have to be named."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Published(Section):
    """What a paper says about a component, to compare what was built with."""

    raw_gib: Annotated[float, Field(gt=0)]
    weight_percent: Annotated[float, Field(gt=0)]
    epochs: Annotated[float, Field(gt=0)]
    effective_gib: Annotated[float, Field(gt=0)]
    mean_document_kib: Annotated[float, Field(gt=0)]


class Component(Section):
    """What every component of a corpus has, wherever it comes from."""

    weight: Annotated[float, Field(gt=0)] | None = None
    """Share of the training tokens, relative to the other weights."""
    tokens: Positive | None = None
    """How many tokens training sees of it."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """How often training sees all of it; a fraction is that part of it, drawn at random."""
    max_bytes: Positive | None = None
    """Take at most about this much text, chosen by hash."""
    max_epochs: Annotated[float, Field(gt=0)] = 4.0
    """How often training may see each token. By weights, the other components fill the place later; `epochs` say it themselves."""
    exclude: list[str] = []
    """Shell patterns; a text whose origin matches one is left out, on record."""
    why: str = ""
    """Why the component is in, and with this weight."""
    available: bool = True
    """Without it, the component is told of and not read."""
    unavailable: str = ""
    """Why it is not available."""
    published: Published | None = None

    @model_validator(mode="after")
    def _says_why_not(self) -> Component:
        if not self.available and not self.unavailable.strip():
            raise PydanticCustomError("unavailable", "available = false needs unavailable = 'why it is not'")
        return self

    @property
    def amount(self) -> float:
        """Its weight, tokens or epochs, whichever the recipe gives."""
        return next(float(value) for value in (self.weight, self.tokens, self.epochs) if value is not None)

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the component comes from, for people."""


class MachineComponent(Component):
    """Text that any machine with openbook on it has."""

    source: Literal["machine"]
    select: Literal["stdlib", "packages", "man", "system-docs", "licences"]

    @property
    def place(self) -> str:
        return self.select


class ReadComponent(Component):
    """Files of some format that somebody else wrote."""

    format: Format = "auto"
    text_key: str = "text"
    """The field of a JSON line, parquet row or CSV row that holds the text."""
    licence: str | None = None
    """The licence of every text, whatever the text says of itself; an SPDX expression."""
    licences: dict[str, str] = {}
    """What the texts say of their licence, and the SPDX expression for it, where they do not say it in SPDX's words."""
    holdout_end: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Hold out this share of the characters of every text, at its end, instead of whole documents by hash."""
    split_bytes: Positive | None = None
    """Cut text files at line ends into documents of about this size; without it, a file is one document."""

    @model_validator(mode="after")
    def _one_split(self) -> ReadComponent:
        if self.holdout_end and self.split_bytes:
            raise PydanticCustomError("split", "holdout_end would cut every document of split_bytes; use one of the two")
        return self


class FilesComponent(ReadComponent):
    """A folder or file that the user names."""

    source: Literal["files"]
    path: str
    """A relative path starts at the recipe's folder; `${NAME:-other}` is the environment's NAME, or `other` where it is not set."""

    @property
    def place(self) -> str:
        return self.path


class GitComponent(ReadComponent):
    """The files of a git repository at one commit."""

    source: Literal["git"]
    repository: str
    """A URL, or a path as of `files`."""
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    include: list[str] = ["*"]
    """Shell patterns of the paths to read."""
    format: Format = "text"

    @property
    def place(self) -> str:
        return f"{self.repository}@{self.commit[:12]}"


class UrlComponent(ReadComponent):
    """Files behind http, https or s3 addresses (public buckets)."""

    source: Literal["url"]
    urls: Annotated[list[str], Field(min_length=1)]
    sha256: list[Sha256] = []
    """Digest of each file, in the order of `urls`. Without them, the digests of the first download are recorded and hold from then on."""

    @model_validator(mode="after")
    def _paired(self) -> UrlComponent:
        if self.sha256 and len(self.sha256) != len(self.urls):
            raise PydanticCustomError("sha256", "sha256 should have one digest for each of urls, or be left out")
        for url in self.urls:
            if not url.startswith(("https://", "http://", "s3://")):
                raise PydanticCustomError("urls", "urls should begin with https://, http:// or s3://")
        return self

    @property
    def place(self) -> str:
        return self.urls[0] + (f" and {len(self.urls) - 1} more" if len(self.urls) > 1 else "")


class HubComponent(ReadComponent):
    """A dataset of the Hugging Face hub."""

    source: Literal["hub"]
    dataset: Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")]
    """A commit of the dataset: a branch would be another dataset tomorrow."""
    include: list[str] = ["*"]
    """Shell patterns of the files to take."""

    @property
    def place(self) -> str:
        return f"{self.dataset}@{self.revision[:12]}"


AnyComponent = Annotated[MachineComponent | FilesComponent | GitComponent | UrlComponent | HubComponent, Field(discriminator="source")]


class AuditSection(Section):
    """How the corpus is audited; see docs/corpus.md. Nothing here changes a byte of the corpus."""

    terms: str | None = None
    """A TOML file of terms for groups of people, in the layout of the package's own; without it, that one. As a path of `files`."""
    window: Positive = 10
    """Words on either side of a term that count as beside it."""
    catalogues: str = "/usr/share/locale"
    """Translation catalogues from which languages are learnt, as in the step `language`."""


Measure = Literal["weight", "tokens", "epochs"]
MEASURES: tuple[Measure, ...] = ("weight", "tokens", "epochs")
"""In what a mixture can be given."""


class CorpusSection(Section):
    components: Annotated[dict[Name, AnyComponent], Field(min_length=1)]
    holdout: Annotated[float, Field(gt=0, lt=1)] = 0.02
    """Share of the documents, by hash, that training never sees."""
    max_document_bytes: Positive = 2_000_000
    steps: list[AnyStep] = []
    """What is done to the texts after they are read, in order; see docs/corpus.md."""
    decisions: list[AnyDecision] = []
    """What was decided about the texts, why, and on what evidence; see docs/corpus.md."""
    engine: EngineSection = EngineSection()
    audit: AuditSection = AuditSection()

    @model_validator(mode="after")
    def _decisions_about_what_is_there(self) -> CorpusSection:
        require_components(self.decisions, set(self.components))
        return self

    def reweighted(self) -> tuple[CorpusSection, list[str]]:
        """The components with the factors of the decisions in their weights, tokens or epochs, and a sentence for each that changed."""
        components, told, key = dict(self.components), [], self.measure
        for decision in [one for one in self.decisions if isinstance(one, Reweight)]:
            for name in decision.components or ():
                part = components[name]
                amount = part.amount * decision.factor
                components[name] = part.model_copy(update={key: round(amount) if key == "tokens" else amount})
                told.append(f"corpus.components.{name}.{key} = {part.amount:g} * {decision.factor:g} ({decision.what})")
        return self.model_copy(update={"components": components}), told

    @model_validator(mode="after")
    def _in_one_measure(self) -> CorpusSection:
        given = {name: [key for key in MEASURES if getattr(part, key) is not None] for name, part in self.components.items()}
        for name, keys in given.items():
            if len(keys) != 1:
                told = f"gives {' and '.join(keys)}" if keys else "gives none"
                message = "components.{name} {told} of weight, tokens and epochs; give one"
                raise PydanticCustomError("mixture", message, {"name": name, "told": told})
        by_key = {key: [name for name, keys in given.items() if keys == [key]] for key in MEASURES}
        used = [f"{key} for {', '.join(names)}" for key, names in by_key.items() if names]
        if len(used) > 1:
            raise PydanticCustomError("mixture", "a mixture has one measure, and this one gives {used}", {"used": "; ".join(used)})
        return self

    @property
    def measure(self) -> Measure:
        """In what the mixture is given."""
        return next(key for key in MEASURES if getattr(next(iter(self.components.values())), key) is not None)
