"""Whether another revision of the weights has something to be compared with. No Prefect in here."""

from __future__ import annotations

import json
from contextlib import closing

from evaluation.baseline import is_imported
from flagrelease.errors import BaselineError
from flagrelease.settings import Settings
from flows.job import Job
from flows.session import open_store
from flows.stages import stored_baseline


def require_own_baseline(job: Job, host: Settings) -> None:
    """Raise BaselineError where the job is of another revision, and its baseline is not of the same weights.

    The gate would say INVALID of it, after hours; of published scores, which name no weights, it would say nothing.
    """
    if job.revision is None:
        return
    model, reference, revision = job.cell.cell.model, job.cell.model.reference, job.revision
    identifier, ours = reference.baseline, job.cell.model.source.sha256 or ""
    if identifier is None:
        problem = "there is no baseline"
    elif is_imported(identifier):
        if identifier == reference.revisions.get(revision):
            return
        problem = f"the baseline {identifier} is published scores of the matrix's own revision"
    else:
        with closing(open_store(host)) as store:
            theirs = stored_baseline(store, identifier).provenance.weights_sha256
        if theirs == ours:
            return
        problem = f"the baseline {identifier} is of other weights (SHA-256 {theirs[:12]}…, these have {ours[:12]}…)"
    raise BaselineError(
        f"{model} at revision {revision} has nothing to be compared with: {problem}",
        remedy=f"measure a baseline on the reference ({reference.description}): flagrelease baseline run {model} "
        f"--revision {revision}, then name it in matrix.yaml under models.{model}.reference: "
        f"revisions: {{{json.dumps(revision)}: <its id>}}",
    )
