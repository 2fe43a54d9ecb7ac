"""The stages of a release as plain functions; `flows.release` wraps each in a Prefect task."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from evaluation import baseline as baselines
from evaluation.catalogue import load_benchmarks
from evaluation.gate import decide as decide_by_gate
from evaluation.gate import decide_unpaired
from evaluation.harness.interface import Progress
from evaluation.run import EarlyStopping, aggregate, items_to_jsonl
from flagrelease.card.build import card_data
from flagrelease.card.compose import measured_card
from flagrelease.card.files import card_files, write_card
from flagrelease.card.lint import errors_of, knowledge
from flagrelease.card.lint.stored import imported_cards
from flagrelease.errors import ApprovalNeededError, NoRepositoryError, PublishError
from flagrelease.evidence import EvidenceFolder
from flagrelease.loading import load_chips, load_matrix
from flagrelease.pipeline import StageOutput
from flagrelease.provenance.keys import SigningKey, signing_key
from flagrelease.provenance.publication import with_provenance
from flagrelease.provenance.statement import ENVELOPE_FILE, content_sha256
from flagrelease.publish.interface import Publisher, revision
from flagrelease.records import Artefact, CellImage, Evaluation, ImportedBaseline, Stage
from flagrelease.store import Store, StoredEvaluation
from flagrelease.store.publications import Place, taken_back
from flagrelease.verdicts import CanaryResult, GateResult, SpeedVerdict, Verdict
from flows import serving
from flows.conformance import checked
from flows.job import provenance, required_baseline
from flows.operator_evidence import operators_that_ran, read_operators
from flows.publication import terms_of
from flows.session import Session
from runtime import weights
from runtime.image.provide import at_hand
from runtime.launch.interface import Server

PUBLISHED = (Verdict.CONSISTENT, Verdict.INCONCLUSIVE)
"""Verdicts that go into the folder; what goes to hubs says the matrix."""


class Tiers(NamedTuple):
    """What the stages beside the evaluation found, and in words what they could not measure."""

    canary: CanaryResult | None
    speed: Sequence[SpeedVerdict]
    notes: Sequence[str]


def build(session: Session) -> StageOutput:
    """Check the weights and bring them into the engine's format; build and push the image that serves them."""
    found = weights.check(session.job.cell.model)
    form = session.job.engine.weights_format(session.job.engine_settings)
    session.log(f"build: weights {found.sha256[:12]}… as {form}")
    serving.model_path(session.job, found, session.host.work_path)
    output = {"weights_sha256": found.sha256, "chat_template_sha256": weights.chat_template_sha256(found)}
    if session.job.cell.container is None:
        return StageOutput(output)
    provided = serving.provided_image(session.job, session.host, session.log, send=True)
    session.log(f"build: the image is {provided.image.reference}")
    kept = [session.evidence.put("image", name, content) for name, content in provided.files.items()]
    return StageOutput(output | {"image": provided.image.model_dump(mode="json")}, kept)


def image(session: Session) -> CellImage | None:
    """The image that the stage `build` left; none: the cell is served by a process."""
    built = session.run.finished(Stage.BUILD)
    return CellImage.model_validate(built.output["image"]) if built and "image" in built.output else None


def image_is_there(session: Session) -> bool:
    """Whether the image can be had where something is yet to be served from it."""
    built = image(session)
    served = all(session.run.finished(stage) for stage in (Stage.CANARY, Stage.EVALUATE, Stage.ESCALATE, Stage.SPEED))
    return built is None or served or at_hand(built, session.host, session.log)


def nothing_asked(session: Session) -> int:
    """Id of an evaluation without a question: what a release whose canary failed is judged on."""
    found = weights.check(session.job.cell.model)
    evaluation = Evaluation(
        provenance=provenance(session.job, found, image(session)),
        benchmarks=[],
        items=[],
    )
    return session.store.add_evaluation(evaluation, [], key=session.run.key(Stage.CANARY), role="candidate")


def _early_stopping(session: Session) -> EarlyStopping | None:
    """What the evaluation is compared with while it runs; none where no benchmark is large enough."""
    baseline = measured_baseline(session)
    if baseline is None or not session.job.may_stop_early:
        return None
    return EarlyStopping(session.job.cell.policy, session.store.evaluation(baseline).items)


def evaluate_served(session: Session, server: Server, progress: Progress) -> StageOutput:
    """Evaluate the served model; items, versions and the server's log are kept as evidence."""
    key = session.run.key(Stage.EVALUATE)
    evaluation = serving.measure(
        session.job,
        server,
        image=image(session),
        work=session.host.work_path,
        journals=journals(session, Stage.EVALUATE),
        progress=progress,
        log=session.log,
        stop=_early_stopping(session),
    )
    identifier = session.store.add_evaluation(evaluation, aggregate(evaluation), key=key, role="candidate")
    log = session.evidence.put("server_log", "server.log", server.log_path.read_bytes())
    ran = read_operators(session, server, Stage.EVALUATE)
    kept = [*evaluation_evidence(session, identifier, ""), log, *ran.artefacts]
    return StageOutput({"evaluation": identifier, **ran.output}, kept)


def evaluation_evidence(session: Session, identifier: int, which: str) -> list[Artefact]:
    """Items and provenance of a stored evaluation as files of evidence; `which` is put into their names.

    What is kept is what is stored: an interrupted run may have stored its answers already.
    """
    evaluation = session.store.evaluation(session.store.known_evaluation(evaluation=identifier))
    about = evaluation.model_dump_json(exclude={"items"}, indent=1)
    return [
        session.evidence.put("items", f"items{which}.jsonl", items_to_jsonl(evaluation.items)),
        session.evidence.put("provenance", f"evaluation{which}.json", about.encode()),
    ]


def forget_answers(session: Session) -> None:
    """Remove the answers-so-far of stored evaluations."""
    for stage in (Stage.EVALUATE, Stage.ESCALATE):
        shutil.rmtree(journals(session, stage), ignore_errors=True)


def journals(session: Session, stage: Stage) -> Path:
    """Folder of the answers-so-far of a stage."""
    return session.host.work_path / "answers" / session.run.key(stage)[:16]


def measured_baseline(session: Session) -> StoredEvaluation | None:
    """The cell's baseline, brought into the store; none where it is published scores without items."""
    identifier = required_baseline(session.job.cell)
    return None if baselines.is_imported(identifier) else stored_baseline(session.store, identifier)


def stored_baseline(store: Store, identifier: str) -> StoredEvaluation:
    """The baseline in the store; brought in from its files where it is not there yet."""
    if store.evaluation_summary(baseline_id=identifier) is None:
        baselines.keep(baselines.load(identifier), store, None)
    return store.known_evaluation(baseline_id=identifier)


def published_baseline(store: Store, identifier: str) -> ImportedBaseline:
    """Published scores in the store; brought in from their file where they are not there yet."""
    found = store.imported_baseline(identifier)
    if found is None:
        found = baselines.load_imported(identifier)
        baselines.keep(found, store, None)
    return found


def decide(session: Session, evaluation: int, tiers: Tiers) -> StageOutput:
    """Compare candidate and baseline: item by item, or by totals where the baseline has no items."""
    job, store = session.job, session.store
    identifier = required_baseline(job.cell)
    candidate, baseline = store.known_evaluation(evaluation=evaluation), measured_baseline(session)
    if baseline is None:
        result = decide_unpaired(
            {row.benchmark: (row.score, row.n) for row in candidate.results},
            published_baseline(store, identifier),
            baseline_id=identifier,
            policy=job.cell.policy,
            benchmarks=load_benchmarks(),
            overrides=job.cell.overrides,
            operators=operators_that_ran(session),
            notes=tiers.notes,
        )
    else:
        result = decide_by_gate(
            store.evaluation(candidate),
            store.evaluation(baseline),
            baseline_id=identifier,
            policy=job.cell.policy,
            benchmarks=load_benchmarks(),
            not_run={left_out.benchmark for left_out in job.not_run},
            canary=tiers.canary,
            speed=tiers.speed,
            overrides=job.cell.overrides,
            operators=operators_that_ran(session),
            notes=tiers.notes,
        )
    kept = session.evidence.put("verdict", "verdict.json", result.model_dump_json(indent=1).encode())
    return StageOutput({"verdict": result.model_dump(mode="json"), "evaluation": evaluation}, [kept])


def card(session: Session) -> StageOutput:
    """Render the card from the store; what it says of FlagGems' operators is kept with it."""
    found = checked(session, image(session))
    card = measured_card(card_data(session.store, session.release, found))
    kept = [session.evidence.put("card", name, content) for name, content in card_files(card).items()]
    said = {"conformance": found.conformance.model_dump(mode="json")} if found else {}
    return StageOutput({"sha256": kept[0].sha256, **said}, [*kept, *(found.files if found else ())])


def write(session: Session) -> Path:
    """Write the card for people: its file in the output folder."""
    card = measured_card(card_data(session.store, session.release))
    return write_card(card, session.host.output_path / session.job.cell.id / "README.md")


def publish(session: Session, verdict: GateResult) -> StageOutput:
    """Publish card and evidence; what the gate does not let out, or nobody wants out, stays in the store only."""
    if not session.job.publish:
        session.log("publish: not published, it was asked for without")
        return StageOutput({"published": False})
    to_folder = verdict.verdict in PUBLISHED
    hubs = [] if session.job.publication.of(verdict.verdict).hubs == "never" else session.hubs
    if not to_folder and not hubs:
        session.log(f"publish: not published, the verdict is {verdict.verdict}")
        return StageOutput({"published": False})
    store, release, target = session.store, session.release, session.job.target
    files = files_to_publish(session)
    if ENVELOPE_FILE not in files:
        session.log("publish: not signed, as this host has no key; to have one: flagrelease keys create")
    _refuse_errors(session, files["README.md"].decode())
    content = revision(files)
    if to_folder and not _taken_back(session, session.publisher, target):
        store.record_publication(release, session.publisher.publish(files, target))
    terms = terms_of(
        store, session.job.publication, verdict.verdict, release=release, cell=session.job.cell.id, content=content
    )
    # A record was not asked about where there is no repository for it.
    if hubs and isinstance(terms.refusal, ApprovalNeededError) and not terms.record:
        raise terms.refusal
    if hubs and terms.refusal is not None:
        session.log(f"publish: {terms.refusal.message}")
        hubs = []
    repository = terms.repository(target)
    for hub in hubs:
        if _taken_back(session, hub, repository):
            continue
        try:
            store.record_publication(release, hub.publish(files, repository, visibility=terms.visibility))
        except NoRepositoryError as error:
            if not terms.record:
                raise
            session.log(
                f"publish: not recorded: {error.message}; to have it: flagrelease publish release {release} --create "
                "private"
            )
    return StageOutput({"published": to_folder, "revision": content})


def _taken_back(session: Session, publisher: Publisher, target: str) -> bool:
    """Whether somebody took the release back at a place, which only publishing it by its number undoes."""
    release = session.release
    older = taken_back(session.store, target).get((release, Place(publisher.name, target)))
    if older is None:
        return False
    session.log(
        f"publish: not published to {target} ({publisher.name}): taken back there, and release {older} put back; "
        f"to publish it again: flagrelease publish release {release}"
    )
    return True


def files_to_publish(session: Session) -> dict[str, bytes]:
    """Everything that is published of the release under way, signed if this host has a key."""
    baseline, key = required_baseline(session.job.cell), signing_key(session.host.home_path)
    return published_files(session.store, session.evidence, session.release, baseline, key)


def published_files(
    store: Store, evidence: EvidenceFolder, release: int, baseline: str, key: SigningKey | None
) -> dict[str, bytes]:
    """Everything that is published of a release: card, evidence, and a statement of both, signed if there is a key."""
    data = card_data(store, release)
    files = card_files(measured_card(data))
    files |= {f"evidence/{artefact.name}": evidence.read(artefact.sha256) for artefact in data.evidence}
    return with_provenance(store, data, files, key=key, baseline_sha256=_content_of_baseline(store, baseline))


def _content_of_baseline(store: Store, identifier: str) -> str:
    """Hash of everything that the baseline is, answers included."""
    if baselines.is_imported(identifier):
        return content_sha256(published_baseline(store, identifier))
    return content_sha256(store.evaluation(stored_baseline(store, identifier)))


def _refuse_errors(session: Session, text: str) -> None:
    """Raise PublishError where the card has errors: nobody should run into them before us."""
    matrix, cards = load_matrix(session.host.matrix_path), imported_cards(session.store)
    known = knowledge(matrix, load_chips(), load_benchmarks(), cards)
    found = errors_of(text, known, source="README.md")
    if found:
        raise PublishError(
            f"not published, the card has {len(found)} error{'s' * (len(found) > 1)}: "
            + "; ".join(f"{finding.rule}: {finding.cause}" for finding in found),
            remedy=f"see where: flagrelease card lint {session.release}; correct matrix.yaml or the chip's file, then: "
            f"flagrelease release {session.job.cell.id}",
        )
