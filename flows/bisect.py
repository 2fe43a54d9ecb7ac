"""Bisecting a release: which of FlagGems' operators make it differ from its baseline. Knows nothing of Prefect."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from evaluation.canary import measure
from evaluation.catalogue import fingerprint
from flagrelease.bisect.journal import Journal
from flagrelease.bisect.judge import exceedance
from flagrelease.bisect.records import BisectResult, Judging, Measured
from flagrelease.bisect.report import deny_list, upstream_report
from flagrelease.bisect.search import CANARY, bisect
from flagrelease.errors import BisectError, NoAnswerError, PortError, ServerError
from flagrelease.records import CellImage, Stack, Stage, digest
from flagrelease.settings import Settings
from flagrelease.store.queries import ReleaseView, find_release, release_view
from flagrelease.store.store import Store
from flows import serving
from flows.bisect_items import Against, choose, wrong_answers
from flows.bisect_subject import about_it, shown_by
from flows.job import Job, make_job, make_plan, preflight, served_inputs
from flows.locks import alone
from flows.session import open_store
from runtime import operators
from runtime.engines.flagos import FlagosSettings, OperatorLists
from runtime.launch.interface import Log, Server


class Bisected(NamedTuple):
    """What was found, and where it lies."""

    result: BisectResult
    deny_list: str
    """Lines for the cell in matrix.yaml; empty where there is no culprit."""
    files: list[Path]


def bisect_release(name: str, host: Settings, log: Log, listed: Sequence[str] | None = None) -> Bisected:
    """Bisect the release given by number, or the newest one of a cell; a call that was killed goes on where it stopped.

    The operators are those that the release's server listed while it ran, or `listed`. Raises BisectError where there
    is nothing to search or to judge by, and what starting a server on this host raises.
    """
    with closing(open_store(host)) as store:
        view = release_view(store, find_release(store, name))
        job = make_job(view.cell, view.engine, host)
        preflight(job, host)
        _require_lists(job)
        names = list(listed) if listed is not None else _that_ran(store, view)
        against = choose(store, view, job, len(names), log)
        built = store.finished_stage(Stage.BUILD, make_plan(job).keys[Stage.BUILD])
        _warn_of_changes(view, job, log)
    image = CellImage.model_validate(built.output["image"]) if built and "image" in built.output else None
    with alone(host.work_path / "locks" / f"{job.cell.id}.lock", f"bisecting or releasing {job.cell.id}"):
        return bisect_job(job, against, names, host, log, image=image)


def bisect_job(
    job: Job,
    against: Against,
    names: Sequence[str],
    host: Settings,
    log: Log,
    *,
    image: CellImage | None = None,
) -> Bisected:
    """Bisect what a release of the job serves, over the operators `names`. Errors as in `bisect_release`."""
    judging, ask = _asker(job, against, host)
    about = {
        "served": served_inputs(job),
        "image": image.id if image else None,
        "operators": list(names),
        "baseline": against.baseline_id,
        **_asked(job, against),
    }
    folder = host.work_path / "bisect" / f"{job.cell.id}-{digest(about)[:12]}"

    def one(removed: frozenset[str], run: int) -> Measured:
        start = time.monotonic()
        changed = _without(job, removed)
        try:
            with serving.start_server(changed, host, log, image=image) as server:
                shown = ask(changed, server, folder / "answers" / f"{digest(sorted(removed))[:12]}-{run}")
                files = {path: server.read(path) for path in operators.PATHS}
        except PortError:
            raise
        except (ServerError, NoAnswerError) as error:
            return Measured(statistic=None, seconds=time.monotonic() - start, error=error.message)
        if changed.cell.cell.stack is Stack.FLAGOS:
            _require_told({path: content for path, content in files.items() if content}, removed, names, log)
        return shown.model_copy(update={"seconds": time.monotonic() - start})

    with Journal(folder / "journal.jsonl", about) as journal:
        result = bisect(names, one, journal, log, judging=judging)
    subject = about_it(job, against.baseline_id, image, host, result)
    lists = _lists(job)
    lines = deny_list(
        job.engine.name,
        only=lists.operators,
        without=lists.without_operators,
        remove=operators.functions(result.remove),
    )
    written = {"result.json": result.model_dump_json(indent=1)}
    if lines:
        written["deny-list.yaml"] = lines
    for culprit in result.culprits:
        shown = shown_by(culprit, result, journal, against.reference)
        written[f"report-{culprit.operator}.md"] = upstream_report(result, culprit, subject.model_copy(update=shown))
    for name, content in written.items():
        (folder / name).write_text(content, encoding="utf-8")
    return Bisected(result, lines, [folder / name for name in [*written, "journal.jsonl"]])


Ask = Callable[[Job, Server, Path], Measured]
"""Ask a server of the job what it is judged by; answers so far are kept in the folder."""


def _asker(job: Job, against: Against, host: Settings) -> tuple[Judging, Ask]:
    """What judges servers, and what asks them for it."""
    items, reference, policy = against.items, against.reference, job.cell.policy.canary
    if items is not None:

        def by_items(changed: Job, server: Server, answers: Path) -> Measured:
            wrong = wrong_answers(changed, server, items, host, answers)
            return Measured(statistic=sum(map(len, wrong.values())) / items.allowed, seconds=0, wrong=wrong)

        return items.judging, by_items
    if policy is None or reference is None:
        raise BisectError(
            f"the policy of {job.cell.id} has no canary, which is what servers are judged by",
            remedy="give the policy one (docs/gate.md)",
        )

    def by_canary(changed: Job, server: Server, _answers: Path) -> Measured:
        endpoint = serving.endpoint_of(changed, server)
        canary = measure(reference, endpoint, job.engine.capabilities, policy, _silent)
        return Measured(statistic=exceedance(canary), seconds=0, canary=canary)

    return CANARY, by_canary


def _asked(job: Job, against: Against) -> dict[str, Any]:
    """What decides, beside how it is served, what a server shows."""
    if against.items is not None:
        asked = [benchmark for benchmark in job.benchmarks if benchmark.key in against.items.items]
        return {"items": against.items.items, "benchmarks": [fingerprint(benchmark) for benchmark in asked]}
    reference, policy = against.reference, job.cell.policy.canary
    return {
        "reference": digest(reference.model_dump(mode="json")) if reference else None,
        "policy": policy.model_dump(mode="json", exclude={"reason"}) if policy else None,
    }


def _lists(job: Job) -> OperatorLists:
    found = job.limits
    if not isinstance(found, OperatorLists):
        raise BisectError(
            f"{job.engine.display} runs none of FlagGems' operators",
            remedy="bisect a release through an engine that does: vllm or flagscale with the plugin, torch_reference",
        )
    return found


def _require_lists(job: Job) -> None:
    """BisectError where the job's server cannot be told which operators to leave out."""
    lists = _lists(job)
    if job.cell.cell.stack is not Stack.FLAGOS:
        raise BisectError(
            f"{job.cell.id} runs on the stack {job.cell.cell.stack}: no operator of FlagGems ran",
            remedy="bisect a release on the stack flagos",
        )
    if isinstance(lists, FlagosSettings) and not lists.plugin:
        raise BisectError(
            f"{job.cell.id} is served without the plugin, and nothing else reads which operators to leave out",
            remedy=f"serve it with `plugin: true` under engines.{job.engine.name} in matrix.yaml",
        )


def _that_ran(store: Store, view: ReleaseView) -> list[str]:
    """Operators that the release's servers listed."""
    found: set[str] = set()
    for stage in view.stages:
        done = store.finished_stage(stage.stage, stage.key) if stage.stage in (Stage.CANARY, Stage.EVALUATE) else None
        found.update((done.output.get("operators") or []) if done else [])
    if not found:
        raise BisectError(
            f"release {view.id} of {view.cell} has no list of operators that ran: its server wrote none, or died",
            remedy="name them: --operators FILE, a list of another release's server, or one name a line",
        )
    return sorted(found)


def _warn_of_changes(view: ReleaseView, job: Job, log: Log) -> None:
    """Say where the cell is served otherwise now than the release was."""
    now = make_plan(job).keys
    if any(stage.key != now[stage.stage] for stage in view.stages if stage.stage in (Stage.CANARY, Stage.EVALUATE)):
        log(f"bisect: {view.cell} has changed since release {view.id}: what is searched is the cell as it is now")


def _without(job: Job, removed: frozenset[str]) -> Job:
    """The job without these operators."""
    lists, raw = _lists(job), dict(job.engine_settings)
    if not lists.operators:
        told = set(lists.without_operators)
        more = [name for name in operators.functions(removed) if name not in told]
        raw["without_operators"] = [*lists.without_operators, *more]
        return replace(job, engine_settings=raw)
    raw["operators"] = [name for name in lists.operators if operators.name_of(name) not in removed]
    if raw["operators"]:
        return replace(job, engine_settings=raw)
    # An empty list would mean all operators.
    native = job.cell.cell.model_copy(update={"stack": Stack.NATIVE})
    return replace(job, engine_settings=raw, cell=job.cell.model_copy(update={"cell": native}))


def _require_told(files: Mapping[str, bytes], removed: frozenset[str], names: Sequence[str], log: Log) -> None:
    """BisectError where the server did not care what it was to leave out, or ran nothing although some were left in.

    Without all that is searched none of it may run: what is measured then is what everything else is held against.
    """
    ran = set(operators.read(files).operators)
    still = ran & removed
    if still == removed and len(removed) > 1:
        raise BisectError(
            f"the server ran all operators that it was told to leave out: {', '.join(sorted(still))}",
            remedy="see whether what serves reads the list: vllm-plugin-FL has to be loaded (docs/flagos.md)",
        )
    if still and removed.issuperset(names):
        raise BisectError(
            f"without any operator of the search the server ran some of them: {', '.join(sorted(still))}",
            remedy="bisect without these: --operators FILE, with the names of the others. What calls a function of "
            "FlagGems itself, and not through torch, cannot be told to leave it out",
        )
    if still:
        log(f"bisect: {', '.join(sorted(still))} ran although left out: other operators may call them")
    if not ran and not removed.issuperset(names):
        raise BisectError(
            "the server listed no operator, although not all were left out: nothing shows what ran",
            remedy="see in its log why FlagGems was not loaded; or name only operators that the model uses",
        )


def listed_in(path: Path) -> list[str]:
    """Operators that a file names: a list that a server wrote, or one name a line. Raises BisectError."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise BisectError(f"{path} cannot be read: {error.strerror}", remedy="name a list of operators") from error
    found = operators.parse(text)
    if not found:
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        found = sorted({operators.name_of(line) for line in lines if line})
    if strange := [name for name in found if not operators.NAME.fullmatch(name)]:
        raise BisectError(f"{path} names what is no operator: {strange[0]!r}", remedy="write one name a line")
    return found


def _silent(_said: str) -> None:
    """The bisect says itself what each server showed."""
