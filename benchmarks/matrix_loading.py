"""How long a large matrix takes to read, as a share of what is allowed: 780 cells (13 chips × 60 models) in 2 s.

    python -m benchmarks.matrix_loading

The cells are copies of the shipped container cells, published tables and options included. Beside it: PyYAML alone on
the same text, which gives values without lines and checks nothing.
"""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import yaml

from flagrelease.loading import load_chips, load_matrix, resolve_all
from flagrelease.selection import Selection

CHIPS = 13
MODELS = 60
ALLOWED_S = 2.0
ROUNDS = 3


def large_matrix(chips: list[str], models: int) -> str:
    """The shipped matrix with `models` models, each on each of the chips."""
    data: dict[str, Any] = yaml.safe_load((Path(__file__).parents[1] / "matrix.yaml").read_text())
    shipped = [cell for cell in data["cells"] if cell["launcher"] == "container"]
    facts = {f"model{number}": cell for number, cell in enumerate(islice(cycle(shipped), models))}
    # Copied, so that nothing is written as an alias.
    data["models"] = {key: copy.deepcopy(data["models"][cell["model"]]) for key, cell in facts.items()}
    data["cells"] = [
        copy.deepcopy({**cell, "model": key, "chip": chip}) for (key, cell), chip in product(facts.items(), chips)
    ]
    return yaml.dump(data, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)


def best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of some rounds."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print the times of reading, resolving and choosing."""
    chips = load_chips()
    text = large_matrix([key for key in chips if key != "cpu"][:CHIPS], MODELS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "matrix.yaml"
        path.write_text(text)
        matrix = load_matrix(path)
        loading = best(lambda: load_matrix(path))
    cells = resolve_all(matrix, chips)
    resolving = best(lambda: resolve_all(matrix, chips))
    choosing = best(lambda: Selection(models=["model1*"], chips=["huawei", "m*"], stale=True).select(cells, {}))
    alone = best(lambda: yaml.load(text, Loader=yaml.CSafeLoader))
    whole = loading + resolving + choosing
    print(f"{len(cells)} cells in {len(text):,} characters")
    print(f"whole: {whole:.2f} s, {whole / ALLOWED_S:.2f} of the {ALLOWED_S:g} s allowed")
    print(
        f"reading and checking: {loading:.2f} s, {loading / alone:.1f} times PyYAML with libyaml alone ({alone:.2f} s)"
    )
    print(f"resolving: {resolving:.2f} s; choosing: {choosing:.3f} s")


if __name__ == "__main__":
    main()
