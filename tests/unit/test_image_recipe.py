"""What an image is made of and what it is called, from the matrix alone; hostile values end here with a name."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flagrelease.errors import MatrixError, RegistryError
from flagrelease.loading import load_chips, load_matrix, resolve, resolve_all
from flagrelease.matrix import ResolvedCell, Versions
from runtime.image.recipe import recipe, registry_host, registry_prefix, repository, sharing, tag
from tests.conftest import ROOT

MATRIX, CHIPS = load_matrix(ROOT / "matrix.yaml"), load_chips()
BASE = "registry.example.org/vendor/base@sha256:" + "0" * 64
BASES = dict.fromkeys(CHIPS, BASE)
KEY = "0123456789abcdef" * 4
# As the distribution specification has it.
NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
PACKAGES, NUMBERS = st.text("abz09", min_size=1, max_size=60), st.lists(st.integers(0, 10**9), min_size=1, max_size=5)
TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def cell_of(name: str = "qwen3-metax", *, versions: dict[str, Any] | None = None, **cell: Any) -> ResolvedCell:
    """A cell of the shipped matrix with other values, which pass the matrix's schema."""
    found = resolve(MATRIX, CHIPS, name)
    if versions is not None:
        cell["versions"] = Versions(**versions)
    return found.model_copy(update={"cell": found.cell.model_copy(update=cell)})


def requirements(versions: dict[str, Any]) -> list[str]:
    return [pin.requirement for pin in recipe(cell_of(versions=versions), BASES).pins]


def test_versions_become_pins_however_cards_print_them() -> None:
    assert requirements({"flagscale": "Version: 0.8.0", "flaggems": "3.0"}) == ["flag-scale==0.8.0", "flag-gems==3.0"]
    assert requirements({"flagtree": "0.4.0+ascend3.2", "vllm": "v0.28.0"}) == [
        "flagtree==0.4.0+ascend3.2",
        "vllm==0.28.0",
    ]
    assert requirements({"plugin": "vllm-ascend 0.23.0.post1"}) == ["vllm-ascend==0.23.0.post1"]
    assert requirements({"vllm": "vllm-metax==0.20.0", "packages": ["hydra-core==1.3.2"]}) == [
        "vllm-metax==0.20.0",
        "hydra-core==1.3.2",
    ]


@pytest.mark.parametrize(
    "versions",
    [
        {"flaggems": "newest"},
        {"flaggems": ""},
        {"flaggems": "3.0 --index-url=https://evil.example"},
        {"flaggems": "3.0; rm -rf /"},
        {"flaggems": "$(id)"},
        {"flaggems": "3.0\nRUN id"},
        {"flaggems": "https://evil.example/x.whl"},
        {"plugin": "0.2.0"},
        {"packages": ["xllamacpp"]},
        {"packages": ["xllamacpp>=1"]},
        {"packages": ["-r /etc/passwd"]},
        {"packages": ["--index-url==1"]},
        {"packages": ["xllamacpp==1 "]},
        {"packages": ["xllamacpp==1\n"]},
        {"packages": ["a==1", "A==2"]},
        {"flaggems": "3.0", "packages": ["flag_gems==3.1"]},
    ],
)
def test_what_is_no_pin_is_refused(versions: dict[str, Any]) -> None:
    with pytest.raises(MatrixError, match=r"qwen3-metax: versions"):
        requirements(versions)


@given(st.text(max_size=30))
def test_a_pin_is_always_one_harmless_word(text: str) -> None:
    try:
        found = requirements({"packages": [text], "flaggems": text})
    except MatrixError:
        return
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9A-Za-z.!+_-]+", pin) for pin in found)


def test_the_base_is_the_hosts_then_the_chips() -> None:
    assert recipe(cell_of("smollm2-cpu"), {}).base == CHIPS["cpu"].base_image
    assert recipe(cell_of("smollm2-cpu"), {"cpu": BASE}).base == BASE
    bare = cell_of().model_copy(update={"chip": CHIPS["metax"].model_copy(update={"base_image": None})})
    with pytest.raises(MatrixError, match="the chip metax has no base image"):
        recipe(bare, {})


@pytest.mark.parametrize("base", ["a b", "$(id)", "base\nRUN id", "--platform=x", "base@sha256:00", "a'b", ""])
def test_a_base_that_is_no_reference_is_refused(base: str) -> None:
    with pytest.raises(MatrixError):
        recipe(cell_of().model_copy(update={"chip": CHIPS["metax"].model_copy(update={"base_image": base})}), {})


def test_cells_of_the_source_cards_keep_their_images_names() -> None:
    names = {cell.id: repository(cell, "harbor.example.org/public/") for cell in resolve_all(MATRIX, CHIPS)}
    assert names == {
        "smollm2-cpu": "harbor.example.org/public/flagrelease_cpu_smollm2_135m_instruct",
        "minimax-nvidia": "harbor.example.org/public/flagrelease_nvidia_minimaxm2",
        "minicpmv4-metax": "harbor.example.org/public/flagrelease_metax_minicpm",
        "robobrain2-7b-metax": "harbor.example.org/public/flagrelease_metax_robo2_7",
        "qwen3-metax": "harbor.example.org/public/flagrelease_metax_qwen3_8b",
        "step3-nvidia": "harbor.example.org/public/flagrelease_nvidia_step3",
    }
    assert repository(cell_of("smollm2-cpu"), None) == "flagrelease_cpu_smollm2_135m_instruct"


def test_generated_names_follow_the_source_cards() -> None:
    assert repository(cell_of(container=None), None) == "flagrelease_metax_qwen3_8b"


@given(st.text(min_size=1, max_size=40))
def test_any_display_name_gives_a_legal_image_name(display: str) -> None:
    cell = cell_of(container=None)
    name = repository(cell.model_copy(update={"model": cell.model.model_copy(update={"display": display})}), None)
    assert NAME.fullmatch(name)


@pytest.mark.parametrize("image", ["", "UPPER", "x y", "$(id)", "a/b/", "a\nb", "-x", "x;id"])
def test_a_printed_image_without_a_legal_name_is_refused(image: str) -> None:
    container = cell_of().cell.container
    assert container
    with pytest.raises(MatrixError, match="does not name an image"):
        repository(cell_of(container=container.model_copy(update={"image": image})), None)


@pytest.mark.parametrize(
    "registry", ["https://h.example.org/x", "team", "h.example.org/Team", "h.example.org/a b", "", "/"]
)
def test_a_registry_that_is_none_is_refused(registry: str) -> None:
    with pytest.raises(RegistryError, match="is not a registry"):
        registry_prefix(registry)


def test_registries_of_references() -> None:
    assert registry_prefix("127.0.0.1:5000") == registry_host("127.0.0.1:5000/x") == "127.0.0.1:5000"
    assert registry_prefix("localhost/team/") == "localhost/team"
    assert registry_host("harbor.example.org/a/b:1@sha256:0") == "harbor.example.org"
    assert registry_host("library/python:3.11") == registry_host("python:3.11") == "docker.io"


def test_the_tag_tells_versions_day_and_inputs() -> None:
    wanted = recipe(
        cell_of(versions={"flagscale": "Version: 0.8.0", "flaggems": "3.0+maca.1", "packages": ["a==1"]}), BASES
    )
    assert tag(wanted, "2026-11-21T10:00:00Z", KEY) == "scale0.8.0-gems3.0_maca.1-20261121-01234567"
    assert tag(recipe(cell_of("smollm2-cpu"), {}), "2026-11-21T10:00:00Z", KEY).startswith("xllamacpp20")


@pytest.mark.slow
@given(st.lists(st.tuples(PACKAGES, NUMBERS), max_size=9, unique_by=lambda pair: pair[0]))
def test_any_pins_give_a_legal_tag(pins: list[tuple[str, list[int]]]) -> None:
    packages = [f"{name}=={'.'.join(map(str, numbers))}" for name, numbers in pins]
    wanted = recipe(cell_of(versions={"packages": packages}), BASES)
    assert TAG.fullmatch(tag(wanted, "2026-11-21T10:00:00Z", KEY))


def test_cells_with_one_recipe_share_an_image() -> None:
    cells = resolve_all(MATRIX, CHIPS)
    assert sharing(cell_of("minicpmv4-metax"), cells, BASES) == ["minicpmv4-metax", "robobrain2-7b-metax"]
    # Its port is another one, and the image's healthcheck asks there.
    assert sharing(cell_of("qwen3-metax"), cells, BASES) == ["qwen3-metax"]
    # A cell that cannot be understood shares with none, and stops nobody.
    assert sharing(cell_of("smollm2-cpu"), [*cells, cell_of(versions={"flaggems": "?"})], BASES) == ["smollm2-cpu"]
