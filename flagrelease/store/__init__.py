"""The store: every release, stage, item, verdict and publication, in SQLite or PostgreSQL."""

from flagrelease.store.evaluations import StoredEvaluation
from flagrelease.store.store import FinishedStage, Store

__all__ = ["FinishedStage", "Store", "StoredEvaluation"]
