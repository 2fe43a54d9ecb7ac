"""`flagrelease db`: looking after the store: schema, integrity, backup, and moving between databases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from flagrelease.cli.inspect import AsJson

app = typer.Typer(
    no_args_is_help=True, help="The database that FLAGRELEASE_STORE names: check, upgrade, back up, restore, move."
)
Dump = Annotated[Path, typer.Argument(help="the dump, for example flagrelease.jsonl.gz")]


@app.command()
def check(as_json: AsJson = False) -> None:
    """Say which database is used, its schema, whether it is sound, and what it holds. Nothing is written.

    Ends with 19 where it cannot be used, 20 where it is locked, 21 where its schema is another version's.
    """
    import json

    from flagrelease.settings import settings
    from flagrelease.store.check import check as look_at

    found = look_at(settings().store_url)
    if as_json:
        problem = {"message": found.problem.message, "remedy": found.problem.remedy} if found.problem else None
        typer.echo(json.dumps(found._asdict() | {"problem": problem}, indent=1))
    else:
        typer.echo(f"database:  {found.database} ({found.server})")
        own = "this version's" if found.revision == found.known else f"this version's is {found.known}"
        typer.echo(f"schema:    {found.revision} ({own})")
        if found.rows:
            typer.echo(f"holds:     {_counted(found.rows)}")
        if found.problem is None:
            typer.echo("sound:     yes")
    if found.problem:
        raise found.problem


@app.command()
def upgrade() -> None:
    """Bring the database to this version's schema, or make a new one. An SQLite file is copied first.

    Every other command does the same, without the copy, when it opens a database of an older version to write to it.
    """
    from flagrelease.settings import settings
    from flagrelease.store.upgrade import upgrade as bring_up

    done = bring_up(settings().store_url)
    if done.before == done.after:
        typer.echo(f"{done.database} has the schema {done.after} already: nothing to do")
        return
    typer.echo(f"{done.database}: {'made with' if done.before is None else f'{done.before} ->'} schema {done.after}")
    if done.copy:
        typer.echo(f"as it was: {done.copy}")


@app.command()
def dump(file: Dump) -> None:
    """Write the whole database into one file, from SQLite or PostgreSQL alike, as it is at this moment.

    Releases may go on meanwhile. Evidence files are not in it: copy their folder too.
    """
    from flagrelease.settings import settings
    from flagrelease.store.transfer import dump as write

    host = settings()
    with _progress("writing rows") as progress:
        contents = write(host.store_url, file, progress)
    typer.echo(f"{file}: schema {contents.revision}, {_counted(contents.rows)}, {file.stat().st_size / 2**20:,.1f} MiB")
    typer.echo(f"evidence files are not in it; they lie in {host.evidence_url}")


@app.command()
def restore(file: Dump) -> None:
    """Fill an empty database, SQLite or PostgreSQL, from a dump: all of it or nothing.

    The dump may be of an older version; it is brought to this version's schema.
    """
    from flagrelease.settings import settings
    from flagrelease.store.transfer import restore as fill

    host = settings()
    with _progress("restoring rows") as progress:
        contents = fill(host.store_url, file, progress)
    typer.echo(f"restored from {contents.created}: {_counted(contents.rows)}")
    typer.echo(f"evidence files are not in a dump; they are looked for in {host.evidence_url}")


def _counted(rows: dict[str, int]) -> str:
    return ", ".join(f"{rows.get(name, 0):,} {name}" for name in ("releases", "evaluations", "items"))


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, where that is a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
