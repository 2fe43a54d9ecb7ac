"""What the store knows of FlagGems' operators: which ones other releases of a model listed."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import select

from flagrelease.records import Degree, Stack, Stage
from flagrelease.store.models import ReleaseRow, StageRow
from flagrelease.store.store import Store


class Listed(NamedTuple):
    """Operators that a release's server listed."""

    release: int
    cell: str
    operators: list[str]


def newest_listed(store: Store, stage: Stage, *, model: str, engine: str, besides: int) -> Listed | None:
    """What was listed when a stage of the newest release `besides` this one ended, on any chip; none: by no release.

    Of the same model (its key in the matrix), on the stack `flagos`, through the same engine. The same stage, because a
    server that only read the canary's texts calls fewer operators than one that wrote answers. A release that was told
    which operators alone may run is left out, and one that lacked some itself: it would hide the same loss in the next.
    """
    listed = (
        select(ReleaseRow.id, ReleaseRow.cell, StageRow.inputs, StageRow.output)
        .join(StageRow, StageRow.release_id == ReleaseRow.id)
        .where(
            ReleaseRow.id != besides,
            ReleaseRow.engine == engine,
            ReleaseRow.snapshot["cell"]["cell"]["model"].as_string() == model,
            StageRow.stage == stage,
            StageRow.state == "completed",
            StageRow.inputs["stack"].as_string() == Stack.FLAGOS,
        )
        .order_by(ReleaseRow.id.desc())
    )
    with store.session() as session:
        for release, cell, inputs, output in session.execute(listed.execution_options(yield_per=10)):
            operators = (output or {}).get("operators")
            degree = ((output or {}).get("operator_evidence") or {}).get("degree")
            if operators and degree != Degree.PARTIAL and not inputs["engine_settings"].get("operators"):
                return Listed(release, cell, operators)
    return None
