"""The Dockerfile of an image: pinned, without network or shell, the same for the same inputs, whatever values hold."""

from __future__ import annotations

import json
import shlex
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagrelease.errors import ImageError
from runtime.image.dockerfile import ImageInputs, array, image_files, quoted, render
from runtime.image.recipe import Pin, Recipe
from tests.unit.test_image_recipe import CHIPS

WHEELS = ["flag_gems-3.0-py3-none-any.whl", "pip-25.0.1-py3-none-any.whl"]
HOSTILE = [
    "a b",
    "it's",
    'say "hi"',
    "$(id)",
    "`id`",
    "${HOME}",
    "$HOME",
    "back\\slash",
    "end\\",
    "# no comment",
    "模型",
    "a=b",
]


def made_of(
    chip: str = "metax", display: str = "Metax", pins: tuple[Pin, ...] | None = None, port: int = 9010
) -> Recipe:
    if pins is None:
        pins = (Pin(component="flaggems", package="flag-gems", version="3.0"),)
    return Recipe(chip=chip, chip_display=display, base="base:1", pins=pins, port=port)


def inputs(instructions: str = "FROM x\n", base: str = "b" * 64, wheel: str = "w" * 64) -> ImageInputs:
    return ImageInputs(platform="linux/amd64", base=base, instructions=instructions, wheels={"a.whl": wheel}, files={})


def logical_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize("chip", CHIPS)
def test_every_chip_has_a_dockerfile(chip: str) -> None:
    text = render(made_of(chip), WHEELS)
    lines = logical_lines(text)
    assert lines[0] == "ARG BASE"
    assert [line for line in lines if line.startswith("FROM")] == ["FROM ${BASE} AS packages", "FROM ${BASE}"]
    assert not any(line.startswith("# syntax") for line in text.splitlines()), "asks Docker Hub"
    # Exec form throughout: what follows is a JSON array, which no shell reads.
    for line in lines:
        word, _, rest = line.partition(" ")
        if word in {"RUN", "CMD", "ENTRYPOINT"}:
            assert isinstance(json.loads(rest), list)
        if word == "COPY":
            assert isinstance(json.loads(rest.removeprefix("--from=packages ")), list)
        if word == "HEALTHCHECK":
            assert isinstance(json.loads(rest.partition(" CMD ")[2]), list)
    assert {"HEALTHCHECK", "LABEL", "CMD", "ENTRYPOINT"} <= {line.partition(" ")[0] for line in lines}


def test_packages_are_installed_from_hashed_wheels_without_an_index() -> None:
    install = next(line for line in render(made_of(), WHEELS).splitlines() if line.startswith("RUN"))
    words = json.loads(install.removeprefix("RUN "))
    assert words[:2] == ["python3", "/tmp/wheels/pip-25.0.1-py3-none-any.whl/pip"]
    assert {"--no-index", "--no-deps", "--require-hashes", "--isolated"} <= set(words)


def test_without_packages_there_is_nothing_to_install() -> None:
    text = render(made_of(pins=()), [])
    assert "wheels" not in text
    assert "RUN" not in text


def test_the_cpu_image_serves_with_llama_cpp_and_without_root() -> None:
    pins = (Pin(component="packages", package="xllamacpp", version="1.0"),)
    lines = logical_lines(render(made_of("cpu", pins=pins), ["xllamacpp-1.0-py3-none-any.whl", WHEELS[1]]))
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 10001:10001"
    assert set(image_files(made_of("cpu", pins=pins))) == {"healthcheck.py", "llama_cpp_server.py"}
    assert set(image_files(made_of())) == {"healthcheck.py"}


@given(st.text())
def test_a_quoted_value_is_one_word_or_refused(value: str) -> None:
    try:
        word = quoted(value)
    except ImageError:
        assert any(unicodedata.category(letter)[0] in "CZ" for letter in value)
        return
    assert "\n" not in word
    assert word.splitlines() in ([word], [])
    # Quotes and backslashes are escaped as in a shell's double quotes; `$` is too, which shlex leaves to the shell.
    assert shlex.split(word) == [value.replace("$", "\\$")]


@given(st.lists(st.text()))
def test_an_array_is_the_words_on_one_line(words: list[str]) -> None:
    try:
        line = array(words)
    except ImageError:
        return
    assert json.loads(line) == words
    assert len(line.splitlines()) == 1


@pytest.mark.parametrize("value", ["a\nRUN id", "a\rb", "a\0b", "\x1b[31m", "a\x85b", "a\u2028b"])
def test_line_breaks_and_controls_are_refused(value: str) -> None:
    with pytest.raises(ImageError, match="control character"):
        render(made_of(display=value), WHEELS)


@pytest.mark.parametrize("value", HOSTILE)
def test_a_hostile_name_stays_in_its_label(value: str) -> None:
    plain, hostile = (render(made_of(display=name), WHEELS).splitlines() for name in ("plain", value))
    changed = [(a, b) for a, b in zip(plain, hostile, strict=True) if a != b]
    assert [new for _, new in changed] == [
        old.replace('"FlagRelease image for plain"', quoted(f"FlagRelease image for {value}")) for old, _ in changed
    ]
    assert len(changed) == 1


def test_the_key_is_that_of_the_inputs() -> None:
    assert inputs().key == inputs().key
    keys = {inputs().key, inputs("FROM y\n").key, inputs(base="c" * 64).key, inputs(wheel="v" * 64).key}
    assert len(keys) == 4
    assert inputs().dockerfile({}) == f'FROM x\nLABEL "io.flagos.flagrelease.key"="{inputs().key}"\n'


def test_a_changed_recipe_is_another_dockerfile() -> None:
    texts = {
        render(made_of(), WHEELS),
        render(made_of(port=8000), WHEELS),
        render(made_of(pins=(Pin(component="flaggems", package="flag-gems", version="3.1"),)), WHEELS),
        render(made_of("nvidia"), WHEELS),
        render(made_of(), [WHEELS[0], "pip-26.0-py3-none-any.whl"]),
    }
    assert len(texts) == 5
    assert render(made_of(), WHEELS) == render(made_of(), WHEELS)
