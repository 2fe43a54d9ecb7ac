"""`flagrelease approve`: what waits for somebody's word goes to the hubs, or does not."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer


def approve(
    release: Annotated[str, typer.Argument(help="a release's number, or a cell's id: what was asked for last")],
    *,
    reject: Annotated[str | None, typer.Option(help="refuse it, for this reason")] = None,
) -> None:
    """Approve that a release goes to the hubs, or reject it; a run that is suspended for it goes on.

    It holds for exactly the content that was asked about: where the card changes, it is asked again.
    """
    from flagrelease.errors import PublishError
    from flagrelease.settings import settings
    from flagrelease.store import approvals
    from flagrelease.store.queries import release_view
    from flows.publication import user
    from flows.session import open_store

    kind: approvals.Kind = "approve" if reject is None else "reject"
    reason = " ".join(reject.split()) if reject is not None else None
    if reason == "":
        raise PublishError("a rejection needs a reason", remedy='--reject "REASON"')
    with closing(open_store(settings())) as store:
        asked = approvals.asked(store, release)
        known = approvals.decision(store, asked.release, asked.revision)
        about = f"release {asked.release} of {asked.cell}"
        if known is not None and known.kind == kind:
            typer.echo(f"{about} is {known} already")
        else:
            view = release_view(store, asked.release)
            places = [p.target for p in view.publications if p.publisher != "folder" and p.revision == asked.revision]
            if kind == "reject" and places:
                raise PublishError(
                    f"{about} was published already: {', '.join(places)}",
                    remedy="to take it back: flagrelease publish rollback --help",
                )
            decided = approvals.decide(
                store, asked.release, asked.revision, kind, who=user(), through="command", reason=reason
            )
            typer.echo(f"{about} is {decided}")
    if not asked.flow_runs:
        if kind == "approve":
            typer.echo(f"to publish it: flagrelease publish release {asked.release}; or release the cell again")
        return
    # Prefect takes a second to import, and most of what is above needs none of it.
    from flows.approval import resume

    typer.echo(resume(asked.flow_runs, asked.release, asked.cell))
