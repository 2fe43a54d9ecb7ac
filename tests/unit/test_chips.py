"""The chip files: every chip that cards name, and marks that tell one from another."""

from __future__ import annotations

import re
from itertools import permutations
from pathlib import Path

import pytest

from flagrelease.errors import MatrixError
from flagrelease.loading import load_chips
from flagrelease.matrix import Chip

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
