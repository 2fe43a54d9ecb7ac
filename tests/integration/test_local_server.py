"""The Prefect server of a run without one: the run ends, whatever becomes of that server."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.end_to_end.commands import environment, run

RUN = """
import signal, sys
from pathlib import Path
import psutil
from prefect.logging.handlers import emit_api_log
from flows import local_server
from runtime.launch import process

local_server.DRAIN_S = process.STOP_TIMEOUT_S = 1.0
with local_server.prefect_server(Path(sys.argv[1]), lambda line: print(line, flush=True)):
    for child in psutil.Process().children(recursive=True):
        if "prefect.server.api.server:create_app" in child.cmdline()[1:]:
            child.send_signal(signal.SIGSTOP)
    # From now on it takes connections and answers none.
    emit_api_log({"name": "test", "level": 20, "message": "late", "timestamp": "2026-01-01T00:00:00Z"})
print("ended", psutil.Process().children(recursive=True))
"""


def test_a_server_that_hangs_keeps_no_run_from_ending(tmp_path: Path) -> None:
    # Without tries again, as Prefect waits for its last one when the interpreter ends.
    env = environment(tmp_path, PREFECT_CLIENT_MAX_RETRIES="0")
    done = run(sys.executable, "-c", RUN, tmp_path / "server", env=env, timeout=120)
    assert done.returncode == 0
    assert "did not take all of the run's log and events within 1 s" in done.stdout
    assert "ended []" in done.stdout
