"""On which terms a release goes to the hubs: by the matrix's policy, and by what people decided about it."""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from flagrelease.errors import ApprovalNeededError, PublishError
from flagrelease.publication_policy import RECORD, PublicationPolicy, Visibility
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
    record: bool = False
    """Whether it goes into a repository beside the cell's, where there is one."""

    def repository(self, target: str) -> str:
        """Where it goes: `target` is the cell's repository."""
        return target + RECORD if self.record else target


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
        return Terms(rule.visibility, refusal)
    record = rule.hubs == "record"
    if rule.approval and decision is None:
        needed = ApprovalNeededError(
            f"release {release} of {cell} ({verdict}) goes to no hub before somebody has approved it",
            remedy=f"look at it: flagrelease publish release {release} --dry-run; then: flagrelease approve {release} "
            '(or --reject "REASON"), and the same command again',
            content=content,
        )
        return Terms(rule.visibility, needed, record)
    return Terms(rule.visibility, record=record)


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
) -> list[tuple[HubPublisher, str]]:
    """The hubs, and the repositories there, that a release should stand in.

    `done` is the output that its stage `publish` ended with.
    """
    if not hubs or not job.publish:
        return []
    view = release_view(store, release)
    if view.gate is None:
        return [(hub, job.target) for hub in hubs]
    content = str(done.get("revision"))
    terms = terms_of(store, job.publication, view.gate.verdict, release=release, cell=job.cell.id, content=content)
    if isinstance(terms.refusal, PublishError) or job.publication.of(view.gate.verdict).hubs == "never":
        return []
    there = [(hub, terms.repository(job.target)) for hub in hubs]
    if not terms.record:
        return there
    # Where there was no repository for it, it is complete without.
    recorded = {(publication.publisher, publication.target) for publication in view.publications}
    return [(hub, target) for hub, target in there if (hub.name, target) in recorded]


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
