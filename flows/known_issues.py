"""Known issues of FlagGems' operators that a cell may meet as the matrix has it: for its plan, and before it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flagrelease.bisect.checked import versions_said
from flagrelease.errors import PreflightError
from flagrelease.operators.known_issues import IssueOfCell, KnownIssue, Lists, Passed, met
from flagrelease.records import Stack
from flows.job import FLAG_GEMS, Job


def flag_gems_of(job: Job, inventory: Mapping[str, str]) -> str | None:
    """The version of FlagGems that the job's server has: by its image's inventory, else as the matrix pins it.

    Of a process of the host: what its engine says. None: it has none, or it is not known, because there is no image yet
    and no pin, or the engine does not say or is not on this host, as where a plan is made.
    """
    if job.cell.cell.stack is not Stack.FLAGOS:
        return None
    if job.image_inputs is None:
        try:
            return versions_said(job.engine_version).get("flag_gems")
        except PreflightError:
            return None
    return inventory.get(FLAG_GEMS) or job.pins.get(FLAG_GEMS)


def issues_of(job: Job, flag_gems: str | None, issues: Sequence[KnownIssue], passed: Passed) -> list[IssueOfCell]:
    """Those that the job's cell may meet; none where FlagGems is not used."""
    if job.cell.cell.stack is not Stack.FLAGOS:
        return []
    return met(issues, job.cell.cell.chip, flag_gems, Lists.of(job.engine_settings), passed)


def leave_out(job: Job, issues: Sequence[IssueOfCell]) -> str | None:
    """What to write into the cell in matrix.yaml so that the operators of these issues do not run.

    None: there is nothing to leave out, or the engine reads no lists of operators.
    """
    wanted = dict.fromkeys(name for each in issues if each.issue.leaves_out for name in each.operators)
    keys = type(job.engine.settings({})).model_fields
    if not wanted or "without_operators" not in keys:
        return None
    lists = Lists.of(job.engine_settings).leaving_out(wanted)
    if lists is None:
        return "stack: native"
    ((key, names),) = lists.items()
    where, listed = f"engines.{job.engine.name}", f"{key}: [{', '.join(names)}]"
    if key == "operators":
        return f"{where}.{listed}"
    plugin = "plugin: true, " if "plugin" in keys else ""
    return f"{where}: {{{plugin}{listed}}}"


def lines(flag_gems: str | None, issues: Sequence[IssueOfCell], line: str | None) -> list[str]:
    """What people are told of the issues of a cell: one line each, the line for the matrix, edge cases by their ids."""
    told = [f"known issue {each.text}" for each in issues if each.issue.deny]
    if line is not None:
        told.append(f"-> to do without them, in matrix.yaml: {line}")
    if rest := [each.issue.id for each in issues if not each.issue.deny]:
        version = f"FlagGems {flag_gems}" if flag_gems else "FlagGems"
        told.append(f"known of {version}, with nothing to leave out: {', '.join(rest)} (flagrelease operators issues)")
    return told
