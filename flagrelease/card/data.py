"""What a card says, as data: composed of a release or of published facts (`compose`), or read from a file (`read`).

The text of a card is its sections in order: a heading, our prose for the block that it is, and the contents that stand
under it. Values that stand in prose (name, chip, licence) are fields of the card; values that stand in tables and
commands are read from the contents by `facts`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field

from flagrelease.card.styles import Language
from flagrelease.card.text import CellText, CodeLine, TitleText
from flagrelease.matrix import ResolvedCell
from flagrelease.records import Artefact, CellImage, ImportedBaseline, Provenance, Record, Stack
from flagrelease.verdicts import GateResult


class Block(StrEnum):
    """What a section is. Its prose stands in templates/card/<language>/<block>.md.j2, where it has any."""

    INTRODUCTION = "introduction"
    DEPLOYMENT = "deployment"
    CONSISTENCY = "consistency"
    OVERVIEW = "overview"
    FLAGSCALE = "flagscale"
    FLAGGEMS = "flaggems"
    FLAGTREE = "flagtree"
    FLAGCX = "flagcx"
    FLAGEVAL = "flageval"
    EVALUATION = "evaluation"
    RESULTS = "results"
    VERIFICATION = "verification"
    GUIDE = "guide"
    STEPS = "steps"
    WEIGHTS = "weights"
    IMAGE = "image"
    START = "start"
    PACKAGES = "packages"
    SERVE = "serve"
    INVOCATION = "invocation"
    CLIENT = "client"
    ANYTHINGLLM = "anythingllm"
    INSTALL = "install"
    CONFIGURATION = "configuration"
    INTERACTION = "interaction"
    CONTRIBUTING = "contributing"
    LICENCE = "licence"


class Table(Record):
    """A table."""

    kind: Literal["table"] = "table"
    header: list[CellText]
    rows: list[list[CellText]] = Field(description="each as long as the header")


class Code(Record):
    """A fenced block, line by line as it stands."""

    kind: Literal["code"] = "code"
    language: str = Field(default="", description="info string of the fence: bash, python, …")
    lines: list[CodeLine]


class Client(Record):
    """The client snippet: a chat request through the `openai` package, known by its values."""

    kind: Literal["client"] = "client"
    base_url: str
    model: str
    messages: list[dict[str, str]] = Field(description="each with `role` and `content`")
    parameters: dict[str, bool | int | float | str] = Field(
        description="further arguments of the request in their order: temperature, top_p, stream, …"
    )


Content = Annotated[Table | Code | Client, Field(discriminator="kind")]


class Section(Record):
    """A heading and what stands under it, up to the next heading of any level."""

    level: int = Field(ge=1, le=6)
    title: TitleText
    block: Block | None = Field(default=None, description="none: a section that FlagRelease does not know")
    contents: list[Content] = Field(default_factory=list)


class LicenceLine(Record):
    """What a card says of the weights: where they come from, under which licence."""

    repository: str | None = Field(description="of the source weights: owner/name, or an address; none: not said")
    name: str = Field(description="as printed, for example apache2.0")
    url: str | None = None


class Origin(Record):
    """Where the numbers of a card come from."""

    kind: Literal["measured", "published", "imported"]
    source: str | None = Field(default=None, description="card that they were taken from; none: measured")
    sha256: str | None = Field(default=None, description="of the file that was imported")


class CardRow(Record):
    """One benchmark of the results table. Scores are shares in [0, 1]."""

    benchmark: str
    display: str
    baseline: float
    baseline_interval: tuple[float, float] | None = Field(description="none: published without items")
    candidate: float
    candidate_interval: tuple[float, float]
    n: int
    repeats: int


class NotRun(Record):
    """A benchmark of the suite that was not run, and why."""

    benchmark: str
    display: str
    reason: str


class Conformance(Record):
    """What a check on the chip's device found of the FlagGems operators that ran, in the sizes of the model."""

    flag_gems: str = Field(description="version that was checked")
    served: bool = Field(description="whether it is known to be the version that served")
    ran: int = Field(description="operators that ran, by the server's list")
    matching: int = Field(description="of them, checked and equal to a reference in float64 within tolerance")
    differing: list[str] = Field(description="of them, checked and not within it")
    differing_in_edge_cases: list[str] = Field(
        default_factory=list, description="of them, within it in the model's sizes, and not in some edge case"
    )
    crashed: list[str] = Field(description="of them, whose process died when they were checked")
    files: list[str] = Field(description="names of the files of evidence")


class CardData(Record):
    """What the store knows of one release: everything that its card says of how it was measured."""

    release: int
    cell: ResolvedCell
    engine: str
    engine_display: str
    engine_version: str
    released: str = Field(description="UTC date, YYYY-MM-DD")
    code_version: str
    rows: list[CardRow]
    not_run: list[NotRun]
    gate: GateResult
    candidate: Provenance
    baseline: Provenance | None = Field(description="none: the baseline is `published` scores")
    published: ImportedBaseline | None = None
    image: CellImage | None = Field(default=None, description="that the server ran in; none: a process")
    serve: list[str] = Field(default_factory=list, description="what serves the model, typed in the cell's container")
    conformance: Conformance | None = Field(default=None, description="none: FlagGems' operators were not checked")
    evidence: list[Artefact]


class Card(Record):
    """A model card."""

    origin: Origin
    release_name: str | None = Field(description="of the adapted model, for example MiniCPM-V-4-metax-FlagOS")
    chip: str | None = Field(description="as printed, for example Metax")
    container_release: str | None = Field(description="of the container image, for example FlagOS-Metax")
    engine: str | None = Field(default=None, description="what serves the model, in words, for example FlagScale")
    stack: Stack = Stack.FLAGOS
    licence: LicenceLine | None = None
    front_matter: dict[str, Any] | None = None
    language: Language = "en"
    sections: list[Section]
    measured: CardData | None = Field(default=None, description="none: published or imported, without answers")

    def contents(self, *blocks: Block) -> list[Table | Code | Client]:
        """What stands under the sections that are one of `blocks`, in the card's order."""
        return [content for section in self.sections if section.block in blocks for content in section.contents]
