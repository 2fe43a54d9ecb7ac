"""Published cards in the store: imported releases, which never count as measured ones of a cell."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from flagrelease.card.data import Table
from flagrelease.card.importing import card_sources, import_card, import_cards, imported_card
from flagrelease.card.read import read_card
from flagrelease.card.render import render
from flagrelease.errors import CardFileError, UnknownNameError
from flagrelease.loading import load_chips, load_matrix
from flagrelease.store import Store
from flagrelease.store.queries import find_release, latest_releases, release_view
from tests.conftest import ROOT
from tests.unit.command_line import Run

MODELS, CHIPS = load_matrix(ROOT / "matrix.yaml").models, load_chips()
CARD = """\
# Introduction

Here the **Qwen3-8B-metax-FlagOS** model is adapted for the Metax chip.

Only in words.

# Evaluation Results

| Metrics | A-CUDA | A-FlagOS |
|---|---|---|
| AIME | 0.700 | 0.733 |
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path / 'store.db'}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two cards, one of them below, a broken one and one that is none."""
    cards = tmp_path / "cards"
    (cards / "sub").mkdir(parents=True)
    (cards / "b.md").write_text(CARD)
    (cards / "sub" / "README.md").write_text(CARD.replace("Qwen3-8B", "Qwen9-8B"))
    (cards / "broken.md").write_bytes(b"# T\n\xff\n")
    (cards / "empty.MD").write_text("")
    (cards / "notes.txt").write_text("no card")
    return cards


def one(store: Store, path: Path, text: str = CARD) -> int:
    path.write_text(text)
    found = import_card(store, path, MODELS, CHIPS, source=path.name)
    assert found.release is not None
    return found.release


def test_a_card_is_kept_whole_with_its_hash_and_what_had_no_place(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "card.md"
    path.write_text(CARD)
    found = import_card(store, path, MODELS, CHIPS, source="card.md")
    assert (found.cell, found.new, found.error) == ("qwen3-metax", True, None)
    assert [(line.number, line.text) for line in found.unplaced] == [(5, "Only in words.")]
    card = imported_card(store, str(found.release))
    assert card is not None
    assert card == found.card
    assert card.origin.sha256 == hashlib.sha256(CARD.encode()).hexdigest()
    assert card.sections[1].contents == [
        Table(header=["Metrics", "A-CUDA", "A-FlagOS"], rows=[["AIME", "0.700", "0.733"]])
    ]
    assert read_card(render(card), source="card.md").card.sections == card.sections


def test_the_same_file_is_the_same_release(store: Store, tmp_path: Path) -> None:
    first = one(store, tmp_path / "a.md")
    again = import_card(store, tmp_path / "a.md", MODELS, CHIPS, source="elsewhere.md")
    assert (again.release, again.new) == (first, False)
    assert one(store, tmp_path / "a.md", CARD + "\n") != first


def test_an_imported_release_is_none_of_its_cell(store: Store, tmp_path: Path) -> None:
    imported = one(store, tmp_path / "a.md")
    with pytest.raises(UnknownNameError):
        find_release(store, "qwen3-metax")
    with pytest.raises(UnknownNameError):
        find_release(store, str(imported), completed=True)
    assert latest_releases(store) == {}
    measured = store.begin_release(cell="qwen3-metax", key="k", engine="e", snapshot={}, code_version="0")
    newer = one(store, tmp_path / "b.md", CARD + "\n")
    assert newer > measured
    assert find_release(store, "qwen3-metax") == measured
    assert latest_releases(store, ["qwen3-metax"])["qwen3-metax"].id == measured
    assert imported_card(store, str(measured)) is None


def test_an_imported_release_says_where_it_is_from(store: Store, tmp_path: Path) -> None:
    view = release_view(store, find_release(store, str(one(store, tmp_path / "a.md"))))
    assert (view.state, view.stages, view.gate) == ("imported", [], None)
    assert view.imported is not None
    assert (view.imported.source, view.imported.unplaced) == ("a.md", 1)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        (CARD, "qwen3-metax"),
        (CARD.replace("Qwen3-8B-metax-FlagOS", "Qwen3-8B-hygon-FlagOS"), "qwen3-metax"),
        (CARD.replace("Metax chip", "Ascend chip"), "qwen3-ascend"),
        (
            CARD.replace("Here the **Qwen3-8B", "No **Qwen3-8B").replace("A-FlagOS", "step3-FlagOS-Nvidia"),
            "step3-nvidia",
        ),
        (CARD.replace("Qwen3-8B-metax-FlagOS", "Ünknown/Model_9-FlagOS"), "-nknown-model_9-flagos"),
        ("# T\n", "my-model"),
        ("# T\n\n```\nmodelscope download --model FlagRelease/MiniCPM-V-4-metax-FlagOS\n```\n", "minicpmv4-metax"),
    ],
)
def test_the_cell_is_understood_from_any_name(store: Store, tmp_path: Path, text: str, cell: str) -> None:
    (tmp_path / "My Model").mkdir()
    path = tmp_path / "My Model" / "README.md"
    path.write_text(text)
    assert import_card(store, path, MODELS, CHIPS, source="README.md").cell == cell.strip("-")


def test_a_folder_is_read_in_order_and_a_broken_file_stops_nothing(store: Store, folder: Path) -> None:
    assert [name for _, name in card_sources(folder)] == ["b.md", "broken.md", "empty.MD", "sub/README.md"]
    heard: list[str] = []
    results = import_cards(store, folder, MODELS, CHIPS, lambda result: heard.append(result.file))
    assert [(result.release is None, result.error is None) for result in results] == [
        (False, True),
        (True, False),
        (True, False),
        (False, True),
    ]
    assert heard == [result.file for result in results] == ["b.md", "broken.md", "empty.MD", "sub/README.md"]
    assert "broken.md:2: byte 0xff is not UTF-8 text" in str(results[1].error)
    assert [result.release for result in import_cards(store, folder, MODELS, CHIPS)] == [r.release for r in results]


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CardFileError, match="no such file"):
        card_sources(tmp_path / "none.md")
    with pytest.raises(CardFileError, match="no card"):
        card_sources(tmp_path)


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    assert home.is_dir()
    return Run(monkeypatch, capsys)


def test_the_command_reports_each_file_and_goes_on(run: Run, folder: Path) -> None:
    assert run("card", "import", folder) == CardFileError.exit_code
    assert "b.md: release 1, imported as qwen3-metax" in run.out
    assert "    line 5: prose that has no place on a card: Only in words.\n" in run.out
    assert "broken.md: NOT imported: " in run.out
    assert "2 of 4 files could not be imported" in run.err
    assert run("card", "import", folder / "b.md") == 0
    assert "b.md: release 1 (imported before), imported as qwen3-metax" in run.out


def test_the_command_for_programs(run: Run, folder: Path) -> None:
    assert run("card", "import", folder, "--json") == CardFileError.exit_code
    found = json.loads(run.out)
    assert [each["release"] for each in found] == [1, None, None, 2]
    assert found[0]["unplaced"] == [
        {"number": 5, "text": "Only in words.", "reason": "prose that has no place on a card"}
    ]
    assert "UTF-8" in found[1]["error"]
    assert run("card", "import", folder / "broken.md", "--json") == CardFileError.exit_code
    assert run("card", "import", folder / "none.md") == CardFileError.exit_code


def test_show_status_and_gate_know_an_imported_release(run: Run, folder: Path) -> None:
    run("card", "import", folder / "b.md")
    assert run("show", "1") == 0
    assert "imported from a published card, not measured by FlagRelease" in " ".join(run.out.split())
    assert run("show", "1", "--json") == 0
    assert json.loads(run.out)["imported"]["source"] == "b.md"
    assert run("status", "--json") == 0
    assert json.loads(run.out)["cells"]["qwen3-metax"] is None
    assert run("gate", "1") == UnknownNameError.exit_code
    assert "imported from a card and not measured" in run.err
    assert run("show", "qwen3-metax") == UnknownNameError.exit_code


def test_an_imported_card_is_rendered_by_its_number(run: Run, folder: Path, tmp_path: Path) -> None:
    run("card", "import", folder / "b.md")
    assert run("card", "render", "1", "--style", "classic", "--output", tmp_path / "new.md") == 0
    text = (tmp_path / "new.md").read_text()
    assert "| AIME | 0.700 | 0.733 |" in text
    assert "Only in words." not in text
    assert "Qwen3-8B-metax-FlagOS" in text


def test_a_single_file_gives_programs_one_object(run: Run, folder: Path) -> None:
    assert run("card", "import", folder / "b.md", "--json") == 0
    found = json.loads(run.out)
    assert (found["release"], found["new"]) == (1, True)
    assert [line["text"] for line in found["unplaced"]] == ["Only in words."]
    assert run("card", "import", folder / "broken.md", "--json") == CardFileError.exit_code
    found = json.loads(run.out)
    assert found["release"] is None
    assert "not UTF-8" in found["error"]


def test_a_file_that_is_known_by_another_name_is_reported_as_it_is_kept(store: Store, tmp_path: Path) -> None:
    text = "# Benchmark Result\n\n| Metrics | A | B |\n|---|---|---|\n| x | 1 | 2 |\n"
    first = one(store, tmp_path / "noname.md", text)
    (tmp_path / "other.md").write_text(text)
    again = import_card(store, tmp_path / "other.md", MODELS, CHIPS, source="other.md")
    assert (again.release, again.new, again.cell) == (first, False, release_view(store, first).cell)
