"""Which operators a release is expected to have run: what other releases of the model listed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from flagrelease.pipeline import StageOutput
from flagrelease.records import Degree, OperatorEvidence, Stage
from flagrelease.settings import settings
from flagrelease.store.operators import Served, newest_listed
from flows.job import make_job, make_plan
from flows.operator_evidence import operators_that_ran, read_operators
from flows.session import open_session, open_store
from runtime.engines.torch_reference import TorchReference
from runtime.operators import WRITTEN
from tests.conftest import ROOT

pytestmark = pytest.mark.needs("llama_cpp")

Released = Callable[..., OperatorEvidence | None]
VERSION = "2.13.0, FlagGems 5.0.2"


class StandInServer:
    """Takes the place of a server that lists these operators."""

    def __init__(self, ran: list[str]) -> None:
        self.ran = ran

    def read(self, path: str) -> bytes | None:
        lines = [f"[DEBUG] flag_gems.ops.{name}.{name}: GEMS {name}" for name in self.ran]
        return "\n".join(lines).encode() if path == WRITTEN else None


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def released(home: Path, monkeypatch: pytest.MonkeyPatch, said: list[str]) -> Released:
    """Releases the small cell, changed, with a server that lists `ran`; the evidence that it leaves."""
    monkeypatch.setattr(TorchReference, "version", lambda _: VERSION)

    def make(
        ran: list[str],
        told: Mapping[str, Any] | None = None,
        stage: Stage = Stage.EVALUATE,
        stack: str = "flagos",
    ) -> OperatorEvidence | None:
        matrix = yaml.safe_load((ROOT / "matrix.yaml").read_text())
        (entry,) = (each for each in matrix["cells"] if each["model"] == "smollm2")
        entry |= {"engine": "torch_reference", "stack": stack}
        entry["engines"]["torch_reference"] = dict(told or {})
        path = home / "matrix.yaml"
        path.write_text(yaml.safe_dump(matrix, sort_keys=False))
        monkeypatch.setenv("FLAGRELEASE_MATRIX", str(path))
        settings.cache_clear()
        with open_session(make_job("smollm2-cpu", None, settings()), said.append) as session:
            server: Any = StandInServer(ran)
            session.run.stage(stage, lambda: read_operators(session, server, stage))
            return operators_that_ran(session)

    return make


def test_the_newest_other_release_says_what_should_have_run(released: Released, said: list[str]) -> None:
    first = released(["add", "mm", "sum"], {"threads": 1})
    assert first is not None
    assert first.degree is Degree.UNKNOWN
    part = released(["add", "topk"], {"threads": 2, "without_operators": ["topk"]})
    assert part is not None
    assert (part.degree, part.missing, part.left_out_but_ran) == (Degree.PARTIAL, ["mm", "sum"], ["topk"])
    assert part.expectation == "listed by release 1 of smollm2-cpu"
    assert any("PARTIAL: not in the list are 2 of 3 expected" in line for line in said)
    # What lacked some itself hides nothing in the next one.
    again = released(["add"], {"threads": 3})
    assert again is not None
    assert again.missing == ["mm", "sum"]
    whole = released(["add", "mm", "new", "sum"], {"threads": 4})
    assert whole is not None
    assert whole.degree is Degree.FULL
    later = released(["add", "mm", "sum"], {"threads": 5})
    assert later is not None
    assert (later.missing, later.expectation) == (["new"], "listed by release 4 of smollm2-cpu")


def test_another_model_chip_engine_or_version_of_it_says_nothing(released: Released) -> None:
    released(["add"], {"threads": 1})
    same = Served("smollm2", "cpu", "torch_reference", VERSION)
    with closing(open_store(settings())) as store:

        def known(served: Served) -> bool:
            return newest_listed(store, Stage.EVALUATE, served, package="torch", besides=0) is not None

        assert known(same)
        others = [{"model": "qwen3"}, {"chip": "metax"}, {"engine": "vllm"}, {"engine_version": "2.14.0"}]
        assert not any(known(same._replace(**other)) for other in others)


def test_a_new_version_of_the_engine_may_call_fewer_operators(
    released: Released, monkeypatch: pytest.MonkeyPatch
) -> None:
    released(["add", "mm"], {"threads": 1})
    monkeypatch.setattr(TorchReference, "version", lambda _: "2.14.0, FlagGems 5.0.2")
    first = released(["add"], {"threads": 1})
    assert first is not None
    assert first.degree is Degree.UNKNOWN
    second = released(["add"], {"threads": 2})
    assert second is not None
    assert (second.degree, second.expectation) == (Degree.FULL, "listed by release 2 of smollm2-cpu")


def test_the_version_in_a_releases_image_counts_where_there_is_one(released: Released) -> None:
    released(["add"], {"threads": 1})
    served = Served("smollm2", "cpu", "torch_reference", "0.20.1")
    with closing(open_store(settings())) as store:
        image = {"image": {"versions": {"torch": "0.20.1"}}}
        store.finish_stage(1, Stage.BUILD, key="built", output=image)
        found = newest_listed(store, Stage.EVALUATE, served, package="torch", besides=0)
        assert found is not None
        assert (
            newest_listed(store, Stage.EVALUATE, served._replace(engine_version=VERSION), package="torch", besides=0)
            is None
        )


def test_what_was_compared_once_stays_whatever_is_released_later(released: Released) -> None:
    first = released(["add", "mm"], {"threads": 1})
    released(["add", "mm", "sum"], {"threads": 2})
    assert released(["not asked again"], {"threads": 1}) == first


def test_only_the_same_stage_compares_and_no_release_that_was_told_what_alone_may_run(released: Released) -> None:
    released(["add", "mm"], {"threads": 1}, Stage.CANARY)
    released(["add"], {"operators": ["add"]})
    found = released(["add"], {"threads": 2})
    assert found is not None
    assert found.degree is Degree.UNKNOWN
    found = released(["add"], {"threads": 3}, Stage.CANARY)
    assert found is not None
    assert found.missing == ["mm"]


def test_a_cell_that_may_run_some_only_is_expected_to_run_those(released: Released) -> None:
    found = released(["add", "sum"], {"operators": ["add", "gelu"]})
    assert found is not None
    assert (found.missing, found.left_out_but_ran) == (["gelu"], ["sum"])
    released(["add", "mm"], {"threads": 1})
    found = released(["add"], {"operators": ["add", "gelu", "mm"]})
    assert found is not None
    assert (found.expected, found.missing) == (["add", "mm"], ["mm"])


def test_a_stack_that_has_no_operators_leaves_what_it_always_left(released: Released, home: Path) -> None:
    assert released([], {"threads": 1}, stack="native") is None
    job = make_job("smollm2-cpu", None, settings())
    with open_session(job, lambda _: None) as session:
        done = session.store.finished_stage(Stage.EVALUATE, make_plan(job).keys[Stage.EVALUATE])
        assert done is not None
        assert done.output == {"operators": None}
    assert home.exists()


def test_a_list_that_was_stored_before_lists_were_compared_is_still_one(released: Released) -> None:
    released(["add"], {"threads": 1})
    job = make_job("smollm2-cpu", None, settings())
    for ran, degree in ((["add"], Degree.UNKNOWN), ([], Degree.NONE)):
        with open_session(job, lambda _: None) as session:
            output = StageOutput({"evaluation": 1, "operators": ran})
            session.store.finish_stage(
                session.release, Stage.EVALUATE, key=session.run.key(Stage.EVALUATE), output=output.output
            )
            found = operators_that_ran(session)
            assert found is not None
            assert (found.degree, found.ran) == (degree, ran)
