"""Card data in, Markdown out. The same data gives the same bytes: no clock, no environment, no network."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from flagrelease.card.data import CardData
from flagrelease.card.names import CardNames, card_names
from flagrelease.records import Provenance, Verdict, digest
from flagrelease.settings import data_path

SCHEMA = 1
"""Version of the `flagrelease` block in the front matter."""

_TEMPLATE = "README.md.j2"
_LINE = 96
"""Length from which a shell command is continued on the next line."""

_UNPRINTABLE = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Unicode categories that could break a line or reorder the text around them."""

# Entities and not backslashes: how many backslashes escape a pipe differs between Markdown readers.
_ESCAPES = str.maketrans(
    {
        "&": "&amp;",
        "<": "&lt;",
        ">": "&gt;",
        "|": "&#124;",
        "`": "&#96;",
        "*": "&#42;",
        "[": "&#91;",
        "]": "&#93;",
        "\\": "&#92;",
    }
)
_PIPELINES = {"text": "text-generation", "vision": "image-text-to-text", "embodied": "image-text-to-text"}
_ENGINES = {"llama_cpp": "llama.cpp", "vllm": "vLLM", "flagscale": "FlagScale"}
_PACKAGES = {"llama_cpp": "xllamacpp"}
"""Package whose version an engine reports, where it is named otherwise than the engine."""

_VERDICTS = {
    Verdict.CONSISTENT: "the release answers as the baseline does, within the margins that the gate allows",
    Verdict.REGRESSED: "the release answers worse than the baseline, by more than chance explains",
    Verdict.INCONCLUSIVE: "these measurements neither show a loss against the baseline nor rule one out",
    Verdict.INVALID: "the two runs cannot be compared, so the differences in the table say nothing",
}


def render(card: CardData) -> str:
    """The model card (README.md) of a release, front matter included."""
    text = _environment().get_template(_TEMPLATE).render(_context(card))
    return re.sub(r"\n{4,}", "\n\n\n", text).strip("\n") + "\n"


def template_sha256() -> str:
    """Hash over all template files: a changed template is a new card."""
    folder = _folder()
    files = (path for path in folder.rglob("*") if path.is_file())
    return digest(
        {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    )


def _folder() -> Path:
    return data_path("templates") / "card"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_folder()),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - the output is Markdown; the filters below escape for it
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        cell=_cell,
        code=_code,
        link=_link,
        sh=_sh,
        docker_run=_docker_run,
        fenced=_fenced,
        literal=_literal,
        percent=_percent,
        points=_points,
        number=_number,
        engine=_engine,
        settings=_settings,
        versions=_versions,
    )
    return environment


def _context(card: CardData) -> dict[str, Any]:
    """What the templates see."""
    cell = card.cell.cell
    names = card_names(card.cell)
    verdicts = {verdict.benchmark: verdict for verdict in card.gate.benchmarks}
    host = "<server_ip>" if cell.launcher == "container" else "127.0.0.1"
    return {
        "card": card,
        "cell": cell,
        "model": card.cell.model,
        "chip": card.cell.chip,
        "policy": card.cell.policy,
        "gate": card.gate,
        "names": names,
        "runs": [run for run in (card.baseline, card.candidate) if run],
        "served_name": card.cell.served_name,
        "download": cell.names.download or card.cell.model.source.repository,
        "front_matter": _front_matter(card, names),
        "base_url": f"http://{host}:{cell.port}/v1/",
        "engine_option": "" if card.engine == cell.engine else f" --engine {_sh(card.engine)}",
        # Without sound runs the gate compares nothing: such rows have no verdict.
        "results": [(row, verdicts.get(row.benchmark)) for row in card.rows],
        "meaning": _VERDICTS[card.gate.verdict],
        "unanswered": [verdict for verdict in card.gate.benchmarks if verdict.missing],
        "operators": [artefact for artefact in card.evidence if artefact.kind == "operators"],
    }


def _front_matter(card: CardData, names: CardNames) -> str:
    """YAML for the hubs. Hugging Face and ModelScope each read their keys and keep the other's."""
    cell, model = card.cell.cell, card.cell.model
    pipeline = _PIPELINES[model.kind]
    data: dict[str, Any] = {"license": _printable(model.licence.spdx).lower()}
    if data["license"] == "other":
        data["license_name"] = re.sub(r"[^a-z0-9.]+", "-", (model.licence.name or "other").lower()).strip("-")
        data["license_link"] = _printable(model.licence.url)
    data |= {
        "base_model": _printable(model.source.repository),
        "pipeline_tag": pipeline,
        "library_name": model.weights.format if model.weights else "transformers",
        "language": [card.language],
        "tags": ["flagrelease", cell.stack.value, card.cell.chip.key, card.engine]
        + (["robotics"] if model.kind == "embodied" else []),
        "frameworks": ["llama.cpp" if card.engine == "llama_cpp" else "PyTorch"],
        "tasks": [pipeline],
        "flagrelease": {
            "schema": SCHEMA,
            "release": card.release,
            "cell": card.cell.id,
            "verdict": card.gate.verdict.value,
            "baseline": _printable(card.gate.baseline_id),
        },
    }
    if card.rows:
        # Hubs show these as the model's own scores: the baseline's would be taken for them.
        data["model-index"] = [
            {
                "name": _printable(names.release),
                "results": [
                    {
                        "task": {"type": pipeline},
                        "dataset": {"name": _printable(row.display), "type": _printable(row.benchmark)},
                        "metrics": [
                            {
                                "type": "score",
                                "value": round(100 * row.candidate, 3),
                                "name": f"percent, {row.n} items × {row.repeats}, "
                                f"{_ENGINES.get(card.engine, card.engine)} on {_printable(card.cell.chip.display)}",
                            }
                        ],
                    }
                    for row in card.rows
                ],
            }
        ]
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)


def _printable(value: object) -> str:
    """One line of text: whatever breaks a line or reorders text becomes a space."""
    return "".join(" " if unicodedata.category(char) in _UNPRINTABLE else char for char in str(value))


def _cell(value: object) -> str:
    """A value as text in a table cell or sentence: one line, no Markdown or HTML of its own."""
    return " ".join(_printable(value).split()).translate(_ESCAPES)


def _code(value: object) -> str:
    """A value as a code span; as plain text if it holds anything that could end one, or a table cell."""
    text = " ".join(_printable(value).split())
    return f"`{text}`" if re.fullmatch(r"[\w .:/@+=,-]+", text) else _cell(text)


def _link(value: str) -> str:
    """A web address as a link; anything else as plain text."""
    return f"<{value}>" if re.fullmatch(r"https?://[A-Za-z0-9._~:/?#@!$&'()+,;=%-]+", value) else _cell(value)


def _sh(value: object) -> str:
    """A value as one shell token."""
    return shlex.quote(_printable(value))


def _docker_run(options: Sequence[str], name: str, image: str, command: Sequence[str]) -> str:
    """The `docker run` command of a container; an option and its value stay on one line."""
    groups: list[list[str]] = []
    for option in options:
        if option.startswith("-") or not groups:
            groups.append([])
        groups[-1].append(option)
    groups += [["--name", name], [image, *command]]
    lines = ["docker run"]
    for group in groups:
        tokens = " ".join(_sh(token) for token in group)
        if len(lines[-1]) + len(tokens) > _LINE:
            lines.append(" " * len("docker run"))
        lines[-1] += f" {tokens}"
    return " \\\n".join(lines)


def _fenced(commands: Sequence[str]) -> str:
    """Whole commands, one a line, in a fence that none of them can close."""
    lines = [_printable(command) for command in commands]
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}bash", *lines, fence])


def _literal(value: object) -> str:
    """A value as a string literal; JSON's strings are Python's too."""
    return json.dumps(_printable(value), ensure_ascii=False)


def _percent(value: float, decimals: int = 3) -> str:
    """A share in [0, 1] as percent."""
    return f"{100 * value:.{decimals}f}"


def _points(value: float, decimals: int = 3) -> str:
    """A difference of shares in percentage points, with its sign; none before zero."""
    points = round(100 * value, decimals)
    return f"{points:+.{decimals}f}".replace("-", "−") if points else f"{0:.{decimals}f}"


def _number(value: float) -> str:
    """A number without needless zeros: 0.05 → 0.05, 2.0 → 2."""
    return f"{value:g}"


def _engine(provenance: Provenance) -> str:
    """Engine and version in words, for example `llama.cpp (xllamacpp 2026.10.11549)`."""
    name = _ENGINES.get(provenance.engine, provenance.engine)
    package, version = _PACKAGES.get(provenance.engine), provenance.engine_version
    if package is None:
        return _cell(f"{name} {version}")
    return _cell(f"{name} ({version if package in version else f'{package} {version}'})")


def _settings(values: Mapping[str, Any]) -> str:
    """Settings as `key=value`, sorted, for a table cell."""
    pairs = (f"{key}={json.dumps(value, sort_keys=True, ensure_ascii=False)}" for key, value in values.items())
    return _cell(", ".join(sorted(pairs))) or "none"


def _versions(packages: Mapping[str, str]) -> str:
    """Packages with their versions, for example `lm_eval 0.4.13`."""
    return ", ".join(f"{name} {version}" for name, version in packages.items())
