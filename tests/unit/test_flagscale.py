"""FlagScale's server, and what the FlagOS stack tells it: a shell that lives as long as the server does."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import yaml
from pydantic import ValidationError

from flagrelease.errors import MatrixError, PreflightError
from flagrelease.records import Stack
from runtime.engines import engine, flagscale, vllm
from runtime.engines.interface import ServerCommand, ServeRequest
from runtime.operators import WRITTEN

ANYWHERE = "0.0.0.0"  # noqa: S104 - in a container's own network
REQUEST = ServeRequest(Path("/models/m"), "M-chip-flagos", ANYWHERE, 9010, Stack.FLAGOS, inside=True)
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
SHELLS = [shell for shell in ("dash", "bash", "busybox") if shutil.which(shell)]

LAUNCHER = """\
#!/bin/sh
# Stand-in for FlagScale's launcher: leaves log and pid where the real one does, and returns at once with 0.
folder=$(dirname "$3")
printf '%s\\0' "$@" > "$folder/arguments"
mkdir -p "$folder/serve_logs/pids"
cmd="vllm_stand_in $folder"
nohup sh -c "$cmd; sync" >> "$folder/serve_logs/host_0_localhost.output" 2>&1 &
echo $! > "$folder/serve_logs/pids/host_0_localhost.pid"
echo "the launcher's own words"
"""
SERVER = """\
#!/bin/sh
# Stand-in for `vllm serve`: says what it is told through a pipe, and ends when it is told so.
trap 'echo "stand-in ends on SIGTERM"; exit 0' TERM
echo $$ > "$1/server"
echo "stand-in serves"
while true; do
    { read -r word < "$1/orders"; } 2> /dev/null || continue
    echo "stand-in: $word"
    [ "$word" != die ] || exit 3
done
"""


def command(raw: dict[str, Any] | None = None, **changes: Any) -> ServerCommand:
    return engine("flagscale").command(REQUEST._replace(**changes), raw or {})


def configuration(raw: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    whole: dict[str, Any] = yaml.safe_load(command(raw, **changes).argv[6])
    return whole


def arguments(raw: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = configuration(raw, **changes)["serve"][0]["engine_args"]
    return found


# --- serve.yaml -------------------------------------------------------------------------------------------------------


def test_serve_yaml_says_to_vllm_what_the_cell_says() -> None:
    raw = {
        "dtype": "bfloat16",
        "max_model_len": 4096,
        "tensor_parallel_size": 8,
        "tool_call_parser": "hermes",
        "engine_args": {"gpu_memory_utilization": 0.9, "enable_tokenizer_info_endpoint": False},
    }
    assert arguments(raw) == {
        "model": "/models/m",
        "host": ANYWHERE,
        "port": 9010,
        "served_model_name": "M-chip-flagos",
        "dtype": "bfloat16",
        "seed": 1234,
        "tensor_parallel_size": 8,
        "enable_tokenizer_info_endpoint": False,
        "max_model_len": 4096,
        "enable_auto_tool_choice": True,
        "tool_call_parser": "hermes",
        "gpu_memory_utilization": 0.9,
    }
    whole = configuration(port=8000, host="127.0.0.1")
    assert whole["experiment"]["exp_dir"] == flagscale.FOLDER
    assert (whole["serve"][0]["serve_id"], whole["serve"][0]["engine"], whole["action"]) == (
        "vllm_model",
        "vllm",
        "run",
    )
    assert (whole["serve"][0]["engine_args"]["port"], whole["serve"][0]["engine_args"]["host"]) == (8000, "127.0.0.1")


def test_on_a_cpu_vllm_is_told_so_as_without_flagscale() -> None:
    raw = {"cpu": True, "threads": 2, "kv_cache_gib": 3}
    assert arguments(raw)["enforce_eager"] is True
    known = {"VLLM_CPU_KVCACHE_SPACE": "3", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "2"}
    assert known.items() <= command(raw).environment.items()
    assert command(raw).environment == engine("vllm").command(REQUEST, raw).environment


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"engine_args": {"port": 1}}, "port"),
        ({"engine_args": {"seed": 1, "dtype": "auto"}}, "dtype, seed"),
        ({"engine_args": {"--port 1; rm": 1}}, "pattern"),
        ({"engine_args": {"limit_mm_per_prompt": {"image": 1}}}, "engine_args"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_settings_that_flagscale_could_not_pass_on_are_refused(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        engine("flagscale").settings(raw)


@pytest.mark.parametrize(
    ("raw", "changes"),
    [
        ({}, {"served_name": "${oc.env:TOKEN}"}),
        ({"engine_args": {"hf_overrides": '{"a": "${oc.env:TOKEN}"}'}}, {}),
    ],
)
def test_what_flagscale_would_replace_is_refused(raw: dict[str, Any], changes: dict[str, Any]) -> None:
    with pytest.raises(MatrixError, match=r"oc\.env:TOKEN"):
        command(raw, **changes)


def test_flagscale_is_served_from_an_image_only() -> None:
    with pytest.raises(PreflightError, match="from an image") as error:
        command(inside=False)
    assert "launcher: container" in error.value.remedy
    with pytest.raises(PreflightError):
        engine("flagscale").version()


# --- the stack --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vllm", "flagscale"])
def test_flagos_asks_for_flaggems_and_its_list(name: str) -> None:
    def environment(raw: dict[str, Any]) -> dict[str, str]:
        return dict(engine(name).command(REQUEST, raw).environment)

    assert environment({}) == {**vllm.QUIET, "USE_FLAGGEMS": "1", "FLAGGEMS_ENABLE_OPLIST_PATH": WRITTEN}
    plugin = environment({"plugin": True})
    assert (plugin["VLLM_PLUGINS"], plugin["USE_FLAGGEMS"]) == ("fl", "1")
    only = environment({"plugin": True, "operators": ["add", "softmax_out"]})
    assert only["VLLM_FL_FLAGOS_WHITELIST"] == "add,softmax_out"
    assert "VLLM_FL_FLAGOS_BLACKLIST" not in only
    without = environment({"plugin": True, "without_operators": ["mm"]})
    assert without["VLLM_FL_FLAGOS_BLACKLIST"] == "mm"
    assert "VLLM_FL_FLAGOS_WHITELIST" not in without


@pytest.mark.parametrize("name", ["vllm", "flagscale"])
def test_native_in_an_image_turns_flaggems_off_and_leaves_the_vendors_plugin_on(name: str) -> None:
    raw = {"plugin": True, "operators": ["add"]}
    found = engine(name).command(REQUEST._replace(stack=Stack.NATIVE), raw).environment
    assert found == {**vllm.QUIET, "USE_FLAGGEMS": "0", "VLLM_FL_PREFER_ENABLED": "0"}


def test_native_on_a_host_is_vllm_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "executable", lambda: Path("/opt/vllm"))
    request = ServeRequest(Path("/m"), "n", "127.0.0.1", 1)
    raw = {"cpu": True, "max_model_len": 2048, "tool_call_parser": "hermes"}
    found = engine("vllm").command(request, raw)
    assert found.argv == [
        *("/opt/vllm", "serve", "/m", "--host=127.0.0.1", "--port=1", "--served-model-name=n", "--dtype=auto"),
        *("--seed=1234", "--tensor-parallel-size=1", "--enable-tokenizer-info-endpoint", "--max-model-len=2048"),
        *("--enable-auto-tool-choice", "--tool-call-parser=hermes", "--enforce-eager"),
    ]
    known = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    assert found.environment == vllm.QUIET | known
    assert engine("vllm").command(request, {}).environment == vllm.QUIET


@pytest.mark.parametrize("name", ["vllm", "flagscale"])
@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"plugin": True, "operators": ["add"], "without_operators": ["mm"]}, "exclude each other"),
        ({"operators": ["add"]}, "plugin: true"),
        ({"without_operators": ["add"]}, "plugin: true"),
        ({"plugin": True, "operators": ["add,mm"]}, "pattern"),
        ({"plugin": True, "operators": ["add\n"]}, "pattern"),
        ({"plugin": True, "without_operators": ["$(mm)"]}, "pattern"),
    ],
)
def test_lists_of_operators_that_would_not_hold_are_refused(name: str, raw: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        engine(name).settings(raw)


# --- the shell --------------------------------------------------------------------------------------------------------


class Running:
    """The command in a shell of its own process group, as a container's engine starts it."""

    def __init__(self, folder: Path, shell: str) -> None:
        argv = command().argv
        words = ["busybox", "sh"] if shell == "busybox" else [shell]
        environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
        self.folder = folder / "served"
        self.process = subprocess.Popen(
            [*words, *argv[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            start_new_session=True,
        )
        self.log: IO[str] = self.process.stdout  # type: ignore[assignment]

    def until(self, words: str) -> bool:
        """Read the log until a line says it; false where the log ends before."""
        return any(words in line for line in self.log)

    def order(self, word: str) -> None:
        (self.folder / "orders").write_text(f"{word}\n")

    def end(self) -> tuple[int, str]:
        said = self.log.read()
        return self.process.wait(), said

    def server_runs(self) -> bool:
        try:
            stat = Path("/proc", (self.folder / "server").read_text().strip(), "stat").read_text()
        except OSError:
            return False
        return stat.rpartition(") ")[2][0] != "Z"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    """Starts FlagScale's command with a stand-in launcher; what is left at the end is killed."""
    monkeypatch.setattr(flagscale, "FOLDER", str(tmp_path / "served"))
    monkeypatch.setattr(flagscale, "LOOK_EVERY_S", 0.02)
    # Orphans become children of this process, which collects none of them: the worst that an image's init can do.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    started: list[Running] = []

    def run(shell: str = "sh", launcher: str | None = LAUNCHER) -> Running:
        for name, text in {"flagscale": launcher, "vllm_stand_in": SERVER}.items():
            if text is not None:
                path = tmp_path / "bin" / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(text)
                path.chmod(0o755)
        (tmp_path / "served").mkdir(exist_ok=True)
        os.mkfifo(tmp_path / "served" / "orders")
        started.append(Running(tmp_path, shell))
        return started[-1]

    yield run
    for each in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(each.process.pid, signal.SIGKILL)
        each.process.wait()
        each.log.close()
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-each.process.pid, 0)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_lives_as_long_as_the_server_and_fails_with_it(start: Callable[..., Running], shell: str) -> None:
    running = start(shell)
    assert running.until("the launcher's own words")
    assert running.until("stand-in serves")
    running.order("hello")
    assert running.until("stand-in: hello")
    assert running.process.poll() is None
    running.order("die")
    code, said = running.end()
    assert code == 1
    assert said.splitlines()[0] == "stand-in: die"
    assert "has ended" in said


@pytest.mark.parametrize("shell", SHELLS)
def test_a_stopped_shell_ends_the_server_and_prints_its_last_words(start: Callable[..., Running], shell: str) -> None:
    running = start(shell)
    assert running.until("stand-in serves")
    assert running.server_runs()
    running.process.terminate()
    code, said = running.end()
    assert (code, said) == (143, "stand-in ends on SIGTERM\n")
    assert not running.server_runs()


def test_a_server_that_is_dead_before_the_first_look_still_says_why(start: Callable[..., Running]) -> None:
    launcher = """\
#!/bin/sh
# Stand-in whose server dies at once.
cd "$(dirname "$3")/serve_logs" && mkdir -p pids
sh -c "echo no memory left" >> host_0_localhost.output &
wait $!
echo $! > pids/host_0_localhost.pid
"""
    code, said = start(launcher=launcher).end()
    assert (code, said.splitlines()[0]) == (1, "no memory left")


@pytest.mark.parametrize(("ends_with", "code"), [(0, 1), (2, 2)])
def test_a_launcher_that_starts_nothing_is_a_failure_that_is_shown(
    start: Callable[..., Running], ends_with: int, code: int
) -> None:
    running = start(launcher=f"#!/bin/sh\n# Stand-in that fails as FlagScale does.\necho no config\nexit {ends_with}\n")
    assert running.end() == (
        code,
        f"no config\nflagscale serve ended with exit code {ends_with} and started no server\n",
    )


def test_an_image_without_flagscale_is_told_of(start: Callable[..., Running]) -> None:
    code, said = start(launcher=None).end()
    assert code == 127
    assert "flagscale" in said


def test_a_launcher_that_hangs_can_be_stopped(start: Callable[..., Running]) -> None:
    running = start(launcher='#!/bin/sh\n# Stand-in that hangs.\necho hangs\nread -r word < "$(dirname "$3")/orders"\n')
    assert running.until("hangs")
    running.process.terminate()
    assert running.end()[0] == 143


HOSTILE = [
    "two words",
    "$(touch pwned)",
    '"; touch pwned; "',
    "'; touch pwned; '",
    "a\nYAML\ntouch pwned\n",
    "模型 #1: x",
]


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("typed", [False, True])
def test_a_hostile_value_reaches_flagscale_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, typed: bool
) -> None:
    monkeypatch.setattr(flagscale, "FOLDER", str(tmp_path / "served"))
    launcher = tmp_path / "flagscale"
    launcher.write_text('#!/bin/sh\n# Stand-in that keeps its arguments.\nprintf "%s\\0" "$@" > kept\nexit 2\n')
    launcher.chmod(0o755)
    found = command({"engine_args": {"hf_overrides": name}}, served_name=name, model_path=Path("/m", name))
    subprocess.run(
        ["sh", "-c", "\n".join(found.lines)] if typed else found.argv,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    path = tmp_path / "served" / "serve.yaml"
    assert (tmp_path / "kept").read_text().split("\0")[:-1] == ["serve", name, str(path)]
    written = yaml.safe_load(path.read_text())["serve"][0]["engine_args"]
    assert (written["served_model_name"], written["hf_overrides"]) == (name, name)
    assert written["model"] == str(Path("/m", name))
    assert not (tmp_path / "pwned").exists()
