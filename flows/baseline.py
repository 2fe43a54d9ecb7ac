"""The flow `baseline`: the reference measured twice, and kept. What it does stands in `flows.baselines`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from evaluation.baseline import CHECKOUT
from flagrelease.entry import Revision
from flagrelease.settings import settings
from flows import baselines
from flows.baseline_report import baseline_view, markdown
from flows.tasks import as_task


@flow(name="baseline", flow_run_name="baseline {cell}", persist_result=False)
def baseline(
    cell: Annotated[str, Field(description="a model, or the cell that serves its reference")],
    engine: Annotated[str | None, Field(description="the reference's engine, where it is not the cell's own")] = None,
    revision: Annotated[
        Revision | None, Field(description="commit, tag or branch of the weights' repository, not the matrix's own")
    ] = None,
    repeats: Annotated[int | None, Field(ge=1, description="instead of each benchmark's own")] = None,
    output: Annotated[str | None, Field(description="folder for its files; by default that of a checkout")] = None,
) -> str:
    """Measure a baseline: serve the reference, ask its suite, serve and ask again for its noise. Returns its id.

    It is stored in the database, and as files where there is a folder for them. A run that was killed goes on where it
    stopped.
    """
    logger = get_run_logger()
    host = settings()
    job = baselines.reference_job(cell, engine, host, revision=revision)
    folder = Path(output) if output else CHECKOUT
    as_task("preflight", lambda: baselines.check(job, host, folder))
    with baselines.open_run(job, host, logger.info, repeats=repeats, output=folder) as run:
        first = as_task("first pass", lambda: baselines.first_pass(run))
        whole = as_task("A/A pass", lambda: baselines.second_pass(run, first))
        identifier = as_task("keep", lambda: baselines.keep(run, whole))
    logger.info(f"baseline {identifier}")
    create_markdown_artifact(
        markdown(baseline_view(identifier, host)),
        key=f"baseline-{identifier.lower().replace('.', '-').replace('_', '-')}",
        description=f"Baseline of {job.cell.model.display}",
    )
    return identifier
