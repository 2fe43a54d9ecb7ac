"""When to stop asking: looks at a growing part of a benchmark, with a bar so high that the last look keeps its level.

Haybittle 1971 (British Journal of Radiology 44) and Peto et al. 1976 (British Journal of Cancer 34): at interim looks
only 3 standard errors decide, after which the final test is used as if nobody had looked. A baseline is never stopped.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike

from evaluation.statistics import (
    allow_for_unseen,
    check_share,
    checked,
    loss_p_value,
    paired_difference,
    power_quantile,
)


def looks(n: int, count: int = 10) -> list[int]:
    """Items known at each of `count` looks, ascending, the last being all `n`; fewer where there are fewer items."""
    if n < 1 or count < 1:
        msg = f"items and looks must be at least 1, not {n} and {count}"
        raise ValueError(msg)
    return sorted({-(-n * look // count) for look in range(1, count + 1)})


def stopping_order(items: Sequence[tuple[str, str]], seed: int) -> list[str]:
    """The hashes of `items`, each (hash, stratum), in the order in which they are to be asked.

    Each prefix of L of n items holds every stratum of m items with less than one item's deviation from L·m/n, so that a
    look sees the benchmark in small and not its first subject. Within a stratum the order is that of SHA-256 of seed
    and hash: drawn, yet the same on every machine and for every order of `items`.

    That bound gives the j-th item of a stratum the places from ⌊(j − 1)·n/m⌋ + 1 to ⌈j·n/m⌉; giving each place to the
    item that must come soonest always keeps it: Steiner and Yeomans 1993, Management Science 39; Baruah et al. 1996,
    Algorithmica 15. ValueError where a hash occurs twice.
    """
    n = len(items)
    strata: dict[str, list[tuple[bytes, str]]] = defaultdict(list)
    for item, stratum in items:
        strata[stratum].append((hashlib.sha256(f"{seed}/{item}".encode()).digest(), item))
    if len({item for item, _ in items}) < n:
        msg = "an item occurs twice"
        raise ValueError(msg)
    windows = sorted(
        (j * n // len(drawn), -(-(j + 1) * n // len(drawn)), *found)
        for drawn in strata.values()
        for j, found in enumerate(sorted(drawn))
    )
    order: list[str] = []
    waiting: list[tuple[int, bytes, str]] = []
    coming = iter([*windows, None])
    upcoming = next(coming)
    for place in range(n):
        while upcoming is not None and upcoming[0] <= place:
            heapq.heappush(waiting, upcoming[1:])
            upcoming = next(coming)
        order.append(heapq.heappop(waiting)[2])
    return order


def pooled_standard_error_limit(pooled_margin: float, benchmarks: int, alpha: float, power: float) -> float:
    """The largest standard error of each of `benchmarks` with which their mean still clears an equal system.

    pooled margin·√m/(z(1 − alpha) + z(power)): with SE_b at this limit, the pooled √(Σ SE_b²)/m excludes a loss of
    `pooled_margin` (share) with probability `power`. A benchmark stopped earlier would leave the cell undecided.

    Means that stopped at a look are the lucky ones. Of nine benchmarks, each worse by the pooled margin, the pool was
    cleared in 5.2 % of simulated cells without looks, 8.3 % with looks at this limit and 5.0 % at half of it: half of
    it is the `max_standard_error` to stop at.
    """
    check_share(pooled_margin, "margin")
    if benchmarks < 1:
        msg = f"benchmarks must be at least 1, not {benchmarks}"
        raise ValueError(msg)
    return pooled_margin * math.sqrt(benchmarks) / power_quantile(alpha, power)


def stop_at_look(
    d: ArrayLike,
    *,
    margin: float,
    interim_z: float,
    max_standard_error: float,
    alpha: float,
    benchmarks: int,
    clusters: Sequence[Hashable] | None = None,
) -> Literal["cleared", "lost"] | None:
    """Whether the differences `d` known at an interim look already decide; None: ask on.

    The level of the look is Φ(−interim_z), 0.00135 at 3. "cleared": at that level the lower bound of the mean, which
    allows for outcomes not seen yet, lies above −margin, and SE as the final verdict computes it (at `alpha`) is at
    most `max_standard_error` (`pooled_standard_error_limit`). "lost": the mean lies below −margin, and at that level
    divided by `benchmarks` it is below 0. As any of the benchmarks that are looked at may be falsely lost, their looks
    share the level; without that, eight benchmarks raised the false alarms of equal cells from 3.4 to 4.7 %.

    With many items of one benchmark the two are (mean + margin)/SE ≥ interim_z and mean/SE ≤ −interim_z. Levels rather
    than quotients are compared because a few equal items have no SE to divide by.
    """
    array = checked(d, "differences", -1.0, 1.0)
    check_share(margin, "margin")
    if benchmarks < 1:
        msg = f"benchmarks must be at least 1, not {benchmarks}"
        raise ValueError(msg)
    if not (interim_z > 0 and max_standard_error > 0):
        msg = f"interim z and largest standard error must be positive, not {interim_z} and {max_standard_error}"
        raise ValueError(msg)
    level = float(scipy.special.ndtr(-interim_z))
    final = allow_for_unseen(paired_difference(array, alpha, clusters), alpha)
    interim = allow_for_unseen(paired_difference(array, level, clusters), level)
    if interim.lower > -margin and final.standard_error <= max_standard_error:
        return "cleared"
    # On losses and gains of whole items McNemar's test is exact, however often they were asked.
    whole = bool(np.isin(array, (-1, 0, 1)).all())
    if final.mean < -margin and loss_p_value(array, whole, clusters) <= level / benchmarks:
        return "lost"
    return None
