"""The command `flagrelease`. The one place that knows all packages; they are imported when a command needs them."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from functools import cache

import typer

from flagrelease.cli import (
    approve,
    baseline,
    benchmarks,
    bisect,
    card,
    db,
    deploy,
    doctor,
    gate,
    image,
    inspect,
    keys,
    matrix,
    operators,
    plan,
    publish,
    release,
    verify,
    weights,
)
from flagrelease.errors import FlagReleaseError

INTERRUPTED = 130

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Releases models on AI chips, with evidence that they answer as they do on the reference platform.",
)
app.command()(release.release)
app.command()(release.serve)
app.command()(approve.approve)
app.command()(weights.weights)
app.command()(deploy.deploy)
app.command()(plan.plan)
app.command()(doctor.doctor)
app.command()(inspect.status)
app.command()(inspect.show)
app.command()(gate.gate)
app.command()(gate.flips)
app.command()(gate.compare)
app.command()(bisect.bisect)
app.command()(verify.verify)
app.add_typer(card.app, name="card")
app.add_typer(image.app, name="image")
app.add_typer(matrix.app, name="matrix")
app.add_typer(benchmarks.app, name="benchmarks")
app.add_typer(baseline.app, name="baseline")
app.add_typer(db.app, name="db")
app.add_typer(keys.app, name="keys")
app.add_typer(publish.app, name="publish")
app.add_typer(operators.app, name="operators")


@cache
def _command() -> Callable[..., object]:
    """The commands as one: making them takes longer than most of them."""
    return typer.main.get_command(app)


def main() -> None:
    """Run the command line; errors are shown with their next step and give their own exit code."""
    try:
        code = _command()(standalone_mode=False)
    except FlagReleaseError as error:
        typer.secho("error: ", fg="red", bold=True, nl=False, err=True)
        typer.echo(error.message, err=True)
        typer.secho(f"  -> {error.remedy}", err=True)
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except KeyboardInterrupt:
        typer.echo("interrupted; the same command goes on where this one stopped", err=True)
        sys.exit(INTERRUPTED)
    except Exception as error:
        # Typer brings its own copy of click, whose usage errors know how to show themselves.
        if hasattr(error, "show") and hasattr(error, "exit_code"):
            error.show()
            sys.exit(error.exit_code)
        # Python's own exit code for this would be 1, which says REGRESSED.
        traceback.print_exc()
        typer.echo("this is a fault of FlagRelease: please report it with the lines above", err=True)
        sys.exit(FlagReleaseError.exit_code)
    sys.exit(code if isinstance(code, int) else 0)
