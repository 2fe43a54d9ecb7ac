"""The facts that a card states, taken out of its tables and commands as they are printed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field

from flagrelease.card.data import Block, Card, Client, Code, LicenceLine, Section, Table
from flagrelease.card.inline import plain_text
from flagrelease.card.names import chip_key, understand
from flagrelease.card.read_client import any_client
from flagrelease.card.shell import Command, DockerRun, commands, docker_pull, docker_run, option
from flagrelease.chip import Chip
from flagrelease.matrix import Model
from flagrelease.records import Record

_RESULTS_HEADERS = re.compile(r"(?i)metrics?|benchmarks?|tasks?|指标|评测指标|评测集|基准|数据集")
_ITEM_HEADERS = re.compile(r"(?i)items?|system components?|components?|type|name|software|项目?|组件|名称|条目")
_REFERENCE = re.compile(r"(?i)(?<![a-z])(?:cuda|origin|native|baseline|基线|原生)(?![a-z])")
_REFERENCE_GPU = re.compile(r"(?i)(?<![a-z0-9])[hab]\d{2,3}(?![a-z0-9])")
_ABOUT = re.compile(
    r"(?i)n(?:\s*×.*)?|(?:number of )?(?:items|questions|samples|repeats|shots)|diff(?:erence)?s?\b.*|delta.*|Δ.*"
    r"|.*\binterval|verdict|差值.*|差异.*|.*区间|结论|题数.*"
)
"""Columns of a results table that hold no score."""
_PORT_VARIABLE = re.compile(r"(?:\w+_)?PORT")
_YAML_PORT = re.compile(r"^\s*(?:-\s*)?port\s*:\s*(\d{1,5})\b")
_YAML_NAME = re.compile(r"^\s*(?:-\s*)?served_model_name\s*:\s*([^\s#]+)")
_URL_PORT = re.compile(r"https?://[^/\s\"']*?:(\d{1,5})(?=[/\s\"']|$)")


class MetricRow(Record):
    """A row of the results table, as printed."""

    metric: str
    baseline: str | None
    candidate: str | None


class Download(Record):
    """Where the card downloads weights from, and where to."""

    hub: Literal["modelscope", "huggingface"]
    repository: str
    directory: str | None


class Facts(Record):
    """What a card says. Everything is optional: published cards lack any part of it."""

    release_name: str | None
    chip: str | None = Field(description="as printed")
    chip_key: str | None = Field(description="none: no such chip is known")
    model_key: str | None = Field(description="none: no such model is in the matrix")
    baseline_column: str | None
    candidate_column: str | None
    metrics: list[MetricRow] = Field(description="rows of the first results table")
    environment: dict[str, str]
    download: Download | None
    images_pulled: list[str]
    images_run: list[str]
    run_options: list[str] = Field(description="words of the first `docker run` before the image")
    container_name: str | None
    mounts: list[tuple[str, str]] = Field(description="host path, container path")
    run_command: list[str] = Field(description="words of the first `docker run` after the image")
    serve: list[str] = Field(description="commands that start serving, each in one line")
    server: Literal["flagscale", "vllm"] | None
    serve_port: int | None
    serve_name: str | None = Field(description="flagscale's NAME, or the model name that vllm serves")
    served_model: str | None = Field(description="model name that the server offers, where the commands tell")
    clients: list[Client] = Field(description="requests, also those made with curl")
    client_ports: list[int]
    licence: LicenceLine | None


def facts(card: Card, models: Mapping[str, Model] | None = None, chips: Mapping[str, Chip] | None = None) -> Facts:
    """What `card` says; `models` (of the matrix) and `chips` are needed for the keys only."""
    found = [command for _, code in _codes(card.sections) for command in commands(code.lines)]
    runs = [run for run in map(docker_run, found) if run]
    run = runs[0] if runs else DockerRun([], None, [])
    serving = _serving(card)
    server = _server(serving or found)
    clients = [content for section in card.sections for content in section.contents if isinstance(content, Client)]
    clients += [client for _, code in _codes(card.sections) if (client := any_client(code.lines))]
    clients += [client for client in map(_curl, found) if client]
    results = _results(card)
    name = understand(card.release_name or "", models or {}, chips or {})
    printed = card.chip and chip_key(card.chip, chips or {})
    return Facts(
        release_name=card.release_name,
        chip=card.chip,
        chip_key=printed or name.chip_key,
        model_key=name.model_key,
        **_columns(results),
        environment=_environment(card, results),
        download=next((download for download in map(_download, found) if download), None),
        images_pulled=[image for image in map(docker_pull, found) if image],
        images_run=[each.image for each in runs if each.image],
        run_options=run.options,
        container_name=next(iter(run.values("--name")), None),
        mounts=[
            *(mount for value in run.values("-v", "--volume") if (mount := _mount(value))),
            *(mount for value in run.values("--mount") if (mount := _bind(value))),
        ],
        run_command=run.command,
        serve=list(dict.fromkeys(command.text for command in serving)),
        **_served(server),
        serve_port=_port(card, serving, server, run),
        served_model=_served_model(card, server),
        clients=clients,
        client_ports=list(dict.fromkeys(_client_ports(card, clients))),
        licence=card.licence,
    )


def _codes(sections: Iterable[Section]) -> Iterable[tuple[Section, Code]]:
    return ((section, content) for section in sections for content in section.contents if isinstance(content, Code))


def _results(card: Card) -> Table | None:
    """The first table of results: under its heading, or known by its first column."""
    tables = [(section, content) for section in card.sections for content in section.contents]
    for section, content in tables:
        if isinstance(content, Table) and section.block in {Block.RESULTS, Block.EVALUATION}:
            return content
    for _, content in tables:
        if isinstance(content, Table) and content.header and _RESULTS_HEADERS.fullmatch(plain_text(content.header[0])):
            return content
    return None


def _columns(table: Table | None) -> dict[str, Any]:
    """Columns and rows of the results table; the baseline is the one that names the reference, else the first score."""
    if table is None or len(table.header) < 2:  # noqa: PLR2004
        return {"baseline_column": None, "candidate_column": None, "metrics": []}
    header = [plain_text(cell) for cell in table.header]
    columns = [i for i in range(1, len(header)) if not _ABOUT.fullmatch(header[i])]
    if not columns:
        return {"baseline_column": None, "candidate_column": None, "metrics": []}
    before = next((i for i in columns if _names_reference(header[i])), columns[0])
    after = next((i for i in reversed(columns) if i != before), None)
    if after is None:
        before, after = 0, columns[0]
    cells = [[plain_text(cell) for cell in row] for row in table.rows]
    rows = [(row + [""] * len(header))[: len(header)] for row in cells]
    return {
        "baseline_column": header[before] if before else None,
        "candidate_column": header[after],
        "metrics": [
            MetricRow(metric=row[0], baseline=row[before] if before else None, candidate=row[after]) for row in rows
        ],
    }


def _names_reference(column: str) -> bool:
    """Whether the column's name says that it is the reference; what stands behind `FlagOS` counts most."""
    _, flagos, behind = column.casefold().rpartition("flagos")
    return _REFERENCE.search(behind) is not None or (not flagos and _REFERENCE_GPU.search(column) is not None)


def _environment(card: Card, results: Table | None) -> dict[str, str]:
    """Rows of the environment tables. A header that is itself a row (the driver's) counts as one."""
    found: dict[str, str] = {}
    for content in card.contents(Block.GUIDE):
        if isinstance(content, Table) and content is not results:
            rows = content.rows
            if content.header and not _ITEM_HEADERS.fullmatch(plain_text(content.header[0])):
                rows = [content.header, *rows]
            found |= {plain_text(row[0]): plain_text(row[1]) for row in rows if len(row) > 1}
    return found


def _download(command: Command) -> Download | None:
    words = command.program
    hubs: dict[str, Literal["modelscope", "huggingface"]] = {
        "modelscope": "modelscope",
        "huggingface-cli": "huggingface",
        "hf": "huggingface",
    }
    if len(words) < 3 or words[1] != "download" or words[0] not in hubs:  # noqa: PLR2004
        return None
    repository = option(words, "--model", "--repo-id") or next(
        (word for before, word in pairwise(words[1:]) if not before.startswith("-") and not word.startswith("-")), None
    )
    if repository is None:
        return None
    directory = option(words, "--local_dir", "--local-dir", "--cache_dir", "--cache-dir")
    return Download(hub=hubs[words[0]], repository=repository, directory=directory)


def _mount(value: str) -> tuple[str, str] | None:
    host, colon, rest = value.partition(":")
    return (host, rest.partition(":")[0]) if colon else None


def _bind(value: str) -> tuple[str, str] | None:
    said = dict(part.partition("=")[::2] for part in value.split(","))
    host = said.get("source") or said.get("src")
    inside = said.get("target") or said.get("destination") or said.get("dst")
    return (host, inside) if host and inside else None


def _serving(card: Card) -> list[Command]:
    """Commands that start serving: those under the heading, else the lines that name a serving program."""
    under = [
        command
        for section, code in _codes(card.sections)
        if section.block is Block.SERVE
        for command in commands(code.lines)
    ]
    if under:
        return under
    return [command for _, code in _codes(card.sections) for command in commands(code.lines) if _server([command])]


def _server(found: Sequence[Command]) -> Command | None:
    """The command that starts the server: `flagscale serve …`, `vllm serve …`, also within another command."""
    for command in found:
        words = command.program
        for index, (word, following) in enumerate(pairwise(words)):
            program = word.rpartition("/")[2]
            if program in {"flagscale", "vllm"} and following == "serve":
                return command._replace(words=[program, *words[index + 1 :]])
            if word == "-m" and following.startswith("vllm.entrypoints"):
                rest = words[index + 2 :]
                return command._replace(words=["vllm", "serve", *(rest[1:] if rest[:1] == ["serve"] else rest)])
    return None


def _served(server: Command | None) -> dict[str, Any]:
    if server is None:
        return {"server": None, "serve_name": None}
    words = server.words
    name = words[2] if len(words) > 2 and not words[2].startswith("-") else None  # noqa: PLR2004
    if words[0] == "vllm":
        name = option(words, "--served-model-name", "--served_model_name") or option(words, "--model") or name
    return {"server": words[0], "serve_name": name}


def _served_model(card: Card, server: Command | None) -> str | None:
    if server and server.words[0] == "vllm":
        name = _served(server)["serve_name"]
        return None if name is None else str(name)
    return next((match[1] for line in _lines(card) if (match := _YAML_NAME.match(line))), None)


def _port(card: Card, serving: Sequence[Command], server: Command | None, run: DockerRun) -> int | None:
    """The port that the server is told: as an option, a variable, or in a configuration that the card prints."""
    if server and (given := option(server.words, "--port")):
        return int(given) if _is_port(given) else None
    variables = [pair for command in serving for pair in command.environment.items()]
    for value in run.values("-e", "--env"):
        name, _, content = value.partition("=")
        variables.append((name, content))
    for name, content in variables:
        if _PORT_VARIABLE.fullmatch(name) and _is_port(content):
            return int(content)
    return next((int(match[1]) for line in _lines(card) if (match := _YAML_PORT.match(line))), None)


def _is_port(text: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", text) is not None


def _lines(card: Card) -> Iterable[str]:
    return (line for _, code in _codes(card.sections) for line in code.lines)


def _curl(command: Command) -> Client | None:
    """A request made with curl, as a client; one for a completion has no messages."""
    words = command.program
    if not words or words[0] != "curl":
        return None
    url = next((word for word in words[1:] if re.match(r"https?://", word)), None)
    body = option(words, "-d", "--data", "--data-raw", "--json", "--data-binary")
    if url is None or body is None:
        return None
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(data, dict) or not isinstance(data.get("model"), str):
        return None
    messages = data.get("messages", [])
    plain = isinstance(messages, list) and all(
        isinstance(each, dict) and all(isinstance(text, str) for text in each.values()) for each in messages
    )
    return Client(
        base_url=re.sub(r"(?:chat/)?completions/?$", "", url),
        model=data["model"],
        messages=messages if plain else [],
        parameters={
            key: value
            for key, value in data.items()
            if key not in {"model", "messages"} and isinstance(value, bool | int | float | str)
        },
    )


def _client_ports(card: Card, clients: Sequence[Client]) -> Iterable[int]:
    """Ports of every request on the card, of those too that are not plain enough to be clients."""
    texts = [client.base_url for client in clients]
    for section, code in _codes(card.sections):
        if section.block is Block.CLIENT or any("curl " in line or "base_url" in line for line in code.lines):
            texts += [line for line in code.lines if not line.lstrip().startswith("#")]
    return (int(match[1]) for text in texts for match in _URL_PORT.finditer(text))
