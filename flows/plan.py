"""What a sweep over the matrix would do and why. Nothing is started and nothing is written, not even a database."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from evaluation import baseline as baselines
from evaluation.catalogue import load_benchmarks
from flagrelease.chip import Chip
from flagrelease.errors import FlagReleaseError
from flagrelease.loading import load_chips, load_known_issues, load_matrix, resolve, resolve_all
from flagrelease.matrix import ResolvedCell
from flagrelease.pipeline import Plan
from flagrelease.publish.folder import MANIFEST
from flagrelease.records import Stage, digest
from flagrelease.selection import Newest, Selection
from flagrelease.settings import Settings
from flagrelease.store import Store, plans
from flagrelease.store.conformance import passed
from flagrelease.store.plans import Attempt, PastStage
from flagrelease.store.publications import Place, taken_back
from flows.job import Job, checked_files, job_of
from flows.known_issues import flag_gems_of, issues_of, leave_out
from flows.plan_jobs import Versions, planned
from flows.plan_reasons import Known, stage_plans
from flows.plan_records import Blocked, CellPlan, MatrixPlan, StagePlan
from flows.plan_times import Times, pools, shared, works
from flows.scheduling import lower_bound
from flows.session import publisher_of

IMAGE_ID = 12
"""Letters of the hash by which images are told apart."""
UNSEEN = "whether publications still stand was not looked at: the store is shared, and this host has published nothing"


def plan_matrix(host: Settings, selection: Selection | None = None, cell: str | None = None) -> MatrixPlan:
    """What a sweep over the cells of a selection would do, or a release of one cell.

    Raises MatrixError where matrix.yaml or a chip's file is not valid; UnknownNameError for a name that is not there;
    StoreError. What is wrong with one cell only is said in its plan.
    """
    matrix, chips, selection = load_matrix(host.matrix_path), load_chips(), selection or Selection()
    every = resolve_all(matrix, chips)
    if cell is None:
        names_only = selection.model_copy(update={"stale": False, "failed": False, "changed_since": None})
        meant = names_only.select(every, {})
    else:
        meant = [resolve(matrix, chips, cell)]
    with closing(plans.open_for_reading(host.store_url)) as store:
        planner = _Planner(host, store, every)
        found = planner.plan(meant)
        releases = planner.newest
        newest = {
            plan.cell: Newest(release.state, release.time, plan.action != "unchanged")
            for plan in found
            if (release := releases.get(plan.cell))
        }
        chosen = [
            plan
            for each, plan in zip(meant, found, strict=True)
            if cell is not None or selection.matches(each, newest.get(each.id))
        ]
        return planner.together(chosen, chips)


class _Today(NamedTuple):
    """A cell as it is today."""

    cell: ResolvedCell
    job: Job
    checked: list[str]
    """Files of checks of FlagGems' operators that its card may name."""
    plan: Plan
    lacks: list[str]


class _Results(NamedTuple):
    """What the store has for the keys of today."""

    attempts: Mapping[str, Attempt]
    outputs: Mapping[int, Mapping[str, Any]]

    def completed(self, today: _Today, stage: Stage) -> Attempt | None:
        """The result that a stage would reuse."""
        attempt = self.attempts.get(today.plan.keys[stage])
        return attempt if attempt is not None and attempt.completed else None

    def output(self, today: _Today, stage: Stage) -> Mapping[str, Any]:
        """What the stage left; empty where it has no result."""
        attempt = self.completed(today, stage)
        return self.outputs[attempt.row] if attempt else {}


class _Planner:
    """Plans cells by what a store knows. What is to be known of all of them is asked for at once."""

    def __init__(self, host: Settings, store: Store, every: Sequence[ResolvedCell]) -> None:
        self._host, self._store, self._every = host, store, every
        self._versions = Versions()
        self._publisher = publisher_of(host)
        # Where the store is this host's own, so are the publications.
        self._sees_publications = host.store is None or self._publisher.root.is_dir()
        self._unseen = False
        self._issues, self._passed = load_known_issues(), cache(partial(passed, store))
        self.newest = plans.newest_releases(store)
        self._revisions = plans.newest_publishers(store)
        self._taken_back = taken_back(store)
        shipped = {path.name for path in baselines.SHIPPED.iterdir() if path.is_dir()}
        self._baselines = plans.baseline_ids(store) | shipped

    def plan(self, cells: Sequence[ResolvedCell]) -> list[CellPlan]:
        """The plan of each cell, in their order."""
        today, blocked = self._today(cells)
        results = self._results(today.values())
        unchanged = {name for name, each in today.items() if self._stands(each, results)}
        looked = [each for name, each in today.items() if name not in unchanged]
        past = plans.past_stages(self._store, [each.cell.id for each in looked])
        resumed = plans.releases_by_key(self._store, [each.plan.release_key for each in looked])
        times = Times(plans.seconds(self._store) if looked else {}, self._every)
        found = []
        for cell in cells:
            each = today.get(cell.id)
            if each is None:
                found.append(self._blocked(cell, blocked[cell.id]))
                continue
            known = Known(
                cell=cell,
                plan=each.plan,
                attempts=results.attempts,
                past=_compared(past, each),
                newest=self.newest.get(cell.id),
                resumed=resumed.get(each.plan.release_key),
                published=cell.id in unchanged,
                canary_failed=not (results.output(each, Stage.CANARY).get("canary") or {"passed": True})["passed"],
                snapshot=self._snapshot,
            )
            stages = [times.timed(stage, cell, each.job.engine.name) for stage in stage_plans(known)]
            image = results.output(each, Stage.BUILD).get("image", {})
            found.append(self._planned(each, stages, image.get("versions", {})))
        return found

    def together(self, cells: Sequence[CellPlan], chips: Mapping[str, Chip]) -> MatrixPlan:
        """The plan of all cells together."""
        running = [cell for cell in cells if cell.action == "run"]
        building = [cell for cell in running if cell.stages[0].action == "run"]
        images = shared([(cell.image, cell.cell) for cell in building], self._built() if building else set())
        to_do = works(running, images)
        slots = {cell.chip: chips[cell.chip].slots for cell in running}
        bound = lower_bound(to_do, slots)
        return MatrixPlan(
            cells=list(cells),
            pools=pools(running, to_do, slots),
            images=images,
            baselines=shared([(cell.baseline, cell.cell) for cell in running], self._baselines),
            at_least=bound.seconds,
            at_least_by=bound.of,
            notes=[UNSEEN] if self._unseen else [],
        )

    def _today(self, cells: Iterable[ResolvedCell]) -> tuple[dict[str, _Today], dict[str, Blocked]]:
        """The cells as they are today, and why the others cannot be released."""
        found: dict[str, _Today] = {}
        blocked: dict[str, Blocked] = {}
        benchmarks = load_benchmarks()
        for cell in cells:
            try:
                job = job_of(cell, None, self._host, benchmarks)
                checked = checked_files(self._store, job)
                found[cell.id] = _Today(cell, job, checked, *planned(job, self._versions, {}, checked))
            except FlagReleaseError as error:
                blocked[cell.id] = Blocked(cause=" ".join(error.message.split()), remedy=error.remedy)
        lacking = [each for each in found.values() if each.lacks]
        past = plans.past_stages(self._store, [each.cell.id for each in lacking])
        for each in lacking:
            again = planned(each.job, self._versions, _compared(past, each), each.checked)
            found[each.cell.id] = _Today(each.cell, each.job, each.checked, *again)
        return found, blocked

    def _results(self, today: Iterable[_Today]) -> _Results:
        attempts = plans.attempts(self._store, [key for each in today for key in each.plan.keys.values()])
        results = _Results(attempts, {})
        read = (Stage.BUILD, Stage.CANARY, Stage.PUBLISH)
        told = [results.completed(each, stage) for each in today for stage in read]
        return _Results(attempts, plans.outputs(self._store, {attempt.row for attempt in told if attempt}))

    def _stands(self, today: _Today, results: _Results) -> bool:
        """Whether the release of today was completed, and what it or a newer one published is there.

        As `flows.session.still_published`, but files are known by their sizes: evidence is large, and cells are many.
        """
        done = results.completed(today, Stage.PUBLISH)
        if done is None or not results.output(today, Stage.PUBLISH)["published"]:
            return done is not None
        target = today.job.target
        if (done.release, Place(self._publisher.name, target)) in self._taken_back:
            return True
        if not self._sees_publications:
            self._unseen = True
            return True
        revision = _revision(self._publisher.root / target)
        return revision is not None and self._revisions.get((target, revision), 0) >= done.release

    def _planned(self, today: _Today, stages: list[StagePlan], inventory: Mapping[str, str]) -> CellPlan:
        """`inventory`: versions in the cell's image, where it is built."""
        cell, inputs = today.cell, today.job.image_inputs
        runs, baseline = any(stage.action == "run" for stage in stages), cell.model.reference.baseline
        if runs and baseline not in self._baselines:
            why = Blocked(
                cause=f"the baseline {baseline} of {cell.cell.model} is neither in the store nor among the files",
                remedy="see what there is: flagrelease baseline list; measure one on the reference: "
                f"flagrelease baseline run {cell.cell.model}",
            )
            return self._blocked(cell, why)
        flag_gems = flag_gems_of(today.job, inventory)
        issues = issues_of(today.job, flag_gems, self._issues, self._passed)
        return CellPlan(
            **self._about(cell),
            action="run" if runs else "unchanged",
            stages=stages,
            seconds=sum(stage.seconds or 0.0 for stage in stages),
            timed=all(stage.seconds is not None for stage in stages if stage.action == "run"),
            image=digest(inputs)[:IMAGE_ID] if inputs else None,
            lacks=today.lacks,
            flag_gems=flag_gems,
            known_issues=issues,
            leave_out=leave_out(today.job, issues),
        )

    def _blocked(self, cell: ResolvedCell, why: Blocked) -> CellPlan:
        return CellPlan(**self._about(cell), action="blocked", blocked=why)

    def _about(self, cell: ResolvedCell) -> dict[str, Any]:
        newest = self.newest.get(cell.id)
        return {
            "cell": cell.id,
            "model": cell.cell.model,
            "chip": cell.cell.chip,
            "stack": cell.cell.stack,
            "suite": cell.model.suite,
            "engine": cell.cell.engine,
            "baseline": cell.model.reference.baseline,
            "newest": newest.id if newest else None,
        }

    def _built(self) -> set[str]:
        """Images that were built, by the hash of what they are made of."""
        inputs = plans.build_inputs(self._store)
        return {digest(each["image"])[:IMAGE_ID] for each in inputs if "image" in each}

    def _snapshot(self, release: int) -> Mapping[str, Any]:
        return plans.cell_snapshots(self._store, [release]).get(release, {})


def _revision(folder: Path) -> str | None:
    """Revision of the publication in a folder, by its manifest; none where a file is missing or of another size."""
    try:
        stated = json.loads((folder / MANIFEST).read_bytes())
        whole = all((folder / file["path"]).stat().st_size == file["size"] for file in stated["files"])
        return str(stated["revision"]) if whole else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _compared(past: Mapping[str, Mapping[str, Mapping[Stage, PastStage]]], today: _Today) -> dict[Stage, PastStage]:
    """The newest run of each stage of the cell: through the engine of today, else through any."""
    engines, own = past.get(today.cell.id, {}), today.job.engine.name
    ordered = [*(stages for engine, stages in engines.items() if engine != own), engines.get(own, {})]
    return {stage: run for stages in ordered for stage, run in stages.items()}
