"""The reference engine on torch: how its server is started, and what it refuses."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import ValidationError

from flagrelease.errors import MatrixError, PreflightError
from flagrelease.records import Stack
from flagrelease.settings import settings
from runtime.engines import engine, torch_reference
from runtime.engines.interface import ServeRequest
from runtime.engines.torch_reference_server import Model, parsed
from runtime.operators import WRITTEN, parse

REQUEST = ServeRequest(Path("/models/m"), "m", "127.0.0.1", 8000)
ENGINE = engine("torch_reference")


@pytest.fixture(autouse=True)
def _python(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    assert home.exists()
    monkeypatch.setenv("FLAGRELEASE_TORCH", sys.executable)
    settings.cache_clear()
    torch_reference._version.cache_clear()


def test_its_name_says_that_it_is_not_for_production() -> None:
    assert "not for production" in ENGINE.display


def test_the_server_reads_the_command_that_is_made_for_it() -> None:
    command = ENGINE.command(REQUEST, {"dtype": "bfloat16", "threads": 2})
    assert command.argv[0] == sys.executable
    assert Path(command.argv[1]).is_file()
    told = parsed(command.argv[2:])
    assert (told.model, told.served_name, told.host, told.port) == ("/models/m", "m", "127.0.0.1", 8000)
    assert (told.dtype, told.threads, told.attention, told.device) == ("bfloat16", 2, "eager", "")
    assert not told.gems
    assert "FLAGGEMS_ENABLE_OPLIST_PATH" not in command.environment


def test_on_flagos_it_is_told_which_operators_run_and_where_to_list_them() -> None:
    request = REQUEST._replace(stack=Stack.FLAGOS)
    command = ENGINE.command(request, {"without_operators": ["mm", "softmax"]})
    told = parsed(command.argv[2:])
    assert (told.gems, told.operators, told.without_operators) == (True, "", "mm,softmax")
    assert command.environment["FLAGGEMS_ENABLE_OPLIST_PATH"] == WRITTEN
    told = parsed(ENGINE.command(request, {"operators": ["mm"]}).argv[2:])
    assert (told.operators, told.without_operators) == ("mm", "")


def test_both_lists_at_once_and_a_container_are_refused() -> None:
    with pytest.raises(ValidationError, match="exclude each other"):
        ENGINE.settings({"operators": ["mm"], "without_operators": ["add"]})
    with pytest.raises(MatrixError, match="process of the host"):
        ENGINE.command(REQUEST._replace(inside=True), {})


def test_a_host_without_torch_hears_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLAGRELEASE_TORCH", str(tmp_path / "python"))
    settings.cache_clear()
    with pytest.raises(PreflightError, match="there is no Python at") as caught:
        ENGINE.version()
    assert "FLAGRELEASE_TORCH" in caught.value.remedy
    liar = tmp_path / "python"
    liar.write_text("#!/bin/sh\nexit 1\n")
    liar.chmod(0o755)
    with pytest.raises(PreflightError, match="has no torch"):
        ENGINE.version()
    liar.write_text("#!/bin/sh\necho 2.13.0, transformers 5.19.0\n")
    torch_reference._version.cache_clear()
    assert ENGINE.version() == "2.13.0, transformers 5.19.0"


STAND_IN_FLAG_GEMS = """
import importlib, logging, os, sys

class use_gems:
    def __init__(self, include, exclude, record, once, path):
        self.path = path

    def __enter__(self):
        logger = logging.getLogger("flag_gems")
        handler = logging.FileHandler(self.path, mode="w")
        handler.setFormatter(logging.Formatter("[%(levelname)s] %(name)s.%(funcName)s: %(message)s"))
        logger.setLevel(logging.DEBUG)
        logger.addHandler(handler)
        logger.propagate = False

sys.path.append(os.path.dirname(__file__))
vendor = importlib.import_module("_standin.ops")
"""
OPERATORS_OF_A_VENDOR = """
import logging

logger = logging.getLogger(__name__)

def add():
    logger.debug("GEMS ADD")
"""


@pytest.fixture
def stand_in_flag_gems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A stand-in for FlagGems that imports a vendor's operators, and records, as FlagGems does; the list."""
    package = tmp_path / "flag_gems"
    (package / "_standin").mkdir(parents=True)
    (package / "__init__.py").write_text(STAND_IN_FLAG_GEMS)
    (package / "_standin/__init__.py").touch()
    (package / "_standin/ops.py").write_text(OPERATORS_OF_A_VENDOR)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path / "list.txt"
    logger = logging.getLogger("flag_gems")
    for handler in list(logger.handlers):
        handler.close()
        logger.removeHandler(handler)
    for name in ("flag_gems", "_standin", "_standin.ops"):
        sys.modules.pop(name, None)


def test_what_a_vendors_module_logs_under_a_name_of_its_own_is_listed(stand_in_flag_gems: Path) -> None:
    model = Model.__new__(Model)
    model._thread = ThreadPoolExecutor(1)
    flag_gems = import_module("flag_gems")
    # It has asked for its level before anything is recorded.
    flag_gems.vendor.add()
    model.use_operators(include=[], exclude=[], path=str(stand_in_flag_gems))
    flag_gems.vendor.add()
    assert parse(stand_in_flag_gems.read_text()) == ["add"]
