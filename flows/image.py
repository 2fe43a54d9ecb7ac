"""The flow `image`: a cell's container image, built once for all cells that share it."""

from __future__ import annotations

from typing import Annotated

from prefect import flow, get_run_logger
from pydantic import Field

from flagrelease.errors import PreflightError
from flagrelease.settings import settings
from flows import serving
from flows.job import make_job
from flows.tasks import as_task


@flow(name="image", flow_run_name="image of {cell}", persist_result=False)
def image(
    cell: Annotated[str, Field(description="the cell whose image is wanted, for example qwen3-metax")],
) -> str:
    """Build the image of a cell, and push it where a registry is configured. Returns its reference.

    A sweep does this before cells that share an image, so that it is built once; their releases find it.
    """
    host, logger = settings(), get_run_logger()
    job = make_job(cell, None, host)
    if job.cell.container is None:
        raise PreflightError(
            f"{cell} is served by a process, so it has no image", remedy=f"release it: flagrelease release {cell}"
        )
    provided = as_task("build", lambda: serving.provided_image(job, host, logger.info, send=True))
    logger.info(f"the image is {provided.image.reference}")
    return provided.image.reference
