"""Times as the store keeps them: in UTC."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


def in_utc(time: datetime) -> datetime:
    """A time that was read from the store, with its time zone. SQLite keeps none; all are written in UTC."""
    return time if time.tzinfo else time.replace(tzinfo=UTC)
