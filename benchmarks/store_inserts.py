"""How fast answers go into the store: `python benchmarks/store_inserts.py [DATABASE-URL] [ITEMS]`.

Puts one evaluation into a store by `Store.add_evaluation`, by default into a new SQLite file. Beside it, in turn and in
the same run: the same rows by plain `sqlite3` with `executemany` into the same table, which is what the machine can do
at the moment. Each is done three times; the best counts.
"""

from __future__ import annotations

import hashlib
import sqlite3
import sys
import tempfile
import time
import uuid
from pathlib import Path

from sqlalchemy import text

from flagrelease.records import Evaluation, Item, Provenance, Stack
from flagrelease.store import Store
from flagrelease.store.evaluations import ITEM_FIELDS

ITEMS = 200_000
AIM_PER_S = 100_000
ROUNDS = 3


def evaluation(count: int) -> Evaluation:
    """As harnesses give it: benchmarks one after the other, items in the order of their hashes."""
    hashes = sorted(hashlib.sha256(str(number).encode()).hexdigest() for number in range(count // 5))
    items = [
        Item(
            benchmark=f"benchmark_{benchmark}",
            item=name,
            score=number % 2,
            prompt=name[::-1],
            answer="The answer is (B).",
            extracted="B",
            finish_reason="stop",
            prompt_tokens=300,
            output_tokens=7,
            latency_s=0.25,
        )
        for benchmark in range(5)
        for number, name in enumerate(hashes)
    ]
    about = Provenance(
        model="m",
        chip="cpu",
        stack=Stack.NATIVE,
        engine="e",
        engine_version="1",
        engine_settings={},
        weights_sha256="0" * 64,
        chat_template_sha256="0" * 64,
        tokenizer_sha256="0" * 64,
        harnesses={"h": "1"},
        platform="p",
        code_version="0",
        created="2026-01-01T00:00:00+00:00",
    )
    return Evaluation(provenance=about, benchmarks=[], items=items)


def by_store(url: str, measured: Evaluation) -> float:
    """Seconds that the store takes; what was put in is taken out again."""
    store = Store.open(url)
    try:
        start = time.perf_counter()
        number = {"id": store.add_evaluation(measured, [], key=f"benchmark {uuid.uuid4()}", role="candidate")}
        seconds = time.perf_counter() - start
        with store.session() as session:
            session.execute(text("DELETE FROM items WHERE evaluation_id = :id"), number)
            session.execute(text("DELETE FROM evaluations WHERE id = :id"), number)
        return seconds
    finally:
        store.close()


def by_sqlite3(schema: Path, file: Path, measured: Evaluation) -> float:
    """Seconds that plain sqlite3 takes for rows that are tuples already, into the table as it is in `schema`."""
    with sqlite3.connect(schema) as there:
        (definition,) = there.execute("SELECT sql FROM sqlite_master WHERE name = 'items'").fetchone()
    rows = [(1, *(getattr(item, field) for field in ITEM_FIELDS)) for item in measured.items]
    columns = ", ".join(("evaluation_id", *ITEM_FIELDS))
    marks = ", ".join("?" * (1 + len(ITEM_FIELDS)))
    connection = sqlite3.connect(file)
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(definition)
    start = time.perf_counter()
    with connection:
        connection.executemany(f"INSERT INTO items ({columns}) VALUES ({marks})", rows)  # noqa: S608 - our own names
    seconds = time.perf_counter() - start
    connection.close()
    return seconds


def main() -> None:
    """Measure and print."""
    url = sys.argv[1] if len(sys.argv) > 1 else None
    measured = evaluation(int(sys.argv[2]) if len(sys.argv) > 2 else ITEMS)
    count = len(measured.items)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        schema = folder / "schema.db"
        Store.open(f"sqlite:///{schema}").close()
        # In turn, so that both meet the same machine.
        plain, ours = zip(
            *(
                (
                    by_sqlite3(schema, folder / f"plain-{number}.db", measured),
                    by_store(url or f"sqlite:///{folder / f'store-{number}.db'}", measured),
                )
                for number in range(ROUNDS)
            ),
            strict=True,
        )
    print(f"{count:,} items, best of {ROUNDS}")
    for what, seconds in (("plain sqlite3", min(plain)), (url or "store in SQLite", min(ours))):
        print(f"{what:<40}{seconds:>8.2f} s{count / seconds:>12,.0f} items/s")
    print(f"store / plain sqlite3: {min(plain) / min(ours):.2f} of its rate (aim in SQLite: {AIM_PER_S:,} items/s)")


if __name__ == "__main__":
    main()
