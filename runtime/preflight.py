"""What a cell needs of this machine, checked in seconds, before anything is started or written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from flagrelease.errors import FlagReleaseError, MatrixError, PreflightError
from flagrelease.matrix import ResolvedCell
from runtime import weights
from runtime.docker_engine import connect
from runtime.engines import engine as engine_named
from runtime.launch.chip_container import cell_container
from runtime.launch.container_preflight import host_path


def check_host(cell: ResolvedCell, engine: str) -> None:
    """Raise what is missing on this host for serving the cell; PreflightError where it is several things."""
    problems = list(_problems(cell, engine))
    if len(problems) == 1:
        raise problems[0]
    if problems:
        lines = "".join(f"\n  - {problem.message}" for problem in problems)
        steps = "; ".join(dict.fromkeys(problem.remedy for problem in problems))
        raise PreflightError(f"{cell.id} cannot be released on this machine:{lines}", remedy=steps)


def _problems(cell: ResolvedCell, engine: str) -> Iterator[FlagReleaseError]:
    chip = cell.chip
    elsewhere = (
        f"run it on a host with {chip.display} devices: prefect worker start --pool {chip.key} there, "
        f"then prefect deployment run release/{cell.id}"
    )
    missing = [device for device in chip.devices if not Path(device).exists()]
    if missing:
        yield PreflightError(f"no {chip.display} device: {', '.join(missing)} not there", remedy=elsewhere)
    if chip.smi and shutil.which(chip.smi) is None:
        yield PreflightError(f"{chip.smi}, the management tool of {chip.display}, is not on PATH", remedy=elsewhere)
    try:
        if cell.container is None:
            engine_named(engine).version()
        else:
            # Whether the container itself can be started, its launcher looks at.
            spec = cell_container(cell.container, chip)
            folder = cell.model_folder
            if host_path(spec, folder) is None:
                raise MatrixError(
                    f"{cell.id}: the container does not see {folder}, where the card puts the model",
                    remedy=f"add to its options: -v {folder}:{folder}:ro",
                )
            if spec.network != "host" and cell.cell.port not in {port.container for port in spec.ports}:
                raise MatrixError(
                    f"{cell.id}: nobody outside its container reaches port {cell.cell.port}, which the card asks",
                    remedy=f"add to its options: --network=host, or -p {cell.cell.port}:{cell.cell.port}",
                )
            connect().close()
    except FlagReleaseError as problem:
        yield problem
    try:
        weights.check(cell.model)
    except FlagReleaseError as problem:
        yield problem
