"""Arrows point one way: flows → runtime, evaluation → flagrelease; and the command line starts fast."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What each package may import of the project's own packages.
ALLOWED = {
    "flagrelease": {"flagrelease"},
    "runtime": {"flagrelease", "runtime"},
    "evaluation": {"flagrelease", "evaluation"},
    "flows": {"flagrelease", "runtime", "evaluation", "flows"},
}
HOME_OF = {
    "prefect": "flows",
    "docker": "runtime",
    "lm_eval": "evaluation",
    "huggingface_hub": "flagrelease",
    "modelscope_hub": "flagrelease",
}
HEAVY = ("prefect", "sqlalchemy", "alembic", "lm_eval", "scipy", "numpy", "jinja2", "torch", "vllm", "docker")


def modules() -> Iterator[tuple[str, Path]]:
    for package in ALLOWED:
        for path in sorted((ROOT / package).rglob("*.py")):
            # The command line puts the packages together, so it alone may know them all.
            if (ROOT / "flagrelease" / "cli") not in path.parents:
                yield package, path


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize(("package", "path"), list(modules()), ids=lambda value: getattr(value, "name", value))
def test_arrows_point_one_way(package: str, path: Path) -> None:
    names = imported(path)
    assert names & set(ALLOWED) <= ALLOWED[package]
    for library, home in HOME_OF.items():
        assert library not in names or package == home, f"{library} belongs in {home}"


def test_the_command_line_imports_nothing_heavy() -> None:
    code = f"import sys, flagrelease.cli; print([name for name in {HEAVY!r} if name in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_the_session_knows_nothing_of_prefect() -> None:
    modules = "session stages publication tiers report baselines baseline_report locks job serving scheduling plan"
    plans = "plan_changes plan_jobs plan_reasons plan_records plan_times stage_reasons sweep_loop sweep_report"
    for name in ("asked", "own_baseline", *modules.split(), *plans.split()):
        assert "prefect" not in imported(ROOT / "flows" / f"{name}.py")
