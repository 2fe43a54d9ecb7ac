"""The runs of a sweep in Prefect: created from deployments, looked at all at once, ended with the sweep."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Cancelling, Crashed

from flows.deployments.automations import BEGIN_S, LIFE_S, UNHEARD
from flows.deployments.wanted import MANAGED
from flows.patience import patiently
from flows.recover import put_back
from flows.scheduling import Work
from flows.sweep_loop import Seen
from runtime.launch.interface import Log

QUEUE = "sweep"
IMAGE = "image/"
"""Begin of a work that is an image; all others are cells."""
CRASH_GRACE_S = BEGIN_S + 60
"""A run that died is put back by Prefect's automations; one that is not after this long, by its sweep."""
NO_WORKER_S = 600
"""Works of a pool that no worker has asked for this long are not waited for."""
LIVE = ["RUNNING", "PENDING", "PAUSED", "CANCELLING"]


def tag_of(sweep: str) -> str:
    """Tag of the runs of a sweep."""
    return f"sweep:{sweep}"


class PrefectRuns:
    """Runs of one sweep, by work.

    `cells`: those that may be released. `images`: for each image that several share, the cell that it is built for.
    """

    def __init__(
        self,
        client: SyncPrefectClient,
        sweep: str,
        *,
        cells: Sequence[str],
        images: Mapping[str, str],
        parameters: Mapping[str, Any],
        log: Log,
    ) -> None:
        self._client, self._sweep, self._log = client, sweep, log
        self._images, self._parameters = images, dict(parameters)
        self._deployments = patiently(self._find_deployments, log)
        self._adopted = patiently(lambda: self._find_others(set(cells)), log)
        self._refused: dict[str, Seen] = {}
        self._unattended: dict[str, float] = {}
        for cell in self._adopted.values():
            log(f"{cell} is being released already; that run is waited for")

    def seen(self) -> Mapping[str, Seen]:
        """The runs that there are, by work."""
        runs = patiently(self._find_runs, self._log)
        deserted = patiently(self._deserted_pools, self._log)
        found = dict(self._refused)
        for run in runs:
            work = self._adopted.get(run["id"]) or str(run["idempotency_key"]).removeprefix(f"{self._sweep}/")
            if run["state_type"] == "SCHEDULED" and run["work_pool_name"] in deserted:
                found[work] = Seen("failed", cause=deserted[run["work_pool_name"]])
                # The state says why, for who looks there, and for this sweep after it was killed.
                self._client.set_flow_run_state(UUID(run["id"]), Cancelled(message=found[work].cause), force=True)
            else:
                found[work] = self._looked_after(run) or _seen(run)
        return found

    def _looked_after(self, run: Mapping[str, Any]) -> Seen | None:
        """The state of a run that died and that nobody put back; none for all others.

        Prefect's automations do this. But they die with the server's database, and with the worker of `control`.
        """
        kind, identifier = run["state_type"], UUID(run["id"])
        if kind not in ("CRASHED", "PENDING") or _age_s(run["state"]["timestamp"]) < CRASH_GRACE_S:
            return None
        if kind == "PENDING":
            if run["run_count"] == 0:
                crashed: State[Any] = Crashed(message=f"{UNHEARD} in {CRASH_GRACE_S} s after a worker took it")
                patiently(lambda: self._client.set_flow_run_state(identifier, crashed, force=True), self._log)
            return Seen("waiting")
        said = patiently(lambda: put_back(self._client, identifier, LIFE_S, self._log), self._log)
        self._log(f"{run['name']}: {said}")
        return None if said.startswith("left: it crashed again") else Seen("waiting")

    def submit(self, work: Work) -> None:
        """Create the run of a work in the queue of sweeps; it is there once, however often this is called."""
        image = work.id.startswith(IMAGE)
        name = f"image/{work.pool}" if image else f"release/{work.id}"
        parameters = {"cell": self._images[work.id]} if image else {"cell": work.id, **self._parameters}
        deployment = self._deployments.get(name)
        if deployment is None:
            self._refused[work.id] = Seen(
                "failed", cause=f"Prefect has no deployment {name}\n  -> bring it up to date: flagrelease deploy"
            )
            return
        patiently(
            lambda: self._client.create_flow_run_from_deployment(
                UUID(deployment),
                parameters=parameters,
                tags=[tag_of(self._sweep)],
                idempotency_key=f"{self._sweep}/{work.id}",
                work_queue_name=QUEUE,
            ),
            self._log,
        )

    def _find_deployments(self) -> dict[str, str]:
        """Ids of our deployments by their full names."""
        # By flow, as names are unique within one: pages that are sorted by a name that is there twice can lose one.
        return {
            f"{flow}/{one['name']}": one["id"]
            for flow in ("release", "image")
            for one in _pages(self._client, "deployments", flows={"name": {"any_": [flow]}}, deployments=_tags(MANAGED))
        }

    def _find_others(self, cells: set[str]) -> dict[str, str]:
        """Cells of runs that this sweep did not start and that do the same, by the run's id.

        They run now, or an earlier sweep left them in its queue. What a schedule is going to start is not among them.
        """
        ours, filters = tag_of(self._sweep), {"flows": {"name": {"any_": ["release"]}}, "deployments": _tags(MANAGED)}
        live = _pages(self._client, "flow_runs", **filters, flow_runs={"state": {"type": {"any_": LIVE}}})
        queued = _pages(
            self._client,
            "flow_runs",
            **filters,
            flow_runs={"state": {"type": {"any_": ["SCHEDULED"]}}},
            work_pool_queues={"name": {"any_": [QUEUE]}},
        )
        return {
            run["id"]: cell
            for run in (*live, *queued)
            if (cell := run["parameters"].get("cell")) in cells
            and ours not in run["tags"]
            and {key: value for key, value in run["parameters"].items() if key != "cell"} == self._parameters
        }

    def _find_runs(self) -> list[dict[str, Any]]:
        own = _pages(self._client, "flow_runs", flow_runs=_tags(tag_of(self._sweep)))
        adopted = (
            _pages(self._client, "flow_runs", flow_runs={"id": {"any_": list(self._adopted)}}) if self._adopted else ()
        )
        return [*own, *adopted]

    def _deserted_pools(self) -> dict[str, str]:
        """What is said of works of pools that have had no worker for long."""
        now = time.monotonic()
        idle = {pool["name"] for pool in _pages(self._client, "work_pools") if pool["status"] == "NOT_READY"}
        self._unattended = {name: self._unattended.get(name, now) for name in idle}
        return {
            name: f"no worker of the pool {name} has answered for {NO_WORKER_S // 60} minutes\n"
            f"  -> start one on a host of the chip: prefect worker start --pool {name}"
            for name, since in self._unattended.items()
            if now - since >= NO_WORKER_S
        }


def cancel_runs(client: SyncPrefectClient, sweep: str) -> int:
    """Cancel what a sweep has started and what waits; returns how many runs."""
    runs = _pages(
        client,
        "flow_runs",
        flow_runs=_tags(tag_of(sweep)) | {"state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}}},
    )
    found = list(runs)
    for run in found:
        # What no process runs yet is cancelled by being said so; a process is told by its worker.
        state: State[Any] = Cancelled() if run["state_type"] == StateType.SCHEDULED else Cancelling()
        client.set_flow_run_state(UUID(run["id"]), state)
    return len(found)


def _seen(run: Mapping[str, Any]) -> Seen:
    kind, message = run["state_type"], (run["state"] or {}).get("message") or ""
    seconds = float(run["estimated_run_time"] or 0.0)
    if kind == "COMPLETED":
        return Seen("ok", seconds)
    if kind == "CRASHED" and _age_s(run["state"]["timestamp"]) < CRASH_GRACE_S:
        return Seen("waiting", seconds)
    if kind == "PAUSED":
        # It waits for a person's approval, without a slot: all else is done, and no sweep waits for people.
        return Seen("ok", seconds)
    if kind in ("FAILED", "CRASHED", "CANCELLED"):
        return Seen("failed", seconds, _said(message) or f"the run was {kind.lower()}")
    return Seen("running" if kind in ("RUNNING", "CANCELLING") else "waiting", seconds)


def _said(message: str) -> str:
    """A state's message without what Prefect puts before an exception's own words."""
    return re.sub(r"^Flow run encountered an exception: (?:\w+: )?", "", message).strip()


def _age_s(timestamp: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(timestamp)).total_seconds()


def _tags(tag: str) -> dict[str, Any]:
    return {"tags": {"all_": [tag]}}


def _pages(client: SyncPrefectClient, kind: str, **filters: Any) -> Iterator[dict[str, Any]]:
    """What the API has of a kind, as it gives it: Prefect's models take much longer to make."""
    seen = 0
    while page := client.request("POST", f"/{kind}/filter", json={**filters, "offset": seen}).json():  # type: ignore[arg-type]
        seen += len(page)
        yield from page
