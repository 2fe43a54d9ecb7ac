"""What the matrix wants Prefect to have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from flagrelease.loading import load_chips, load_matrix, resolve_all
from flagrelease.matrix import ResolvedCell
from flagrelease.schedules import Schedule
from flagrelease.settings import Settings
from flagrelease.sweep import Sweep
from flows.deployments.automations import SILENT_S
from flows.deployments.spread import spread
from flows.deployments.wanted import MANAGED, PATIENCE, Deployment, Flow, deployments, pools

MATRIX = Path(__file__).parents[2] / "matrix.yaml"
TEXT = {"type": "string"}
OR_NONE = {"anyOf": [TEXT, {"type": "null"}], "default": None}
SCHEMA = {
    "type": "object",
    "properties": {"cell": TEXT, "engine": OR_NONE, "suite": OR_NONE, "revision": OR_NONE},
    "required": ["cell"],
}
FLOWS = {
    name: Flow(name=name, entrypoint=f"flows.{name}.{name}", parameters=SCHEMA)
    for name in ("release", "baseline", "image", "sweep", "recover")
}


def cells() -> list[ResolvedCell]:
    return resolve_all(load_matrix(MATRIX), load_chips())


def scheduled(cell: ResolvedCell, cron: str) -> ResolvedCell:
    schedule = Schedule(cron=cron, timezone="Asia/Shanghai")
    return cell.model_copy(update={"cell": cell.cell.model_copy(update={"schedule": schedule})})


def wanted(
    found: list[ResolvedCell], sweeps: Mapping[str, Sweep] | None = None, **settings: Any
) -> dict[str, Deployment]:
    host = Settings(**settings)
    all_of_them = deployments(found, FLOWS, host, suites=["text", "smoke"], sweeps=sweeps or {})
    return {one.full_name: one for one in all_of_them}


def test_each_cell_and_each_chip_has_its_deployment() -> None:
    names = set(wanted(cells()))
    assert {"release/qwen3-metax", "release/smollm2-cpu", "baseline/cpu", "image/metax"} <= names
    assert {"sweep/all", "recover/crashed"} <= names
    assert len(names) == len(cells()) + 2 * len({cell.chip.key for cell in cells()}) + 2


def test_a_deployment_says_what_it_is_and_where_it_runs() -> None:
    found = wanted(cells())["release/qwen3-metax"]
    assert found.entrypoint == "flows.release.release"
    assert (found.pool, found.queue) == ("metax", "default")
    assert found.parameters == {"cell": "qwen3-metax"}
    assert found.tags == ["chip:metax", "flagrelease:managed", "model:qwen3", "suite:text"]
    assert found.description == "Releases Qwen3-8B on Metax (flagos)."


def test_a_deployment_takes_its_own_cell_and_engines_only() -> None:
    properties = wanted(cells())["release/smollm2-cpu"].parameter_schema["properties"]
    assert properties["cell"]["enum"] == ["smollm2-cpu"]
    assert properties["engine"]["anyOf"] == [{"type": "string", "enum": ["llama_cpp", "vllm"]}, {"type": "null"}]
    assert properties["engine"]["default"] is None
    assert properties["suite"]["anyOf"][0]["enum"] == ["smoke", "text"]
    # A baseline is asked for by any model or cell.
    assert wanted(cells())["baseline/cpu"].parameter_schema == SCHEMA


def test_weights_of_a_package_have_no_other_revision() -> None:
    found = {name: wanted(cells())[f"release/{name}"].parameter_schema for name in ("smollm2-cpu", "qwen3-metax")}
    assert found["smollm2-cpu"]["properties"]["revision"] == {"anyOf": [{"type": "null"}], "default": None}
    assert found["qwen3-metax"]["properties"]["revision"] == OR_NONE
    assert "revision" in SCHEMA["properties"], "the flow's own schema was changed"


def test_an_image_is_built_for_a_cell_of_the_chip() -> None:
    found = wanted(cells())["image/metax"]
    assert found.pool == "metax"
    ours = {cell.id for cell in cells() if cell.chip.key == "metax"}
    assert set(found.parameter_schema["properties"]["cell"]["enum"]) == ours


def test_each_sweep_of_the_matrix_is_deployed_with_what_it_chooses() -> None:
    schedule = Schedule(cron="0 2 * * 6", timezone="Asia/Shanghai")
    nightly = Sweep(tags=["nightly"], hours=8, publish=False, schedule=schedule)
    found = wanted(cells(), {"nightly": nightly})
    assert {name for name in found if name.startswith("sweep/")} == {"sweep/all", "sweep/nightly"}
    assert found["sweep/all"].parameters == {}
    assert found["sweep/nightly"].parameters == {"tags": ["nightly"], "hours": 8.0, "publish": False}
    # At its own minute: one run, nothing to spread.
    [each] = found["sweep/nightly"].schedules
    assert (each["schedule"]["cron"], each["schedule"]["timezone"]) == ("0 2 * * 6", "Asia/Shanghai")
    assert found["sweep/nightly"].note == "0 2 * * 6 Asia/Shanghai"
    # A sweep waits for runs of chips, and a dead run must not wait behind sweeps: neither stands in a chip's pool.
    assert {found[name].pool for name in ("sweep/all", "sweep/nightly", "recover/crashed")} == {"control"}
    assert found["recover/crashed"].queue == "urgent"


def test_the_matrix_may_say_what_all_is() -> None:
    assert wanted(cells(), {"all": Sweep(gpu_hours=100)})["sweep/all"].parameters == {"gpu_hours": 100.0}


def test_a_pool_has_the_slots_of_its_chip() -> None:
    by_name = {pool.name: pool for pool in pools(cells())}
    assert set(by_name) == {"control"} | {cell.chip.key for cell in cells()}
    assert by_name["metax"].slots == load_chips()["metax"].slots


def test_state_on_this_host_is_named_and_shared_state_is_not() -> None:
    found = wanted(cells(), home=Path("/state"), chips=Path("/chips"), known_issues=Path("/known.yaml"))
    local = found["release/smollm2-cpu"].job_variables
    assert local["env"]["FLAGRELEASE_HOME"] == "/state"
    assert local["env"]["FLAGRELEASE_CHIPS"] == "/chips"
    assert local["env"]["FLAGRELEASE_KNOWN_ISSUES"] == "/known.yaml"
    # An address may carry a password, and deployments are readable by everybody.
    shared = wanted(cells(), store="postgresql+psycopg://host/db")["release/smollm2-cpu"].job_variables
    assert shared == {"env": {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", **PATIENCE}}


def test_every_run_sends_the_heartbeats_that_its_automation_waits_for() -> None:
    for settings in ({"home": Path("/state")}, {"store": "postgresql+psycopg://host/db"}):
        for one in wanted(cells(), **settings).values():
            frequency = int(one.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
            assert MANAGED in one.tags
            # One that is lost, or late, is no death.
            assert 2 * frequency < SILENT_S


def test_a_schedule_is_the_matrix_s_some_minutes_later_and_says_so() -> None:
    [cell] = [scheduled(cell, "0 2 * * 6") for cell in cells() if cell.id == "qwen3-metax"]
    found = wanted([cell])["release/qwen3-metax"]
    [schedule] = [one["schedule"] for one in found.schedules]
    minute, rest = schedule["cron"].split(maxsplit=1)
    assert rest == "2 * * 6"
    assert schedule["timezone"] == "Asia/Shanghai"
    assert found.note == f"{schedule['cron']} Asia/Shanghai, {minute} min after 0 2 * * 6"
    assert found.note in (found.description or "")


def test_other_cells_do_not_move_a_cell() -> None:
    both = [scheduled(cell, "0 2 * * 6") for cell in cells()]
    alone = wanted([cell for cell in both if cell.id == "qwen3-metax"])["release/qwen3-metax"]
    assert wanted(both)["release/qwen3-metax"] == alone


def test_cells_of_one_chip_are_spread_over_the_hour() -> None:
    offsets = [spread("0 2 * * 6", f"model{number:02}-metax")[1] for number in range(60)]
    assert set(offsets) <= set(range(60))
    assert len(set(offsets)) >= 30
    assert max(offsets.count(offset) for offset in offsets) <= 5


@pytest.mark.parametrize(
    ("cron", "minutes", "window"),
    [
        ("0 2 * * 6", [0], 60),
        ("30 2,14 1-7 jan *", [30], 30),
        ("59 23 * * *", [59], 1),
        ("* * * * *", list(range(60)), 1),
        ("*/20 * * * *", [0, 20, 40], 20),
        ("5/25 * * * *", [5, 30, 55], 5),
        ("0-10/5,30 * * * *", [0, 5, 10, 30], 30),
    ],
)
def test_all_minutes_of_a_cell_move_alike_and_stay_in_their_hour(cron: str, minutes: list[int], window: int) -> None:
    seen = set()
    for number in range(40):
        moved, offset = spread(cron, f"cell-{number}")
        seen.add(offset)
        if offset == 0:
            assert moved == cron
            continue
        field, rest = moved.split(maxsplit=1)
        assert rest == cron.split(maxsplit=1)[1]
        assert [int(minute) for minute in field.split(",")] == [minute + offset for minute in minutes]
    assert max(seen) < window
    assert window == 1 or len(seen) > 1
