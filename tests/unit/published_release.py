"""A release in a store as the stages leave it, and its publication in a folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from evaluation import baseline as baselines
from evaluation.catalogue import load_benchmarks
from evaluation.gate import decide, decide_unpaired
from evaluation.run import aggregate, items_to_jsonl
from flagrelease import __version__
from flagrelease.card.build import Snapshot, card_data
from flagrelease.card.compose import measured_card
from flagrelease.card.files import card_files
from flagrelease.evidence import EvidenceFolder
from flagrelease.loading import load_chips, load_matrix, resolve
from flagrelease.provenance.keys import SigningKey
from flagrelease.provenance.publication import with_provenance
from flagrelease.provenance.statement import content_sha256
from flagrelease.publish.folder import FolderPublisher
from flagrelease.records import Artefact, Degree, Evaluation, Item, OperatorEvidence, Stage
from flagrelease.store import Store
from flagrelease.verdicts import GateResult
from tests.conftest import ROOT

BASELINE = "smollm2-vllm-9cb78b345018"
PUBLISHED_SCORES = "qwen3-published-9a0ba8f956fe"
TARGET = "FlagRelease/a-release"


class World(NamedTuple):
    """A store, a folder of evidence, and a place to publish to."""

    store: Store
    evidence: EvidenceFolder
    publisher: FolderPublisher


def world(folder: Path) -> World:
    folder.mkdir(parents=True, exist_ok=True)
    return World(
        Store.open(f"sqlite:///{folder / 'store.db'}"),
        EvidenceFolder(str(folder / "evidence")),
        FolderPublisher(folder / "hub"),
    )


@cache
def _baseline() -> Evaluation:
    return baselines.load(BASELINE)


def answers(lost: int = 3) -> Evaluation:
    """The answers of the baseline, of which a few right ones became wrong."""
    found = _baseline()
    items: list[Item] = []
    for item in found.items:
        wrong = item.score == 1 and lost > 0
        lost -= wrong
        items.append(item.model_copy(update={"score": 0.0, "answer": " no", "extracted": "no"} if wrong else {}))
    about = found.provenance.model_copy(update={"engine": "llama_cpp", "engine_settings": {"threads": 2}})
    return Evaluation(provenance=about, benchmarks=found.benchmarks, items=items)


def released(
    here: World,
    candidate: Evaluation,
    *,
    cell_id: str = "smollm2-cpu",
    again: Evaluation | None = None,
    key: str = "k",
) -> int:
    """A finished release with all that its stages leave; `again`: the answers after more were asked for.

    `key`: of the release; the same one is the same release.
    """
    store = here.store
    cell = resolve(load_matrix(ROOT / "matrix.yaml"), load_chips(), cell_id)
    benchmarks, judged = load_benchmarks(), again or candidate
    about: dict[str, Any] = {"policy": cell.policy, "benchmarks": benchmarks}
    identifier = PUBLISHED_SCORES if cell_id.startswith("qwen3") else BASELINE
    if baselines.is_imported(identifier):
        published = baselines.load_imported(identifier)
        baselines.keep(published, store, None)
        scores = {row.benchmark: (row.score, row.n) for row in aggregate(judged)}
        ran = OperatorEvidence(degree=Degree.UNKNOWN, ran=["add", "mul"])
        gate = decide_unpaired(scores, published, baseline_id=identifier, operators=ran, **about)
    else:
        baseline = _baseline()
        baselines.keep(baseline, store, None)
        gate = decide(judged, baseline, baseline_id=identifier, **about)
    displays = {run.benchmark: benchmarks[run.benchmark].display for run in candidate.benchmarks}
    snapshot = Snapshot(cell=cell, engine="llama_cpp", engine_display="llama.cpp", displays=displays, not_run=[])
    number = store.begin_release(
        cell=cell.id, key=key, engine="llama_cpp", snapshot=snapshot.model_dump(mode="json"), code_version=__version__
    )
    _finish(here, number, Stage.BUILD, [])
    _finish(here, number, Stage.EVALUATE, [*_answers(here, candidate, ""), here.evidence.put("log", "a.log", b"ready")])
    _finish(here, number, Stage.ESCALATE, _answers(here, again, "-again") if again else [])
    _finish(here, number, Stage.DECIDE, [here.evidence.put("verdict", "verdict.json", _json(gate))])
    store.record_verdict(
        number, gate, store.add_evaluation(judged, aggregate(judged), key=f"{key} c", role="candidate")
    )
    store.finish_release(number, "completed")
    return number


def files_of(here: World, number: int, key: SigningKey | None) -> dict[str, bytes]:
    """The files of the release's publication, as the stage `publish` makes them."""
    data = card_data(here.store, number)
    files = card_files(measured_card(data))
    for artefact in data.evidence:
        files[f"evidence/{artefact.name}"] = here.evidence.read(artefact.sha256)
    baseline = here.store.evaluation_summary(baseline_id=data.gate.baseline_id)
    content = data.published if baseline is None else here.store.evaluation(baseline)
    sha256 = content_sha256(content) if content else None
    return with_provenance(here.store, data, files, key=key, baseline_sha256=sha256)


def publish(here: World, number: int, key: SigningKey | None) -> Path:
    """Publish the release; returns its folder."""
    here.publisher.publish(files_of(here, number, key), TARGET)
    return here.publisher.root / TARGET


def _answers(here: World, evaluation: Evaluation, which: str) -> Sequence[Artefact]:
    about = evaluation.model_dump_json(exclude={"items"}, indent=1).encode()
    return [
        here.evidence.put("items", f"items{which}.jsonl", items_to_jsonl(evaluation.items)),
        here.evidence.put("provenance", f"evaluation{which}.json", about),
    ]


def _finish(here: World, number: int, stage: Stage, kept: Sequence[Artefact]) -> None:
    here.store.begin_stage(number, stage, stage, {})
    here.store.finish_stage(number, stage, key=stage, output={}, artefacts=kept)


def _json(gate: GateResult) -> bytes:
    return gate.model_dump_json(indent=1).encode()
