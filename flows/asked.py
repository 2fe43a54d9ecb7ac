"""Cells as a run was asked for them: with another suite, or another revision of the weights, than the matrix says."""

from __future__ import annotations

from pydantic import TypeAdapter, ValidationError

from flagrelease.entry import Revision
from flagrelease.errors import PreflightError, UnknownNameError
from flagrelease.matrix import Matrix, ResolvedCell
from flagrelease.yaml_file import nearest
from runtime import weights

_REVISION: TypeAdapter[str] = TypeAdapter(Revision)


def with_suite(matrix: Matrix, cell: ResolvedCell, suite: str) -> ResolvedCell:
    """The cell where its model has another suite, with that suite's policy."""
    if suite not in matrix.suites:
        close = nearest(suite, sorted(matrix.suites))
        raise UnknownNameError(
            f"the matrix has no suite `{suite}`",
            remedy=f"{f'did you mean `{close}`? ' if close else ''}Its suites are: {', '.join(sorted(matrix.suites))}",
        )
    policy, overrides = matrix.policy.of_cell(suite, cell.cell.model)
    model = cell.model.model_copy(update={"suite": suite})
    changed = {"model": model, "suite": matrix.suites[suite], "policy": policy, "overrides": overrides}
    return cell.model_copy(update=changed)


def with_revision(cell: ResolvedCell, revision: str) -> ResolvedCell:
    """The cell where its model's weights are another revision, compared with that one's baseline if it has its own.

    The hash of what is found goes into the cell: where a branch moves on, results of yesterday's weights are not
    reused. Raises UnknownNameError where it can be no revision, PreflightError where the model has none or the weights
    are not on this host, WeightsError.
    """
    model = cell.model
    try:
        _REVISION.validate_python(revision)
    except ValidationError:
        raise UnknownNameError(
            f"{revision!r} is no revision of weights",
            remedy="name a commit, a tag or a branch: at most 100 letters, digits, dots, dashes and underscores, the "
            "first a letter or a digit; in place of a name with a slash its commit",
        ) from None
    if model.weights is not None:
        raise PreflightError(
            f"{model.display} has no revisions: its weights come in the package {model.weights.package}",
            remedy=f"release it without a revision, or give models.{cell.cell.model}.weights in matrix.yaml another "
            "package and its sha256",
        )
    source = model.source.model_copy(update={"revision": revision, "sha256": None})
    found = weights.check(model.model_copy(update={"source": source}))
    reference = model.reference
    changed = {
        "source": source.model_copy(update={"sha256": found.sha256}),
        "reference": reference.model_copy(update={"baseline": reference.revisions.get(revision, reference.baseline)}),
    }
    # What the card downloads instead of the model's source holds the matrix's revision.
    names = cell.cell.names.model_copy(update={"download": None})
    return cell.model_copy(
        update={"model": model.model_copy(update=changed), "cell": cell.cell.model_copy(update={"names": names})}
    )
