"""What a plan asks the store, on a real PostgreSQL: the same answers, and nothing can be written."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from flagrelease.errors import StoreError
from flagrelease.pipeline import ReleaseRun, StageOutput, plan
from flagrelease.records import ImportedBaseline, Publication, Stage
from flagrelease.store import Store, plans
from tests.integration.test_store_postgresql import server, store  # noqa: F401 - fixtures

pytestmark = pytest.mark.needs("postgresql")


def test_a_plan_reads_and_cannot_write(server: str, store: Store) -> None:  # noqa: F811 - fixtures
    inputs = {stage: {"setting": 1} for stage in Stage}
    changed = {**inputs, Stage.DECIDE: {"setting": 2}}
    for key, own in (("1", inputs), ("2", changed)):
        release = store.begin_release(cell="m-c", key=key, engine="e", snapshot={"cell": {"a": key}}, code_version="0")
        run = ReleaseRun(store, release, plan(own), lambda _: None)
        for stage in Stage:
            run.stage(stage, lambda: StageOutput({"published": True}))
        store.finish_release(release, "completed")
    publication = Publication(publisher="folder", target="o/m", revision="r", files=[])
    store.record_publication(2, publication)
    store.add_imported_baseline("base", ImportedBaseline(model="m", label="l", source="s", scores=[]))

    reading = plans.open_for_reading(server)
    newest = plans.newest_releases(reading)["m-c"]
    assert (newest.id, newest.state) == (2, "completed")
    assert newest.time.tzinfo is not None
    assert plans.releases_by_key(reading, ["1"])["1"].id == 1
    found = plans.attempts(reading, plan(changed).keys.values())
    assert {key: found[key].release for key in found} == {
        key: 2 if stage in (Stage.DECIDE, Stage.CARD, Stage.PUBLISH) else 1 for stage, key in plan(changed).keys.items()
    }
    row = found[plan(changed).keys[Stage.PUBLISH]].row
    assert plans.outputs(reading, [row]) == {row: {"published": True}}
    past = plans.past_stages(reading, ["m-c"])["m-c"]["e"]
    assert {stage: run.inputs for stage, run in past.items()} == changed
    assert {len(runs) for runs in plans.seconds(reading).values()} == {1, 2}
    assert plans.build_inputs(reading) == [{"setting": 1}]
    assert plans.cell_snapshots(reading, [1, 2]) == {1: {"a": "1"}, 2: {"a": "2"}}
    assert plans.newest_publishers(reading) == {("o/m", "r"): 2}
    assert plans.baseline_ids(reading) == {"base"}
    with pytest.raises(StoreError):
        reading.finish_release(1, "failed")
    reading.close()


def test_an_empty_database_is_an_empty_store_and_stays_one(server: str) -> None:  # noqa: F811 - a fixture
    reading = plans.open_for_reading(server)
    assert plans.newest_releases(reading) == {}
    reading.close()
    made = Store.open(server)
    with made.session() as session:
        assert session.scalar(text("SELECT count(*) FROM releases")) == 0
    made.close()
