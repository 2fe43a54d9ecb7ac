"""What Prefect does by itself with a run whose worker or process died: it is ended, and put back once.

A run sends a heartbeat while its process lives. Where its worker sees it end badly, the worker says so; where the
worker died with it, nobody does, and the run would be shown as running, and hold its slot, for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

from pydantic import Field

from flagrelease.records import Record
from flows.deployments.wanted import HEARTBEAT_S, MANAGED

# Three heartbeats: a run of which one was lost is not taken for dead.
SILENT_S = 90
# From a worker's taking a run until its process says that it has begun: some seconds, a minute on a busy host.
BEGIN_S = 180
# A run that was only cut off from the server, or whose server was, is heard again within two heartbeats.
LIFE_S = 2 * HEARTBEAT_S

PREFIX = "flagrelease: "
"""Of the names of all automations that are FlagRelease's: one with it that is not wanted is removed."""
UNHEARD = f"{PREFIX}nothing was heard of the run"
"""How the message of a run begins that was ended because of that: its process may live yet."""

HEARTBEAT, PENDING, RUNNING = (f"prefect.flow-run.{name}" for name in ("heartbeat", "Pending", "Running"))
ENDED = [f"prefect.flow-run.{state}" for state in ("Cancelled", "Completed", "Crashed", "Failed", "Suspended")]
"""After these no heartbeat is missed. A suspended run has no process until it is resumed."""


class Automation(Record):
    """An automation as the matrix's deployments need it."""

    name: str
    description: str
    trigger: dict[str, Any] = Field(description="as Prefect writes it")
    action: dict[str, Any] = Field(description="as Prefect writes it, but for the deployment's id")
    runs: str | None = Field(default=None, description="full name of the deployment that the action runs")

    def content(self, deployments: Mapping[str, UUID]) -> dict[str, Any]:
        """As Prefect has it; `deployments` holds the ids of those that there are."""
        action = dict(self.action)
        if self.runs:
            action |= {"source": "selected", "deployment_id": str(deployments.get(self.runs, ""))}
        return {
            "name": self.name,
            "description": self.description,
            "tags": [],
            "trigger": self.trigger,
            "actions": [action],
            "actions_on_trigger": [],
            "actions_on_resolve": [],
        }


def automations(flows: Iterable[str]) -> list[Automation]:
    """Automations for runs of the named flows' deployments."""
    return [
        Automation(
            name=f"{PREFIX}runs that went silent",
            description=f"A run sends a heartbeat each {HEARTBEAT_S} s. One without for {SILENT_S} s has died with its "
            "worker: it is ended, and frees its slot.",
            # A run may die before its first heartbeat. Only what ends it stands for a heartbeat: after a mere change of
            # state, such as Cancelling, a run that dies would not be missed.
            trigger=_trigger(
                "Proactive", after=[HEARTBEAT, RUNNING], expect=[HEARTBEAT, RUNNING, *ENDED], within=SILENT_S
            ),
            action=_end(f"{UNHEARD} for {SILENT_S} s"),
        ),
        Automation(
            name=f"{PREFIX}runs that never began",
            description=f"A run that a worker took, and whose process has not begun after {BEGIN_S} s, is ended: its "
            "worker died.",
            trigger=_trigger(
                "Proactive",
                after=[PENDING],
                expect=[
                    PENDING,
                    RUNNING,
                    *ENDED,
                    *(f"prefect.flow-run.{state}" for state in ("AwaitingConcurrencySlot", "Scheduled")),
                ],
                within=BEGIN_S,
            ),
            action=_end(f"{UNHEARD} in {BEGIN_S} s after a worker took it"),
        ),
        Automation(
            name=f"{PREFIX}crashed runs",
            description="A run that crashed is put back once, to be taken by a worker again.",
            trigger=_trigger(
                "Reactive",
                expect=["prefect.flow-run.Crashed"],
                # A crash of what puts back is none of these, else it would start itself again and again.
                related=[{"prefect.resource.role": "flow", "prefect.resource.name": sorted(flows)}],
            ),
            action={
                "type": "run-deployment",
                "parameters": {
                    "flow_run": {"__prefect_kind": "jinja", "template": "{{ flow_run.id }}"},
                    "life_s": LIFE_S,
                },
                "job_variables": None,
                "schedule_after": 0.0,
            },
            runs="recover/crashed",
        ),
    ]


def differences(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Names of the parts of an automation that are not as they are wanted."""
    return [part for part, content in wanted.items() if _plain(_like(found[part], content)) != _plain(content)]


def _trigger(
    posture: str, *, expect: list[str], after: Iterable[str] = (), within: int = 0, related: Iterable[Any] = ()
) -> dict[str, Any]:
    """A trigger for each run of our deployments by itself.

    An event that is both in `after` and in `expect` begins the time anew: a run that was put back is watched, too.
    """
    ours = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{MANAGED}"}
    return {
        "type": "event",
        "posture": posture,
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "match_related": [ours, *related],
        "after": sorted(after),
        "expect": sorted(expect),
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        "within": float(within),
    }


def _end(message: str) -> dict[str, Any]:
    # Not by force: a run that has ended meanwhile must not be begun again.
    return {"type": "change-flow-run-state", "name": None, "state": "CRASHED", "message": message, "force": False}


def _like(found: Any, wanted: Any) -> Any:
    """`found` without what Prefect adds to a trigger or an action: its id, and fields of a newer server."""
    if isinstance(wanted, list) and isinstance(found, list) and len(found) == len(wanted):
        return [_like(one, other) for one, other in zip(found, wanted, strict=True)]
    if isinstance(wanted, dict) and isinstance(found, dict) and "type" in wanted:
        return {key: found.get(key) for key in wanted}
    return found


def _plain(value: Any) -> Any:
    """`value` with texts in order: Prefect keeps events and labels as sets."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        parts = [_plain(part) for part in value]
        return sorted(parts) if all(isinstance(part, str) for part in parts) else parts
    return value
