"""The files of `infra/` agree with each other, with the settings that they name, and the commands that they call."""

from __future__ import annotations

import configparser
import inspect
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import yaml
from prefect.settings import Settings as PrefectSettings
from prefect.settings.legacy import _get_valid_setting_names

from flagrelease.loading import load_chips
from flagrelease.settings import Settings
from flows.deployments.wanted import CONTROL
from tests.conftest import ROOT
from tests.waiting import wait_for

INFRA = ROOT / "infra"
COMPOSE = INFRA / "compose.yaml"
KUBERNETES = INFRA / "kubernetes"
UNIT = INFRA / "worker/flagrelease-worker@.service"
SCRIPTS = [*sorted((INFRA / "worker").glob("*.sh")), INFRA / "compose.databases.sh"]
# Of the Kubernetes worker, which is a package of its own.
OTHERS = {f"PREFECT_INTEGRATIONS_KUBERNETES_WORKER_API_AUTH_STRING_SECRET_{part}" for part in ("NAME", "KEY")}
MEANT_SECRET = re.compile(r"PASSWORD|AUTH")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return document


def kubernetes(name: str) -> Any:
    return yaml.safe_load((KUBERNETES / name).read_text())


def named_environments(compose: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Place, name and value of each environment variable that the files give."""
    for service, about in compose["services"].items():
        for name, value in (about.get("environment") or {}).items():
            yield f"compose.yaml {service}", name, str(value)
    for name in ("prefect-server.yaml", "prefect-worker.yaml", "control.yaml"):
        for each in _env_lists(kubernetes(name)):
            yield name, each["name"], str(each.get("value", ""))
    unit = unit_file()
    name, _, value = unit["Service"]["Environment"].partition("=")
    yield UNIT.name, name, value
    for name, value in re.findall(r"ENV |(\w+)=(\S+)", (INFRA / "worker/Dockerfile").read_text().partition("ENV ")[2]):
        if name:
            yield "Dockerfile", name, value


def _env_lists(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key in ("env", "extraEnvVars") and isinstance(value, list):
                yield from value
            else:
                yield from _env_lists(value)
    elif isinstance(node, list):
        for value in node:
            yield from _env_lists(value)


def unit_file() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(UNIT.read_text())
    return parser


def test_every_setting_that_is_named_exists(compose: dict[str, Any]) -> None:
    prefects = _get_valid_setting_names(PrefectSettings) | OTHERS
    ours = {f"FLAGRELEASE_{name.upper()}" for name in Settings.model_fields}
    # Passwords of PostgreSQL's own image and of compose.databases.sh.
    known = prefects | ours | {"FLAGRELEASE_DB_PASSWORD", "PREFECT_DB_PASSWORD"}
    found = list(named_environments(compose))
    assert len({place for place, _, _ in found}) >= 8
    wrong = [(place, name) for place, name, _ in found if re.match("PREFECT_|FLAGRELEASE_", name) and name not in known]
    assert wrong == []


def test_prefect_takes_the_values(compose: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in compose["services"]["prefect"]["environment"].items():
        monkeypatch.setenv(name, re.sub(r"\$\{.*?\}", "a:b", value))
    server = PrefectSettings().server
    assert server.services.db_vacuum.enabled_vacuum_types == {"events", "flow_runs", "orphans"}
    assert server.services.db_vacuum.retention_period.days == 90
    assert server.events.retention_period.days == 7
    assert server.services.cancellation_cleanup.loop_seconds == 300
    assert server.metrics_enabled
    assert server.concurrency.lease_storage == "prefect.server.concurrency.lease_storage.filesystem"


def test_secrets_come_from_outside(compose: dict[str, Any]) -> None:
    for place, name, value in named_environments(compose):
        if MEANT_SECRET.search(name) and name not in OTHERS:
            assert value == "" or (value.startswith("${") and ":?" in value), f"{place}: {name}={value}"
    example = (INFRA / "compose.env.example").read_text()
    for name in re.findall(r"\$\{(\w+):\?", COMPOSE.read_text()):
        assert re.search(rf"^{name}=(admin:)?$", example, re.MULTILINE), name


def test_the_example_names_what_compose_reads() -> None:
    example = set(re.findall(r"^#?([A-Z_]+)=", (INFRA / "compose.env.example").read_text(), re.MULTILINE))
    of_one_host = {"CHIP", "WEIGHTS", "WORKER_HEALTH_PORT"}
    read = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    assert read - of_one_host | {"COMPOSE_PROJECT_NAME"} == example


def test_nothing_is_published_to_the_world_by_default(compose: dict[str, Any]) -> None:
    ports = [port for about in compose["services"].values() for port in about.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("${LISTEN:-127.0.0.1}:") for port in ports)


def test_every_service_is_watched_and_starts_again(compose: dict[str, Any]) -> None:
    for name, about in compose["services"].items():
        assert about["restart"] == "unless-stopped", name
        assert about["healthcheck"]["test"][0] == "CMD", name
        for other, on in about.get("depends_on", {}).items():
            assert on == {"condition": "service_healthy"}, (name, other)


def worker_options() -> set[str]:
    from prefect.cli.worker import start

    hints = get_type_hints(inspect.unwrap(getattr(start, "default_command", start)), include_extras=True)
    names: set[str] = set()
    for hint in hints.values():
        if get_origin(hint) is Annotated:
            for each in get_args(hint)[1:]:
                own = getattr(each, "name", None) or ()
                names |= {own} if isinstance(own, str) else set(own)
    return names


def worker_commands(compose: dict[str, Any]) -> Iterator[list[str]]:
    yield compose["services"]["control"]["command"]
    yield compose["services"]["chip"]["command"]
    yield json.loads(re.findall(r"^CMD (.*)$", (INFRA / "worker/Dockerfile").read_text(), re.MULTILINE)[0])
    yield kubernetes("control.yaml")["spec"]["template"]["spec"]["containers"][0]["args"]
    program, *arguments = shlex.split(unit_file()["Service"]["ExecStart"])
    yield [Path(program).name, *arguments]


def test_workers_are_started_as_prefect_understands_it(compose: dict[str, Any]) -> None:
    known = worker_options()
    assert "--pool" in known
    for command in worker_commands(compose):
        assert command[:3] == ["prefect", "worker", "start"]
        options = [part.replace("--no-create", "--create") for part in command if part.startswith("--")]
        assert set(options) <= known, command
        # A pool that a worker makes lacks what deploy sets.
        assert "--no-create-pool-if-not-found" in command
        # Not of the unit: a host may have several workers, and systemd asks none.
        assert ("--with-healthcheck" in command) == ("%i" not in command)


def test_pools_are_those_that_deploy_makes(compose: dict[str, Any]) -> None:
    chips = load_chips()
    for command in list(worker_commands(compose))[:4]:
        pool = command[command.index("--pool") + 1]
        assert pool == CONTROL or re.fullmatch(r"\$\{CHIP:-(\w+)\}", pool)[1] in chips  # type: ignore[index]
    pool = kubernetes("prefect-worker.yaml")["worker"]["config"]["workPool"]
    assert pool in chips
    spec = json.loads((KUBERNETES / "pool.json").read_text())["job_configuration"]["job_manifest"]["spec"]
    assert spec["template"]["spec"]["nodeSelector"] == {"flagrelease/chip": pool}


def test_the_job_template_uses_its_variables_and_no_others() -> None:
    template = json.loads((KUBERNETES / "pool.json").read_text())
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])
    # What writes to its worker's console ends when the worker does.
    assert template["job_configuration"]["stream_output"] is False


def test_kubernetes_secrets_and_config_maps_are_those_of_the_page() -> None:
    text = "".join(path.read_text() for path in KUBERNETES.iterdir())
    page = (ROOT / "docs/cluster.md").read_text()
    for name in set(re.findall(r"flagrelease-(?:settings|tokens|matrix|models|registry)", text)):
        assert name in page
    for key in ("auth-string", "connection-string"):
        assert key in text
        assert f"--from-literal={key}=" in page


# The unit and its scripts.


def test_the_unit_names_what_install_puts_there() -> None:
    service = unit_file()["Service"]
    install = (INFRA / "worker/install.sh").read_text()
    assert service["KillMode"] == "mixed"
    assert service["EnvironmentFile"] == "/etc/flagrelease/%i.env"
    assert "file=$root/etc/flagrelease/$pool.env" in install
    assert service["Environment"] == "PREFECT_HOME=/var/lib/flagrelease/%i/prefect"
    assert service["ExecStart"].startswith("/opt/flagrelease/bin/prefect ")
    assert service["ExecStop"] == "/opt/flagrelease/bin/drain %i"
    assert "venv=$root/opt/flagrelease\n" in install
    assert '"$venv/bin/drain"' in install
    # What systemctl in install.sh starts is this unit.
    assert f'"{UNIT.name.replace("@.service", "@$pool")}"' in install


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_posix_shell(script: Path) -> None:
    assert script.stat().st_mode & stat.S_IXUSR
    assert script.read_text().startswith("#!/bin/sh\n")
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0
    if shutil.which("shellcheck"):
        checked = subprocess.run(["shellcheck", script], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout


# drain: a stand-in for the command `prefect`, real processes for the worker and its run.

STAND_IN_PREFECT = """#!/bin/sh
# Stands in for the command prefect: keeps what it was asked, and whether the pool is paused.
here=$(dirname "$0")
echo "$*" >>"$here/asked"
case $2 in
  inspect) printf '{ "is_paused": %s }\\n' "$(cat "$here/paused")" ;;
  pause) echo true >"$here/paused" ;;
  resume) echo false >"$here/paused" ;;
esac
"""
STAND_IN_WORKER = """
# Stands in for a worker: starts a run, which ends when a file appears, and says on SIGTERM whether it still goes on.
import pathlib, signal, subprocess, sys
here = pathlib.Path(sys.argv[1])
run = subprocess.Popen(["sh", "-c", f"while [ ! -e {here}/end ]; do sleep 0.05; done"])
def stop(*_):
    (here / "ended").write_text("dry" if run.poll() == 0 else "cut off")
    sys.exit()
signal.signal(signal.SIGTERM, stop)
(here / "started").touch()
while True:
    signal.pause()
"""


def drained(folder: Path, *, paused: str) -> tuple[str, list[str]]:
    """Drain a worker with a run; how the worker ended, and what Prefect was asked."""
    shutil.copy(INFRA / "worker/drain.sh", folder / "drain")
    program(folder / "prefect", STAND_IN_PREFECT)
    (folder / "paused").write_text(paused)
    worker = subprocess.Popen([sys.executable, "-c", STAND_IN_WORKER, str(folder)])
    # The stand-in is reaped here as systemd would.
    reaper = threading.Thread(target=worker.wait)
    reaper.start()
    wait_for("the worker's start", (folder / "started").exists, 20)
    env = {**os.environ, "MAINPID": str(worker.pid), "DRAIN_POLL_S": "0.05"}
    with (folder / "drain.log").open("w") as log:
        drain = subprocess.Popen([folder / "drain", "metax"], env=env, stdout=log, stderr=log)
    waiting = "waiting for the runs of pool metax on this host: 1\n"
    wait_for("the drain's wait for the run", lambda: waiting in (folder / "drain.log").read_text(), 20)
    (folder / "end").touch()
    assert drain.wait(20) == 0
    reaper.join(20)
    return (folder / "ended").read_text(), (folder / "asked").read_text().splitlines()


def program(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def test_a_drain_waits_for_the_runs_and_opens_the_pool_again(tmp_path: Path) -> None:
    ended, asked = drained(tmp_path, paused="false")
    assert ended == "dry"
    assert asked == ["work-pool inspect metax --output json", "work-pool pause metax", "work-pool resume metax"]


def test_a_drain_leaves_an_operators_pause(tmp_path: Path) -> None:
    ended, asked = drained(tmp_path, paused="true")
    assert ended == "dry"
    assert asked == ["work-pool inspect metax --output json"]
    assert (tmp_path / "paused").read_text() == "true"


# install: stand-ins for systemd and for what pip would install; a real Python, a real HTTP server.

STAND_IN_SYSTEMCTL = """#!/bin/sh
# Stands in for systemctl: keeps what it was asked, and says which workers are active.
echo "systemctl $*" >>"$CALLS"
case $1 in list-units) [ ! -e "$CALLS.active" ] || cat "$CALLS.active" ;; esac
"""
STAND_IN_PYTHON = f"""#!/bin/sh
# Stands in for Python where it makes an environment; does all else itself.
if [ "$1 $2" = "-m venv" ]; then
  mkdir -p "$3/bin"
  for name in python flagrelease; do cp "$STAND_INS/installed" "$3/bin/$name"; done
else
  exec {sys.executable} "$@"
fi
"""
STAND_IN_INSTALLED = """#!/bin/sh
# Stands in for pip and for the command flagrelease: keeps what it was asked.
echo "$(basename "$0") $*" >>"$CALLS"
[ "$1" != doctor ] || { echo "$FLAGRELEASE_STORE" >>"$CALLS"; exit "$(cat "$STAND_INS/doctor")"; }
"""


class Health(BaseHTTPRequestHandler):
    """Answers as Prefect's server does to /api/health."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


class Host:
    """A folder that stands for a host's root, and install.sh run on it."""

    def __init__(self, folder: Path, server: str) -> None:
        self.root, self.calls, self.server = folder / "root", folder / "calls", server
        self.stand_ins = folder / "stand-ins"
        program(self.stand_ins / "systemctl", STAND_IN_SYSTEMCTL)
        program(self.stand_ins / "python3", STAND_IN_PYTHON)
        program(self.stand_ins / "installed", STAND_IN_INSTALLED)
        (self.stand_ins / "doctor").write_text("0")
        self.wheel = folder / "flagrelease-0-py3-none-any.whl"
        self.wheel.touch()

    def install(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("")
        env = {
            "PATH": f"{self.stand_ins}:{os.environ['PATH']}",
            "DESTDIR": str(self.root),
            "CALLS": str(self.calls),
            "STAND_INS": str(self.stand_ins),
            **environment,
        }
        argv = [str(INFRA / "worker/install.sh"), *(arguments or ("metax", self.server, str(self.wheel)))]
        return subprocess.run(argv, env=env, capture_output=True, text=True, check=False)

    def settings(self) -> dict[str, str]:
        """What systemd would read."""
        lines = (self.root / "etc/flagrelease/metax.env").read_text().splitlines()
        pairs = (line.partition("=") for line in lines if not line.startswith("#"))
        return {name: re.sub(r"\\(.)", r"\1", value[1:-1]) for name, _, value in pairs}

    @property
    def called(self) -> list[str]:
        return self.calls.read_text().splitlines()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    server = HTTPServer(("127.0.0.1", 0), Health)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Host(tmp_path, f"http://127.0.0.1:{server.server_port}/api")
    server.shutdown()
    thread.join()
    server.server_close()


STORE = "postgresql+psycopg://flagrelease@control/flagrelease"


def test_a_host_becomes_a_worker(host: Host) -> None:
    done = host.install(PREFECT_API_AUTH_STRING='admin:a"b\\c$d e', FLAGRELEASE_STORE=STORE, UNRELATED="x")
    assert done.returncode == 0, done.stderr
    file = host.root / "etc/flagrelease/metax.env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    settings = host.settings()
    assert settings["PREFECT_API_URL"] == host.server
    assert settings["PREFECT_API_AUTH_STRING"] == 'admin:a"b\\c$d e'
    assert settings["FLAGRELEASE_HOME"] == "/var/lib/flagrelease/metax"
    assert "UNRELATED" not in settings
    assert (host.root / "var/lib/flagrelease/metax/prefect").is_dir()
    assert (host.root / "etc/systemd/system" / UNIT.name).read_text() == UNIT.read_text()
    assert (host.root / "opt/flagrelease/bin/drain").stat().st_mode & stat.S_IXUSR
    called = host.called
    assert called[-3:] == [
        "systemctl daemon-reload",
        "systemctl enable flagrelease-worker@metax",
        "systemctl start flagrelease-worker@metax",
    ]
    # doctor looks with the worker's settings, which secrets reach by no command line.
    assert called.index("flagrelease doctor --chip metax") == called.index(STORE) - 1
    assert "admin" not in "".join(called) + done.stdout


def test_a_second_install_keeps_what_is_not_given_and_lets_runs_end_first(host: Host) -> None:
    host.install(PREFECT_API_AUTH_STRING="admin:old", FLAGRELEASE_STORE=STORE)
    Path(f"{host.calls}.active").write_text("flagrelease-worker@cpu.service loaded active running A worker\n")
    done = host.install(PREFECT_API_AUTH_STRING="admin:new")
    assert done.returncode == 0, done.stderr
    assert host.settings()["PREFECT_API_AUTH_STRING"] == "admin:new"
    assert host.settings()["FLAGRELEASE_STORE"] == STORE
    called = host.called
    stop = called.index("systemctl stop flagrelease-worker@cpu.service")
    pip = next(at for at, call in enumerate(called) if call.startswith("python -m pip"))
    assert stop < pip < called.index("systemctl start flagrelease-worker@cpu.service")


def test_a_host_that_cannot_serve_gets_no_worker(host: Host) -> None:
    (host.stand_ins / "doctor").write_text("13")
    done = host.install()
    assert done.returncode == 1
    assert "this host cannot serve on metax" in done.stderr
    assert not any("start" in call or "enable" in call for call in host.called)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("metax",), "usage"),
        (("../etc", "http://h/api"), "no name of a pool"),
        (("metax", "http://h:4200"), "no address of Prefect's API"),
        (("metax", "http://127.0.0.1:9/api"), "no Prefect server answers"),
        (("metax", "http://127.0.0.1:9/api", "/nowhere.whl"), "there is no /nowhere.whl"),
    ],
)
def test_what_is_wrong_is_said_before_anything_changes(host: Host, arguments: tuple[str, ...], said: str) -> None:
    done = host.install(*arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert "  -> " in done.stderr
    assert not host.root.exists()
    assert host.called == []
