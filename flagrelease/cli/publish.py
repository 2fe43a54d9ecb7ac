"""`flagrelease publish`: a release to the hubs, by hand."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated, Literal

import typer


def publish(
    release: Annotated[str, typer.Argument(help="a release's number, or a cell's id: its newest completed release")],
    *,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would change, and send nothing")] = False,
    create: Annotated[
        Literal["public", "private"] | None, typer.Option(help="create the repository where there is none")
    ] = None,
    replace: Annotated[
        str | None, typer.Option(help="replace what others wrote, if it is in this state (a refusal names it)")
    ] = None,
) -> None:
    """Publish card and evidence of a release to the hubs of FLAGRELEASE_HUBS; a second time does nothing."""
    from flagrelease.errors import PublishError
    from flagrelease.evidence import EvidenceFolder
    from flagrelease.provenance.keys import signing_key
    from flagrelease.publish.hub_client import Creation
    from flagrelease.publish.hub_reading import front_matter
    from flagrelease.publish.interface import revision
    from flagrelease.settings import settings
    from flagrelease.store.queries import find_release, release_view
    from flows.hubs import hubs_of
    from flows.session import open_store
    from flows.stages import published_files

    host = settings()
    if not host.hubs:
        raise PublishError("this host publishes to no hub", remedy="""export FLAGRELEASE_HUBS='["huggingface"]'""")
    with closing(open_store(host)) as store:
        view = release_view(store, find_release(store, release, completed=True))
        if not view.publications or view.gate is None:
            raise PublishError(
                f"release {view.id} of {view.cell} was not let out: {view.gate.verdict if view.gate else view.state}",
                remedy=f"see why: flagrelease gate {view.id}",
            )
        target = view.publications[0].target
        files = published_files(
            store, EvidenceFolder(host.evidence_url), view.id, view.gate.baseline_id, signing_key(host.home_path)
        )
        if revision(files) != view.publications[0].revision:
            raise PublishError(
                f"what would be published of release {view.id} is not what was: "
                "its card is rendered in another way, or this host signs with another key",
                remedy=f"release it again: flagrelease release {view.cell}",
            )
        creation = (
            Creation(visibility=create, licence=str(front_matter(files["README.md"])["license"])) if create else None
        )
        refused = False
        for hub in hubs_of(host, lambda line: typer.echo(line, err=True), create=creation, replace=replace):
            if not dry_run:
                store.record_publication(view.id, hub.publish(files, target))
                typer.echo(f"{target} ({hub.name}) holds release {view.id}")
                continue
            plan = hub.plan(files, target)
            typer.echo(f"{target} ({hub.name}), release {view.id}:")
            for line in plan.lines():
                typer.echo(f"  {line}")
            typer.echo(plan.differences, nl=False)
            if plan.refusal:
                typer.echo(f"would be refused: {plan.refusal}", err=True)
                refused = True
    raise typer.Exit(PublishError.exit_code if refused else 0)
