"""The chip files: every chip that cards name, and marks that tell one from another."""

from __future__ import annotations

import re
from itertools import permutations
from pathlib import Path

import pytest

from flagrelease.chip import Chip
from flagrelease.errors import MatrixError
from flagrelease.loading import json_schema, load_chips, load_matrix, resolve
from flagrelease.settings import settings
from tests.conftest import ROOT

CHIPS = load_chips()


def words(chip: Chip) -> set[str]:
    return {word.casefold() for word in (chip.key, chip.display, chip.vendor, *chip.aliases)}


def test_there_are_fourteen() -> None:
    assert set(CHIPS) == {
        *("nvidia", "metax", "ascend", "hygon", "cambricon", "mthreads", "kunlunxin", "iluvatar"),
        *("tsingmicro", "zhenwu", "sunrise", "enflame", "arm", "cpu"),
    }


def test_the_words_of_other_projects_are_known() -> None:
    named = {word: chip.key for chip in CHIPS.values() for word in words(chip)}
    wanted = {"huawei": "ascend", "tianshu": "iluvatar", "alibaba": "zhenwu", "muxi": "metax", "nv": "nvidia"}
    assert {word: named[word] for word in wanted} == wanted


def test_no_two_chips_are_taken_for_each_other() -> None:
    for one, other in permutations(CHIPS.values(), 2):
        assert not words(one) & words(other)
        used = [*other.options, *other.devices, *filter(None, [other.visible_devices])]
        assert [mark for mark in one.marks for word in used if mark in word] == [], f"{one.key} and {other.key}"


@pytest.mark.parametrize(
    ("chip", "versions"),
    [
        ("nvidia", ["535.154.05", "535.161.08", "570.158.01"]),
        ("metax", ["2.5.014", "2.12.13", "2.15.9", "3.3.12"]),
        ("hygon", ["6.3.13-v1.12.0a", "6.3.13-V1.12.0a"]),
        ("ascend", ["25.0.rc1", "25.2.0"]),
        ("mthreads", ["2.2.0", "2.3.0", "3.3.5-server"]),
        ("iluvatar", ["4.4.0"]),
    ],
)
def test_a_driver_version_that_was_seen_is_one_vendors(chip: str, versions: list[str]) -> None:
    for version in versions:
        owners = [key for key, each in CHIPS.items() if any(re.fullmatch(seen, version) for seen in each.drivers)]
        assert owners == [chip]


@pytest.mark.parametrize(
    ("line", "complaint"),
    [("drivers: ['2.3(']", "`2.3(` is not a regular expression"), ("unconfirmed: [smis]", "no key `smis`")],
)
def test_a_chip_file_that_is_wrong_is_refused(tmp_path: Path, line: str, complaint: str) -> None:
    (tmp_path / "new.yaml").write_text(f"key: new\nvendor: New\ndisplay: New\n{line}\n")
    with pytest.raises(MatrixError, match=re.escape(complaint)):
        load_chips(tmp_path)


@pytest.fixture
def own_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a chip that FlagRelease does not bring, which the setting names."""
    folder = home / "chips"
    folder.mkdir()
    (folder / "newchip.yaml").write_text("key: newchip\nvendor: New\ndisplay: New\naliases: [novel]\n")
    monkeypatch.setenv("FLAGRELEASE_CHIPS", str(folder))
    settings.cache_clear()
    return folder


def matrix_on(home: Path, chip: str) -> Path:
    path = home / "matrix.yaml"
    path.write_text((ROOT / "matrix.yaml").read_text().replace("    chip: cpu\n", f"    chip: {chip}\n"))
    return path


def test_a_folder_of_ones_own_adds_chips(own_folder: Path, home: Path) -> None:
    assert own_folder.exists()
    chips = load_chips()
    assert chips.keys() == {*CHIPS, "newchip"}
    assert resolve(load_matrix(matrix_on(home, "newchip")), chips, "smollm2-newchip").chip.vendor == "New"
    with pytest.raises(MatrixError, match="unknown chip `novel`; did you mean `newchip`"):
        load_matrix(matrix_on(home, "novel"))
    # The schema is that of FlagRelease, the same on every host.
    assert "newchip" not in json_schema()["$defs"]["Cell"]["properties"]["chip"]["enum"]


def test_a_chip_that_there_is_already_is_refused(own_folder: Path, home: Path) -> None:
    (own_folder / "metax.yaml").write_text("key: metax\nvendor: Other\ndisplay: Other\n")
    for read in (load_chips, lambda: load_matrix(matrix_on(home, "newchip"))):
        with pytest.raises(MatrixError, match="a chip has two files") as caught:
            read()
        assert str(own_folder / "metax.yaml") in caught.value.message
        assert str(Path("runtime") / "chips" / "metax.yaml") in caught.value.message


def test_a_folder_without_chips_is_said(own_folder: Path) -> None:
    (own_folder / "newchip.yaml").unlink()
    with pytest.raises(MatrixError, match="there are no chip files") as caught:
        load_chips()
    assert "FLAGRELEASE_CHIPS" in caught.value.remedy
