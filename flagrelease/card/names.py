"""The names that a card and its publication carry, generated in one place."""

from __future__ import annotations

from flagrelease.matrix import ResolvedCell
from flagrelease.records import Record, Stack

ORGANISATION = "FlagRelease"


class CardNames(Record):
    """Names of one cell's release. Each but `repository` can be set in the cell (`Cell.names`)."""

    release: str
    baseline_column: str
    candidate_column: str
    container_release: str

    @property
    def repository(self) -> str:
        """Where the release is published, on every hub: organisation/name."""
        return f"{ORGANISATION}/{self.release}"


def card_names(cell: ResolvedCell) -> CardNames:
    """Names of a cell: what the cell sets, else made of model, chip and stack.

    FlagOS stands in a name only where the FlagOS stack runs.
    """
    model, chip, own = cell.model.display, cell.chip, cell.cell.names
    stack = "FlagOS" if cell.cell.stack is Stack.FLAGOS else "native"
    return CardNames(
        release=own.release or f"{model}-{chip.key}-{stack}",
        baseline_column=own.baseline_column or f"{model}-{cell.model.reference.label}",
        candidate_column=own.candidate_column or f"{model}-{stack}-{chip.key}",
        container_release=own.container_release or f"{stack}-{chip.display}",
    )
