"""What was found when a publication was checked."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from flagrelease.records import Record
from flagrelease.verdicts import Verdict


class State(StrEnum):
    """What became of a check."""

    PROVEN = "proven"
    WRONG = "wrong"
    NOT_PROVEN = "not proven"


class Check(Record):
    """One thing that was looked at."""

    name: str
    state: State
    detail: str = Field(description="what was found, in one sentence")
    problems: list[str] = Field(default_factory=list, description="each begins with the file that is wrong")


class KeyUsed(Record):
    """The key that signed."""

    id: str
    given: bool = Field(description="whoever checks brought it; else it lies beside what it signed")


class Report(Record):
    """Everything that was found out about a publication."""

    place: str
    release: int | None = Field(description="number of the release, as stated; none: no statement can be read")
    cell: str | None
    verdict: Verdict | None
    code_version: str | None = Field(description="of FlagRelease, that made the release")
    key: KeyUsed | None = Field(description="none: no signature holds")
    checks: list[Check]
    proven: list[str]
    not_proven: list[str]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.state is not State.WRONG for check in self.checks)

    @property
    def problems(self) -> list[str]:
        """Everything that is wrong, each beginning with its file."""
        return [problem for check in self.checks for problem in check.problems]


def check_of(name: str, problems: list[str], detail: str) -> Check:
    """A check that found `problems`, or else proved what `detail` says."""
    count = f"{len(problems)} {'thing is' if len(problems) == 1 else 'things are'} not as stated"
    return Check(
        name=name,
        state=State.WRONG if problems else State.PROVEN,
        detail=count if problems else detail,
        problems=problems,
    )
