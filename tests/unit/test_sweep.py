"""A sweep: its loop with simulated runs, what becomes of cells, causes put together, and what people see."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from flagrelease.errors import DeployError, StoreLostError
from flagrelease.settings import settings
from flagrelease.store import Store, sweeps
from flagrelease.sweep import Outcome, causes, line_of, summary
from flows import patience
from flows.plan_records import Blocked, CellPlan
from flows.scheduling import Schedule, Work
from flows.sweep_loop import Seen, follow
from flows.sweep_report import Outcomes, matrix_table, report
from flows.sweep_runs import CRASH_GRACE_S, _seen
from tests.unit.command_line import Run

SLOTS = {"a": 2, "b": 1}


class SimulatedRuns:
    """Runs in simulated time: each takes its work's seconds; some fail. Prefect's part, without Prefect."""

    def __init__(self, works: list[Work], failing: Mapping[str, str] | None = None) -> None:
        self.works, self.failing = {work.id: work for work in works}, failing or {}
        self.now, self.started, self.submissions = 0.0, dict[str, float](), Counter[str]()
        self.most = Counter[str]()

    def seen(self) -> Mapping[str, Seen]:
        return {work: self._state(work) for work in self.started}

    def submit(self, work: Work) -> None:
        self.submissions[work.id] += 1
        self.started.setdefault(work.id, self.now)
        running = Counter(self.works[each].pool for each in self.started if self._state(each).state == "running")
        self.most |= running

    def _state(self, work: str) -> Seen:
        seconds = self.works[work].seconds or 0.0
        if self.now < self.started[work] + seconds:
            return Seen("running", self.now - self.started[work])
        cause = self.failing.get(work)
        return Seen("failed", seconds, cause) if cause else Seen("ok", seconds)

    def pause(self) -> None:
        """On to the next end of a run."""
        ends = [self.started[work] + (self.works[work].seconds or 0) for work in self.started]
        self.now = min(end for end in ends if end > self.now)


class Killed(Exception):  # noqa: N818 - as a test says it
    """Somebody killed the sweep."""


def cells(number: int = 12) -> list[Work]:
    chance = random.Random(1)
    made = [
        Work(id=f"m{i}-{pool}", pool=pool, seconds=chance.lognormvariate(4, 0.7), needs=("image/i",) if i < 3 else ())
        for i in range(number // 2)
        for pool in SLOTS
    ]
    return [Work(id="image/i", pool="a", seconds=30.0, value=0.0), *made]


def test_every_work_is_run_once_within_the_slots() -> None:
    works = cells()
    schedule, runs = Schedule(works, SLOTS), SimulatedRuns(works)
    follow(schedule, runs, lambda _: None, runs.pause)
    assert schedule.succeeded == {work.id for work in works}
    assert runs.submissions == Counter(work.id for work in works)
    assert runs.most == Counter(SLOTS)
    built = runs.started["image/i"] + 30
    assert all(runs.started[work.id] >= built for work in works if work.needs)


def test_one_that_fails_stops_only_what_waits_for_it() -> None:
    works = cells()
    failing = {"image/i": "no space left", "m5-b": "the server died"}
    schedule, runs = Schedule(works, SLOTS), SimulatedRuns(works, failing)
    follow(schedule, runs, lambda _: None, runs.pause)
    waiting = {work.id: "image/i failed: no space left" for work in works if work.needs}
    assert schedule.failed == failing | waiting
    assert len(schedule.succeeded) == len(works) - len(schedule.failed)
    assert not set(waiting) & set(runs.submissions)


@pytest.mark.parametrize("seed", range(8))
def test_a_sweep_that_is_killed_again_and_again_ends_the_same(seed: int) -> None:
    works, chance = cells(), random.Random(seed)
    failing = {"m5-b": "the server died"}
    runs = SimulatedRuns(works, failing)

    def pause() -> None:
        if chance.random() < 0.4:
            raise Killed
        runs.pause()

    while True:
        schedule = Schedule(works, SLOTS)
        try:
            follow(schedule, runs, lambda _: None, pause)
        except Killed:
            # What ran went on while nobody followed it.
            runs.now += chance.random() * 60
            continue
        break
    assert schedule.failed == failing
    assert runs.submissions == Counter(work.id for work in works)
    assert runs.most == Counter(SLOTS)


def test_runs_that_are_not_of_the_schedule_are_let_be() -> None:
    works = cells()
    runs = SimulatedRuns(works)
    runs.started["m0-a"] = -1000
    rest = [work.model_copy(update={"needs": ()}) for work in works if work.id not in {"m0-a", "image/i"}]
    schedule = Schedule(rest, SLOTS)
    follow(schedule, runs, lambda _: None, runs.pause)
    assert schedule.succeeded == {work.id for work in rest}


# What becomes of cells


def plan_of(cell: str, action: str = "run", **more: Any) -> CellPlan:
    model, chip = cell.split("-")
    blocked = {"blocked": Blocked(cause="no baseline", remedy="measure one")} if action == "blocked" else {}
    about = {"cell": cell, "model": model, "chip": chip, "suite": "s", "engine": "e", "baseline": "b"}
    return CellPlan.model_validate(about | {"action": action} | blocked | more)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(f"sqlite:///{tmp_path / 'store.db'}")


def release(store: Store, cell: str, error: str | None = None) -> int:
    identifier = store.begin_release(cell=cell, key=cell, engine="e", snapshot={}, code_version="0")
    store.finish_release(identifier, "failed" if error else "completed", error)
    return identifier


def test_outcomes_follow_the_runs(store: Store) -> None:
    plans = [plan_of("m0-a"), plan_of("m1-a"), plan_of("m2-a", "unchanged", newest=7), plan_of("m3-a", "blocked")]
    works = [Work(id="m0-a", pool="a", seconds=2), Work(id="m1-a", pool="a", seconds=1)]
    schedule = Schedule(works, {"a": 1})
    outcomes = Outcomes(store, plans, [], datetime.now(UTC) - timedelta(minutes=1))
    assert outcomes.note(schedule, {}) == []
    assert [outcome.state for outcome in outcomes.all] == ["waiting", "waiting", "unchanged", "blocked"]
    outcomes.note(schedule, {"m0-a": Seen("running")})
    assert outcomes.all[0].state == "running"
    released = release(store, "m0-a")
    (ended,) = outcomes.note(schedule, {"m0-a": Seen("ok", 2), "m1-a": Seen("running")})
    assert (ended.cell, ended.state, ended.release) == ("m0-a", "released", released)
    release(store, "m1-a", "the server died\n  -> see its log")
    (ended,) = outcomes.note(schedule, {"m0-a": Seen("ok", 2), "m1-a": Seen("failed", 1, "what Prefect says")})
    assert (ended.cause, ended.remedy) == ("the server died", "see its log")
    assert summary(outcomes.all) == "4 cells: 1 released, 1 unchanged, 1 failed, 1 blocked"
    text = report(outcomes.all)
    assert "| m1 | failed |" in text
    assert "| m2 | unchanged (7) |" in text
    assert "next step: see its log" in text


def test_an_old_failure_in_the_store_is_not_taken_for_this_one(store: Store) -> None:
    release(store, "m0-a", "of last week")
    outcomes = Outcomes(store, [plan_of("m0-a")], [], datetime.now(UTC) + timedelta(minutes=1))
    (ended,) = outcomes.note(
        Schedule([Work(id="m0-a", pool="a", seconds=1)], {"a": 1}), {"m0-a": Seen("failed", 1, "no device\n  -> go")}
    )
    assert (ended.cause, ended.remedy, ended.stage) == ("no device", "go", None)


def test_what_an_interrupted_sweep_noted_is_kept(store: Store) -> None:
    before = [Outcome(cell="m0-a", model="m0", chip="a", state="released", release=3, verdict="CONSISTENT")]
    outcomes = Outcomes(store, [plan_of("m0-a", "unchanged", newest=3)], before, datetime.now(UTC))
    assert outcomes.all == before


def test_a_cell_that_does_not_fit_the_budget_is_left(store: Store) -> None:
    works = [Work(id="m0-a", pool="a", seconds=50), Work(id="m1-a", pool="a", seconds=70)]
    schedule, runs = Schedule(works, {"a": 1}, {"a": 100}), SimulatedRuns(works)
    outcomes = Outcomes(store, [plan_of("m0-a"), plan_of("m1-a")], [], datetime.now(UTC))

    def tell(seen: Mapping[str, Seen]) -> None:
        outcomes.note(schedule, seen)

    follow(schedule, runs, tell, runs.pause)
    assert [outcome.state for outcome in outcomes.all] == ["released", "left"]
    assert outcomes.all[1].cause == "it does not fit what is left of the budget of a"


def failure(number: int, cause: str, stage: str = "evaluate") -> Outcome:
    return Outcome(
        cell=f"model{number}-metax", model=f"model{number}", chip="metax", state="failed", stage=stage, cause=cause
    )


def test_the_same_crash_on_many_models_is_one_line() -> None:
    crashes = [
        failure(n, f"the server of model{n} died after {n}.5 s; see /home/x/model{n}.log, container 0123abcd{n:04x}")
        for n in range(13)
    ]
    others = [failure(13, "no space left on device"), failure(14, "no space left on device", "build")]
    found = causes([*others, *crashes, Outcome(cell="a-b", model="a", chip="b", state="released")])
    assert [len(cause.cells) for cause in found] == [13, 1, 1]
    assert line_of(found[0]).startswith("13 cells failed: evaluate: the server of model0 died after 0.5 s")
    assert line_of(found[0]).endswith("model11-metax and 1 more)")


def test_the_matrix_has_a_column_for_each_chip() -> None:
    table = matrix_table([failure(1, "x"), Outcome(cell="a-b", model="a", chip="b", state="released", release=2)])
    assert table == [
        {"model": "model1", "metax": "failed: evaluate", "b": ""},
        {"model": "a", "metax": "", "b": "released (2)"},
    ]


# The store, and what people see


def test_a_sweep_that_goes_on_is_the_same_sweep(store: Store) -> None:
    first = sweeps.begin(store, "run-1", {"chips": ["metax"]})
    outcome = failure(1, "no space left on device")
    sweeps.write(store, first.id, [outcome])
    sweeps.end(store, first.id, "interrupted")
    again = sweeps.begin(store, "run-1", {})
    assert (again.id, again.state, again.asked, again.finished_at) == (first.id, "running", {"chips": ["metax"]}, None)
    assert again.outcomes == [outcome]
    assert sweeps.begin(store, "run-2", {}).id != first.id


def test_status_says_what_became_of_the_newest_sweep(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("FLAGRELEASE_HOME", str(tmp_path))
    settings.cache_clear()
    run = Run(monkeypatch, capsys)
    assert run("status") == 0
    assert "Sweep" not in run.out
    store = Store.open(settings().store_url)
    sweep = sweeps.begin(store, "run-1", {})
    sweeps.write(store, sweep.id, [failure(1, "no space left on device").model_copy(update={"remedy": "make room"})])
    sweeps.end(store, sweep.id, "failed")
    assert run("status") == 0
    assert ", failed: 1 cell: 1 failed\n" in run.out
    assert "  1 cell failed: evaluate: no space left on device (model1-metax)\n    -> make room\n" in run.out
    assert run("status", "--json") == 0
    assert json.loads(run.out)["sweep"]["outcomes"][0]["cause"] == "no space left on device"


# Prefect's answers


def prefect_run(state: str, message: str = "", *, ago_s: float = 0.0) -> dict[str, Any]:
    time = (datetime.now(UTC) - timedelta(seconds=ago_s)).isoformat()
    return {
        "state_type": state,
        "state": {"message": message, "timestamp": time},
        "estimated_run_time": 5.0,
    }


@pytest.mark.parametrize(
    ("now", "state"),
    [
        ("SCHEDULED", "waiting"),
        ("PENDING", "waiting"),
        ("RUNNING", "running"),
        ("CANCELLING", "running"),
        ("COMPLETED", "ok"),
        ("PAUSED", "ok"),
        ("FAILED", "failed"),
        ("CANCELLED", "failed"),
        ("CRASHED", "waiting"),
    ],
)
def test_a_run_that_crashed_just_now_is_waited_for(now: str, state: str) -> None:
    assert _seen(prefect_run(now)).state == state


def test_a_run_that_crashed_long_ago_failed() -> None:
    assert _seen(prefect_run("CRASHED", ago_s=CRASH_GRACE_S + 1)).state == "failed"


def test_the_cause_is_what_the_error_says() -> None:
    message = "Flow run encountered an exception: PreflightError: no device\n  -> go to a host that has one"
    assert _seen(prefect_run("FAILED", message)).cause == "no device\n  -> go to a host that has one"
    assert _seen(prefect_run("CANCELLED")).cause == "the run was cancelled"


def test_what_is_away_for_a_while_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "RETRY_S", 0.0)
    answers = [StoreLostError("the database does not answer", remedy="start it")] * 3
    said: list[str] = []

    def call() -> str:
        if answers:
            raise answers.pop()
        return "there"

    assert patience.patiently(call, said.append) == "there"
    assert len(said) == 1
    monkeypatch.setattr(patience, "OUTAGE_S", -1.0)
    answers.append(StoreLostError("gone", remedy="start it"))
    with pytest.raises(StoreLostError, match="gone"):
        patience.patiently(call, said.append)


def test_what_is_wrong_is_not_asked_again() -> None:
    def call() -> None:
        raise DeployError("refused", remedy="none")

    with pytest.raises(DeployError):
        patience.patiently(call, print)
