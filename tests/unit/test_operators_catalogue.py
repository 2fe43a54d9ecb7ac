"""FlagGems' operators are read from its files, whatever is missing there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from flagrelease.errors import PreflightError, UnknownNameError
from flagrelease.operators.catalogue import KNOWN_VERSION, Catalogue, read_catalogue
from flagrelease.settings import settings
from tests.unit.command_line import Run

# A small stand-in for the package `flag_gems`: its layout, and things that cannot be imported.
FAKE_FLAG_GEMS = {
    "__init__.py": """
import a_device_that_is_not_there
from flag_gems.ops import *
_FULL_CONFIG = (
    ("add.Tensor", add),
    ("mm", mm),
    ("mm.out", mm),
    ("_to_copy", to_copy, lambda: version.parse(torch.__version__) >= version.parse("2.4")),
    ("bincount", bincount),
)
""",
    "ops/__init__.py": """
from flag_gems.ops.add import add
from flag_gems.ops.mm import mm
from .to import to_copy
from flag_gems.utils import not_an_operator
__all__ = ["add", "mm", "to_copy"]
""",
    "fused/__init__.py": """
from flag_gems.fused.bincount import bincount
from flag_gems.fused.silu_and_mul import silu_and_mul
__all__ = ["bincount", "silu_and_mul"]
""",
    "runtime/common.py": """
class vendors(Enum):
    NVIDIA = 0
    METAX = 1
    KUNLUNXIN = 2
""",
    "runtime/backend/_nvidia/__init__.py": 'CUSTOMIZED_UNUSED_OPS = ("add",)',
    "runtime/backend/_nvidia/ops/__init__.py": "from .add import add",
    "runtime/backend/_nvidia/hopper/ops/__init__.py": """
if triton.__version__ >= "3.4":
    from .mm import mm
""",
    "runtime/backend/_metax/__init__.py": "CUSTOMIZED_UNUSED_OPS = ()",
    "runtime/backend/_metax/ops/__init__.py": """
from a_driver import a_function
from .mm import mm
if arch == 1 or arch == 2:
    from .add import add
""",
    "runtime/backend/_metax/fused/__init__.py": "from .silu_and_mul import silu_and_mul",
    "runtime/backend/_kunlunxin/__init__.py": 'CUSTOMIZED_UNUSED_OPS = ("add", "mm")',
    "runtime/backend/_arm/ops/__init__.py": "from .add import add",
}


@pytest.fixture
def fake_flag_gems(tmp_path: Path) -> Path:
    package = tmp_path / "site" / "flag_gems"
    for name, text in FAKE_FLAG_GEMS.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    return package


def overrides(catalogue: Catalogue) -> dict[str, list[tuple[str, str, str | None]]]:
    return {
        each.name: [(own.vendor, own.module, own.condition) for own in each.overrides] for each in catalogue.operators
    }


def test_operators_keys_and_modules(fake_flag_gems: Path) -> None:
    catalogue = read_catalogue(fake_flag_gems, KNOWN_VERSION)
    assert catalogue.notes == ()
    found = {each.name: (each.kind, each.keys, each.module) for each in catalogue.operators}
    assert found == {
        "add": ("aten", ("add.Tensor",), "ops.add"),
        "bincount": ("aten", ("bincount",), "fused.bincount"),
        "mm": ("aten", ("mm", "mm.out"), "ops.mm"),
        "silu_and_mul": ("fused", (), "fused.silu_and_mul"),
        "to_copy": ("aten", ("_to_copy",), "ops.to"),
    }
    (conditional,) = [each for each in catalogue.operators if each.conditions]
    assert conditional.conditions == ("_to_copy: version.parse(torch.__version__) >= version.parse('2.4')",)


def test_what_vendors_replace_and_leave_out(fake_flag_gems: Path) -> None:
    catalogue = read_catalogue(fake_flag_gems, KNOWN_VERSION)
    # Arm has a folder and cannot be chosen.
    assert catalogue.vendors == ("kunlunxin", "metax", "nvidia")
    backend = "runtime.backend"
    assert overrides(catalogue) == {
        "add": [("metax", f"{backend}._metax.ops.add", "(arch == 1 or arch == 2)")],
        "bincount": [],
        "mm": [
            ("metax", f"{backend}._metax.ops.mm", None),
            # NVIDIA's plain folder is an example that FlagGems does not use.
            ("nvidia", f"{backend}._nvidia.hopper.ops.mm", "hopper and triton.__version__ >= '3.4'"),
        ],
        "silu_and_mul": [("metax", f"{backend}._metax.fused.silu_and_mul", None)],
        "to_copy": [],
    }
    assert {each.name: each.unused_by for each in catalogue.operators if each.unused_by} == {
        "add": ("kunlunxin",),
        "mm": ("kunlunxin",),
    }
    assert [each.name for each in catalogue.of_vendor("kunlunxin").operators] == ["bincount", "silu_and_mul", "to_copy"]
    assert {own.vendor for each in catalogue.of_vendor("nvidia").operators for own in each.overrides} == {"nvidia"}
    with pytest.raises(UnknownNameError, match="knows no vendor metaxx") as raised:
        catalogue.of_vendor("metaxx")
    assert "metax" in raised.value.remedy


def test_another_version_is_read_as_far_as_it_goes(fake_flag_gems: Path) -> None:
    main = fake_flag_gems / "__init__.py"
    main.write_text(main.read_text().replace('("mm", mm)', '("gone", gone), ("mm" + suffix, mm)'))
    (fake_flag_gems / "fused/__init__.py").write_text("def broken(:")
    (fake_flag_gems / "runtime/common.py").unlink()
    catalogue = read_catalogue(fake_flag_gems, "6.1")
    assert {each.name for each in catalogue.operators} == {"add", "bincount", "gone", "mm", "to_copy"}
    assert catalogue.vendors == ("arm", "kunlunxin", "metax", "nvidia")
    notes = "\n".join(catalogue.notes)
    assert f"FlagGems 6.1 is installed, and {KNOWN_VERSION} is known" in notes
    assert "1 entries of _FULL_CONFIG" in notes
    assert "fused/__init__.py cannot be read" in notes
    assert "imported neither by ops nor by fused: bincount, gone" in notes


def test_without_its_table_nothing_is_guessed(fake_flag_gems: Path) -> None:
    (fake_flag_gems / "__init__.py").write_text("_FULL_CONFIG = make()")
    with pytest.raises(PreflightError, match=r"FlagGems 6\.1 .* has no table _FULL_CONFIG") as raised:
        read_catalogue(fake_flag_gems, "6.1")
    assert KNOWN_VERSION in raised.value.remedy


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:  # noqa: ARG001
    monkeypatch.setenv("FLAGRELEASE_OPERATORS", sys.executable)
    settings.cache_clear()
    return Run(monkeypatch, capsys)


def test_the_command_reads_the_installed_package(
    run: Run, fake_flag_gems: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = fake_flag_gems.parent / "flag_gems-5.0.2.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: flag_gems\nVersion: 5.0.2\n")
    monkeypatch.setenv("PYTHONPATH", str(fake_flag_gems.parent))
    assert run("operators", "list") == 0
    assert "FlagGems 5.0.2: 5 operators, 5 aten keys" in run.out
    assert "mm, mm.out" in run.out
    assert run("operators", "list", "--vendor", "metax", "--json") == 0
    found = json.loads(run.out)
    assert found["version"] == "5.0.2"
    assert [each["name"] for each in found["operators"] if each["overrides"]] == ["add", "mm", "silu_and_mul"]


def test_without_flag_gems_it_says_how_to_have_it(run: Run) -> None:
    assert run("operators", "list") == PreflightError.exit_code
    assert "FlagGems is not installed" in run.err
    assert "pip install 'flagrelease[operators]'" in run.err


def test_a_python_that_is_none_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLAGRELEASE_OPERATORS", "no/such/python")
    settings.cache_clear()
    assert run("operators", "list") == PreflightError.exit_code
    assert "no/such/python cannot be run" in run.err
