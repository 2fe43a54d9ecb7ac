"""Which verdicts go to the hubs, who may see them there, and which somebody has to approve first."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flagrelease.entry import Entry
from flagrelease.verdicts import Verdict

Visibility = Literal["public", "private"]
"""Of a repository on a hub."""
# Not `no`, which YAML reads as false.
OnHubs = Literal["public", "private", "never"]

_HUBS = "into which repositories of hubs it may go: any (`public`), private ones only (`private`), none (`never`)"
_PRIVATE = "into which repositories of hubs it may go, over the card there: private ones (`private`), none (`never`)"
_APPROVAL = "whether somebody has to approve it before it goes to a hub"


class OfVerdict(Entry):
    """What becomes of releases with one verdict."""

    hubs: OnHubs = Field(description=_HUBS)
    approval: bool = Field(default=False, description=_APPROVAL)


class PublicByDefault(OfVerdict):
    """Of a verdict that everybody may see."""

    hubs: OnHubs = Field(default="public", description=_HUBS)


class PrivateByDefault(OfVerdict):
    """Of a verdict that is shown where its readers are known."""

    hubs: OnHubs = Field(default="private", description=_HUBS)


class NeverByDefault(OfVerdict):
    """Of a verdict that stays in the store, or is recorded where its readers are known."""

    hubs: Literal["private", "never"] = Field(default="never", description=_PRIVATE)


class PublicationPolicy(Entry):
    """What goes to the hubs, by verdict. INVALID goes nowhere: what was compared is not sound."""

    CONSISTENT: PublicByDefault = PublicByDefault()
    INCONCLUSIVE: PrivateByDefault = PrivateByDefault()
    REGRESSED: NeverByDefault = NeverByDefault()

    def of(self, verdict: Verdict) -> OfVerdict:
        """What holds for a release with this verdict."""
        rules: dict[Verdict, OfVerdict] = {
            Verdict.CONSISTENT: self.CONSISTENT,
            Verdict.INCONCLUSIVE: self.INCONCLUSIVE,
            Verdict.REGRESSED: self.REGRESSED,
        }
        return rules.get(verdict, NeverByDefault())
