"""Tables of the store. What they mean stands in docs/architecture.md; changes come with an Alembic migration."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Double, ForeignKey, Index, MetaData, String, Text, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """Base of all tables. Constraint names are fixed so that migrations can refer to them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_name)s",
            "uq": "uq_%(table_name)s_%(column_0_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - read by SQLAlchemy as declared
        datetime: DateTime(timezone=True),
        float: Double(),
        dict[str, Any]: JSON,
        list[Any]: JSON,
    }


class ReleaseRow(Base):
    """One release of a cell. `key` decides what it is: the same key is the same release, resumed."""

    __tablename__ = "releases"

    id: Mapped[int] = mapped_column(primary_key=True)
    cell: Mapped[str] = mapped_column(String(200), index=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    engine: Mapped[str] = mapped_column(String(50))
    state: Mapped[str] = mapped_column(String(20))
    snapshot: Mapped[dict[str, Any]]
    code_version: Mapped[str] = mapped_column(String(50))
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)


class StageRow(Base):
    """One stage of a release: its key, its result, or why it failed."""

    __tablename__ = "stages"
    __table_args__ = (UniqueConstraint("release_id", "stage"), Index("ix_stages_key_state", "key", "state"))

    id: Mapped[int] = mapped_column(primary_key=True)
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"))
    stage: Mapped[str] = mapped_column(String(20))
    key: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(20))
    reused_from: Mapped[int | None] = mapped_column(ForeignKey("releases.id"))
    inputs: Mapped[dict[str, Any]]
    output: Mapped[dict[str, Any] | None]
    error: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class EvaluationRow(Base):
    """An evaluation run: a baseline (with its id) or a candidate. Immutable once written."""

    __tablename__ = "evaluations"

    id: Mapped[int] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(String(20))
    baseline_id: Mapped[str | None] = mapped_column(String(100), unique=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    model: Mapped[str] = mapped_column(String(200), index=True)
    provenance: Mapped[dict[str, Any]]
    benchmarks: Mapped[list[Any]]
    floors: Mapped[list[Any]] = mapped_column(server_default="[]")
    canary: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    speed: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    created_at: Mapped[datetime]


class ItemRow(Base):
    """One answer. The table that grows: narrow, and written in bulk."""

    __tablename__ = "items"

    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)
    benchmark: Mapped[str] = mapped_column(String(100), primary_key=True)
    item: Mapped[str] = mapped_column(String(64), primary_key=True)
    repeat: Mapped[int] = mapped_column(primary_key=True)
    score: Mapped[float]
    prompt: Mapped[str] = mapped_column(String(64))
    answer: Mapped[str] = mapped_column(Text)
    extracted: Mapped[str] = mapped_column(Text)
    finish_reason: Mapped[str | None] = mapped_column(String(50))
    prompt_tokens: Mapped[int | None]
    output_tokens: Mapped[int | None]
    latency_s: Mapped[float | None]
    cluster: Mapped[str | None] = mapped_column(String(200))


class ResultRow(Base):
    """Aggregate of one benchmark of one evaluation, kept when its items are written."""

    __tablename__ = "results"

    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)
    benchmark: Mapped[str] = mapped_column(String(100), primary_key=True)
    n: Mapped[int]
    repeats: Mapped[int]
    score: Mapped[float]
    lower: Mapped[float]
    upper: Mapped[float]


class ImportedBaselineRow(Base):
    """Published scores of a model on the reference (an `ImportedBaseline`), under their baseline id."""

    __tablename__ = "imported_baselines"

    id: Mapped[str] = mapped_column(String(100), primary_key=True)
    detail: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class VerdictRow(Base):
    """The gate's decision for a release, with its whole derivation."""

    __tablename__ = "verdicts"

    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"), primary_key=True)
    verdict: Mapped[str] = mapped_column(String(20), index=True)
    baseline_id: Mapped[str] = mapped_column(String(100))
    candidate_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"))
    detail: Mapped[dict[str, Any]]


class ArtefactRow(Base):
    """A file of evidence of a release's stage; the bytes lie in the evidence folder under the hash."""

    __tablename__ = "artefacts"
    __table_args__ = (UniqueConstraint("release_id", "stage", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"))
    stage: Mapped[str] = mapped_column(String(20))
    kind: Mapped[str] = mapped_column(String(50))
    name: Mapped[str] = mapped_column(String(200))
    sha256: Mapped[str] = mapped_column(String(64))
    size: Mapped[int]


class PublicationRow(Base):
    """A publication of a release, as read back from where it went."""

    __tablename__ = "publications"
    __table_args__ = (UniqueConstraint("release_id", "publisher", "target"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"))
    publisher: Mapped[str] = mapped_column(String(50))
    target: Mapped[str] = mapped_column(String(500))
    revision: Mapped[str] = mapped_column(String(64))
    files: Mapped[list[Any]]
    published_at: Mapped[datetime]


class SweepRow(Base):
    """A sweep over the matrix: what it was asked, and what became of each cell so far."""

    __tablename__ = "sweeps"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    state: Mapped[str] = mapped_column(String(20))
    asked: Mapped[dict[str, Any]]
    outcomes: Mapped[list[Any]]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class ApprovalRow(Base):
    """What somebody decided about publishing one content of a release, or that this is asked for; only added to."""

    __tablename__ = "approvals"

    id: Mapped[int] = mapped_column(primary_key=True)
    release_id: Mapped[int] = mapped_column(ForeignKey("releases.id"), index=True)
    revision: Mapped[str] = mapped_column(String(64))
    decision: Mapped[str] = mapped_column(String(20))
    who: Mapped[str | None] = mapped_column(String(200))
    through: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str | None] = mapped_column(Text)
    flow_run: Mapped[str | None] = mapped_column(String(36))
    decided_at: Mapped[datetime]


class ConformanceRow(Base):
    """What the newest check of one operator of FlagGems found: on a chip's device, in a model's sizes."""

    __tablename__ = "conformance"
    __table_args__ = (
        UniqueConstraint("key", "chip", "operator"),
        Index("ix_conformance_chip_operator", "chip", "operator"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
    key: Mapped[str] = mapped_column(String(64))
    chip: Mapped[str | None] = mapped_column(String(100))
    device: Mapped[str] = mapped_column(String(50))
    interpreter: Mapped[bool]
    model: Mapped[str] = mapped_column(Text)
    dtype: Mapped[str] = mapped_column(String(20))
    flag_gems: Mapped[str] = mapped_column(String(100))
    torch: Mapped[str] = mapped_column(String(100))
    triton: Mapped[str] = mapped_column(String(100))
    operator: Mapped[str] = mapped_column(String(100))
    verdict: Mapped[str] = mapped_column(String(20))
    cases: Mapped[int]
    matching: Mapped[int]
    worst_error: Mapped[float | None]
    worst_tolerance: Mapped[float | None]
    worst: Mapped[float | None]
    speed_ratio: Mapped[float | None]
    reason: Mapped[str] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(String(64))
