"""A publication that somebody has to approve: a real Prefect, the hub's real library; model and hub are stand-ins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.states import Cancelled, Crashed, Scheduled

from flagrelease.errors import ApprovalNeededError, PublishError
from flagrelease.pipeline import StageOutput
from flagrelease.settings import settings
from flagrelease.store import Store
from flagrelease.store.queries import ReleaseView, release_view
from flagrelease.verdicts import GateResult, Verdict
from flows import artifacts, stages
from flows.deployments.automations import UNHEARD
from flows.deployments.wanted import MANAGED
from flows.job import make_job, required_baseline
from flows.local_server import prefect_server
from flows.recover import put_back
from flows.release import release
from flows.session import finished_release
from tests.conftest import ROOT
from tests.hub.hosts import TOKENS
from tests.hub.stand_in_huggingface import StandInHuggingFace
from tests.integration.test_release_flow import CELL, Host, artifact, host, newest  # noqa: F401 - a fixture among them
from tests.unit.command_line import Run

pytestmark = pytest.mark.needs("llama_cpp")
TARGET = "FlagRelease/SmolLM2-135M-Instruct-cpu-native"
APPROVED, PRIVATE = "{hubs: public, approval: true}", "{hubs: private}"


@pytest.fixture(scope="module")
def prefect(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SyncPrefectClient]:
    """A Prefect server and a client for it."""
    with prefect_server(tmp_path_factory.mktemp("prefect"), print), get_client(sync_client=True) as client:
        yield client


@dataclass
class House:
    """A host that publishes to a stand-in hub, and a deployment of the release in a real Prefect."""

    client: SyncPrefectClient
    hub: StandInHuggingFace
    home: Path
    monkeypatch: pytest.MonkeyPatch
    stages: Host

    def policy(self, **rules: str) -> None:
        """Let the matrix say what goes to hubs."""
        lines = "".join(f"  {verdict}: {rule}\n" for verdict, rule in rules.items())
        path = self.home / "matrix.yaml"
        path.write_text((ROOT / "matrix.yaml").read_text() + f"\npublication:\n{lines}")
        self.monkeypatch.setenv("FLAGRELEASE_MATRIX", str(path))
        settings.cache_clear()

    def verdict(self, verdict: Verdict) -> None:
        """What the gate says from now on."""

        def decide(session: Any, evaluation: int, _: object) -> StageOutput:
            gate = GateResult(
                verdict=verdict,
                rule="stand-in",
                baseline_id=required_baseline(session.job.cell),
                hygiene=[],
                benchmarks=[],
                pooled=None,
                reasons=["said by a stand-in"],
            )
            return StageOutput({"verdict": gate.model_dump(mode="json"), "evaluation": evaluation})

        self.monkeypatch.setattr(stages, "decide", decide)

    def started(self) -> UUID:
        """A run of the deployment, that no process has taken yet."""
        deployment = self.client.create_deployment(self.client.create_flow(release), name="approved", tags=[MANAGED])
        return self.client.create_flow_run_from_deployment(deployment, parameters={"cell": CELL}).id

    def work(self, run: UUID) -> int | None:
        """What a worker's process does with a run: its release, or None where it was suspended."""
        try:
            return run_flow(release, flow_run=self.client.read_flow_run(run))  # type: ignore[return-value]
        except Pause:
            return None

    def state(self, run: UUID) -> str:
        found: FlowRun = self.client.read_flow_run(run)
        assert found.state is not None
        return found.state.name or ""

    def commits(self) -> int:
        """Commits that FlagRelease made."""
        return sum(title.startswith("FlagRelease release") for title in self.hub.store.titles(TARGET))

    def complete(self) -> int | None:
        """The release that the same command would find complete, and so not run again."""
        return finished_release(make_job(CELL, None, settings()), settings())

    def view(self, number: int) -> ReleaseView:
        with closing(Store.open(settings().store_url)) as store:
            return release_view(store, number)


@pytest.fixture
def house(
    prefect: SyncPrefectClient,
    host: Host,  # noqa: F811
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[House]:
    (home / "hub").mkdir()
    hub = StandInHuggingFace(home / "hub", token=TOKENS["huggingface"], namespaces=("FlagRelease",))
    with hub.running():
        hub.store.create(TARGET, "public", {".gitattributes": b""})
        for name, value in {
            "HUBS": json.dumps(["huggingface"]),
            "HUGGINGFACE_ENDPOINT": hub.endpoint,
            "HUB_ENDPOINTS": json.dumps([hub.endpoint]),
            "HUGGINGFACE_TOKEN": TOKENS["huggingface"],
        }.items():
            monkeypatch.setenv(f"FLAGRELEASE_{name}", value)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setattr(artifacts.ShownProgress, "shown", lambda *_: nullcontext())
        # Nothing was measured, so the card lacks what its rules ask for.
        monkeypatch.setattr(stages, "_refuse_errors", lambda *_: None)
        made = House(prefect, hub, home, monkeypatch, host)
        made.verdict(Verdict.CONSISTENT)
        made.policy(CONSISTENT=APPROVED)
        yield made
    assert hub.unknown == []


@pytest.fixture
def flagrelease(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


def test_a_suspended_run_goes_on_when_it_is_approved_and_publishes_once(house: House, flagrelease: Run) -> None:
    run = house.started()
    assert house.work(run) is None
    assert house.state(run) == "Suspended"
    assert house.commits() == 0
    assert house.view(1).state == "waiting"
    text = str(artifact(house.client, f"approval-{CELL}").data)
    for words in ("flagrelease approve 1", "**CONSISTENT**", "+ README.md", TARGET, "# Introduction"):
        assert words in text, text
    assert flagrelease("approve", CELL) == 0
    assert f"release 1 of {CELL} is approved by " in flagrelease.out
    assert "its run goes on: release smollm2-cpu" in flagrelease.out
    assert house.state(run) == "Resuming"
    assert house.work(run) == 1
    assert (house.state(run), house.commits()) == ("Completed", 1)
    assert house.stages.built == house.stages.evaluated == 1
    view = house.view(1)
    assert view.state == "completed"
    assert [(decision.kind, decision.through) for decision in view.decisions] == [("approve", "command")]
    assert {publication.publisher for publication in view.publications} == {"folder", "huggingface"}
    assert flagrelease("approve", 1) == 0
    assert "is approved by" in flagrelease.out
    assert "already" in flagrelease.out
    assert flagrelease("show", 1) == 0
    assert "approved by" in flagrelease.out
    # What was published is not rejected any more.
    assert flagrelease("approve", 1, "--reject", "too late") == PublishError.exit_code
    assert house.complete() == 1


def test_a_rejected_publication_does_not_reach_the_hub(house: House, flagrelease: Run) -> None:
    run = house.started()
    assert house.work(run) is None
    assert flagrelease("approve", 1, "--reject", "the card says nonsense") == 0
    assert house.work(run) == 1
    assert (house.state(run), house.commits()) == ("Completed", 0)
    view = house.view(1)
    assert [publication.publisher for publication in view.publications] == ["folder"]
    assert str(view.decisions[0]).endswith("UTC: the card says nonsense")
    # That is the end of it, until somebody thinks better of it.
    assert house.complete() == 1
    assert flagrelease("approve", 1) == 0
    assert house.complete() is None
    assert release(CELL) == 1
    assert house.commits() == 1


def test_resuming_in_the_ui_approves_just_what_was_asked(house: House) -> None:
    run = house.started()
    assert house.work(run) is None
    # Ended and started again is not resumed.
    house.client.set_flow_run_state(run, Cancelled(), force=True)
    house.client.set_flow_run_state(run, Scheduled(), force=True)
    assert house.work(run) is None
    assert (house.state(run), house.commits()) == ("Suspended", 0)
    # Nor is one that was taken for dead, as it sends no heartbeats.
    house.client.set_flow_run_state(run, Crashed(message=f"{UNHEARD} for 90 s"), force=True)
    assert "it is suspended" in put_back(house.client, run, 0.1, print)
    assert house.state(run) == "Suspended"
    house.client.resume_flow_run(run)
    # Meanwhile the content became another: it is asked again.
    original = stages.published_files
    house.monkeypatch.setattr(stages, "published_files", lambda *given: original(*given) | {"evidence/new.json": b"{}"})
    assert house.work(run) is None
    assert house.commits() == 0
    assert house.view(1).decisions == []
    house.client.resume_flow_run(run)
    assert house.work(run) == 1
    assert house.commits() == 1
    (decision,) = house.view(1).decisions
    assert (decision.kind, decision.through, decision.who) == ("approve", "ui", "Prefect's UI")


def test_a_release_in_a_terminal_ends_and_names_the_next_step(house: House, flagrelease: Run) -> None:
    with pytest.raises(ApprovalNeededError) as raised:
        release(CELL)
    assert raised.value.exit_code == 32
    assert "flagrelease approve 1" in raised.value.remedy
    assert newest(house.client).state_name == "Failed"
    assert house.view(1).state == "waiting"
    assert flagrelease("show", CELL) == 0
    assert "waits: release 1 of smollm2-cpu (CONSISTENT) goes to no hub before somebody" in flagrelease.out
    assert flagrelease("publish", "release", 1, "--dry-run") == PublishError.exit_code
    assert "+ README.md" in flagrelease.out
    assert "would be refused: release 1 of smollm2-cpu (CONSISTENT)" in flagrelease.err
    assert flagrelease("approve", CELL) == 0
    assert release(CELL) == 1
    assert house.commits() == 1


def test_what_is_private_goes_into_a_public_repository_for_a_reason_only(house: House, flagrelease: Run) -> None:
    house.verdict(Verdict.INCONCLUSIVE)
    house.policy(INCONCLUSIVE=PRIVATE)
    with pytest.raises(PublishError, match="for private repositories only, and this one is public") as raised:
        release(CELL)
    assert 'flagrelease publish release 1 --override "REASON"' in raised.value.remedy
    assert flagrelease("publish", "release", 1) == PublishError.exit_code
    assert "for private repositories only" in flagrelease.err
    assert house.commits() == 0
    assert flagrelease("publish", "release", 1, "--override", "the paper needs it") == 0
    assert house.commits() == 1
    (decision,) = house.view(1).decisions
    assert (decision.kind, decision.reason) == ("override", "the paper needs it")
    # It stands: the release goes on with it.
    assert release(CELL) == 1
    assert house.commits() == 1


def test_a_loss_is_recorded_beside_the_card_where_there_is_a_repository_for_it(
    house: House, flagrelease: Run, caplog: pytest.LogCaptureFixture
) -> None:
    house.verdict(Verdict.REGRESSED)
    record = f"{TARGET}-record"
    # None is created unasked, and the release is complete without.
    assert release(CELL) == 1
    assert f"publish: not recorded: there is no repository {record} at " in caplog.text
    assert (house.commits(), house.view(1).publications, house.complete()) == (0, [], 1)
    assert flagrelease("publish", "release", 1) == PublishError.exit_code
    assert "flagrelease publish release 1 --create private" in flagrelease.err
    assert flagrelease("publish", "release", 1, "--create", "public") == PublishError.exit_code
    assert house.hub.store.names() == [TARGET]
    assert flagrelease("publish", "release", 1, "--create", "private") == 0
    assert house.hub.store.visibility[record] == "private"
    assert [(there.publisher, there.target) for there in house.view(1).publications] == [("huggingface", record)]
    assert house.complete() == 1
    # The next loss is recorded by the release itself.
    assert release(CELL, force=True) == 2
    assert set(house.hub.store.tags(record)) == {"v1", "v2"}
    assert [(there.publisher, there.target) for there in house.view(2).publications] == [("huggingface", record)]
    assert house.complete() == 1
    assert house.commits() == 0
    assert not (house.home / "output" / "hub").exists()


def test_a_record_waits_for_its_approval_only_where_there_is_a_repository_for_it(
    house: House, flagrelease: Run
) -> None:
    house.verdict(Verdict.REGRESSED)
    house.policy(REGRESSED="{approval: true}")
    assert release(CELL) == 1
    record = f"{TARGET}-record"
    house.hub.store.create(record, "private", {".gitattributes": b""})
    assert flagrelease("publish", "release", 1) == ApprovalNeededError.exit_code
    assert flagrelease("approve", 1) == 0
    assert flagrelease("publish", "release", 1) == 0
    assert house.hub.store.files(record)["README.md"]
    # The last good card is not taken back in its stead.
    assert flagrelease("publish", "rollback", CELL) == PublishError.exit_code
    assert f"no release of {CELL} was published" in flagrelease.err


def test_a_loss_replaces_the_card_where_that_is_asked_for(house: House) -> None:
    house.verdict(Verdict.REGRESSED)
    house.hub.store.visibility[TARGET] = "private"
    assert release(CELL) == 1
    assert (house.commits(), house.view(1).publications) == (0, [])
    house.policy(REGRESSED=PRIVATE)
    assert release(CELL) == 1
    assert house.commits() == 1
    assert [publication.publisher for publication in house.view(1).publications] == ["huggingface"]
    assert not (house.home / "output" / "hub").exists()
    assert house.complete() == 1
