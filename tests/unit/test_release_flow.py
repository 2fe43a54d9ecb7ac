"""What a run of the flow `release` can be asked, what it tries again, when it is ended, and what it tells."""

from __future__ import annotations

import asyncio
import errno
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import yaml

from flagrelease import errors
from flagrelease.errors import (
    BaselineError,
    EngineError,
    FlagReleaseError,
    HarnessError,
    MatrixError,
    NoAnswerError,
    PreflightError,
    PublishError,
    RegistryError,
    ServerError,
    ServerSettingsError,
    StageTimeoutError,
    StoreError,
    StoreLockedError,
    StoreLostError,
    UnknownNameError,
    WeightsError,
    is_transient,
)
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.pipeline import StageOutput
from flagrelease.records import Stage
from flagrelease.settings import settings
from flagrelease.store import Store
from flagrelease.store.queries import release_view
from flows import serving, stage_tasks
from flows.job import Job, make_job, make_plan
from flows.report import release_report
from flows.session import finished_release, open_session
from flows.stage_tasks import StageTasks
from flows.tasks import Limit
from runtime.engines import ENGINES
from tests.conftest import ROOT

CELL = "smollm2-cpu"
T = TypeVar("T")


@pytest.fixture(autouse=True)
def installed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has the engine of the small cell, and an empty place for state."""
    assert home.exists()
    monkeypatch.setattr(ENGINES["llama_cpp"], "version", lambda: "1.0", raising=False)


def job(**asked: Any) -> Job:
    return make_job(CELL, None, settings(), **asked)


def keys(**asked: Any) -> dict[Stage, str]:
    return dict(make_plan(job(**asked)).keys)


def changed(before: dict[Stage, str], after: dict[Stage, str]) -> set[Stage]:
    return {stage for stage in Stage if before[stage] != after[stage]}


# What may be asked


def test_other_repeats_are_another_evaluation() -> None:
    assert keys(repeats=1) == keys()
    assert {benchmark.repeats for benchmark in job(repeats=3).benchmarks} == {3}
    assert Stage.EVALUATE in changed(keys(), keys(repeats=3))
    assert Stage.BUILD not in changed(keys(), keys(repeats=3))


def test_another_suite_brings_its_benchmarks_and_its_policy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text())
    matrix["suites"]["short"] = ["addition"]
    override = {"pooled_margin_points": 5.0, "reason": "It is as short as can be."}
    matrix["policy"]["suites"]["short"] = override
    path = home / "matrix.yaml"
    path.write_text(yaml.safe_dump(matrix, allow_unicode=True))
    monkeypatch.setenv("FLAGRELEASE_MATRIX", str(path))
    settings.cache_clear()
    short = job(suite="short")
    assert [benchmark.key for benchmark in short.benchmarks] == ["addition"]
    assert short.cell.policy.pooled_margin_points == 5.0
    assert "suite short: " in short.cell.overrides[0]
    assert short.cell.model.suite == "short"
    assert keys(suite="smoke") == keys()
    with pytest.raises(FlagReleaseError, match="has no suite `shrt`") as caught:
        job(suite="shrt")
    assert caught.value.remedy.startswith("did you mean `short`? Its suites are: embodied, short, smoke")


def test_what_is_not_published_differs_in_its_last_stage_only() -> None:
    assert changed(keys(), keys(publish=False)) == {Stage.PUBLISH}
    assert "publish" not in make_plan(job()).inputs[Stage.PUBLISH]
    assert make_plan(job(publish=False)).inputs[Stage.PUBLISH]["publish"] is False


def test_a_forced_run_has_keys_of_its_own_and_keeps_them_when_it_goes_on() -> None:
    assert changed(keys(), keys(salt="one run")) == set(Stage)
    assert changed(keys(salt="another run"), keys(salt="one run")) == set(Stage)
    assert keys(salt="one run") == keys(salt="one run")


def test_how_long_a_stage_may_take_is_no_part_of_its_result(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys()
    matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text())
    matrix["timeouts"] = {"evaluate": 5, "speed": 0.5}
    (cell,) = (cell for cell in matrix["cells"] if cell["model"] == "smollm2")
    cell["timeouts"] = {"evaluate": 0.25}
    path = home / "matrix.yaml"
    path.write_text(yaml.safe_dump(matrix, allow_unicode=True))
    monkeypatch.setenv("FLAGRELEASE_MATRIX", str(path))
    settings.cache_clear()
    assert keys() == before
    loaded, chips = load_matrix(path), load_chips()
    own, other = (resolve(loaded, chips, name).timeouts for name in (CELL, "qwen3-metax"))
    assert (own[Stage.EVALUATE], own[Stage.SPEED]) == (0.25, 0.5)
    assert (other[Stage.EVALUATE], other[Stage.SPEED]) == (5, 0.5)
    assert own.keys() == other.keys() == set(Stage)
    cell["timeouts"] = {"evalate": 1}
    path.write_text(yaml.safe_dump(matrix, allow_unicode=True))
    with pytest.raises(MatrixError, match="did you mean `evaluate`"):
        load_matrix(path)


# What is tried again


@pytest.mark.parametrize(
    "error",
    [
        EngineError, RegistryError, StoreLockedError, StoreLostError, ServerError, NoAnswerError,
    ],
)  # fmt: skip
def test_a_fault_of_machines_may_pass(error: type[FlagReleaseError]) -> None:
    assert is_transient(error("it went away", remedy="look"))


@pytest.mark.parametrize(
    "error",
    [
        MatrixError, UnknownNameError, PreflightError, WeightsError, BaselineError, PublishError, StoreError,
        ServerSettingsError, HarnessError, StageTimeoutError,
    ],
)  # fmt: skip
def test_what_somebody_has_to_mend_does_not_pass(error: type[FlagReleaseError]) -> None:
    assert not is_transient(error("it is wrong", remedy="correct it"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError(errno.ECONNRESET, "reset"), True),
        (TimeoutError("no answer"), True),
        (OSError(errno.EIO, "i/o error"), True),
        (httpx.ReadTimeout("no answer"), True),
        (FileNotFoundError(errno.ENOENT, "not there"), False),
        (OSError(errno.ENOSPC, "full"), False),
        (KeyError("a fault of ours"), False),
    ],
)
def test_errors_of_the_system_and_of_connections(error: Exception, *, expected: bool) -> None:
    assert is_transient(error) is expected


def test_every_error_of_ours_has_its_exit_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FlagReleaseError)]
    # Kinds of an error that differ in whether they pass share its code.
    own = [kind.exit_code for kind in kinds if "exit_code" in vars(kind)]
    assert len(own) == len(set(own))


class StandInServer:
    """A server that a test kills."""

    base_url = "http://stand-in.invalid"
    ready_after_s = 0.0
    log_path = Path("server.log")

    def __init__(self) -> None:
        self.lives, self.stopped = True, False

    def alive(self) -> bool:
        return self.lives

    def wait(self) -> None:
        """It has ended."""

    def exit_reason(self) -> str:
        return "ended by signal SIGKILL; last lines of its log: …"

    def read(self, path: str) -> bytes | None:  # noqa: ARG002 - the signature of servers
        return None


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> list[StandInServer]:
    """The servers that were started; tasks are functions that are tried twice, without Prefect and without pauses."""
    started: list[StandInServer] = []

    @contextmanager
    def start(*_: object, **__: object) -> Iterator[StandInServer]:
        started.append(StandInServer())
        try:
            yield started[-1]
        finally:
            started[-1].stopped = True

    def tried_twice(_: str, work: Callable[[], T], *, limit: object = None, retry: bool = True) -> T:  # noqa: ARG001
        try:
            return work()
        except Exception as error:
            if retry and is_transient(error):
                return work()
            raise

    monkeypatch.setattr(serving, "start_server", start)
    monkeypatch.setattr(stage_tasks, "as_task", tried_twice)
    return started


def test_a_stage_whose_server_died_or_hangs_gets_another(servers: list[StandInServer]) -> None:
    asked: list[object] = []

    def dies_once(server: object) -> StageOutput:
        asked.append(server)
        if len(asked) == 1:
            raise NoAnswerError("the server stopped answering", remedy="see its log")
        return StageOutput({})

    said: list[str] = []
    with open_session(job(), said.append) as session, StageTasks(session) as tasks:
        tasks.ask(Stage.CANARY, dies_once)
        assert asked == servers
        assert [server.stopped for server in servers] == [True, False]
        # One that died between two stages is not handed to the next.
        servers[-1].lives = False
        tasks.ask(Stage.EVALUATE, lambda _: StageOutput({}))
        assert len(servers) == 3
        assert "serve: the server has ended: ended by signal SIGKILL" in said
        tasks.ask(Stage.ESCALATE, lambda server: StageOutput({"same": server is servers[2]}))
        assert len(servers) == 3
        view = release_view(session.store, session.release)
    assert all(server.stopped for server in servers)
    assert {stage.state for stage in view.stages} == {"completed"}
    assert {stage.error for stage in view.stages} == {None}


def test_no_server_is_started_where_all_is_there(servers: list[StandInServer]) -> None:
    for _ in range(2):
        with open_session(job(), print) as session, StageTasks(session) as tasks:
            tasks.ask(Stage.EVALUATE, lambda _: StageOutput({"evaluation": 1}))
    assert len(servers) == 1


def test_the_last_error_is_what_the_store_tells(servers: list[StandInServer]) -> None:
    tries: list[str] = []

    def fails(_: object) -> StageOutput:
        tries.append("")
        raise ServerError(f"died the {len(tries)}. time", remedy="see its log")

    with pytest.raises(ServerError), open_session(job(), print) as session, StageTasks(session) as tasks:
        tasks.ask(Stage.EVALUATE, fails)
    assert len(servers) == 2
    store = Store.open(settings().store_url)
    (stage,) = release_view(store, session.release).stages
    store.close()
    assert (stage.state, stage.error) == ("failed", "died the 2. time\n  -> see its log")


# How long it may take


def test_a_stage_that_is_ended_says_its_limit_and_what_to_change(servers: list[StandInServer]) -> None:
    def takes_too_long(_: object) -> StageOutput:
        # As Prefect ends it.
        raise asyncio.CancelledError

    with pytest.raises(StageTimeoutError), open_session(job(), print) as session, StageTasks(session) as tasks:
        tasks.ask(Stage.CANARY, takes_too_long)
    assert [server.stopped for server in servers] == [True]
    store = Store.open(settings().store_url)
    (stage,) = release_view(store, session.release).stages
    store.close()
    assert stage.error is not None
    assert f"the stage canary of {CELL} was ended: it took longer than 4 hours" in stage.error
    assert "timeouts: {canary: HOURS}" in stage.error


def test_the_alarm_comes_again_until_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    rang: list[float] = []

    def alarm(*_: object) -> None:
        rang.append(time.monotonic())
        if len(rang) > 1:
            raise asyncio.CancelledError

    def deaf() -> None:
        # The first alarm is lost, as where an event loop takes it for its own.
        time.sleep(10)

    monkeypatch.setattr("flows.tasks.ALARM_AGAIN_S", 0.05)
    before = signal.signal(signal.SIGALRM, alarm)
    timer = signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(StageTimeoutError, match="too long"):
            Limit(0.05, "too long", "wait").within(deaf)
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)
    assert len(rang) == 2


def test_an_error_in_time_is_what_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        Limit(3600, "too long", "wait").within(lambda: 1 / 0)


# What it tells


def test_why_each_stage_runs_and_what_failed_stand_in_the_report() -> None:
    def fail() -> StageOutput:
        raise ServerError("the server | died", remedy="see its log")

    with open_session(job(), print) as session:
        assert session.reasons == dict.fromkeys(Stage, "run (first release)")
        session.run.stage(Stage.BUILD, lambda: StageOutput({}))
    with pytest.raises(ServerError), open_session(job(), print) as session:
        session.run.stage(Stage.CANARY, fail)
    assert session.reasons[Stage.BUILD] == "reuse (from release 1)"
    report = release_report(session.release, settings(), session.reasons)
    assert "| Stage | State | Time | From | Why |" in report
    assert "| reuse (from release 1) |" in report
    assert "| canary | failed |" in report
    assert "| evaluate | not reached |  |  | run (" in report
    assert "The stage canary failed:\n\n```text\nthe server | died\n  -> see its log\n```" in report
    with open_session(job(), print) as session:
        assert session.reasons[Stage.CANARY] == "run (failed in release 1: the server | died)"
    with open_session(job(salt="a run"), print) as session:
        assert session.reasons[Stage.BUILD] == "run (asked to run everything again)"


def test_logs_that_lie_on_this_host_are_named() -> None:
    host = settings()
    with open_session(job(), print) as session:
        older, newest = (host.work_path / "logs" / f"{CELL}-llama_cpp-{day}T000000.log" for day in (20260101, 20260102))
        other = host.work_path / "logs" / f"{CELL}-vllm-20260103T000000.log"
        answers = host.work_path / "answers" / session.run.key(Stage.EVALUATE)[:16]
        for path in (older, newest, other):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("log")
        answers.mkdir(parents=True)
        session.run.stage(Stage.EVALUATE, lambda: StageOutput({}))
    report = release_report(session.release, host)
    assert f"- log of the server: `{newest}`" in report
    assert f"- answers so far (evaluate): `{answers}`" in report
    assert str(other) not in report


def test_a_release_that_was_not_to_be_published_is_complete_without(home: Path) -> None:
    unpublished = job(publish=False)
    with open_session(unpublished, print) as session:
        session.run.stage(Stage.PUBLISH, lambda: StageOutput({"published": False}))
    card = settings().output_path / CELL / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text("card")
    assert finished_release(unpublished, settings()) == session.release
    assert finished_release(job(), settings()) is None
    assert not (home / "output" / "hub").exists()
