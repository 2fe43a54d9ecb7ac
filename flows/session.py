"""One release of one cell, put together: job → store. Knows nothing of Prefect."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

from flagrelease import __version__
from flagrelease.card.build import Snapshot
from flagrelease.errors import ApprovalNeededError, PublishError, StoreError
from flagrelease.evidence import EvidenceFolder
from flagrelease.pipeline import ReleaseRun
from flagrelease.publish.folder import FolderPublisher
from flagrelease.publish.hub import HubPublisher
from flagrelease.publish.hub_calls import HubUnavailableError
from flagrelease.publish.interface import Publisher
from flagrelease.records import Stage
from flagrelease.settings import Settings, settings
from flagrelease.store import Store, approvals
from flagrelease.store.publications import Place, taken_back
from flows.hubs import hubs_of
from flows.job import Job, checked_files, make_plan
from flows.locks import SharedLock, alone
from flows.publication import awaited
from flows.serving import typed_lines
from flows.stage_reasons import stage_reasons
from runtime.launch.interface import Log


@dataclass(frozen=True, kw_only=True)
class Session:
    """A release under way."""

    job: Job
    host: Settings
    store: Store
    evidence: EvidenceFolder
    publisher: FolderPublisher
    hubs: Sequence[HubPublisher]
    """Further places; the folder always gets what they get."""
    run: ReleaseRun
    log: Log
    lock: SharedLock
    reasons: Mapping[Stage, str]
    """What was to become of each stage, and why, when the run began."""

    @property
    def release(self) -> int:
        """Id of the release."""
        return self.run.release

    def hold(self) -> None:
        """Make sure that no other host releases the cell; raises PreflightError where one does."""
        self.lock.hold()

    def published(self) -> bool:
        """Whether what the stage `publish` did still stands."""
        key = self.run.key(Stage.PUBLISH)
        return still_published(self.store, self.job, self.publisher, self.hubs, key=key, release=self.release)


def still_published(
    store: Store, job: Job, folder: FolderPublisher, hubs: Sequence[HubPublisher], *, key: str, release: int
) -> bool:
    """Whether what the stage `publish` with this key did for a release of the job still stands, at every place."""
    done = store.finished_stage(Stage.PUBLISH, key)
    if done is None:
        return False
    places: list[tuple[Publisher, str]] = [(folder, job.target)] if done.output["published"] else []
    places += awaited(store, job, hubs, release, done.output)
    return all(publication_stands(store, place, release, target) for place, target in places)


def publication_stands(store: Store, publisher: Publisher, release: int, target: str) -> bool:
    """Whether the target holds what this release, or a newer one, published there, or it was taken back there."""
    if (release, Place(publisher.name, target)) in taken_back(store, target):
        return True
    try:
        current = publisher.current(target)
    except HubUnavailableError:
        raise
    except PublishError:
        # Somebody changed what is there; publishing again puts it right, or says why it may not.
        return False
    return current is not None and store.newest_publisher_of(current.target, current.revision) >= release


def open_store(host: Settings) -> Store:
    """The store of this host."""
    return Store.open(host.store_url)


def publisher_of(host: Settings) -> FolderPublisher:
    """Where releases are published: a folder that looks like a hub."""
    return FolderPublisher(host.output_path / "hub")


@contextmanager
def open_session(job: Job, log: Log) -> Iterator[Session]:
    """Begin or resume the release of the job; an exception inside is recorded as its failure.

    Raises PreflightError where another process, or another host that has the same database, releases the cell.
    """
    host, what = settings(), f"releasing {job.cell.id}"
    publisher, hubs = publisher_of(host), hubs_of(host, log)
    with (
        alone(host.work_path / "locks" / f"{job.cell.id}.lock", what),
        closing(open_store(host)) as store,
        closing(SharedLock(host.store_url, what)) as lock,
    ):
        lock.hold()
        the_plan = make_plan(job, checked_files(store, job))
        snapshot = Snapshot(
            cell=job.cell,
            engine=job.engine.name,
            engine_display=job.engine.display,
            displays={benchmark.key: benchmark.display for benchmark in job.benchmarks},
            not_run=job.not_run,
            serve=typed_lines(job) if job.cell.container else [],
        )
        reasons = stage_reasons(
            store,
            job,
            the_plan,
            lambda release: still_published(
                store, job, publisher, hubs, key=the_plan.keys[Stage.PUBLISH], release=release
            ),
        )
        release = store.begin_release(
            cell=job.cell.id,
            key=the_plan.release_key,
            engine=job.engine.name,
            snapshot=snapshot.model_dump(mode="json"),
            code_version=__version__,
        )
        try:
            yield Session(
                job=job,
                host=host,
                store=store,
                evidence=EvidenceFolder(host.evidence_url),
                publisher=publisher,
                hubs=hubs,
                run=ReleaseRun(store, release, the_plan, log),
                log=log,
                lock=lock,
                reasons=reasons,
            )
        except BaseException as error:
            state = "failed" if isinstance(error, Exception) else "interrupted"
            state = approvals.WAITING if isinstance(error, ApprovalNeededError) else state
            # Where the database is what failed, that is the error to be told.
            with suppress(StoreError):
                store.finish_release(release, state, str(error) or None)
            raise
        store.finish_release(release, "completed")


def finished_release(job: Job, host: Settings) -> int | None:
    """Id of the completed release of exactly this job, if its publication stands; nothing is to be done then."""
    with closing(open_store(host)) as store:
        the_plan = make_plan(job, checked_files(store, job))
        row = store.release_by_key(the_plan.release_key)
        if row is None or row.state != "completed":
            return None
        folder, hubs = publisher_of(host), hubs_of(host, lambda _: None)
        stands = still_published(store, job, folder, hubs, key=the_plan.keys[Stage.PUBLISH], release=row.id)
        card = host.output_path / job.cell.id / "README.md"
        return row.id if stands and card.exists() else None
