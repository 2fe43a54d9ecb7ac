"""The flow `release` in a real Prefect: tries, time limits, names, and what is shown. The model is a stand-in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact, FlowRun
from prefect.exceptions import ParameterTypeError
from prefect.runtime import flow_run

from evaluation import baseline as baselines
from flagrelease.errors import BaselineError, HarnessError, PreflightError, ServerError, StageTimeoutError
from flagrelease.pipeline import StageOutput
from flagrelease.records import Stage
from flagrelease.settings import settings
from flagrelease.store import Store
from flagrelease.store.queries import release_view
from flows import serving, stages, tasks, tiers
from flows.job import make_job
from flows.local_server import prefect_server
from flows.release import release
from tests.conftest import ROOT
from tests.unit.evaluations import evaluation, provenance
from tests.unit.test_release_flow import StandInServer

CELL = "smollm2-cpu"
pytestmark = pytest.mark.needs("llama_cpp")


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncPrefectClient]:
    """A Prefect server and a client for it."""
    with prefect_server(tmp_path_factory.mktemp("prefect"), print), get_client(sync_client=True) as client:
        yield client


class Host:
    """A host on which nothing is asked; `fail` is what the evaluation raises, one after the other."""

    def __init__(self) -> None:
        self.servers: list[StandInServer] = []
        self.fail: list[Exception] = []
        self.built = self.evaluated = 0

    @contextmanager
    def start_server(self, *_: object, **__: object) -> Iterator[StandInServer]:
        self.servers.append(StandInServer())
        try:
            yield self.servers[-1]
        finally:
            self.servers[-1].stopped = True

    def build(self, _: object) -> StageOutput:
        self.built += 1
        return StageOutput({})

    def evaluate(self, session: Any, server: object, progress: Any) -> StageOutput:
        assert server is self.servers[-1]
        self.evaluated += 1
        for answered in range(101):
            progress("addition", answered, 200)
        if self.fail:
            raise self.fail.pop(0)
        return StageOutput({"evaluation": stages.nothing_asked(session)})


@pytest.fixture
def host(prefect: SyncPrefectClient, home: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    """A host with an empty place for state, and no pauses."""
    assert home.exists()
    assert prefect.api_healthcheck() is None
    stand_in = Host()
    monkeypatch.setattr(serving, "start_server", stand_in.start_server)
    monkeypatch.setattr(stages, "build", stand_in.build)
    monkeypatch.setattr(stages, "evaluate_served", stand_in.evaluate)
    monkeypatch.setattr(tiers, "canary", lambda *_: StageOutput({"canary": None, "note": None}))
    monkeypatch.setattr(tiers, "more_is_wanted", lambda *_: False)
    monkeypatch.setattr(tasks, "PAUSES_S", [0.0, 0.0])
    return stand_in


def newest(prefect: SyncPrefectClient) -> FlowRun:
    return max(prefect.read_flow_runs(), key=lambda run: run.start_time or run.created)  # type: ignore[return-value,arg-type]


def artifact(prefect: SyncPrefectClient, key: str) -> Artifact:
    found = prefect.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return max(found, key=lambda one: one.created)  # type: ignore[return-value,arg-type]


def test_a_fault_that_passes_is_not_seen_in_the_end(prefect: SyncPrefectClient, host: Host) -> None:
    host.fail = [ServerError("the server died", remedy="look"), ConnectionResetError("reset by peer")]
    number = release(CELL, publish=False, repeats=2)
    assert host.evaluated == 3
    # The server that died was replaced; the connection that broke says nothing of the server.
    assert [server.stopped for server in host.servers] == [True, True]
    assert newest(prefect).name == f"release {CELL} (repeats 2, not published)"
    store = Store.open(settings().store_url)
    view = release_view(store, number)
    store.close()
    assert view.state == "completed"
    assert {stage.error for stage in view.stages} == {None}
    assert view.publications == []
    shown = str(artifact(prefect, f"release-{CELL}").data)
    assert "| evaluate | completed |" in shown
    assert "| run (first release) |" in shown
    # The engine can run three of the suite.
    progress = artifact(prefect, f"evaluate-{CELL}")
    assert float(str(progress.data)) == pytest.approx(100 * 0.5 / 3)
    assert str(progress.description).endswith("100 of 200 answers (1 of 3 benchmarks)")


def test_what_does_not_pass_fails_at_once_and_is_shown(prefect: SyncPrefectClient, host: Host) -> None:
    host.fail = [HarnessError("there are no questions", remedy="get them")]
    with pytest.raises(HarnessError):
        release(CELL)
    assert host.evaluated == 1
    assert [server.stopped for server in host.servers] == [True]
    shown = str(artifact(prefect, f"release-{CELL}").data)
    assert "| evaluate | failed |" in shown
    assert "there are no questions\n  -> get them" in shown
    assert newest(prefect).name == f"release {CELL}"


def test_what_is_asked_wrongly_is_not_begun(prefect: SyncPrefectClient, host: Host) -> None:
    with pytest.raises(ParameterTypeError, match="greater than or equal to 1"):
        release(CELL, repeats=0)
    with pytest.raises(ParameterTypeError, match="pattern"):
        release(CELL, revision="a b")
    with pytest.raises(PreflightError, match="has no revisions"):
        release(CELL, revision="v2")
    with pytest.raises(Exception, match="no suite"):
        release(CELL, suite="nothing")
    assert "was not begun" in str(artifact(prefect, f"release-{CELL}").data)
    assert host.built == 0


def test_another_revision_of_the_weights_is_compared_with_its_own_baseline_and_said(
    prefect: SyncPrefectClient, host: Host, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text())
    model = matrix["models"]["smollm2"]
    del model["weights"]
    model["source"]["local_dir"] = str(home / "model")
    path = home / "matrix.yaml"
    monkeypatch.setenv("FLAGRELEASE_MATRIX", str(path))
    path.write_text(yaml.safe_dump(matrix, allow_unicode=True))
    settings.cache_clear()
    for revision in ("v1", "v2"):
        folder = home / f"model@{revision}"
        folder.mkdir()
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (folder / name).write_text(json.dumps({"of": revision}))
    with pytest.raises(BaselineError, match="nothing to be compared with"):
        release(CELL, revision="v2", publish=False)
    assert host.built == 0
    with closing(Store.open(settings().store_url)) as store:
        for revision in ("v1", "v2"):
            weights = make_job(CELL, None, settings(), revision=revision).cell.model.source.sha256 or ""
            about = provenance().model_copy(update={"weights_sha256": weights})
            measured = evaluation([]).model_copy(update={"provenance": about})
            model["reference"].setdefault("revisions", {})[revision] = baselines.keep(measured, store, None)
    path.write_text(yaml.safe_dump(matrix, allow_unicode=True))
    first = release(CELL, revision="v1", publish=False)
    second = release(CELL, revision="v2", publish=False)
    assert first != second
    # Nothing of the one is taken for the other.
    assert (host.built, host.evaluated) == (2, 2)
    assert newest(prefect).name == f"release {CELL} (revision v2, not published)"
    with closing(Store.open(settings().store_url)) as store:
        gate = release_view(store, second).gate
    assert gate is not None
    assert gate.baseline_id == model["reference"]["revisions"]["v2"]
    assert {check.name: check.passed for check in gate.hygiene}["weights"]
    text = (settings().output_path / CELL / "README.md").read_text()
    assert "| Weights revision | not noted | `v2` |" in text
    assert f"flagrelease release {CELL} --revision v2\n" in text


def test_a_forced_run_reuses_nothing_and_goes_on_where_it_was_killed(
    prefect: SyncPrefectClient, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = release(CELL, publish=False)
    assert release(CELL, publish=False) == first
    assert (host.built, host.evaluated) == (1, 1)
    host.fail = [HarnessError("stopped", remedy="")]
    with pytest.raises(HarnessError):
        release(CELL, publish=False, force=True)
    assert (host.built, host.evaluated) == (2, 2)
    assert newest(prefect).name == f"release {CELL} (not published, forced)"
    # As where the same run is scheduled again.
    killed = str(newest(prefect).id)
    monkeypatch.setattr(flow_run, "id", killed, raising=False)
    assert release(CELL, publish=False, force=True) == first + 1
    assert (host.built, host.evaluated) == (2, 3)


TOO_LONG = """
import sys
from pathlib import Path
from flows import serving, stages, tasks, tiers
from flows.local_server import prefect_server
from flows.release import release
from tests.integration.test_release_flow import answers_nothing, hang

serving.start_server = answers_nothing
tiers.why_no_canary = lambda _: "not here"
stages.evaluate_served = hang
tasks.ALARM_AGAIN_S = 1
with prefect_server(Path(sys.argv[1]), print):
    release("smollm2-cpu")
"""
SECONDS = 3


def hang(session: Any, server: Any, progress: object) -> StageOutput:  # noqa: ARG001 - as the real one
    """Ask a server that takes the question and never answers, in threads as the canary does."""
    import httpx

    from evaluation.canary import _each

    def ask(_: int) -> int:
        return httpx.get(server.base_url, timeout=3600, trust_env=False).status_code

    _each(ask, range(8), 4, print, "asked")
    return StageOutput({})


@contextmanager
def answers_nothing(*_: object, **__: object) -> Iterator[StandInServer]:
    """A server that accepts connections and then says nothing; it cuts them when it is stopped."""
    import socket

    server = StandInServer()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server.base_url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        yield server
    print("the server was stopped", flush=True)


def test_a_stage_that_hangs_is_ended_and_its_server_with_it(home: Path) -> None:
    matrix = home / "matrix.yaml"
    matrix.write_text((ROOT / "matrix.yaml").read_text() + f"\ntimeouts: {{evaluate: {SECONDS / 3600}}}\n")
    # In a process of its own: pytest has its own use for the alarm.
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PREFECT_HOME": str(home / "prefect"),
        "FLAGRELEASE_MATRIX": str(matrix),
    }
    done = subprocess.run(
        [sys.executable, "-c", TOO_LONG, str(home / "server")], env=env, cwd=home, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the server was stopped" in done.stdout
    said = f"the stage evaluate of {CELL} was ended: it took longer than 0.05 minutes"
    assert said in done.stderr
    store = Store.open(settings().store_url)
    view = release_view(store, 1)
    store.close()
    failed = next(stage for stage in view.stages if stage.stage is Stage.EVALUATE)
    assert failed.state == "failed"
    assert said in str(failed.error)
    assert view.state == "failed"
    assert StageTimeoutError.__name__ in done.stderr
