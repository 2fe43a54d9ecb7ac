"""What the store knows of FlagGems' operators: which ones other releases of a model listed."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import aliased

from flagrelease.records import Degree, Stack, Stage
from flagrelease.store.models import ReleaseRow, StageRow
from flagrelease.store.store import Store


class Listed(NamedTuple):
    """Operators that a release's server listed."""

    release: int
    cell: str
    operators: list[str]


class Served(NamedTuple):
    """What decides which operators a server is expected to list."""

    model: str
    """Its key in the matrix."""
    chip: str
    """Its key in the matrix: vendors have kernels of their own, under names of their own."""
    engine: str
    engine_version: str
    """Another version may call others."""


def newest_listed(store: Store, stage: Stage, served: Served, *, package: str, besides: int) -> Listed | None:
    """What was listed when a stage of the newest release `besides` this one ended; none: by no release.

    Of what was served the same, on the stack `flagos`; `package`: the engine's, whose version a release's image tells.
    The same stage, because a server that only read the canary's texts calls fewer operators than one that wrote
    answers. A release that was told which operators alone may run is left out, and one that lacked some itself: it
    would hide the same loss in the next.
    """
    built, cell = aliased(StageRow), ReleaseRow.snapshot["cell"]["cell"]
    listed = (
        select(ReleaseRow.id, ReleaseRow.cell, StageRow.inputs, StageRow.output, built.output)
        .join(StageRow, StageRow.release_id == ReleaseRow.id)
        .outerjoin(built, (built.release_id == ReleaseRow.id) & (built.stage == Stage.BUILD))
        .where(
            ReleaseRow.id != besides,
            ReleaseRow.engine == served.engine,
            cell["model"].as_string() == served.model,
            cell["chip"].as_string() == served.chip,
            StageRow.stage == stage,
            StageRow.state == "completed",
            StageRow.inputs["stack"].as_string() == Stack.FLAGOS,
        )
        .order_by(ReleaseRow.id.desc())
    )
    with store.session() as session:
        for release, name, inputs, output, of_build in session.execute(listed.execution_options(yield_per=10)):
            image = (of_build or {}).get("image") or {"versions": {}}
            version = image["versions"].get(package, inputs.get("engine_version"))
            operators = (output or {}).get("operators")
            degree = ((output or {}).get("operator_evidence") or {}).get("degree")
            alone = inputs["engine_settings"].get("operators")
            if operators and degree != Degree.PARTIAL and version == served.engine_version and not alone:
                return Listed(release, name, operators)
    return None
