"""`flagrelease operators issues`: what is known to be wrong with operators, by chip and version."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from flagrelease.cli.inspect import AsJson

WIDTH = 300

if TYPE_CHECKING:
    from flagrelease.operators.known_issues import KnownIssue, Passed


def issues(
    chip: Annotated[str | None, typer.Option(help="only what concerns this chip, a key of a chip file")] = None,
    as_json: AsJson = False,
) -> None:
    """List the known issues of FlagGems' operators: chips, versions, operators, symptom, and whether they are fixed.

    Where one is said to be fixed, the conformance checks in the store say whether it is, for each of its chips.
    """
    import json

    from flagrelease.loading import chip_named, load_known_issues
    from flagrelease.settings import settings
    from flagrelease.store import plans
    from flagrelease.store.conformance import passed

    if chip is not None:
        chip_named(chip)
    found = [issue for issue in load_known_issues() if chip is None or issue.is_of(chip)]
    with closing(plans.open_for_reading(settings().store_url)) as store:
        states = [_states(issue, [chip] if chip else issue.chips, partial(passed, store)) for issue in found]
    if as_json:
        listed = [issue.model_dump() | {"states": state} for issue, state in zip(found, states, strict=True)]
        typer.echo(json.dumps(listed, indent=1, ensure_ascii=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("Id", "Chips", "FlagGems", "Operators", "State", "Symptom", box=None)
    for issue, state in zip(found, states, strict=True):
        operators = ", ".join(issue.operators) + ("" if issue.deny else " (none to leave out)")
        where = [f"{name}: {each}" if len(state) > 1 else each for name, each in state.items()]
        table.add_row(issue.id, ", ".join(issue.chips), issue.flag_gems, operators, "\n".join(where), issue.symptom)
    Console(width=WIDTH, soft_wrap=True, markup=False, highlight=False).print(table)
    typer.echo(f"\n{len(found)} issues; evidence: --json")


def _states(issue: KnownIssue, chips: list[str], passed: Passed) -> dict[str, str]:
    """By chip, the issue's state in the version in which it is said to be fixed; `open` where it is said of none."""
    from flagrelease.operators.known_issues import known_issues_of

    if issue.fixed_in is None:
        return dict.fromkeys(chips, "open")
    states = {}
    for chip in chips:
        ((_, state),) = known_issues_of([issue], chip, issue.fixed_in, passed)
        states[chip] = f"{state} ({issue.fixed_in})"
    return states
