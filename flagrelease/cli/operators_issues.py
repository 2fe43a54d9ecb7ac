"""`flagrelease operators issues`: what is known to be wrong with operators, by chip and version."""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from flagrelease.cli.inspect import AsJson
from flagrelease.cli.operators_table import print_table

if TYPE_CHECKING:
    from flagrelease.operators.known_issues import KnownIssue, Passed


def issues(
    chip: Annotated[str | None, typer.Option(help="only what concerns this chip, a key of a chip file")] = None,
    as_json: AsJson = False,
) -> None:
    """List the known issues of FlagGems' operators: chips, versions, operators, symptom, and whether they are fixed.

    Where one is said to be fixed, the conformance checks in the store say whether it is, for each of its chips. A store
    that cannot be read counts as one without checks.
    """
    import json

    from flagrelease.errors import StoreError
    from flagrelease.loading import chip_named, load_known_issues
    from flagrelease.settings import settings
    from flagrelease.store import plans
    from flagrelease.store.conformance import passed

    if chip is not None:
        chip_named(chip)
    found = [issue for issue in load_known_issues() if chip is None or issue.is_of(chip)]
    chips = [[chip] if chip else issue.chips for issue in found]
    try:
        with closing(plans.open_for_reading(settings().store_url)) as store:
            states = [_states(issue, each, partial(passed, store)) for issue, each in zip(found, chips, strict=True)]
    except StoreError as error:
        typer.echo(f"the store cannot be read, so no check is known to have passed; {error.remedy}", err=True)
        states = [_states(issue, each, lambda *_: None) for issue, each in zip(found, chips, strict=True)]
    if as_json:
        listed = [issue.model_dump() | {"states": state} for issue, state in zip(found, states, strict=True)]
        typer.echo(json.dumps(listed, indent=1, ensure_ascii=False))
        return
    from rich.table import Table

    table = Table("Id", "Chips", "FlagGems", "Operators", "State", "Symptom", box=None)
    for issue, state in zip(found, states, strict=True):
        operators = ", ".join(issue.operators) + ("" if issue.deny else " (none to leave out)")
        where = [f"{name}: {each}" if len(state) > 1 else each for name, each in state.items()]
        table.add_row(issue.id, ", ".join(issue.chips), issue.flag_gems, operators, "\n".join(where), issue.symptom)
    print_table(table)
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
