"""latency and cluster of an answer; noise floors, canary and speed of an evaluation; published baselines"""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("items") as batch_op:
        batch_op.add_column(sa.Column("latency_s", sa.Double(), nullable=True))
        batch_op.add_column(sa.Column("cluster", sa.String(length=200), nullable=True))
    with op.batch_alter_table("evaluations") as batch_op:
        batch_op.add_column(sa.Column("floors", sa.JSON(), server_default="[]", nullable=False))
        batch_op.add_column(sa.Column("canary", sa.JSON(), nullable=True))
        batch_op.add_column(sa.Column("speed", sa.JSON(), nullable=True))
    op.create_table(
        "imported_baselines",
        sa.Column("id", sa.String(length=100), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_imported_baselines")),
    )
    _rewrite("evaluations", "id", ("provenance", "benchmarks"), _evaluation)
    _rewrite("verdicts", "release_id", ("detail",), _verdict)
    _rewrite("releases", "id", ("snapshot",), _release)


def downgrade() -> None:
    """Published baselines, latencies, clusters, floors, canaries and speeds are lost; verdicts and snapshots stay."""
    _rewrite("evaluations", "id", ("provenance", "benchmarks"), _old_evaluation)
    op.drop_table("imported_baselines")
    # Not by a batch: SQLite would make the table anew, and what refers to it stops it from dropping the old one.
    for name, columns in (("evaluations", ("speed", "canary", "floors")), ("items", ("cluster", "latency_s"))):
        for column in columns:
            op.drop_column(name, column)


def _rewrite(name: str, key: str, columns: tuple[str, ...], change: Callable[..., tuple[Any, ...]]) -> None:
    """Bring JSON that was written before into the form that is read now."""
    connection = op.get_bind()
    table = sa.table(name, sa.column(key, sa.Integer), *(sa.column(column, sa.JSON) for column in columns))
    for row in connection.execute(sa.select(table)).all():
        values = dict(zip(columns, change(*row[1:]), strict=True))
        connection.execute(sa.update(table).where(table.c[key] == row[0]).values(values))


def _evaluation(provenance: dict[str, Any], benchmarks: list[dict[str, Any]]) -> tuple[Any, ...]:
    """There was one harness; the tokenizer was not recorded."""
    harness, version = provenance.pop("harness"), provenance.pop("harness_version")
    return (
        {**provenance, "harnesses": {harness: version}, "tokenizer_sha256": ""},
        [{**benchmark, "harness": harness} for benchmark in benchmarks],
    )


def _old_evaluation(provenance: dict[str, Any], benchmarks: list[dict[str, Any]]) -> tuple[Any, ...]:
    """There is room for one harness: the names and versions of several stand in a row."""
    harnesses = provenance.pop("harnesses")
    del provenance["tokenizer_sha256"]
    names, versions = ", ".join(harnesses), ", ".join(harnesses.values())
    return (
        {**provenance, "harness": names, "harness_version": versions},
        [{key: value for key, value in benchmark.items() if key != "harness"} for benchmark in benchmarks],
    )


def _verdict(detail: dict[str, Any]) -> tuple[Any, ...]:
    """Items counted as independent; how far a benchmark could resolve its margin follows from what was kept."""
    for row in detail["benchmarks"]:
        changed = max(1, row["lost"] + row["won"]) / max(1, row["n"])
        # 6.18 = (1.645 + 0.842)²: alpha 0.05 and power 0.8, as docs/gate.md had them.
        needed = 6.18 * changed / (row["margin_points"] / 100) ** 2
        row.update({"units": row["n"], "resolution": row["n"] / needed} | row)
    return ({"rule": "not recorded"} | detail,)


def _release(snapshot: dict[str, Any]) -> tuple[Any, ...]:
    """Reasons of thresholds stood in comments of the matrix, and two thresholds in the code."""
    if "cell" in snapshot:
        policy = {"power": 0.8, "max_length_shift": 0.1, **snapshot["cell"]["policy"]}
        own = policy.pop("suites", {}).get(snapshot["cell"]["model"]["suite"])
        if own:
            policy["pooled_margin_points"] = own["pooled_margin_points"]
        snapshot["cell"]["policy"] = policy
        numbers = [name for name, value in policy.items() if isinstance(value, int | float)]
        policy.setdefault("reasons", dict.fromkeys(numbers, "a comment of the matrix at that time"))
    return (snapshot,)
