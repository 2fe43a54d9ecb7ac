"""What a session reuses, and when there is nothing to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from flagrelease.errors import PreflightError
from flagrelease.pipeline import StageOutput
from flagrelease.records import Stage
from flagrelease.settings import settings
from flows.job import Job, make_job, make_plan
from flows.session import finished_release, open_session
from runtime import gguf_float16

pytestmark = pytest.mark.needs("llama_cpp")


def nothing(_: str) -> None:
    """A log that nobody reads."""


@pytest.fixture
def job(home: Path) -> Job:
    assert home.exists()
    return make_job("smollm2-cpu", None, settings())


def test_a_release_that_was_not_let_out_is_complete_too(job: Job) -> None:
    host = settings()
    with open_session(job, nothing) as session:
        session.run.stage(Stage.PUBLISH, lambda: StageOutput({"published": False}))
        release = session.release
    card = host.output_path / "smollm2-cpu" / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text("card")
    assert finished_release(job, host) == release


def test_a_publication_that_somebody_changed_does_not_stand(job: Job) -> None:
    host = settings()
    card = host.output_path / "smollm2-cpu" / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text("card")
    with open_session(job, nothing) as session:
        publication = session.publisher.publish({"README.md": b"card"}, session.job.target)
        session.store.record_publication(session.release, publication)
        assert not session.published()
        session.run.stage(Stage.PUBLISH, lambda: StageOutput({"published": True}))
        assert session.published()
    assert finished_release(job, host) == session.release
    next((host.output_path / "hub").rglob("README.md")).write_text("another")
    assert finished_release(job, host) is None
    with open_session(job, nothing) as session:
        assert not session.published()


def test_a_release_without_a_publication_is_not_complete(job: Job) -> None:
    card = settings().output_path / "smollm2-cpu" / "README.md"
    card.parent.mkdir(parents=True)
    card.write_text("card")
    with open_session(job, nothing):
        pass
    assert finished_release(job, settings()) is None


def test_one_cell_is_not_released_twice_at_once(job: Job) -> None:
    with open_session(job, nothing), pytest.raises(PreflightError, match="is releasing smollm2-cpu"):
        open_session(job, nothing).__enter__()


def test_an_interrupted_release_says_so(job: Job) -> None:
    from flagrelease.store import Store
    from flagrelease.store.queries import release_view

    with pytest.raises(KeyboardInterrupt), open_session(job, nothing) as session:
        raise KeyboardInterrupt
    assert release_view(Store.open(settings().store_url), session.release).state == "interrupted"


def test_a_corrected_converter_makes_another_release(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    before = make_plan(job)
    monkeypatch.setattr(gguf_float16, "VERSION", 99)
    assert make_plan(job).keys[Stage.EVALUATE] != before.keys[Stage.EVALUATE]
