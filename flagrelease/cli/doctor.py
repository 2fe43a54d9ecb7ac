"""`flagrelease doctor`: what this host can do, what it lacks, and how to get it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flagrelease.cli.inspect import AsJson

if TYPE_CHECKING:
    from runtime.finding import Finding


def doctor(
    chip: Annotated[
        str | None, typer.Option(help="look at this host as one with this chip; by default what it has")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what this host can build, run and evaluate, what is missing, and how to get it.

    Nothing is started, changed or sent; of tokens and passwords it is only said whether they are there. Ends with 13
    where `--chip` is given and the host cannot serve on that chip.
    """
    import json

    from flagrelease.errors import PreflightError
    from flagrelease.loading import load_chips
    from flagrelease.settings import settings
    from runtime.detection import chip_named, detect
    from runtime.doctor import examine
    from runtime.finding import can

    chips = load_chips()
    detected = detect(chips)
    chosen = chip_named(chips, chip) if chip else detected[0]
    findings = [*examine(chosen, settings()), *_benchmarks()]
    tasks = can(findings)
    if as_json:
        document = {
            "chip": chosen.key,
            "detected": [each.key for each in detected],
            "can": tasks,
            "findings": [each._asdict() for each in findings],
        }
        typer.echo(json.dumps(document, indent=1))
    else:
        here = ", ".join(each.display for each in detected)
        typer.echo(f"chip: {chosen.display}" + (f" (this host has {here})" if chosen not in detected else ""))
        _print(findings)
        for task, possible in tasks.items():
            lacking = [each.name for each in findings if not each.ok and task in each.needed_for]
            typer.echo(f"{task + ':':<22}{'yes' if possible else 'no, for want of: ' + ', '.join(lacking)}")
    if chip and not (tasks["serve in containers"] or tasks["serve as processes"]):
        raise typer.Exit(PreflightError.exit_code)


def _benchmarks() -> list[Finding]:
    from evaluation.availability import obstacle
    from evaluation.catalogue import load_benchmarks
    from runtime.finding import has, lacks

    benchmarks = load_benchmarks()
    ready = sum(obstacle(benchmark) is None for benchmark in benchmarks.values())
    found = f"{ready} of {len(benchmarks)} can be run here"
    if ready:
        return [has("benchmarks", f"{found} (flagrelease benchmarks check)", "evaluate")]
    return [lacks("benchmarks", found, "flagrelease benchmarks check says what each lacks", "evaluate")]


def _print(findings: list[Finding]) -> None:
    for each in findings:
        mark = "ok" if each.ok else "lacks" if each.needed_for else "none"
        typer.echo(f"{mark:<7}{each.name}: {' '.join(each.found.split())}")
        if each.remedy:
            typer.echo(f"         -> {each.remedy}")
