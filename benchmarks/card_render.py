"""How long cards take to render, as a share of what is allowed: a matrix of 780 cells in 2 s, one card in 10 ms.

    python -m benchmarks.card_render

Half of the cards are of measured releases (the test data's), half of the matrix's published scores; each is composed
and rendered anew, in the style `verified`.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import cycle, islice
from pathlib import Path

from flagrelease.card.compose import measured_card, published_card
from flagrelease.card.data import Card
from flagrelease.card.render import render
from flagrelease.loading import load_chips, load_matrix, resolve_all
from tests.unit import card_data

CELLS = 780
WHOLE_S = 2.0
ONE_S = 0.010


def main() -> None:
    """Print the time of all cards and of the slowest."""
    matrix = load_matrix(Path(__file__).parents[1] / "matrix.yaml")
    cells = [cell for cell in resolve_all(matrix, load_chips()) if cell.cell.published]
    releases = [card_data.card(cell) for cell in (card_data.container_cell(), card_data.process_cell())]
    composed: list[Callable[[], Card]] = []
    for published, measured in zip(cells, cycle(releases), strict=False):
        composed += [partial(published_card, published), partial(measured_card, measured)]
    render(composed[0]())  # the templates are compiled once a process
    render(composed[1]())
    times = []
    for compose in islice(cycle(composed), CELLS):
        start = time.perf_counter()
        render(compose())
        times.append(time.perf_counter() - start)
    whole, usual, slowest = sum(times), statistics.median(times), max(times)
    print(f"{CELLS} cards: {whole:.2f} s, {whole / WHOLE_S:.2f} of the {WHOLE_S:g} s allowed")
    print(f"one card: {1000 * usual:.2f} ms (median), {usual / ONE_S:.2f} of the {1000 * ONE_S:g} ms allowed")
    print(f"slowest: {1000 * slowest:.2f} ms")


if __name__ == "__main__":
    main()
