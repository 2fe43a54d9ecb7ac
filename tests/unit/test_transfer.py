"""A dump is the whole store at one moment; a damaged one is noticed; it is restored whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine

from flagrelease.errors import OutputError, StoreError, StoreVersionError
from flagrelease.store import Store, transfer
from flagrelease.store.database import migrate
from flagrelease.store.dump_file import verify
from flagrelease.store.transfer import dump, restore
from tests.unit.evaluations import evaluation
from tests.unit.store_contents import fill, items, rows
from tests.unit.test_store import begin, old_store  # noqa: F401 - a fixture


def quiet(_done: int, _total: int) -> None: ...


def url(path: Path) -> str:
    return f"sqlite:///{path}"


def rows_of(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    engine = create_engine(url(path))
    found = rows(engine)
    engine.dispose()
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A filled store and its dump."""
    folder = tmp_path_factory.mktemp("made")
    store = Store.open(url(folder / "store.db"))
    fill(store)
    store.close()
    dump(url(folder / "store.db"), folder / "dump.gz", quiet)
    return folder / "store.db", folder / "dump.gz"


def test_a_store_comes_back_as_it_was(made: tuple[Path, Path], tmp_path: Path) -> None:
    source, file = made
    seen: list[tuple[int, int]] = []
    contents = restore(url(tmp_path / "new.db"), file, lambda *at: seen.append(at))
    assert rows_of(tmp_path / "new.db") == rows_of(source)
    assert all(rows_of(source)[name] for name in contents.rows if name != "verdicts")
    assert contents.rows == {name: len(rows_of(source)[name]) for name in contents.rows}
    assert seen[-1] == (sum(contents.rows.values()),) * 2
    store = Store.open(url(tmp_path / "new.db"))
    assert begin(store, "another") == 3
    store.close()


def test_what_is_written_meanwhile_is_not_in_it(
    made: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "AT_ONCE", 2)
    source = tmp_path / "store.db"
    shutil.copy(made[0], source)
    before = rows_of(source)
    store = Store.open(url(source))

    def write(done: int, _total: int) -> None:
        store.add_evaluation(evaluation(items(3)), [], key=str(done), role="candidate")

    dump(url(source), tmp_path / "dump.gz", write)
    store.close()
    restore(url(tmp_path / "new.db"), tmp_path / "dump.gz", quiet)
    assert rows_of(tmp_path / "new.db") == before
    assert len(rows_of(source)["evaluations"]) > 5


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "store.db"
    Store.open(url(path)).close()
    return path


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
FLOAT = st.floats(allow_nan=False)
INTEGER = st.integers(-(2**63), 2**63 - 1)
DOCUMENT = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
).map(lambda value: json.dumps({"value": value}))
ITEM = st.tuples(FLOAT, TEXT, TEXT, st.none() | TEXT, st.none() | INTEGER, st.none() | FLOAT)


@settings(max_examples=8, deadline=None)
@given(st.lists(ITEM, min_size=5, max_size=20), DOCUMENT, st.none() | st.just("null") | DOCUMENT)
def test_any_value_survives(empty: Path, values: list[tuple[Any, ...]], document: str, optional: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, target, file = (Path(folder) / name for name in ("source.db", "target.db", "dump.gz"))
        shutil.copy(empty, source)
        shutil.copy(empty, target)
        connection = sqlite3.connect(source)
        connection.execute(
            "INSERT INTO evaluations (id, role, key, model, provenance, benchmarks, canary, created_at)"
            " VALUES (?, 'r', 'k', 'm', ?, '[]', ?, '2026-01-01 00:00:00.000001')",
            (2**62, document, optional),
        )
        connection.executemany(
            "INSERT INTO items (evaluation_id, benchmark, item, repeat, score, prompt, answer, extracted,"
            " finish_reason, prompt_tokens, latency_s) VALUES (?, 'b', ?, 0, ?, '', ?, ?, ?, ?, ?)",
            [(2**62, str(number), *value) for number, value in enumerate(values)],
        )
        connection.commit()
        connection.close()
        dump(url(source), file, quiet)
        restore(url(target), file, quiet)
        assert rows_of(target) == rows_of(source)


def lines(file: Path) -> list[bytes]:
    return gzip.decompress(file.read_bytes()).splitlines(keepends=True)


def pack(file: Path, some: list[bytes]) -> None:
    """A dump of these lines, with the checksum that belongs to them."""
    checksum = hashlib.sha256(b"".join(some)).hexdigest()
    file.write_bytes(gzip.compress(b"".join(some) + json.dumps({"sha256": checksum}).encode() + b"\n"))


def header(changes: dict[str, Any]) -> Callable[[list[bytes]], list[bytes]]:
    return lambda some: [json.dumps(json.loads(some[0]) | changes).encode() + b"\n", *some[1:]]


@pytest.mark.parametrize("part", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_cut_dump_is_refused(made: tuple[Path, Path], tmp_path: Path, part: float) -> None:
    whole, cut = made[1].read_bytes(), tmp_path / "cut.gz"
    cut.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(StoreError, match="cannot be restored"):
        restore(url(tmp_path / "new.db"), cut, quiet)
    assert not (tmp_path / "new.db").exists()


def test_a_dump_without_its_last_lines_is_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.gz"
    for end in (-1, -2, 1):
        cut.write_bytes(gzip.compress(b"".join(lines(made[1])[:end])))
        with pytest.raises(StoreError, match="its end is missing, or it was changed"):
            restore(url(tmp_path / "new.db"), cut, quiet)


def test_a_flipped_bit_is_noticed_wherever_it_changes_something(made: tuple[Path, Path], tmp_path: Path) -> None:
    whole, changed = made[1].read_bytes(), tmp_path / "changed.gz"
    unnoticed = []
    for place in range(len(whole)):
        changed.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            verify(changed)
        except StoreError:
            continue
        unnoticed.append(place)
        assert lines(changed) == lines(made[1])
    # gzip's header has a time and a system, and its blocks a few bits that say nothing.
    assert len(unnoticed) < len(whole) / 50


def test_a_value_that_was_edited_is_noticed(made: tuple[Path, Path], tmp_path: Path) -> None:
    edited = tmp_path / "edited.gz"
    edited.write_bytes(gzip.compress(b"".join(lines(made[1])).replace(b"baseline", b"candidat")))
    with pytest.raises(StoreError, match="it was changed"):
        restore(url(tmp_path / "new.db"), edited, quiet)


@pytest.mark.parametrize(
    "content",
    [b"", b"text\n", gzip.compress(b"text\n"), gzip.compress(b'{"format":1')],
    # By themselves: gzip writes the time, and tests that are called otherwise in each process are not run at all.
    ids=["empty", "text", "packed text", "packed cut JSON"],
)
def test_what_is_no_dump_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    for file in (tmp_path / "file", tmp_path / "none", tmp_path):
        with pytest.raises(StoreError):
            restore(url(tmp_path / "new.db"), file, quiet)
    assert not (tmp_path / "new.db").exists()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"format_version": 2}, StoreVersionError),
        ({"revision": "9999"}, StoreVersionError),
        ({"format": "x"}, StoreError),
    ],
)
def test_another_header_is_refused(
    made: tuple[Path, Path], tmp_path: Path, change: dict[str, Any], error: type[StoreError]
) -> None:
    pack(tmp_path / "other.gz", header(change)(lines(made[1])[:-1]))
    with pytest.raises(error):
        restore(url(tmp_path / "new.db"), tmp_path / "other.gz", quiet)
    assert not (tmp_path / "new.db").exists()


def test_a_row_that_does_not_fit_leaves_nothing_behind(made: tuple[Path, Path], tmp_path: Path) -> None:
    # The evaluation that the items belong to has another number.
    some = [line.replace(b'[1,"baseline"', b'[9,"baseline"') for line in lines(made[1])[:-1]]
    pack(tmp_path / "other.gz", some)
    with pytest.raises(StoreError, match="a row of items has no place"):
        restore(url(tmp_path / "new.db"), tmp_path / "other.gz", quiet)
    assert rows_of(tmp_path / "new.db") == {}
    restore(url(tmp_path / "new.db"), made[1], quiet)


def test_a_store_that_holds_something_is_left_alone(made: tuple[Path, Path], tmp_path: Path) -> None:
    store = Store.open(url(tmp_path / "store.db"))
    begin(store)
    store.close()
    before = rows_of(tmp_path / "store.db")
    with pytest.raises(StoreError, match="is not empty: it has rows of releases 1"):
        restore(url(tmp_path / "store.db"), made[1], quiet)
    assert rows_of(tmp_path / "store.db") == before


@pytest.mark.parametrize("target", ["new", "of this version"])
def test_a_dump_of_an_older_version_is_brought_up(old_store: str, tmp_path: Path, target: str) -> None:  # noqa: F811
    dump(old_store, tmp_path / "dump.gz", quiet)
    if target == "of this version":
        Store.open(url(tmp_path / "new.db")).close()
    assert restore(url(tmp_path / "new.db"), tmp_path / "dump.gz", quiet).revision == "0001"
    engine = create_engine(old_store)
    migrate(engine)
    assert rows_of(tmp_path / "new.db") == rows(engine)
    engine.dispose()


def test_a_dump_overwrites_nothing(made: tuple[Path, Path]) -> None:
    before = made[0].read_bytes()
    with pytest.raises(OutputError, match="is there already"):
        dump(url(made[0]), made[0], quiet)
    assert made[0].read_bytes() == before


def test_a_dump_that_fails_leaves_no_file(made: tuple[Path, Path], tmp_path: Path) -> None:
    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dump(url(made[0]), tmp_path / "dump.gz", stop)
    with pytest.raises(OutputError, match="No such file or directory"):
        dump(url(made[0]), tmp_path / "none" / "dump.gz", quiet)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_dump_makes_nothing(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no FlagRelease database"):
        dump(url(tmp_path / "none.db"), tmp_path / "dump.gz", quiet)
    assert list(tmp_path.iterdir()) == []
