"""The store: every release, stage, item, verdict and publication, in SQLite or PostgreSQL."""

from flagrelease.store.store import FinishedStage, Store, StoredEvaluation

__all__ = ["FinishedStage", "Store", "StoredEvaluation"]
