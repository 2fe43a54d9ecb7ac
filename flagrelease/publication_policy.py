"""Which verdicts go to the hubs, who may see them there, and which somebody has to approve first."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flagrelease.entry import Entry
from flagrelease.verdicts import Verdict

Visibility = Literal["public", "private"]
"""Of a repository on a hub."""
# Not `no`, which YAML reads as false.
OnHubs = Literal["public", "private", "record", "never"]

RECORD = "-record"
"""End of the names of repositories beside those of cells."""

_HUBS = (
    "into which repositories of hubs it may go: the cell's, whoever sees it (`public`); the cell's if it is private "
    "(`private`); a private one beside it, its name with `-record` at the end (`record`); none (`never`)"
)
_APPROVAL = "whether somebody has to approve it before it goes to a hub"


class OfVerdict(Entry):
    """What becomes of releases with one verdict."""

    hubs: OnHubs = Field(description=_HUBS)
    approval: bool = Field(default=False, description=_APPROVAL)

    @property
    def visibility(self) -> Visibility:
        """That the repository which it goes to may have at most."""
        return "public" if self.hubs == "public" else "private"


class PublicByDefault(OfVerdict):
    """Of a verdict that everybody may see."""

    hubs: OnHubs = Field(default="public", description=_HUBS)


class PrivateByDefault(OfVerdict):
    """Of a verdict that is shown where its readers are known."""

    hubs: OnHubs = Field(default="private", description=_HUBS)


class RecordByDefault(OfVerdict):
    """Of a verdict that is kept where its readers are known, beside the last good card."""

    hubs: Literal["private", "record", "never"] = Field(default="record", description=_HUBS)


class PublicationPolicy(Entry):
    """What goes to the hubs, by verdict. INVALID goes nowhere: what was compared is not sound."""

    CONSISTENT: PublicByDefault = PublicByDefault()
    INCONCLUSIVE: PrivateByDefault = PrivateByDefault()
    REGRESSED: RecordByDefault = RecordByDefault()

    def of(self, verdict: Verdict) -> OfVerdict:
        """What holds for a release with this verdict."""
        rules: dict[Verdict, OfVerdict] = {
            Verdict.CONSISTENT: self.CONSISTENT,
            Verdict.INCONCLUSIVE: self.INCONCLUSIVE,
            Verdict.REGRESSED: self.REGRESSED,
        }
        return rules.get(verdict, OfVerdict(hubs="never"))
