"""`flagrelease card lint`: what is wrong with a card, before somebody runs into it."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flagrelease.card.data import Card
    from flagrelease.card.lint import Finding, Fixed, Knowledge
    from flagrelease.settings import Settings

CLEAN, WARNINGS, ERRORS = 0, 1, 2
_COLOURS = {"error": "red", "warning": "yellow", "note": "blue"}


def lint(
    name: Annotated[
        str, typer.Argument(help="a card's file, a cell (its newest finished release), or a release's number")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
    fix: Annotated[bool, typer.Option("--fix", help="correct in the file what is certain")] = False,
) -> None:
    """Check a card: names, chips, commands, images, scores, licence, text. docs/card-lint.md lists the rules.

    Exit code: 0 clean or notes only, 1 warnings, 2 errors; 10 and above: the card could not be checked.
    """
    from flagrelease.card.files import is_card_file
    from flagrelease.card.lint import lint_text
    from flagrelease.errors import CardFileError
    from flagrelease.settings import settings

    host = settings()
    known = card_knowledge(host)
    path = Path(name)
    fixed: Fixed | None = None
    if is_card_file(name):
        text = _text(path)
        if fix:
            fixed = _fix(path, text, known)
            text = fixed.text
        source, findings = name, lint_text(text, known, source=path.name, folder=path.parent)
    else:
        if fix:
            raise CardFileError(
                f"the card of {name} is rendered, so there is no file to correct",
                remedy="correct matrix.yaml or the templates; or name a card's file",
            )
        source, findings = name, lint_text(_rendered(name, host), known, source=name)
    if as_json:
        _print_json(source, findings, fixed)
    else:
        _print(source, findings, fixed)
    raise typer.Exit(exit_code(findings))


def exit_code(findings: list[Finding]) -> int:
    """0 where nothing or notes only were found, 1 with warnings, 2 with errors."""
    found = {finding.severity.value for finding in findings}
    return ERRORS if "error" in found else WARNINGS if "warning" in found else CLEAN


def card_knowledge(host: Settings) -> Knowledge:
    """What cards are checked against on this host: its matrix, the chip files, the benchmarks, imported cards."""
    from evaluation.catalogue import load_benchmarks
    from flagrelease.card.lint import knowledge
    from flagrelease.loading import load_chips, load_matrix

    return knowledge(load_matrix(host.matrix_path), load_chips(), load_benchmarks(), _imported(host))


def _imported(host: Settings) -> list[Card]:
    """The cards that were imported on this host; checking a file makes no store where there is none."""
    if host.store is None and not (host.home_path / "store.db").exists():
        return []
    from flagrelease.card.lint.stored import imported_cards
    from flagrelease.store import Store

    with closing(Store.open(host.store_url)) as store:
        return imported_cards(store)


def _text(path: Path) -> str:
    from flagrelease.card.read import read_card_file

    # Says what is wrong with a file that is no card.
    read_card_file(path)
    return path.read_bytes().decode()


def _rendered(name: str, host: Settings) -> str:
    from flagrelease.card.build import find_card
    from flagrelease.card.render import render
    from flagrelease.loading import load_chips, load_matrix, resolve_all
    from flagrelease.store import Store

    cells = {cell.id: cell for cell in resolve_all(load_matrix(host.matrix_path), load_chips())}
    with closing(Store.open(host.store_url)) as store:
        return render(find_card(store, name, cells))


def _fix(path: Path, text: str, known: Knowledge) -> Fixed:
    from flagrelease.card.files import write_whole
    from flagrelease.card.lint import fix, lint_text

    fixed = fix(text, lambda current: lint_text(current, known, source=path.name))
    if fixed.changes:
        write_whole(path, fixed.text.encode())
    return fixed


def _print_json(source: str, findings: list[Finding], fixed: Fixed | None) -> None:
    import json

    data = {
        "source": source,
        "findings": [finding.model_dump(mode="json", exclude={"edit"}) for finding in findings],
        "changes": [change.model_dump() for change in fixed.changes] if fixed else [],
    }
    typer.echo(json.dumps(data, indent=1, ensure_ascii=False))


def _print(source: str, findings: list[Finding], fixed: Fixed | None) -> None:
    from flagrelease.card.text import printable

    for change in fixed.changes if fixed else ():
        typer.secho(f"{source}:{change.line}: corrected: ", fg="green", nl=False)
        typer.echo(change.rule)
        for sign, lines in (("-", change.before), ("+", change.after)):
            for line in lines:
                typer.echo(f"  {sign} {printable(line)}")
    for finding in findings:
        place = f"{source}:{finding.line}" if finding.line else source
        typer.secho(f"{place}: {finding.severity}: ", fg=_COLOURS[finding.severity], nl=False)
        typer.echo(f"{finding.rule}: {finding.place}: {printable(finding.cause)}")
        typer.echo(f"  -> {finding.remedy}{' (card lint --fix does)' if finding.edit else ''}")
    counted = Counter(finding.severity.value for finding in findings)
    said = [f"{counted[severity]} {severity}{'s' * (counted[severity] != 1)}" for severity in _COLOURS]
    typer.echo(f"{source}: {', '.join(said) if findings else 'clean'}")
