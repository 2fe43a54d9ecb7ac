"""On which terms a release goes to the hubs: by the matrix's policy, and by what people decided about it."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flagrelease.errors import ApprovalNeededError, PublishError
from flagrelease.publication_policy import PublicationPolicy, Visibility
from flagrelease.publish.hub import HubPublisher
from flagrelease.store import Store, approvals
from flagrelease.store.queries import ReleaseView, release_view
from flagrelease.verdicts import Verdict
from flows.job import Job


class Terms(NamedTuple):
    """On which terms one content of a release goes to the hubs."""

    visibility: Visibility | None
    """That their repositories may have; None: any, as somebody overrode the policy."""
    refusal: PublishError | ApprovalNeededError | None = None
    """Why it does not go there, or not yet."""


def terms_of(
    store: Store, policy: PublicationPolicy, verdict: Verdict, *, release: int, cell: str, content: str
) -> Terms:
    """The terms for the content of a release with this revision."""
    decision, rule = approvals.decision(store, release, content), policy.of(verdict)
    if decision is not None and decision.kind == "override":
        return Terms(None)
    if rule.hubs == "never":
        return Terms(None, _never(release, cell, verdict))
    if decision is not None and decision.kind == "reject":
        refusal = PublishError(
            f"release {release} of {cell} is not published to hubs: {decision}",
            remedy=f"to have it published after all: flagrelease approve {release}",
        )
        return Terms(rule.hubs, refusal)
    if rule.approval and decision is None:
        needed = ApprovalNeededError(
            f"release {release} of {cell} ({verdict}) goes to no hub before somebody has approved it",
            remedy=f"look at it: flagrelease publish release {release} --dry-run; then: flagrelease approve {release} "
            '(or --reject "REASON"), and the same command again',
            content=content,
        )
        return Terms(rule.hubs, needed)
    return Terms(rule.hubs)


def by_command(
    store: Store,
    policy: PublicationPolicy,
    view: ReleaseView,
    verdict: Verdict,
    *,
    content: str,
    override: str | None = None,
    record: bool = True,
) -> Terms:
    """The terms for a content of a release that somebody publishes by a command.

    `override`: why it is published in spite of the policy; it is stored, with who says so. Raises PublishError where
    the policy keeps it back, and ApprovalNeededError, which asks for the approval, where it has to be approved first.
    Without `record` nothing is stored, and what would be raised stands in the terms.
    """
    if override is None:
        terms = terms_of(store, policy, verdict, release=view.id, cell=view.cell, content=content)
    elif not override.strip():
        raise PublishError("publishing in spite of the policy needs a reason", remedy='--override "REASON"')
    else:
        terms = Terms(None, _never(view.id, view.cell, verdict) if verdict is Verdict.INVALID else None)
    if not record:
        return terms
    if isinstance(terms.refusal, ApprovalNeededError):
        approvals.ask(store, view.id, content)
    if terms.refusal is not None:
        raise terms.refusal
    if override is not None:
        reason = " ".join(override.split())
        approvals.decide(store, view.id, content, "override", who=user(), through="command", reason=reason)
    return terms


def awaited(
    store: Store, job: Job, hubs: Sequence[HubPublisher], release: int, done: Mapping[str, Any]
) -> Sequence[HubPublisher]:
    """Those of the hubs that a release whose stage `publish` ended with the output `done` should stand at."""
    if not hubs or not job.publish:
        return ()
    gate = release_view(store, release).gate
    if gate is None:
        return hubs
    content = str(done.get("revision"))
    terms = terms_of(store, job.publication, gate.verdict, release=release, cell=job.cell.id, content=content)
    rejected = isinstance(terms.refusal, PublishError)
    return () if rejected or job.publication.of(gate.verdict).hubs == "never" else hubs


def user() -> str:
    """Who runs this process, by the system's name."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        # In a container whose user has no name.
        return f"uid {os.getuid()}"


def _never(release: int, cell: str, verdict: Verdict) -> PublishError:
    remedy = f"see why: flagrelease gate {release}"
    if verdict is not Verdict.INVALID:
        remedy += (
            "; to publish it all the same, with a reason that is kept: "
            f'flagrelease publish release {release} --override "REASON"'
        )
    return PublishError(f"release {release} of {cell} goes to no hub, its verdict is {verdict}", remedy=remedy)
