"""A PostgreSQL server of a test's own: real, on this machine; it can be killed and started again."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import psutil
import psycopg

from runtime.launch.process import free_port, start_guarded, stop_guarded
from tests.conftest import postgresql_bin
from tests.waiting import wait_for


class PostgreSQL:
    """A PostgreSQL server of its own, with an empty database for Prefect and one for the store."""

    def __init__(self) -> None:
        programs = postgresql_bin()
        assert programs is not None, "PostgreSQL is missing: apt-get install postgresql"
        self.folder = Path(tempfile.mkdtemp(prefix="flagrelease-postgresql-"))
        # The server refuses to run as root.
        as_root = os.geteuid() == 0
        user = "postgres" if as_root else pwd.getpwuid(os.geteuid()).pw_name
        self._become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups"] if as_root else []
        shutil.chown(self.folder, user)
        self._programs, self._port = programs, free_port()
        data = self.folder / "data"
        argv = [*self._become, str(programs / "initdb"), "-D", str(data), "-U", "flagrelease", "--auth=trust"]
        subprocess.run([*argv, "--no-sync"], cwd=self.folder, check=True, stdout=subprocess.DEVNULL)
        self.start()
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            for name in ("prefect", "flagrelease"):
                connection.execute(f"CREATE DATABASE {name}".encode())

    def start(self) -> None:
        """Start it and wait until it answers."""
        options = ["listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}", "fsync=off"]
        argv = [*self._become, str(self._programs / "postgres"), "-D", str(self.folder / "data"), "-p", str(self._port)]
        argv += [word for option in [*options, "max_connections=200"] for word in ("-c", option)]
        log = self.folder / "log"
        self._process = start_guarded(argv, {}, log)

        def ready() -> bool:
            assert self._process.poll() is None, log.read_text()
            return self._answers()

        wait_for("PostgreSQL", ready, 60)

    def kill(self) -> None:
        """Kill all of its processes at once."""
        server = psutil.Process(self._process.pid).children(recursive=True)
        for process in server:
            process.kill()
        self._process.wait()
        # It does not start again beside one of them.
        psutil.wait_procs(server, timeout=30)

    def close(self) -> None:
        """Stop it and delete its files."""
        for child in psutil.Process(self._process.pid).children() if self._process.poll() is None else ():
            child.send_signal(signal.SIGQUIT)
        stop_guarded(self._process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, driver: str, database: str) -> str:
        """SQLAlchemy's URL of a database."""
        return f"postgresql+{driver}://flagrelease@127.0.0.1:{self._port}/{database}"

    def _dsn(self, database: str) -> str:
        return f"host=127.0.0.1 port={self._port} user=flagrelease dbname={database}"

    def _answers(self) -> bool:
        try:
            psycopg.connect(self._dsn("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True
