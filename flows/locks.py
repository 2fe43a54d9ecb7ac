"""Who may do what at the same time: locks between processes of a host, and between hosts that share a database.

Every lock ends with the process that holds it, however that ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import Connection, Engine, NullPool, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError

from flagrelease.errors import PreflightError
from flagrelease.store.database import translate_errors
from runtime.launch.interface import Log

# A host that vanished is noticed, and its lock free, after some 50 s: before its run is found lost and is begun anew.
KEEPALIVE = {"tcp_keepalives_idle": 20, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
CONNECT_TIMEOUT_S = 10


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Within the block no other process of this host does `what`; the lock on the file at `path` ends with the process.

    Raises PreflightError at once where another one does it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PreflightError(
                f"another process on this host is {what}",
                remedy="wait for it to end; then the same command goes on from what it finished",
            ) from error
        yield


class SharedLock:
    """That no other host which shares a database does something; where the database is SQLite, there is no other host.

    It is an advisory lock of PostgreSQL, of a session of its own: the database ends it where the connection breaks.
    """

    def __init__(self, url: str, what: str) -> None:
        """`url`: SQLAlchemy's, of the database; `what`: what is done, for example `releasing qwen3-metax`."""
        self._what = what
        self._key = int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], signed=True)
        self._engine = _sessions(url, f"flagrelease: {what} on {platform.node()}")
        self._connection: Connection | None = None

    def hold(self) -> None:
        """Get the lock, or get it again where the connection broke since.

        Raises PreflightError at once where another host has it; StoreError where the database does not answer.
        """
        if self._engine is None or self._held():
            return
        with translate_errors(self._engine):
            connection = self._engine.connect()
            if not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": self._key}).scalar():
                holder = connection.execute(text(_HOLDER), {"key": self._key}).scalar()
                connection.close()
                raise PreflightError(
                    f"another host is {self._what}" + (f" ({holder})" if holder else ""),
                    remedy="wait for it to end; then the same command goes on from what it finished",
                )
        self._connection = connection

    def close(self) -> None:
        """Give the lock back, if it is held."""
        if self._connection is not None:
            with suppress(DBAPIError):
                self._connection.close()
            self._connection = None

    def _held(self) -> bool:
        """Whether the connection that the lock belongs to still stands."""
        if self._connection is None:
            return False
        try:
            self._connection.execute(text("SELECT 1"))
        except DBAPIError:
            self.close()
            return False
        return True


# The name of the session that holds the lock: of a 64-bit key the upper half is `classid`.
_HOLDER = """
SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND (classid::bigint << 32 | objid::bigint) = :key
"""


def _sessions(url: str, name: str) -> Engine | None:
    """An engine whose connections are sessions of PostgreSQL with this name; none for another database."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return None
    options = " ".join(f"-c {setting}={value}" for setting, value in KEEPALIVE.items())
    ours = {key.removeprefix("tcp_"): value for key, value in KEEPALIVE.items()}
    arguments = {"application_name": name[:63], "options": options, "connect_timeout": CONNECT_TIMEOUT_S, **ours}
    # No transaction is held open; and nothing is kept in a pool, as the lock ends with its connection.
    return create_engine(parsed, poolclass=NullPool, isolation_level="AUTOCOMMIT", connect_args=arguments)


@contextmanager
def devices(folder: Path, chip: str, what: str, log: Log, *, exclusive: bool) -> Iterator[None]:
    """Within the block the chip's devices on this host do `what`: by itself if `exclusive`, else beside others.

    Waits until they may, and says so: speed is not measured while a model is asked, nor a model asked while speed is.
    `folder`: that of this host's lock files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Who waits holds the gate, so that it is the next: otherwise speed waits as long as models are asked in turns.
    with (folder / f"devices-{chip}.gate").open("w") as gate, (folder / f"devices-{chip}.lock").open("w") as use:
        began, mode = time.monotonic(), fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(use, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            others = "another release asks or measures" if exclusive else "the speed of another release is measured"
            log(f"{what}: waiting, as {others} on the {chip} devices of this host")
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(use, mode)
            log(f"{what}: waited {time.monotonic() - began:.0f} s for the devices")
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield
