"""The Dockerfile of an image, from its inputs alone: the same inputs give the same bytes."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from flagrelease.errors import ImageError
from flagrelease.records import Record, digest
from flagrelease.settings import data_path
from runtime.engines.interface import IMAGE_HOME
from runtime.image.recipe import Recipe, canonical

if TYPE_CHECKING:
    from jinja2 import Environment

KEY_LABEL = "io.flagos.flagrelease.key"
SOURCE = "https://github.com/flagos-ai/FlagRelease"
INSIDE = Path(__file__).with_name("inside")
LLAMA_CPP_SERVER = Path(__file__).parents[1] / "engines" / "llama_cpp_server.py"


class ImageInputs(Record):
    """All that decides what is in an image. Equal inputs have equal keys, and one image is enough for them."""

    platform: str = Field(description="for example linux/amd64")
    base: str = Field(description="SHA-256 over the base image's layers and configuration, wherever it was got from")
    instructions: str = Field(description="the Dockerfile without its last line: key, time and origin as labels")
    wheels: dict[str, str] = Field(description="SHA-256 by file name")
    files: dict[str, str] = Field(description="SHA-256 of the files that are copied in, by name")

    @property
    def key(self) -> str:
        """The content key. Neither the time nor the cell that asked is part of it."""
        return digest(self.model_dump())

    def dockerfile(self, labels: Mapping[str, str]) -> str:
        """The Dockerfile, with labels of this one build. The folders wheels and files are its context."""
        return self.instructions + _label_line({KEY_LABEL: self.key, **labels})


def image_files(recipe: Recipe) -> dict[str, Path]:
    """The files that are copied into the image, by the name that they have in it."""
    files = {"healthcheck.py": INSIDE / "healthcheck.py"}
    if any(canonical(pin.package) == "xllamacpp" for pin in recipe.pins):
        files[LLAMA_CPP_SERVER.name] = LLAMA_CPP_SERVER
    return files


def render(recipe: Recipe, wheels: Iterable[str]) -> str:
    """The instructions of an image's Dockerfile. `wheels`: names of the files to install, and pip's own.

    Raises ImageError where a value holds what a Dockerfile cannot: a line break or another control character.
    """
    packages = {pin.package: pin.version for pin in recipe.pins}
    server = LLAMA_CPP_SERVER.name
    return (
        _environment()
        .get_template("image.Dockerfile.j2")
        .render(
            recipe=recipe,
            packages=packages,
            pip=next((name for name in wheels if name.startswith("pip-")), None),
            home=IMAGE_HOME,
            labels=_label_line(
                {
                    "io.flagos.flagrelease.chip": recipe.chip,
                    "io.flagos.flagrelease.packages": json.dumps(packages, sort_keys=True),
                    "org.opencontainers.image.title": f"FlagRelease image for {recipe.chip_display}",
                    "org.opencontainers.image.source": SOURCE,
                    "org.opencontainers.image.version": recipe.versions,
                }
            ),
            command=["python3", f"{IMAGE_HOME}/{server}", "--help"]
            if server in image_files(recipe)
            else ["sleep", "infinity"],
        )
    )


def quoted(value: str) -> str:
    """`value` as one word of ENV or LABEL, which the builder neither splits nor expands."""
    _refuse_control(value)
    for special in ("\\", '"', "$"):
        value = value.replace(special, f"\\{special}")
    return f'"{value}"'


def array(words: Sequence[str]) -> str:
    """`words` in exec form: no shell reads them."""
    for word in words:
        _refuse_control(word)
    return json.dumps(list(words), ensure_ascii=False)


def _label_line(labels: Mapping[str, str]) -> str:
    # One instruction: each costs the builder a container.
    return f"LABEL {' '.join(f'{quoted(name)}={quoted(value)}' for name, value in labels.items())}\n"


def _refuse_control(value: str) -> None:
    # Cc: control characters, line breaks among them; Zl, Zp: line and paragraph separators; Cs: halves of a character.
    if any(unicodedata.category(letter) in ("Cc", "Zl", "Zp", "Cs") for letter in value):
        raise ImageError(
            f"{value!r} holds a line break or another control character, which no Dockerfile can carry",
            remedy="take it out of the matrix or the chip file",
        )


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # No HTML here: what a Dockerfile needs escaped, the filters do.
    environment = Environment(
        loader=FileSystemLoader(data_path("templates") / "dockerfile"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701
    )
    environment.filters |= {"quoted": quoted, "array": array}
    return environment
