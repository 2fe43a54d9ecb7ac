"""Which of FlagGems' operators ran while a release was asked, beside those that should have."""

from __future__ import annotations

from typing import Any

from evaluation.hygiene import operators_ran
from flagrelease.pipeline import StageOutput
from flagrelease.records import Artefact, CellImage, Degree, OperatorEvidence, Stack, Stage
from flagrelease.store.operators import Served, newest_listed
from flows.session import Session
from runtime import operators
from runtime.engines.flagos import OperatorLists
from runtime.launch.interface import Server

_SUFFIXES = {Stage.CANARY: "-canary", Stage.EVALUATE: ""}


def read_operators(session: Session, server: Server, stage: Stage) -> StageOutput:
    """What the lists name that the server wrote up to now, for the stage's output, and the lists.

    It is compared here and once: what the store has of other releases changes, the verdict must not.
    """
    job = session.job
    if job.cell.cell.stack is not Stack.FLAGOS:
        return StageOutput({"operators": None})
    written = {path: server.read(path) for path in operators.PATHS}
    files = {path: content for path, content in written.items() if content is not None}
    limits = job.limits if isinstance(job.limits, OperatorLists) else OperatorLists()
    found = operators.compare(
        operators.read(files).operators,
        only=limits.operators,
        without=limits.without_operators,
        known=_known(session, stage),
    )
    (check,) = operators_ran(found)
    session.log(f"operators: {check.detail} (by {', '.join(files) or 'no list'})")
    names = {path: f"operators{_SUFFIXES[stage]}-{number}.txt" for number, path in enumerate(files, 1)}
    kept: list[Artefact] = [session.evidence.put("operators", names[path], files[path]) for path in files]
    return StageOutput({"operators": found.ran, "operator_evidence": found.model_dump(mode="json")}, kept)


def _known(session: Session, stage: Stage) -> operators.Known | None:
    job, built = session.job, session.run.finished(Stage.BUILD)
    image = built.output.get("image") if built else None
    version = job.version_in(CellImage.model_validate(image) if image else None)
    served = Served(job.cell.cell.model, job.cell.cell.chip, job.engine.name, version)
    other = newest_listed(session.store, stage, served, package=job.engine.package, besides=session.release)
    return other and operators.Known(other.operators, f"release {other.release} of {other.cell}")


def operators_that_ran(session: Session) -> OperatorEvidence | None:
    """What was listed while the model was asked; none where the stack has no operators to show."""
    found = [session.run.finished(stage) for stage in (Stage.EVALUATE, Stage.CANARY)]
    return next((_evidence(stage.output) for stage in found if stage and "operators" in stage.output), None)


def _evidence(output: dict[str, Any]) -> OperatorEvidence | None:
    if output.get("operator_evidence") is not None:
        return OperatorEvidence.model_validate(output["operator_evidence"])
    ran = output["operators"]
    # A list that was read before lists were compared.
    return None if ran is None else OperatorEvidence(degree=Degree.UNKNOWN if ran else Degree.NONE, ran=ran)
