"""A store with something in every table, and its rows as they lie there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, Engine, MetaData, Text, cast, select

from flagrelease.operators.results import OperatorResult
from flagrelease.pipeline import ReleaseRun, StageOutput, plan
from flagrelease.records import Artefact, ImportedBaseline, Item, Publication, Published, Stage
from flagrelease.store import Store, approvals, conformance, sweeps
from flagrelease.store.conformance import ConformanceCheck
from flagrelease.sweep import Outcome
from tests.unit.evaluations import evaluation, result

AWKWARD = "ü 漢字 \N{PILE OF POO} \u2028\r\n\t\\\" '%s ? {}"
"""Text in which a careless writer would trip over something."""


def items(n: int) -> list[Item]:
    return [
        Item(
            benchmark="b",
            item=f"{i:064d}",
            score=1 / (i + 1),
            prompt="p",
            answer=AWKWARD,
            extracted="",
            finish_reason=None if i % 2 else "stop",
            output_tokens=2**31 - 1,
            latency_s=0.1 + 0.2,
        )
        for i in range(n)
    ]


def fill(store: Store, n: int = 7) -> None:
    """Two releases, the second reusing a stage of the first, an evaluation of `n` items, a publication, a
    rejection, a sweep, a check of an operator.
    """
    for key in ("1", "2"):
        release = store.begin_release(cell="m-c", key=key, engine="e", snapshot={"a": AWKWARD}, code_version="0")
        run = ReleaseRun(store, release, plan({stage: {"x": 2**63} for stage in Stage}), lambda _: None)
        kept = Artefact(kind="items", name="items.jsonl", sha256="0" * 64, size=1)
        run.stage(Stage.BUILD, lambda: StageOutput({"x": 1e-300, "y": None, "z": 10**30}, [kept]))  # noqa: B023
        store.begin_stage(release, Stage.EVALUATE, "k", {})
        store.finish_release(release, "failed", AWKWARD)
    store.add_evaluation(evaluation(items(n)), [result("b", n)], key="e", role="baseline", baseline_id="base")
    store.record_publication(2, Publication(publisher="folder", target="o/n", revision="r", files=[]))
    scores = [Published(benchmark="b", score=0.5, printed="50.0")]
    approvals.ask(store, 2, "r", "run")
    approvals.decide(store, 2, "r", "reject", who="ü", through="command", reason=AWKWARD)
    sweep = sweeps.begin(store, "run", {"chips": ["c"], "hours": 0.1 + 0.2})
    sweeps.write(store, sweep.id, [Outcome(cell="m-c", model="m", chip="c", state="failed", cause=AWKWARD)])
    crashed = OperatorResult("mm", "crashed", 2, 1, None, 0.1 + 0.2, 1e-300, 0.1, AWKWARD, ())
    versions = {"flag_gems": "5.0.2", "torch": "2", "triton": "3"}
    about: dict[str, Any] = {
        "key": "k",
        "chip": None,
        "device": "cuda",
        "model": AWKWARD,
        "dtype": "float16",
        "sha256": "0" * 64,
    }
    conformance.record(store, ConformanceCheck(**about, **versions, results=[crashed]))
    store.add_imported_baseline("scores", ImportedBaseline(model="m", label="l", source="s", scores=scores))


def rows(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """All rows by table, sorted by primary key: JSON as its text, times in UTC; columns by name."""
    metadata = MetaData()
    metadata.reflect(engine)
    found = {}
    with engine.connect() as connection:
        for table in metadata.sorted_tables:
            columns = sorted(table.columns, key=lambda column: column.name)
            query = select(*(cast(c, Text) if isinstance(c.type, JSON) else c for c in columns))
            keys = [columns.index(key) for key in table.primary_key.columns]
            some = [tuple(_in_utc(value) for value in row) for row in connection.execute(query)]
            found[table.name] = sorted(some, key=lambda row: [row[key] for key in keys])
    return found


def _in_utc(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
