"""`flagrelease verify`: whether a release that somebody published is what it says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flagrelease.cli.inspect import AsJson

if TYPE_CHECKING:
    from flagrelease.provenance.keys import PublicKey
    from flagrelease.provenance.report import Report

WRONG = 1
FIRST_HUB = "huggingface"
_SIGNS = {"proven": ("ok", "green"), "wrong": ("WRONG", "red"), "not proven": ("?", "yellow")}


def verify(
    publication: Annotated[
        str,
        typer.Argument(
            help="a folder, as it was published or downloaded; or a repository of a hub: organisation/name[@revision]",
            metavar="FOLDER|REPOSITORY",
        ),
    ],
    key: Annotated[Path | None, typer.Option(help="public key (PEM) of whom the release should be from")] = None,
    hub: Annotated[
        Literal["huggingface", "modelscope"] | None,
        typer.Option(help=f"the hub that has the repository, by default {FIRST_HUB}; without it a folder comes first"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a published release: signature, files, the card's numbers, and the scores from the published answers.

    Needs no database and no account, and of a folder no network; docs/verify.md says what it proves.
    Exit code: 0 nothing is wrong, 1 something is, 10 and above: it could not be checked.
    """
    import json

    from evaluation.recompute import recompute
    from flagrelease.errors import PreflightError
    from flagrelease.provenance.keys import read_public_key
    from flagrelease.provenance.verify import verify_folder
    from flagrelease.publish.fetch import REPOSITORY

    try:
        trusted = None if key is None else read_public_key(key.read_bytes(), str(key))
    except OSError as error:
        raise PreflightError(
            f"cannot read the key {key}: {error.strerror}", remedy="name the file of the publisher's public key"
        ) from None
    if hub is not None or (not Path(publication).exists() and REPOSITORY.fullmatch(publication)):
        report = _on_hub(publication, hub or FIRST_HUB, trusted)
    else:
        report = verify_folder(Path(publication), trusted, recompute)
    if as_json:
        found = {"ok": report.ok, **report.model_dump(mode="json"), "problems": report.problems}
        typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        _print(report)
    raise typer.Exit(0 if report.ok else WRONG)


def _on_hub(repository: str, hub: str, trusted: PublicKey | None) -> Report:
    """The report on a repository, whose publication is fetched for it."""
    from tempfile import TemporaryDirectory

    from evaluation.recompute import recompute
    from flagrelease.provenance.verify import published_names, verify_folder
    from flagrelease.publish.fetch import fetch
    from flagrelease.settings import settings
    from flows.hubs import reader_of

    with TemporaryDirectory(prefix="flagrelease-") as name:
        folder = Path(name)
        client = reader_of(hub, settings())
        fetched = fetch(client, repository, folder, wanted=published_names, log=_say)
        return verify_folder(folder, trusted, recompute, place=fetched.place, beside=fetched.beside)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _print(report: Report) -> None:
    """The report on one page. Names and values come from files that nobody vouches for yet."""
    from flagrelease.card.text import printable

    said = "nothing is wrong" if report.ok else f"{len(report.problems)} wrong"
    typer.secho(said.upper(), bold=True, fg="green" if report.ok else "red", nl=False)
    typer.echo(f"  {printable(report.place)}: release {report.release} of {printable(report.cell)}, {report.verdict}\n")
    for check in report.checks:
        word, colour = _SIGNS[check.state]
        typer.secho(f"{word:<6}", fg=colour, nl=False)
        typer.echo(f"{check.name:<10} {printable(check.detail)}")
        for problem in check.problems:
            typer.echo(f"      - {printable(problem)}")
    for title, lines in (("Proven", report.proven), ("Not proven", report.not_proven)):
        typer.echo(f"\n{title}:")
        for line in lines or ["nothing"]:
            typer.echo(f"  - {printable(line)}")
