"""What the gate would say of the five published tables, if their changed answers were as many as is usual.

The tables have no items, so each standard error is √(ψ − Δ²)/√n under a supposed discordance ψ: the verdicts illustrate
the rules and prove nothing about the models.
"""

from __future__ import annotations

import math

import pytest
from scipy import stats

from evaluation.accuracy import Cell as Judged
from evaluation.accuracy import from_totals, judge
from evaluation.catalogue import load_benchmarks
from evaluation.statistics import Difference, t_loss_p_value
from flagrelease.loading import load_matrix
from flagrelease.matrix import Cell
from flagrelease.settings import data_path
from flagrelease.verdicts import Verdict
from tests.unit.policies import policy

MATRIX = load_matrix(data_path("matrix.yaml"))
BENCHMARKS = load_benchmarks()
# Benchmark: (items, ψ). ψ is what published pairs of equal systems show; where none are published, what similar
# benchmarks show (0.2 for one that a judge grades, 0.1 for the embodied ones).
USUAL = {
    "aime24": (30, 0.07),
    "gpqa": (1192, 0.218),
    "livebench": (1000, 0.159),
    "mmlu_pro": (12032, 0.031),
    "musr": (756, 0.281),
    "cmmmu": (900, 0.086),
    "mmmu": (900, 0.038),
    "mmmu_pro_standard": (1730, 0.217),
    "mmmu_pro_vision": (1730, 0.217),
    "mm_vet_v2": (517, 0.2),
    "ocrbench": (1000, 0.015),
    "math_vision": (3040, 0.102),
    "cii_bench": (765, 0.108),
    "blink": (1901, 0.145),
    "erqa": (400, 0.1),
    "where2place": (100, 0.1),
    "blink_val_ev": (692, 0.1),
    "cv_bench_test": (2638, 0.004),
    "embspatial_bench": (3640, 0.017),
    "sat": (150, 0.1),
    "vsi_bench_tiny": (400, 0.1),
    "robo_spatial_home_all": (350, 0.1),
    "all_angles_bench": (2132, 0.042),
    "egoplan_bench2": (1321, 0.1),
}


def supposed(difference: float, psi: float, n: int) -> Difference:
    """What n items of which the share ψ changed would say."""
    error = math.sqrt((psi - difference**2) / n)
    half = float(stats.t.ppf(0.95, n - 1)) * error
    return Difference(n, difference, error, difference - half, difference + half, n)


def judged(cell: Cell, psi: dict[str, float] | None = None) -> Judged:
    """The cell's table as the gate judges it."""
    table, rules = cell.published, policy()
    assert table is not None
    scale = 100 if table.scale == "percent" else 1
    rows = []
    for key, row in zip(MATRIX.suites[MATRIX.models[cell.model].suite], table.rows, strict=True):
        n, usual = USUAL[key]
        scores = (float(row.baseline) / scale, float(row.candidate) / scale)
        # The rule by which a benchmark decides is its size alone here, as when these verdicts were first worked out.
        benchmark = BENCHMARKS[key].model_copy(update={"role": "gated", "margin_points": None})
        found = supposed(scores[1] - scores[0], (psi or {}).get(key, usual), n)
        rows.append(from_totals(found, t_loss_p_value(found), rules, benchmark, scores))
    return judge(rows, rules)


CELLS = {cell.id: cell for cell in MATRIX.cells if cell.published}


@pytest.mark.parametrize(
    ("cell", "verdict", "pooled", "standard_error", "lower"),
    [
        ("minimax-nvidia", Verdict.INCONCLUSIVE, -0.24, 0.67, -1.34),
        ("minicpmv4-metax", Verdict.REGRESSED, 0.02, 0.36, -0.57),
        ("robobrain2-7b-metax", Verdict.CONSISTENT, -0.12, 0.39, -0.76),
        ("qwen3-metax", Verdict.INCONCLUSIVE, -0.33, 0.67, -1.42),
        ("step3-nvidia", Verdict.CONSISTENT, -0.35, 0.36, -0.94),
    ],
)
def test_the_published_tables(cell: str, verdict: Verdict, pooled: float, standard_error: float, lower: float) -> None:
    found = judged(CELLS[cell])
    assert found.verdict is verdict
    assert found.pooled is not None
    assert 100 * found.pooled.difference == pytest.approx(pooled, abs=0.006)
    assert 100 * found.pooled.standard_error == pytest.approx(standard_error, abs=0.03)
    assert 100 * found.pooled.lower == pytest.approx(lower, abs=0.06)


def test_one_benchmark_is_found_under_a_mean_that_hides_it() -> None:
    found = judged(CELLS["minicpmv4-metax"])
    (cmmmu,) = (row for row in found.benchmarks if row.verdict is Verdict.REGRESSED)
    assert cmmmu.benchmark == "cmmmu"
    assert (100 * cmmmu.difference, 100 * cmmmu.lower, 100 * cmmmu.upper) == pytest.approx(
        (-2.78, -4.4, -1.2), abs=0.05
    )
    assert cmmmu.p_adjusted == pytest.approx(0.019, abs=0.001)
    assert found.pooled is not None
    assert found.pooled.non_inferior


def test_that_finding_rests_on_the_supposed_discordance() -> None:
    found = judged(CELLS["minicpmv4-metax"], {"cmmmu": 0.15})
    assert found.verdict is not Verdict.REGRESSED
    assert next(row for row in found.benchmarks if row.benchmark == "cmmmu").p_adjusted == pytest.approx(0.14, abs=0.01)


def test_few_items_are_advisory_whatever_they_gain() -> None:
    found = judged(CELLS["minimax-nvidia"])
    (aime,) = (row for row in found.benchmarks if row.role == "advisory")
    assert (aime.benchmark, round(100 * aime.difference, 2)) == ("aime24", 6.67)
