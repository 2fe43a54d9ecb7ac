"""Approvals: what is asked and decided, on which terms a release goes to hubs, and `flagrelease approve`."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Cancelled, Crashed, Pending, Running, Scheduled, Suspended

from flagrelease.errors import ApprovalNeededError, DeployError, PublishError, UnknownNameError
from flagrelease.publication_policy import PublicationPolicy
from flagrelease.records import Publication
from flagrelease.settings import settings
from flagrelease.store import Store, approvals
from flagrelease.store.queries import release_view
from flagrelease.verdicts import Verdict
from flows import approval, publication, sweep_runs
from flows.publication import terms_of
from flows.report import release_report
from tests.unit.command_line import Run

CELL = "qwen3-metax"
A, B = "a" * 64, "b" * 64
NEEDED = PublicationPolicy.model_validate({"CONSISTENT": {"approval": True}, "REGRESSED": {"hubs": "never"}})


@pytest.fixture
def store(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """With release 1 of the cell."""
    assert home.exists()
    monkeypatch.setattr(getpass, "getuser", lambda: "alice")
    with closing(Store.open(settings().store_url)) as opened:
        opened.begin_release(cell=CELL, key="1", engine="e", snapshot={}, code_version="0")
        yield opened


@pytest.fixture
def flagrelease(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(monkeypatch, capsys)


def decide(store: Store, kind: approvals.Kind, content: str = A, reason: str | None = None) -> approvals.Decision:
    return approvals.decide(store, 1, content, kind, who="bob", through="command", reason=reason)


# The store


def test_what_was_asked_last_is_what_is_decided(store: Store) -> None:
    with pytest.raises(UnknownNameError, match="no approval was asked for `qwen3-metax`"):
        approvals.asked(store, CELL)
    approvals.ask(store, 1, A, "run")
    approvals.ask(store, 1, A, "run")
    assert approvals.asked(store, "1") == approvals.asked(store, CELL) == (1, CELL, A, ("run",))
    approvals.ask(store, 1, A, "another")
    assert approvals.asked(store, "1").flow_runs == ("run", "another")
    # A run that was suspended for another content must not go on with this one.
    approvals.ask(store, 1, B)
    assert approvals.asked(store, "1") == (1, CELL, B, ())
    second = store.begin_release(cell=CELL, key="2", engine="e", snapshot={}, code_version="0")
    approvals.ask(store, second, A)
    assert (approvals.asked(store, CELL).release, approvals.asked(store, "1").release) == (second, 1)
    assert release_view(store, 1).decisions == []


def test_a_decision_holds_for_its_content_only_and_the_last_one_counts(store: Store) -> None:
    decide(store, "approve")
    assert approvals.decision(store, 1, B) is None
    decide(store, "reject", reason="no")
    found = approvals.decision(store, 1, A)
    assert found is not None
    assert (found.kind, found.reason) == ("reject", "no")
    assert str(found) == f"rejected by bob on {found.at:%Y-%m-%d %H:%M} UTC: no"
    assert [each.kind for each in release_view(store, 1).decisions] == ["approve", "reject"]
    assert "- rejected by bob on" in release_report(1, settings())


# Terms


def terms(store: Store, policy: PublicationPolicy, verdict: Verdict, content: str = A) -> publication.Terms:
    return terms_of(store, policy, verdict, release=1, cell=CELL, content=content)


def test_what_needs_no_approval_goes_where_the_policy_says(store: Store) -> None:
    shipped = PublicationPolicy()
    assert terms(store, shipped, Verdict.CONSISTENT) == publication.Terms("public")
    assert terms(store, shipped, Verdict.INCONCLUSIVE) == publication.Terms("private")
    recorded = terms(store, shipped, Verdict.REGRESSED)
    assert recorded == publication.Terms("private", record=True)
    assert recorded.repository("FlagRelease/Some-Model") == "FlagRelease/Some-Model-record"
    assert "goes to no hub" in str(terms(store, shipped, Verdict.INVALID).refusal)


def test_an_approval_is_waited_for_and_holds_for_what_was_looked_at(store: Store) -> None:
    assert isinstance(terms(store, NEEDED, Verdict.CONSISTENT).refusal, ApprovalNeededError)
    decide(store, "approve")
    assert terms(store, NEEDED, Verdict.CONSISTENT) == publication.Terms("public")
    assert isinstance(terms(store, NEEDED, Verdict.CONSISTENT, B).refusal, ApprovalNeededError)
    decide(store, "reject", reason="a typo on the card")
    refusal = terms(store, NEEDED, Verdict.CONSISTENT).refusal
    assert isinstance(refusal, PublishError)
    assert "rejected by bob" in refusal.message
    assert "a typo on the card" in refusal.message


def by_command(store: Store, verdict: Verdict, **asked: Any) -> str | None:
    terms = publication.by_command(store, NEEDED, release_view(store, 1), verdict, content=A, **asked)
    return terms.visibility


def test_a_command_asks_for_the_approval_too(store: Store) -> None:
    with pytest.raises(ApprovalNeededError, match="before somebody has approved it"):
        by_command(store, Verdict.CONSISTENT)
    only_looked = publication.by_command(
        store, NEEDED, release_view(store, 1), Verdict.CONSISTENT, content=B, record=False
    )
    assert isinstance(only_looked.refusal, ApprovalNeededError)
    assert approvals.asked(store, "1") == (1, CELL, A, ())
    decide(store, "approve")
    assert by_command(store, Verdict.CONSISTENT) == "public"
    assert by_command(store, Verdict.INCONCLUSIVE) == "private"


def test_who_overrides_the_policy_is_kept_with_the_reason(store: Store) -> None:
    with pytest.raises(PublishError, match="goes to no hub, its verdict is REGRESSED") as no:
        by_command(store, Verdict.REGRESSED)
    assert 'flagrelease publish release 1 --override "REASON"' in no.value.remedy
    assert by_command(store, Verdict.REGRESSED, override=" the paper\nneeds it ") is None
    (found,) = release_view(store, 1).decisions
    assert (found.kind, found.who, found.reason) == ("override", "alice", "the paper needs it")
    # It holds, as what was published must not be refused when it is looked at again.
    assert by_command(store, Verdict.REGRESSED) is None


def test_what_is_invalid_or_without_a_reason_is_not_overridden(store: Store) -> None:
    with pytest.raises(PublishError, match="its verdict is INVALID") as no:
        by_command(store, Verdict.INVALID, override="because")
    assert "override" not in no.value.remedy
    with pytest.raises(PublishError, match="needs a reason"):
        by_command(store, Verdict.CONSISTENT, override="  ")
    assert release_view(store, 1).decisions == []


def test_a_user_without_a_name_is_known_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert publication.user().startswith("uid ")


# The command


def test_approve_says_who_and_the_second_time_that_it_is_so(store: Store, flagrelease: Run) -> None:
    assert flagrelease("approve", CELL) == UnknownNameError.exit_code
    assert "no approval was asked for" in flagrelease.err
    approvals.ask(store, 1, A)
    assert flagrelease("approve", CELL) == 0
    assert flagrelease.out.startswith(f"release 1 of {CELL} is approved by alice on ")
    assert "to publish it: flagrelease publish release 1" in flagrelease.out
    assert flagrelease("approve", 1) == 0
    assert flagrelease.out.splitlines()[0].endswith(" already")
    assert len(release_view(store, 1).decisions) == 1
    assert flagrelease("show", 1, "--json") == 0
    assert '"who": "alice"' in flagrelease.out


def test_a_rejection_needs_a_reason_and_comes_before_the_publication(store: Store, flagrelease: Run) -> None:
    approvals.ask(store, 1, A)
    assert flagrelease("approve", 1, "--reject", " ") == PublishError.exit_code
    assert "needs a reason" in flagrelease.err
    assert flagrelease("approve", 1, "--reject", "a typo") == 0
    assert flagrelease.out.strip().endswith("UTC: a typo")
    assert flagrelease("approve", 1) == 0
    store.record_publication(1, Publication(publisher="huggingface", target="o/n", revision=A, files=[]))
    assert flagrelease("approve", 1, "--reject", "too late") == PublishError.exit_code
    assert "was published already: o/n" in flagrelease.err
    assert [each.kind for each in release_view(store, 1).decisions] == ["reject", "approve"]


def test_what_was_decided_is_kept_where_no_prefect_is_named(
    store: Store, flagrelease: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approval, "PREFECT_API_URL", type("Unset", (), {"value": staticmethod(lambda: None)}))
    approvals.ask(store, 1, A, "9e2e6f2e-6f6e-4c5e-8a3e-1f1f1f1f1f1f")
    for said in ("is approved by alice", "already"):
        assert flagrelease("approve", 1) == DeployError.exit_code
        assert said in flagrelease.out
        assert "PREFECT_API_URL, then: flagrelease approve 1" in flagrelease.err


# The run in Prefect


def history(*states: State[Any]) -> list[State[Any]]:
    return [Pending(), Running(), *states]


def test_only_a_run_that_was_resumed_for_the_content_was_approved_in_the_ui() -> None:
    key = f"{A[:32]}-0"
    resuming: State[Any] = Scheduled(name="Resuming")
    assert approval.resumed(history(Suspended(pause_key=key), resuming, Pending(), Running()), A)
    assert not approval.resumed(history(Suspended(pause_key=key), resuming), B)
    assert not approval.resumed(history(Suspended(pause_key=key), Cancelled(), Scheduled()), A)
    assert not approval.resumed(history(Suspended(pause_key=key), Crashed(), Scheduled(name="Resuming")), A)
    assert not approval.resumed(history(Suspended(pause_key=None), resuming), A)
    assert not approval.resumed(history(), A)


def test_a_sweep_does_not_wait_for_people() -> None:
    run = {"state_type": "PAUSED", "state": {"message": None}, "estimated_run_time": 5.0}
    assert sweep_runs._seen(run) == ("ok", 5.0, "")
