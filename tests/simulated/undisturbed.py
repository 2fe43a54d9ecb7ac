"""The same cells released one after the other in this process: what a sweep, disturbed or not, has to end with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flagrelease.settings import settings
from tests.simulated import stand_ins
from tests.simulated.contents import contents
from tests.simulated.matrices import keep_baseline, simulation_of, write_matrix


def undisturbed_contents(home: Path, facts: dict[str, Any], chips: Path, prefect_url: str) -> dict[str, Any]:
    """Contents of a store of its own after a release of each cell; runs are recorded by the server at `prefect_url`."""
    from flows.release import release

    home.mkdir()
    store_url = f"sqlite:///{home / 'store.db'}"
    with pytest.MonkeyPatch.context() as patch, temporary_settings({PREFECT_API_URL: prefect_url}):
        for name in [name for name in os.environ if name.startswith("FLAGRELEASE_")]:
            patch.delenv(name)
        patch.setenv("FLAGRELEASE_HOME", str(home / "state"))
        patch.setenv("FLAGRELEASE_OUTPUT", str(home / "output"))
        patch.setenv("FLAGRELEASE_MATRIX", str(home / "matrix.yaml"))
        patch.setenv("FLAGRELEASE_CHIPS", str(chips))
        patch.setenv("FLAGRELEASE_STORE", store_url)
        settings.cache_clear()
        try:
            write_matrix(home / "matrix.yaml", facts)
            keep_baseline(store_url)
            stand_ins.install(simulation_of(home / "simulation", scale=1e-3), patch.setattr)
            for cell in facts["cells"]:
                release(f"{cell['model']}-{cell['chip']}")
        finally:
            settings.cache_clear()
    return contents(store_url)
