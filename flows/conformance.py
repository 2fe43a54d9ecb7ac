"""What a card says of FlagGems' operators: what `flagrelease operators check` found on its chip, of its model."""

from __future__ import annotations

from flagrelease.card.build import Checked
from flagrelease.card.data import Conformance
from flagrelease.errors import EvidenceError
from flagrelease.records import Artefact, CellImage
from flagrelease.store import conformance
from flows.known_issues import flag_gems_of
from flows.operator_evidence import operators_that_ran
from flows.session import Session


def checked(session: Session, image: CellImage | None) -> Checked | None:
    """What is known of the operators that ran; none where no list names one, or none of them was checked.

    Of the FlagGems that served; where that is not known, of the newest that was checked. None too where the check's
    file is not at hand, which is logged.
    """
    cell, evidence = session.job.cell, operators_that_ran(session)
    if evidence is None or not evidence.ran:
        return None
    ran = evidence.ran
    version = flag_gems_of(session.job, image.versions if image else {})
    found = conformance.newest(session.store, cell.chip.key, version, cell.cell.model)
    if found is None:
        return None
    verdicts = {name: found.verdicts.get(name, "") for name in ran}
    by_verdict = {verdict: [name for name in ran if verdicts[name] == verdict] for verdict in set(verdicts.values())}
    matching, differing, crashed = (by_verdict.get(verdict, []) for verdict in ("matches", "differs", "crashed"))
    if not (matching or differing or crashed):
        return None
    try:
        files = [_file(session, sha256, number) for number, sha256 in enumerate(found.files, 1)]
    except EvidenceError as error:
        # Another host's folder: what was measured is not thrown away for a sentence.
        session.log(
            f"card: nothing of the check of FlagGems' operators, whose file is not here: {error.message}; let "
            "FLAGRELEASE_EVIDENCE name where it was stored, or check again: "
            f"flagrelease operators check --chip {cell.cell.chip} --model {cell.cell.model}"
        )
        return None
    return Checked(
        Conformance(
            flag_gems=found.flag_gems,
            served=version is not None,
            ran=len(ran),
            matching=len(matching),
            differing=[name for name in differing if name not in found.edges_only],
            differing_in_edge_cases=[name for name in differing if name in found.edges_only],
            crashed=crashed,
            files=[file.name for file in files],
        ),
        files,
    )


def _file(session: Session, sha256: str, number: int) -> Artefact:
    content = session.evidence.read(sha256)
    name = f"{conformance.KIND}.json" if number == 1 else f"{conformance.KIND}-{number}.json"
    return Artefact(kind=conformance.KIND, name=name, sha256=sha256, size=len(content))
