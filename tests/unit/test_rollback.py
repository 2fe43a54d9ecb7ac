"""What a rollback takes back and puts back, by what the store knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flagrelease.errors import EvidenceError, FlagReleaseError, PublishError, UnknownNameError
from flagrelease.publish.hub_calls import HubUnavailableError
from flagrelease.publish.interface import manifest, revision
from flagrelease.publish.rollback import Rollback, files_of, plan_rollback
from flagrelease.records import Publication
from flagrelease.store import Store
from flagrelease.store import store as store_module
from flagrelease.store.publications import Place, taken_back

CELL, TARGET = "a-cell", "FlagRelease/a"
PLACES = ("folder", "huggingface")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store.open(f"sqlite:///{tmp_path / 'store.db'}")
    yield found
    found.close()


def publication(release: int, publisher: str = "folder", target: str = TARGET) -> Publication:
    files = files_in(release)
    return Publication(publisher=publisher, target=target, revision=revision(files), files=manifest(files))


def files_in(release: int) -> dict[str, bytes]:
    return {"README.md": f"release {release}".encode()}


def release(store: Store, *publishers: str, cell: str = CELL) -> int:
    """A release that was published to these places."""
    with store.session() as session:
        count = len(session.connection().exec_driver_sql("SELECT id FROM releases").all())
    number = store.begin_release(cell=cell, key=str(count), engine="e", snapshot={}, code_version="0")
    publish(store, number, *publishers)
    return number


def publish(store: Store, number: int, *publishers: str) -> None:
    for publisher in publishers:
        store.record_publication(number, publication(number, publisher))


def plan(store: Store, name: str = CELL, to: str | None = None) -> Rollback:
    return plan_rollback(store, name, to, PLACES)


def test_by_default_the_one_before_is_put_back(store: Store) -> None:
    for _ in range(3):
        release(store, *PLACES)
    what = plan(store)
    assert (what.cell, what.taken, what.to, what.target) == (CELL, 3, 2, TARGET)
    assert what.wanted == {place: publication(2, place) for place in PLACES}
    assert what.over == {publication(3).revision}
    assert (plan(store, "2").taken, plan(store, "2").to) == (2, 1)
    what = plan(store, to="1")
    assert (what.taken, what.to) == (3, 1)
    assert what.over == {publication(3).revision, publication(2).revision}


def test_the_same_call_twice_means_the_same(store: Store) -> None:
    for _ in range(3):
        release(store, *PLACES)
    first = plan(store)
    publish(store, 2, *PLACES)
    assert plan(store) == first


def test_what_was_taken_back_is_not_put_back(store: Store) -> None:
    for _ in range(2):
        release(store, *PLACES)
    publish(store, 1, *PLACES)
    assert taken_back(store) == {(2, Place(place, TARGET)): 1 for place in PLACES}
    release(store, *PLACES)
    assert plan(store).to == 1
    # Unless it was published again since, by its number.
    publish(store, 2, *PLACES)
    assert taken_back(store) == {(3, Place(place, TARGET)): 2 for place in PLACES}
    publish(store, 3, *PLACES)
    assert taken_back(store, TARGET) == {}
    assert plan(store).to == 2


def test_a_release_at_fewer_places_is_passed_over(store: Store) -> None:
    release(store, *PLACES)
    release(store, "folder")
    release(store)
    release(store, *PLACES)
    release(store, *PLACES, cell="another")
    assert (plan(store).taken, plan(store).to) == (4, 1)
    with pytest.raises(PublishError, match=r"release 2 was never published to FlagRelease/a \(huggingface\)"):
        plan(store, to="2")


def test_a_publication_that_was_cut_off_before_it_was_stored_is_taken_back_too(store: Store) -> None:
    release(store, *PLACES)
    release(store, "folder")
    what = plan(store)
    assert set(what.wanted) == set(PLACES)
    assert publication(2, "huggingface").revision in what.over


@pytest.mark.parametrize(
    ("name", "to", "error", "words"),
    [
        ("1", None, PublishError, "nothing to put back: no release before release 1"),
        ("7", None, UnknownNameError, "no release `7`"),
        ("no-cell", None, PublishError, "no release of no-cell was published"),
        ("3", None, PublishError, "release 3 was not published"),
        ("2", "2", PublishError, "release 2 is not older than release 2"),
        ("1", "2", PublishError, "release 2 is not older than release 1"),
        ("2", "3", UnknownNameError, "no `3` was published"),
        ("2", "4", UnknownNameError, "no `4` was published"),
        ("2", "x", UnknownNameError, "no `x` was published"),
    ],
)
def test_what_cannot_be(store: Store, name: str, to: str | None, error: type[FlagReleaseError], words: str) -> None:
    release(store, *PLACES)
    release(store, *PLACES)
    release(store)
    release(store, *PLACES, cell="another")
    with pytest.raises(error, match=words):
        plan(store, name, to)


def test_a_place_that_this_host_does_not_reach(store: Store) -> None:
    for _ in range(2):
        release(store, *PLACES, "modelscope")
    with pytest.raises(PublishError, match=r"release 2 is also at FlagRelease/a \(modelscope\)"):
        plan(store)


def test_clocks_that_differ_change_no_order(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        release(store, "folder")
    monkeypatch.setattr(store_module, "now", lambda: datetime.now(UTC) - timedelta(hours=1))
    publish(store, 1, "folder")
    assert taken_back(store) == {(2, Place("folder", TARGET)): 1}
    publish(store, 2, "folder")
    assert taken_back(store) == {}


def test_files_count_only_if_they_are_those_that_were_published() -> None:
    def broken() -> Mapping[str, bytes]:
        raise EvidenceError("gone", remedy="none")

    def down() -> Mapping[str, bytes]:
        raise HubUnavailableError("down", remedy="wait")

    wanted = publication(1)
    assert files_of(wanted, 1, [lambda: None, broken, lambda: files_in(2), lambda: files_in(1)]) == files_in(1)
    with pytest.raises(PublishError, match="cannot be had: its tag v1 there is gone"):
        files_of(wanted, 1, [lambda: files_in(2), broken])
    # A hub that does not answer may have them.
    with pytest.raises(HubUnavailableError):
        files_of(wanted, 1, [down, lambda: files_in(2)])
