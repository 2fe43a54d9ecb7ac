"""How long the whole matrix takes to deploy: `python -m benchmarks.deploy_matrix [--sqlite] [--host-zones]`.

Starts a Prefect server of its own, on a PostgreSQL of its own (as in production) or on SQLite, and runs `flagrelease
deploy` twice as a user does, with the start of the command: 13 chips × 60 models, each cell with a weekly schedule.
Then one cell is edited, and one is removed. Needs PostgreSQL's programs (apt-get install postgresql).

The server gets an empty PYTHONTZPATH, as docs/deploying.md advises; --host-zones leaves that out.
"""

from __future__ import annotations

import contextlib
import copy
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import yaml

from flagrelease.loading import load_chips
from flagrelease.settings import data_path
from runtime.launch.process import free_port, start_guarded, stop_guarded
from tests.conftest import postgresql_bin
from tests.prefect_server import wait_for_health

CHIPS, MODELS = 13, 60
FIRST_AIM_S, SECOND_AIM_S = 120.0, 10.0
BIN = Path(sys.executable).parent


def matrix() -> dict[str, Any]:
    """60 models, each on 13 chips, every Saturday."""
    facts: dict[str, Any] = yaml.safe_load(data_path("matrix.yaml").read_text())
    model = facts["models"]["qwen3"]
    chips = [key for key in load_chips() if key != "cpu"][:CHIPS]
    facts["policy"].pop("models", None)
    facts["models"] = {f"model{number:02}": copy.deepcopy(model) for number in range(MODELS)}
    facts["cells"] = [
        {"model": name, "chip": chip, "engine": "flagscale", "schedule": {"cron": "0 2 * * 6", "timezone": "UTC"}}
        for chip in chips
        for name in facts["models"]
    ]
    return facts


@contextlib.contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL with its usual settings; gives Prefect's address of its database."""
    programs = postgresql_bin()
    assert programs is not None, "PostgreSQL is missing: apt-get install postgresql"
    folder = Path(tempfile.mkdtemp(prefix="flagrelease-postgresql-"))
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    shutil.chown(folder, user)

    def call(*argv: str | Path) -> None:
        # PostgreSQL refuses to run as root.
        as_user = user if os.geteuid() == 0 else None
        subprocess.run(list(map(str, argv)), user=as_user, cwd=folder, check=True, stdout=subprocess.DEVNULL)

    port, data = free_port(), folder / "data"
    call(programs / "initdb", "-D", data, "-U", "prefect", "--auth=trust")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    call(programs / "pg_ctl", "-D", data, "-o", options, "-l", folder / "log", "-w", "start")
    try:
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        call(programs / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


@contextlib.contextmanager
def prefect_server(home: Path, database: str | None) -> Iterator[dict[str, str]]:
    """`prefect server start`; gives the environment that names it."""
    port = free_port()
    env = {
        "PREFECT_HOME": str(home / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        **({"PREFECT_SERVER_DATABASE_CONNECTION_URL": database} if database else {}),
    }
    zones = {} if "--host-zones" in sys.argv[1:] else {"PYTHONTZPATH": ""}
    argv = [str(BIN / "prefect"), "server", "start", "--port", str(port)]
    server = start_guarded(argv, env | zones, home / "server.log")
    try:
        wait_for_health(env["PREFECT_API_URL"], server, home / "server.log")
        yield env
    finally:
        stop_guarded(server)


def deploy(name: str, env: dict[str, str], *options: str) -> float:
    """Run `flagrelease deploy`; print what it sums up and how long it took."""
    start, before = time.monotonic(), psutil.cpu_times().idle
    done = subprocess.run(
        [str(BIN / "flagrelease"), "deploy", *options], env={**os.environ, **env}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    took = time.monotonic() - start
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    idle = (psutil.cpu_times().idle - before) / took / (psutil.cpu_count() or 1)
    summary = [line for line in done.stdout.splitlines() if line.startswith(("deployments:", "done:"))]
    print(f"{name:<16}{took:7.1f} s  processors {idle:.0%} idle  {'; '.join(summary)}", flush=True)
    return took


def main() -> None:
    """Measure and print."""
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = None if "--sqlite" in sys.argv[1:] else stack.enter_context(postgresql())
        env = stack.enter_context(prefect_server(home, database))
        facts, path = matrix(), home / "matrix.yaml"
        env |= {"FLAGRELEASE_MATRIX": str(path), "FLAGRELEASE_HOME": str(home / "state")}
        path.write_text(yaml.safe_dump(facts, allow_unicode=True))
        first = deploy("first", env)
        second = deploy("second", env)
        facts["cells"][7]["schedule"]["cron"] = "0 3 * * 6"
        path.write_text(yaml.safe_dump(facts, allow_unicode=True))
        deploy("one edited", env)
        facts["cells"].pop(8)
        path.write_text(yaml.safe_dump(facts, allow_unicode=True))
        deploy("one removed", env, "--yes")
    print(f"aims: first {FIRST_AIM_S:.0f} s, second {SECOND_AIM_S:.0f} s")
    assert first <= FIRST_AIM_S, "the first deploy was too slow"
    assert second <= SECOND_AIM_S, "the second deploy was too slow"


if __name__ == "__main__":
    main()
