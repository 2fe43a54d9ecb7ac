"""Asking for the approval of a publication in Prefect: the run is suspended, and goes on when somebody has decided.

A suspended run has neither a process nor a slot. When it is resumed it begins again, reuses the stages that the store
has, and goes on at `publish`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import SetStateStatus
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.flow_runs import suspend_flow_run
from prefect.settings import PREFECT_API_URL

from flagrelease.errors import ApprovalNeededError, DeployError, NoRepositoryError
from flagrelease.publish.interface import Plan, revision
from flagrelease.records import Stage
from flagrelease.store import approvals
from flagrelease.verdicts import GateResult
from flows import artifacts, stages
from flows.publication import Terms, terms_of
from flows.recover import states_of
from flows.report import verdict_table
from flows.session import Session
from flows.tasks import as_task

UI = "Prefect's UI"
RESUMED = "Resuming"
"""Prefect's name of the state of a run that somebody resumed."""
KEY_LENGTH = 32
LONGEST_DIFFERENCES = 20_000
"""Characters that are shown of what changes within texts."""
FENCE = "`````"
"""Longer than those in cards."""


def hold(session: Session, gate: GateResult) -> None:
    """Raise ApprovalNeededError where the release goes to hubs and nobody has approved it; it is asked for then."""
    rule = session.job.publication.of(gate.verdict)
    if not session.hubs or not session.job.publish or not rule.approval or rule.hubs == "never":
        return
    if session.run.finished(Stage.PUBLISH) is not None and session.published():
        return
    # A hub that does not answer is asked again, as in any stage.
    needed = as_task("approval", lambda: {"needed": _ask(session, gate)})["needed"]
    if needed:
        error = _terms(session, gate, needed).refusal
        if isinstance(error, ApprovalNeededError):
            raise error


def _ask(session: Session, gate: GateResult) -> str | None:
    """Revision of what is to be approved, once that was asked for; None: it may go on."""
    files = stages.files_to_publish(session)
    content = revision(files)
    terms = _terms(session, gate, content)
    if not isinstance(terms.refusal, ApprovalNeededError):
        return None
    run = _deployed_run()
    if run is not None and resumed(_states(run.id), content):
        decision = approvals.decide(session.store, session.release, content, "approve", who=UI, through="ui")
        session.log(f"publish: {decision}")
        return None
    repository = terms.repository(session.job.target)
    plans = [hub.plan(files, repository, visibility=terms.visibility) for hub in session.hubs]
    if terms.record:
        plans = [plan for plan in plans if not isinstance(plan.refusal, NoRepositoryError)]
    for plan in plans:
        # Nobody is asked to approve what would be refused.
        if plan.refusal:
            raise plan.refusal
    if not plans:
        return None
    approvals.ask(session.store, session.release, content, str(run.id) if run else None)
    key = artifacts.key("approval", session.job.cell.id)
    text = request(session.release, session.job.cell.id, gate, files["README.md"].decode(), plans)
    artifacts.markdown(key, f"Approval of {session.job.cell.id}", lambda: text)
    session.log(f"publish: waits for an approval: flagrelease approve {session.release}")
    return content


def _terms(session: Session, gate: GateResult, content: str) -> Terms:
    job = session.job
    return terms_of(
        session.store, job.publication, gate.verdict, release=session.release, cell=job.cell.id, content=content
    )


def request(release: int, cell: str, gate: GateResult, card: str, plans: Sequence[Plan]) -> str:
    """What somebody who approves has to know, as Markdown."""
    return "\n".join(
        [
            f"# Release {release} of {cell} waits for an approval",
            "",
            "Approve it, or refuse it with a reason:",
            "",
            "```sh",
            f"flagrelease approve {release}",
            f'flagrelease approve {release} --reject "REASON"',
            "```",
            "",
            "Resuming the run in this UI approves it, too.",
            "",
            "## Verdict",
            "",
            verdict_table(gate),
            "",
            "## What would change",
            *_changes(plans),
            "",
            "## Card",
            "",
            f"{FENCE}markdown",
            card.rstrip(),
            FENCE,
        ]
    )


def _changes(plans: Sequence[Plan]) -> Iterator[str]:
    for plan in plans:
        yield from ("", f"`{plan.target}` ({plan.publisher}):", "", f"{FENCE}diff", *plan.lines())
        shown = plan.differences[:LONGEST_DIFFERENCES]
        yield from (*shown.splitlines(), FENCE)
        if shown != plan.differences:
            yield f"{len(plan.differences) - len(shown):,} more characters: `flagrelease publish release --dry-run`"


def suspend(error: ApprovalNeededError) -> None:
    """Suspend the run that waits for an approval, which ends this process' part in it; does nothing in a terminal.

    A run without a deployment cannot be started again by Prefect.
    """
    run = _deployed_run()
    if run is not None:
        before = sum(state.is_paused() for state in _states(run.id))
        # With the same key Prefect would not suspend it again.
        suspend_flow_run(key=f"{error.content[:KEY_LENGTH]}-{before}")


def resumed(states: Sequence[State], content: str) -> bool:
    """Whether somebody resumed a run with these states, in order, after it was suspended for just this content.

    One that was cancelled, or crashed, and then started again was not.
    """
    return any(
        before.is_paused()
        and (before.state_details.pause_key or "").startswith(content[:KEY_LENGTH])
        and after.name == RESUMED
        for before, after in pairwise(states)
    )


def resume(flow_runs: Sequence[str], release: int, cell: str) -> str:
    """Let the runs that are suspended go on; what was done, in words. Raises DeployError where Prefect cannot do it."""
    again = f"what was decided is kept. Name the server in PREFECT_API_URL, then: flagrelease approve {release}"
    if not PREFECT_API_URL.value():
        raise DeployError(f"a run of release {release} is suspended, and no Prefect server is named", remedy=again)
    try:
        with get_client(sync_client=True) as client:
            names = [name for run in flow_runs if (name := _resume(client, UUID(run)))]
    except (httpx.HTTPError, PrefectException, RuntimeError) as error:
        said = f"the run of release {release} cannot be resumed at {PREFECT_API_URL.value()}: {error}"
        raise DeployError(said, remedy=again) from error
    if not names:
        return f"no run of it is suspended any more; to publish it: flagrelease release {cell}"
    return f"its run goes on: {', '.join(names)}"


def _resume(client: SyncPrefectClient, identifier: UUID) -> str | None:
    """Name of the run, if it was suspended and goes on now."""
    try:
        run = client.read_flow_run(identifier)
    except ObjectNotFound:
        return None
    if run.state is None or not run.state.is_paused():
        return None
    answer = client.resume_flow_run(identifier)
    if answer.status != SetStateStatus.ACCEPT:
        raise RuntimeError(getattr(answer.details, "reason", answer.status))
    return run.name


def _deployed_run() -> FlowRun | None:
    """The run of a deployment that this is part of; None: in a terminal."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    return run if run is not None and run.deployment_id is not None and run.parent_task_run_id is None else None


def _states(run: UUID) -> list[State]:
    with get_client(sync_client=True) as client:
        return states_of(client, run)
