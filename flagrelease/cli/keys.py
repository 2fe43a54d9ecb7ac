"""`flagrelease keys`: the key that signs releases, and its public half for everybody else."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Make and show the key that signs releases. Private keys are never shown.")


@app.command()
def create() -> None:
    """Make a key: from then on what this host publishes is signed.

    It lies in the folder `keys` of FLAGRELEASE_HOME, in a file that only its owner can read.
    """
    from flagrelease.provenance.keys import VARIABLE, create_key
    from flagrelease.settings import settings

    kept = create_key(settings().home_path)
    typer.echo(f"key {kept.key.public.id}\nkept in {kept.place}: keep a copy where it is safe, it cannot be made again")
    typer.echo("give its public half to whoever is to check your releases: flagrelease keys show > flagrelease.pub")
    if not kept.signs:
        typer.echo(f"it does not sign as long as {VARIABLE} is set")


@app.command()
def show(
    key: Annotated[str | None, typer.Argument(help="first digits of its id; by default the key that signs")] = None,
) -> None:
    """Print a public key as PEM, for those who check releases; nothing else goes to the output."""
    from flagrelease.provenance.keys import find_key
    from flagrelease.settings import settings

    typer.echo(find_key(settings().home_path, key).pem.decode(), nl=False)


@app.command(name="list")
def list_keys() -> None:
    """Show the keys of this host by id and place, and which one signs."""
    from flagrelease.provenance.keys import keys
    from flagrelease.settings import settings

    found = keys(settings().home_path)
    for kept in found:
        typer.echo(f"{kept.key.public.id}  {'signs' if kept.signs else 'unused'}  {kept.place}")
    if not found:
        typer.echo("no key, so what this host publishes is not signed; make one: flagrelease keys create")
