"""The shipped matrix and baseline, cut down to some benchmarks: the same release in a quarter of the time."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import closing
from pathlib import Path

import yaml

from evaluation.baseline import SHIPPED, keep, load
from flagrelease.settings import Settings
from flagrelease.store import Store
from tests.end_to_end.commands import MATRIX

TEXTS = 10
"""Of the canary's 32."""


def short_matrix(home: Path, benchmarks: Collection[str]) -> Path:
    """A matrix whose small cell is asked `benchmarks` only, and compared with the shipped answers to them."""
    matrix = yaml.safe_load(MATRIX.read_text())
    reference = matrix["models"]["smollm2"]["reference"]
    whole = load(reference["baseline"], SHIPPED)
    assert whole.canary is not None
    rows = {
        name: [row for row in getattr(whole, name) if row.benchmark in benchmarks]
        for name in ("benchmarks", "items", "floors")
    }
    canary = whole.canary.model_copy(update={"prompts": whole.canary.prompts[:TEXTS]})
    short = whole.model_copy(update={**rows, "canary": canary})
    with closing(Store.open(Settings(home=home / "state").store_url)) as store:
        reference["baseline"] = keep(short, store, None)
    matrix["suites"]["smoke"] = list(benchmarks)
    path = home / "matrix.yaml"
    path.write_text(yaml.safe_dump(matrix, allow_unicode=True, sort_keys=False))
    return path
