"""What is known to be wrong with operators of FlagGems: by chip and version, with evidence.

`runtime/known_issues.yaml` and a file of the user's own are read into these models by `flagrelease.loading`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import Field, StringConstraints, field_validator

from flagrelease.entry import Entry, Key
from flagrelease.records import Record

ANY = "any"
"""Stands for every chip."""

State = Literal["open", "said to be fixed, not shown", "lifted", "version not known"]
"""Of an issue, for a chip and a version of FlagGems. `version not known`: it is open if that is one of its versions."""

Passed = Callable[[str, str, str], bool | None]
"""Chip, version of FlagGems, operator → whether its newest conformance check there passed; none: there is none."""


class KnownIssue(Entry):
    """One thing that is wrong."""

    id: Key
    chips: list[Key] = Field(min_length=1, description="keys of chips, or `any`")
    operators: list[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.]+$")]] = Field(
        description="functions of FlagGems; empty where it is no single operator's, or none was found"
    )
    flag_gems: str = Field(description='versions of FlagGems that have it, for example ">=5.0.2,<5.3"')
    fixed_in: str | None = Field(default=None, description="version from which on it is said to be mended")
    symptom: str = Field(min_length=1, description="what happens, in one sentence")
    evidence: list[str] = Field(min_length=1, description="addresses, numbers of releases, or commands that show it")
    error: list[str] = Field(
        default_factory=list,
        description="regular expressions that recognise it in a failure's message and the end of the server's log",
    )
    deny: bool = Field(
        default=True,
        description="whether to leave its operators out; false: edge cases, or not shown to be theirs",
    )

    @property
    def leaves_out(self) -> bool:
        """Whether there are operators that a cell should do without."""
        return self.deny and bool(self.operators)

    @property
    def next_step(self) -> str:
        """What to do where a failure is this."""
        names = ", ".join(self.operators)
        how = f"leave out {names} (flagrelease plan <cell> has the line for matrix.yaml); " if self.leaves_out else ""
        return f"{how}see {self.evidence[0]}"

    def is_of(self, chip: str) -> bool:
        """Whether it is one of the chip."""
        return chip in self.chips or ANY in self.chips

    @field_validator("flag_gems")
    @classmethod
    def _is_a_specifier(cls, value: str) -> str:
        try:
            SpecifierSet(value)
        except InvalidSpecifier:
            msg = f'`{value}` names no versions; write them as pip has them, for example ">=5.0.2,<5.3"'
            raise ValueError(msg) from None
        return value

    @field_validator("fixed_in")
    @classmethod
    def _is_a_version(cls, value: str | None) -> str | None:
        if value is not None and _version(value) is None:
            msg = f"`{value}` is not a version; write it as pip has it, for example 5.3.4"
            raise ValueError(msg)
        return value

    @field_validator("error")
    @classmethod
    def _are_expressions(cls, value: list[str]) -> list[str]:
        for expression in value:
            try:
                matches_all = re.search(expression, "") is not None
            except re.error as error:
                msg = f"`{expression}` is not a regular expression: {error}"
                raise ValueError(msg) from None
            if matches_all:
                msg = f"`{expression}` is found in every text; write a piece of the error that is this issue's alone"
                raise ValueError(msg)
        return value


class KnownIssues(Entry):
    """The content of a file of known issues."""

    version: Literal[1] = Field(description="of this format")
    issues: list[KnownIssue]


class IssueOfCell(Record):
    """A known issue that a cell may meet as it is."""

    issue: KnownIssue
    state: State
    operators: list[str] = Field(description="those of its operators that the cell does not leave out")

    @property
    def text(self) -> str:
        """In words: `metax-mm: mm, mm_out: Tuning mm reads …`."""
        names = f"{', '.join(self.operators)}: " if self.operators else ""
        when = {
            "version not known": f" (if its FlagGems is {self.issue.flag_gems})",
            "said to be fixed, not shown": f" (said to be fixed in {self.issue.fixed_in}, not shown by a check)",
        }
        return f"{self.issue.id}: {names}{self.issue.symptom.rstrip('.')}{when.get(self.state, '')}"


class Lists(NamedTuple):
    """Which operators a cell's server runs, as the settings of its engine say it."""

    only: Sequence[str] = ()
    without: Sequence[str] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Lists:
        """The lists in an engine's settings."""
        return cls(settings.get("operators") or (), settings.get("without_operators") or ())

    def runs(self, operator: str) -> bool:
        """Whether the server runs the operator, if the model uses it."""
        return operator not in self.without and (not self.only or operator in self.only)

    def leaving_out(self, names: Collection[str]) -> dict[str, list[str]] | None:
        """The lists with which these do not run either, as an engine's settings have them.

        None: no operator would be left to run, and an empty list would mean all of them.
        """
        if not self.only:
            return {"without_operators": [*self.without, *(name for name in names if name not in self.without)]}
        left = [name for name in self.only if name not in names]
        return {"operators": left} if left else None


def known_issues_of(
    issues: Iterable[KnownIssue], chip: str, flag_gems: str | None, passed: Passed
) -> list[tuple[KnownIssue, State]]:
    """The issues of a chip with a version of FlagGems (none: not known), and the state of each.

    From the version in which an issue is said to be fixed on, it is `lifted` where the newest conformance check of each
    of its operators, on this chip and with this version, passed, and `open` where one did not.
    """
    found = []
    for issue in issues:
        if issue.is_of(chip) and (state := _state(issue, chip, flag_gems, passed)):
            found.append((issue, state))
    return found


def met(
    issues: Iterable[KnownIssue], chip: str, flag_gems: str | None, lists: Lists, passed: Passed
) -> list[IssueOfCell]:
    """Those that a cell may meet as it is: not lifted, and not all of their operators left out."""
    found = []
    for issue, state in known_issues_of(issues, chip, flag_gems, passed):
        running = [name for name in issue.operators if lists.runs(name)]
        if state != "lifted" and (running or not issue.operators):
            found.append(IssueOfCell(issue=issue, state=state, operators=running))
    return found


def recognised(issues: Iterable[KnownIssue], chip: str, text: str) -> KnownIssue | None:
    """The first issue of the chip that a failure's message, with the end of the server's log, shows."""
    for issue in issues:
        if issue.is_of(chip) and any(re.search(expression, text) for expression in issue.error):
            return issue
    return None


def _state(issue: KnownIssue, chip: str, flag_gems: str | None, passed: Passed) -> State | None:
    """None: the version is none of those that have it."""
    version = None if flag_gems is None else _version(flag_gems)
    if flag_gems is None or version is None:
        return "version not known"
    if issue.fixed_in is None or version < Version(issue.fixed_in):
        return "open" if SpecifierSet(issue.flag_gems).contains(version, prereleases=True) else None
    shown = [passed(chip, flag_gems, operator) for operator in issue.operators]
    if False in shown:
        return "open"
    return "lifted" if shown and all(shown) else "said to be fixed, not shown"


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
