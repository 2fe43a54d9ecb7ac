"""What a deploy adds, changes and removes."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from flows.deployments.automations import Automation, automations
from flows.deployments.changes import Changes, Found, FoundAutomation, FoundPool, There, Wanted, changes
from flows.deployments.wanted import QUEUES, Deployment, Pool

POOL = Pool(name="metax", description="hosts with Metax devices", slots=2)
THERE = {"metax": FoundPool(2, frozenset(QUEUES))}


def deployment(name: str, **more: Any) -> Deployment:
    facts: dict[str, Any] = {
        "flow": "release",
        "entrypoint": "flows.release.release",
        "parameter_schema": {"type": "object"},
        "pool": "metax",
        "tags": ["flagrelease:managed"],
        "description": "d",
        "job_variables": {},
    }
    return Deployment(name=name, **{**facts, **more})


def found(one: Deployment, *, version: str | None = None, paused: bool = False) -> Found:
    return Found(uuid4(), one, version or one.version, paused, {})


def plan(wanted: list[Deployment], there: list[Found]) -> Changes:
    return changes(Wanted([POOL], wanted), There(THERE, there))


NO_AUTOMATIONS = "automations: 0 to add, 0 to change, 0 to remove, 0 unchanged"


def test_the_first_run_adds_everything() -> None:
    first = changes(Wanted([POOL], [deployment("a"), deployment("b")]), There())
    assert len(first) == 3
    assert list(first.lines()) == [
        "+ work pool metax: 2 at once; queues urgent, default, sweep",
        "+ release/a",
        "+ release/b",
        "deployments: 2 to add, 0 to change, 0 to remove, 0 unchanged",
        NO_AUTOMATIONS,
    ]


def test_the_second_run_changes_nothing() -> None:
    again = plan([deployment("a"), deployment("b")], [found(deployment("a")), found(deployment("b"))])
    assert not again
    assert list(again.lines()) == ["deployments: 0 to add, 0 to change, 0 to remove, 2 unchanged", NO_AUTOMATIONS]


def test_what_the_matrix_has_no_more_is_removed() -> None:
    there = [found(deployment("a")), found(deployment("b")), found(deployment("a", flow="old"))]
    left = plan([deployment("a")], there)
    assert [one.deployment.full_name for one in left.remove] == ["release/b", "old/a"]
    assert (left.add, left.update, left.unchanged) == ([], [], 1)


@pytest.mark.parametrize(
    ("edited", "said"),
    [
        ({"pool": "nvidia"}, "pool nvidia -> metax"),
        ({"queue": "urgent"}, "queue urgent -> default"),
        ({"tags": ["flagrelease:managed", "mine"]}, "tags flagrelease:managed, mine -> flagrelease:managed"),
        ({"parameters": {"engine": "vllm"}}, "parameters engine=vllm -> none"),
        ({"entrypoint": "flows.other.release"}, "entrypoint flows.other.release -> flows.release.release"),
        ({"description": "x" * 100}, "description"),
        ({"job_variables": {"working_dir": "/tmp"}}, "job variables working_dir=/tmp -> none"),
        ({"enforce_schema": False}, "enforce schema False -> True"),
        ({"limit": 1}, "limit 1 -> none"),
        (
            {"schedules": [{"slug": "matrix", "schedule": {"cron": "0 1 * * *", "timezone": "UTC"}}]},
            "schedules 0 1 * * * UTC -> none",
        ),
        (
            {"schedules": [{"slug": None, "schedule": {"interval": 60}}]},
            "schedules slug=None, schedule={'interval': 60} -> none",
        ),
    ],
)
def test_what_somebody_edited_is_brought_back_and_said(edited: dict[str, Any], said: str) -> None:
    original = deployment("a")
    # An edit in the UI leaves the version as it was.
    there = found(deployment("a", **edited), version=original.version)
    back = plan([original, deployment("b")], [there, found(deployment("b"))])
    assert [str(update) for update in back.update] == [f"~ release/a: {said}"]
    assert (back.add, back.remove, back.unchanged) == ([], [], 1)


def test_a_new_schedule_says_when_the_cell_starts() -> None:
    schedule = {"slug": "matrix", "schedule": {"cron": "17 2 * * 6", "timezone": "UTC"}}
    now = deployment("a", schedules=[schedule], note="17 2 * * 6 UTC, 17 min after 0 2 * * 6")
    [line, *_] = plan([now], [found(deployment("a"))]).lines()
    assert line == "~ release/a: schedules none -> 17 2 * * 6 UTC; 17 2 * * 6 UTC, 17 min after 0 2 * * 6"
    [line, *_] = plan([now], []).lines()
    assert line == "+ release/a: 17 2 * * 6 UTC, 17 min after 0 2 * * 6"
    assert not plan([now], [found(deployment("a", schedules=[schedule]))])


def test_a_deployment_of_another_version_is_replaced() -> None:
    [update] = plan([deployment("a")], [found(deployment("a"), version="0")]).update
    assert str(update) == "~ release/a: version"


def test_an_operators_pause_is_no_change() -> None:
    assert not plan([deployment("a")], [found(deployment("a"), paused=True)])


@pytest.mark.parametrize(
    ("there", "said"),
    [
        (FoundPool(4, frozenset(QUEUES)), "~ work pool metax: at once 4 -> 2"),
        (
            FoundPool(None, frozenset({"default"})),
            "~ work pool metax: at once no limit -> 2; queues urgent, sweep added",
        ),
    ],
)
def test_a_pool_is_brought_to_its_slots_and_queues(there: FoundPool, said: str) -> None:
    [line, *_] = changes(Wanted([POOL]), There({"metax": there})).lines()
    assert line == said


RECOVER = Found(uuid4(), deployment("crashed", flow="recover"), None, paused=False, active={})


def kept(one: Automation, **edited: Any) -> FoundAutomation:
    """As Prefect gives back what it was given: with ids, in another order, with fields of its own."""
    content = one.content({"recover/crashed": RECOVER.id})
    trigger = {**content["trigger"], "id": str(uuid4()), "expect": content["trigger"]["expect"][::-1]}
    actions = [{**action, "new_field": 1} for action in content["actions"]]
    facts = {**content, "trigger": trigger, "actions": actions, "owner_resource": None, **edited}
    return FoundAutomation(uuid4(), facts["name"], enabled=True, content=facts)


def automation_plan(there: list[FoundAutomation], wanted: list[Automation] | None = None) -> Changes:
    ours = automations(["release"]) if wanted is None else wanted
    return changes(Wanted((), (), ours), There({}, [RECOVER], there))


def test_automations_are_added_and_a_second_time_left() -> None:
    ours = automations(["release"])
    first = automation_plan([])
    assert [str(change) for change in first.automations.put] == [f"+ automation {one.name}" for one in ours]
    assert list(first.lines())[-1] == "automations: 3 to add, 0 to change, 0 to remove, 0 unchanged"
    again = automation_plan([kept(one) for one in ours])
    assert len(again.automations) == 0
    assert list(again.lines())[-1] == "automations: 0 to add, 0 to change, 0 to remove, 3 unchanged"


@pytest.mark.parametrize(
    ("edited", "part"),
    [
        ({"trigger": {**automations([])[0].trigger, "within": 10.0}}, "trigger"),
        ({"trigger": {**automations([])[0].trigger, "match_related": []}}, "trigger"),
        ({"actions": []}, "actions"),
        ({"actions": [{"type": "do-nothing"}]}, "actions"),
        ({"actions_on_trigger": [{"type": "do-nothing"}]}, "actions on trigger"),
        ({"description": "mine"}, "description"),
    ],
)
def test_an_edited_automation_is_brought_back(edited: dict[str, Any], part: str) -> None:
    silent, *others = automations(["release"])
    [change] = automation_plan([kept(silent, **edited), *map(kept, others)]).automations.put
    assert str(change) == f"~ automation flagrelease: runs that went silent: {part}"


def test_an_automation_that_runs_another_deployment_is_changed() -> None:
    crashed = automations(["release"])[-1]
    stale = kept(crashed)
    stale.content["actions"][0]["deployment_id"] = str(uuid4())
    [change] = automation_plan([stale], [crashed]).automations.put
    assert change.parts == ["actions"]


def test_doubles_and_former_automations_are_removed_and_the_oldest_stays() -> None:
    ours = automations(["release"])
    there = [*map(kept, ours), kept(ours[0]), kept(ours[0], name="flagrelease: as it was called")]
    plan = automation_plan(there)
    assert plan.automations.remove == there[-2:]
    assert not plan.automations.put
    assert "- automation flagrelease: as it was called" in plan.lines()
