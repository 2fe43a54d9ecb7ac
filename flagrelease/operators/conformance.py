"""A check of operators as a file of evidence, and in the store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from flagrelease.errors import EvidenceError, StoreError
from flagrelease.evidence import EvidenceFolder
from flagrelease.operators.check import Plan, kept
from flagrelease.operators.results import OperatorResult
from flagrelease.settings import Settings
from flagrelease.store import Store
from flagrelease.store.conformance import KIND, ConformanceCheck, record


def as_json(plan: Plan, results: Sequence[OperatorResult]) -> dict[str, Any]:
    """A check for programs, and as it is kept: where, with what, in which sizes, what came out."""
    took = plan.loaded
    return {
        "chip": plan.chip,
        "device": plan.device,
        "interpreter": plan.device == "cpu",
        **plan.environment.versions(),
        "vendor": took.vendor if took else None,
        "device_name": took.name if took else None,
        "notes": plan.notes(),
        "shapes": plan.shapes.as_json(),
        "operators": [{**each.as_json(), "own": took.own(each.operator) if took else None} for each in results],
    }


def keep(plan: Plan, folder: Path, host: Settings) -> None:
    """Store all that is known under the plan's key on this host: as a file of evidence, and a row for each operator.

    Operators that were asked for earlier are in the file too, so that it is always the newest that holds everything.
    Raises StoreError or EvidenceError, saying that the results are still there.
    """
    results = kept(plan, folder)
    content = json.dumps(as_json(plan, results), indent=1) + "\n"
    versions = {name: version or "" for name, version in plan.environment.versions().items() if name != "numpy"}
    try:
        artefact = EvidenceFolder(host.evidence_url).put(KIND, f"{KIND}.json", content.encode())
        with closing(Store.open(host.store_url)) as store:
            record(
                store,
                ConformanceCheck(
                    key=plan.key(),
                    chip=plan.chip,
                    device=plan.device,
                    model=plan.shapes.model,
                    dtype=plan.shapes.dtype,
                    **versions,
                    results=results,
                    sha256=artefact.sha256,
                ),
            )
    except (EvidenceError, StoreError) as error:
        raise type(error)(
            f"the results are not stored: {error.message}",
            remedy=f"{error.remedy}; then the same command again, which asks nothing anew: they are in "
            f"{folder / plan.key()}",
        ) from error
