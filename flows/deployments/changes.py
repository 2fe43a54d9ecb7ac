"""From what Prefect has to what the matrix wants: what is added, changed and removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from flows.deployments.automations import Automation, differences
from flows.deployments.wanted import QUEUES, Deployment, Pool

# A longer value of a deployment is not shown, only that it differs.
SHOWN = 60


@dataclass(frozen=True)
class FoundPool:
    """A work pool that Prefect has."""

    slots: int | None
    queues: frozenset[str]


@dataclass(frozen=True)
class Found:
    """A deployment that Prefect has and FlagRelease made."""

    id: UUID
    deployment: Deployment
    version: str | None
    paused: bool
    active: Mapping[str | None, bool]
    """Whether each schedule is, by its slug."""


@dataclass(frozen=True)
class PoolChange:
    """A work pool to add, or one whose slots or queues are not those wanted."""

    pool: Pool
    found: FoundPool | None

    @property
    def queues(self) -> list[str]:
        """Those that it lacks, in order."""
        return [name for name in QUEUES if self.found is None or name not in self.found.queues]

    def __str__(self) -> str:
        """As the plan shows it."""
        if self.found is None:
            return f"+ work pool {self.pool.name}: {self.pool.slots} at once; queues {', '.join(QUEUES)}"
        said = []
        if self.found.slots != self.pool.slots:
            said.append(f"at once {self.found.slots or 'no limit'} -> {self.pool.slots}")
        if self.queues:
            said.append(f"queues {', '.join(self.queues)} added")
        return f"~ work pool {self.pool.name}: {'; '.join(said)}"


@dataclass(frozen=True)
class Update:
    """A deployment that Prefect has, and not as it is wanted."""

    wanted: Deployment
    found: Found

    def __str__(self) -> str:
        """As the plan shows it, with what differs."""
        new, old = self.wanted.model_dump(), self.found.deployment.model_dump()
        said = [_difference(name, old[name], new[name]) for name in new if new[name] != old[name]]
        if self.wanted.schedules != self.found.deployment.schedules and self.wanted.note:
            said.append(self.wanted.note)
        return f"~ {self.wanted.full_name}: {'; '.join(said) or 'version'}"


@dataclass(frozen=True)
class FoundAutomation:
    """An automation that Prefect has and FlagRelease made."""

    id: UUID
    name: str
    enabled: bool
    content: Mapping[str, Any]
    """As the API gives it."""


@dataclass(frozen=True)
class AutomationChange:
    """An automation to add, or one that is not as it is wanted."""

    wanted: Automation
    found: FoundAutomation | None
    parts: list[str]
    """Those that differ."""

    def __str__(self) -> str:
        """As the plan shows it."""
        if self.found is None:
            return f"+ automation {self.wanted.name}"
        return f"~ automation {self.wanted.name}: {', '.join(part.replace('_', ' ') for part in self.parts)}"


@dataclass(frozen=True)
class AutomationChanges:
    """What has to happen to automations. Those of the name's prefix that are not wanted go, doubles too."""

    put: list[AutomationChange]
    remove: list[FoundAutomation]
    unchanged: int

    def __len__(self) -> int:
        """How many there are."""
        return len(self.put) + len(self.remove)

    def lines(self) -> Iterator[str]:
        """One line a change, and how many there are."""
        yield from map(str, self.put)
        for gone in self.remove:
            yield f"- automation {gone.name}"
        add = sum(change.found is None for change in self.put)
        yield (
            f"automations: {add} to add, {len(self.put) - add} to change, {len(self.remove)} to remove, "
            f"{self.unchanged} unchanged"
        )


@dataclass(frozen=True)
class Wanted:
    """All that Prefect is to have."""

    pools: Sequence[Pool] = ()
    deployments: Sequence[Deployment] = ()
    automations: Sequence[Automation] = ()


@dataclass(frozen=True)
class There:
    """What Prefect has of it, and what it has of FlagRelease's besides."""

    pools: Mapping[str, FoundPool] = field(default_factory=dict)
    deployments: Sequence[Found] = ()
    automations: Sequence[FoundAutomation] = ()
    """The oldest first."""


@dataclass(frozen=True)
class Changes:
    """All that has to happen in Prefect. Pools are never removed: workers poll them."""

    pools: list[PoolChange]
    add: list[Deployment]
    update: list[Update]
    remove: list[Found]
    unchanged: int
    automations: AutomationChanges

    def __len__(self) -> int:
        """How many there are."""
        return len(self.pools) + len(self.add) + len(self.update) + len(self.remove) + len(self.automations)

    @property
    def put(self) -> list[tuple[Deployment, Found | None]]:
        """What is added or replaced, with what it replaces."""
        return [(one, None) for one in self.add] + [(one.wanted, one.found) for one in self.update]

    def lines(self) -> Iterator[str]:
        """One line a change, and how many there are."""
        yield from map(str, self.pools)
        for deployment in self.add:
            yield f"+ {deployment.full_name}" + (f": {deployment.note}" if deployment.note else "")
        yield from map(str, self.update)
        for found in self.remove:
            yield f"- {found.deployment.full_name}: the matrix has it no more"
        yield (
            f"deployments: {len(self.add)} to add, {len(self.update)} to change, {len(self.remove)} to remove, "
            f"{self.unchanged} unchanged"
        )
        yield from self.automations.lines()


def changes(wanted: Wanted, there: There) -> Changes:
    """What brings Prefect from what is there to what is wanted; by content, whoever changed it."""
    left = {one.deployment.full_name: one for one in there.deployments}
    ids = {name: one.id for name, one in left.items()}
    changed_pools = [PoolChange(pool, there.pools.get(pool.name)) for pool in wanted.pools]
    add, update, unchanged = [], [], 0
    for deployment in wanted.deployments:
        one = left.pop(deployment.full_name, None)
        if one is None:
            add.append(deployment)
        elif deployment.model_dump() != one.deployment.model_dump() or deployment.version != one.version:
            update.append(Update(deployment, one))
        else:
            unchanged += 1
    return Changes(
        pools=[one for one in changed_pools if one.found is None or one.queues or one.found.slots != one.pool.slots],
        add=add,
        update=update,
        remove=list(left.values()),
        unchanged=unchanged,
        automations=_automation_changes(wanted.automations, there.automations, ids),
    )


def _automation_changes(
    automations: Iterable[Automation], found: Iterable[FoundAutomation], deployments: Mapping[str, UUID]
) -> AutomationChanges:
    there: dict[str, list[FoundAutomation]] = {}
    for one in found:
        there.setdefault(one.name, []).append(one)
    put, unchanged = [], 0
    for wanted in automations:
        named = there.get(wanted.name, [])
        first = named.pop(0) if named else None
        parts = differences(wanted.content(deployments), first.content) if first else []
        if first and not parts:
            unchanged += 1
        else:
            put.append(AutomationChange(wanted, first, parts))
    return AutomationChanges(put, [one for left in there.values() for one in left], unchanged)


def _difference(name: str, old: Any, new: Any) -> str:
    """`name: old -> new`, or the name alone where that would be long."""
    name, old, new = name.replace("_", " "), _short(old), _short(new)
    return f"{name} {old} -> {new}" if len(old) <= SHOWN and len(new) <= SHOWN else name


def _short(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_short(one) for one in value) or "none"
    if isinstance(value, dict):
        if "cron" in (schedule := value.get("schedule") or {}):
            return f"{schedule['cron']} {schedule['timezone']}"
        return ", ".join(f"{key}={part}" for key, part in value.items()) or "none"
    return "none" if value is None else str(value)
