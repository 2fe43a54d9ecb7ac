"""`flagrelease publish`: a release to the hubs by hand, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from flagrelease.publish.folder import FolderPublisher
    from flagrelease.publish.hub import HubPublisher
    from flagrelease.publish.interface import Plan
    from flagrelease.settings import Settings
    from flagrelease.store import Store
    from flagrelease.store.queries import ReleaseView

app = typer.Typer(no_args_is_help=True, help="Releases on hubs: publish one by hand, or take it back.")

DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would change, and send nothing")]
Replace = Annotated[
    str | None, typer.Option(help="replace what others wrote, if it is in this state (a refusal names it)")
]


@app.command()
def release(
    release: Annotated[str, typer.Argument(help="a release's number, or a cell's id: its newest completed release")],
    *,
    dry_run: DryRun = False,
    create: Annotated[
        Literal["public", "private"] | None, typer.Option(help="create the repository where there is none")
    ] = None,
    replace: Replace = None,
    override: Annotated[
        str | None, typer.Option(help="publish in spite of the matrix's policy, for this reason", metavar="REASON")
    ] = None,
) -> None:
    """Publish card and evidence of a release to the hubs of FLAGRELEASE_HUBS; a second time does nothing.

    A release that was taken back is published again where its number is given.
    """
    from flagrelease.card.build import release_snapshot
    from flagrelease.card.names import card_names
    from flagrelease.errors import PublishError
    from flagrelease.loading import load_matrix
    from flagrelease.publish.hub_client import Creation
    from flagrelease.publish.hub_reading import front_matter
    from flagrelease.publish.interface import revision
    from flagrelease.settings import settings
    from flagrelease.store.publications import Place, taken_back
    from flagrelease.store.queries import find_release, release_view
    from flows.hubs import hubs_of
    from flows.publication import by_command
    from flows.session import open_store, publisher_of

    host = settings()
    with closing(open_store(host)) as store:
        # One that ended as its repository is not there yet is not completed, and named by its number.
        view = release_view(store, find_release(store, release, completed=not release.isdecimal()))
        if view.gate is None:
            raise PublishError(
                f"release {view.id} of {view.cell} has no verdict: it is {view.state}",
                remedy=f"see why: flagrelease show {view.id}",
            )
        target = card_names(release_snapshot(store, view.id).cell).repository
        older = {place: to for (number, place), to in taken_back(store).items() if number == view.id}
        if older and release != str(view.id):
            raise PublishError(
                f"release {view.id} of {view.cell} was taken back, and release {max(older.values())} put in its place",
                remedy=f"to publish it again all the same, name it: flagrelease publish release {view.id}",
            )
        files = _rendered(store, host, view)
        if view.publications and revision(files) != view.publications[0].revision:
            raise PublishError(
                f"what would be published of release {view.id} is not what was: "
                "its card is rendered in another way, or this host signs with another key",
                remedy=f"release it again: flagrelease release {view.cell}",
            )
        creation = (
            Creation(visibility=create, licence=str(front_matter(files["README.md"])["license"])) if create else None
        )
        folder = publisher_of(host)
        places: list[FolderPublisher | HubPublisher] = [folder] if Place(folder.name, target) in older else []
        places += hubs_of(host, _say, create=creation, replace=replace)
        policy = load_matrix(host.matrix_path).publication
        if not places:
            raise PublishError("this host publishes to no hub", remedy="""export FLAGRELEASE_HUBS='["huggingface"]'""")
        refused = False
        with nullcontext() if dry_run else _alone(host, view.cell):
            terms = by_command(
                store, policy, view, view.gate.verdict, content=revision(files), override=override, record=not dry_run
            )
            if terms.refusal:
                typer.echo(f"would be refused: {terms.refusal}", err=True)
                refused = True
            target = terms.repository(target)
            for place in places:
                if dry_run:
                    refused |= _show(place.plan(files, target, visibility=terms.visibility), view.id)
                    continue
                publication = place.publish(files, target, visibility=terms.visibility)
                store.record_publication(view.id, publication)
                typer.echo(f"{target} ({place.name}) holds release {view.id}")
    raise typer.Exit(PublishError.exit_code if refused else 0)


@app.command()
def rollback(
    release: Annotated[
        str, typer.Argument(help="a release's number, or a cell's id: its newest published release", metavar="CELL|N")
    ],
    *,
    to: Annotated[
        str | None,
        typer.Option(help="number of the release to put back; by default the one published before", metavar="RELEASE"),
    ] = None,
    dry_run: DryRun = False,
    replace: Replace = None,
) -> None:
    """Take a release back: put the files of an older one in its place, on each hub in one more commit.

    Nothing is removed from a hub's history. The same command again goes on where it stopped, or does nothing.
    """
    from flagrelease.errors import FlagReleaseError, PublishError
    from flagrelease.publish.interface import Publisher
    from flagrelease.publish.rollback import Source, files_of, plan_rollback
    from flagrelease.settings import settings
    from flagrelease.store.queries import release_view
    from flows.hubs import hubs_of
    from flows.session import open_store, publisher_of

    host = settings()
    with closing(open_store(host)) as store:
        what = plan_rollback(store, release, to, ["folder", *host.hubs])
        rendered: Source = cache(partial(_rendered, store, host, release_view(store, what.to)))
        hubs = hubs_of(host, _say, replace=replace, taken_back=what.over)
        history: dict[str, Source] = {hub.name: cache(partial(hub.released, what.target, what.to)) for hub in hubs}
        failed: FlagReleaseError | None = None
        refused = False
        with nullcontext() if dry_run else _alone(host, what.cell):
            places: list[Publisher] = [*hubs, publisher_of(host)]
            for place in places:
                if place.name not in what.wanted:
                    continue
                try:
                    own = [history[place.name]] if place.name in history else []
                    files = files_of(what.wanted[place.name], what.to, [*own, rendered, *history.values()])
                    plan = place.plan(files, what.target)
                    if dry_run:
                        refused |= _show(plan, what.to)
                        continue
                    store.record_publication(what.to, place.publish(files, what.target))
                except FlagReleaseError as error:
                    # A hub that does not answer keeps nobody from taking the release back at the others.
                    _say(f"{place.name}: {error.message}")
                    failed = failed or error
                    continue
                said = "held release {} already" if plan.nothing_to_do else "holds release {} again"
                typer.echo(f"{what.target} ({place.name}) {said.format(what.to)}")
    if failed:
        raise failed
    raise typer.Exit(PublishError.exit_code if refused else 0)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _rendered(store: Store, host: Settings, view: ReleaseView) -> Mapping[str, bytes]:
    """The files of a release's publication as this host makes them."""
    from flagrelease.errors import PublishError
    from flagrelease.evidence import EvidenceFolder
    from flagrelease.provenance.keys import signing_key
    from flows.stages import published_files

    if view.gate is None:
        raise PublishError(f"release {view.id} has no verdict", remedy=f"see why: flagrelease show {view.id}")
    key = signing_key(host.home_path)
    return published_files(store, EvidenceFolder(host.evidence_url), view.id, view.gate.baseline_id, key)


def _show(plan: Plan, release: int) -> bool:
    """Say what would change at a place; whether it would be refused."""
    typer.echo(f"{plan.target} ({plan.publisher}), release {release}:")
    for line in plan.lines():
        typer.echo(f"  {line}")
    typer.echo(plan.differences, nl=False)
    if plan.refusal:
        typer.echo(f"would be refused: {plan.refusal}", err=True)
    return plan.refusal is not None


@contextmanager
def _alone(host: Settings, cell: str) -> Iterator[None]:
    """Within the block nobody else releases or publishes the cell; raises PreflightError where somebody does."""
    from flows.locks import SharedLock, alone

    what = f"releasing {cell}"
    with (
        alone(host.work_path / "locks" / f"{cell}.lock", what),
        closing(SharedLock(host.store_url, what)) as lock,
    ):
        lock.hold()
        yield
