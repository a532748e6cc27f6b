"""Distances of counts, held against scipy's answers and against what they must be."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.spatial import distance

from evergrow.statistics import distances

COUNTS = st.integers(2, 12).flatmap(
    lambda n: st.tuples(*[arrays(np.int64, n, elements=st.integers(0, 500)).filter(lambda c: c.sum() > 0)] * 2)
)
ALL = (
    distances.psi,
    distances.jensen_shannon,
    distances.hellinger,
    distances.total_variation,
    distances.kolmogorov_smirnov,
)


@given(COUNTS)
def test_every_distance_is_symmetric_not_negative_and_nothing_for_equal_shares(pair):
    p, q = pair
    for measure in ALL:
        assert measure(p, q) == pytest.approx(measure(q, p), abs=1e-12)
        assert measure(p, q) >= 0
        assert measure(p, 7 * p) == pytest.approx(0, abs=1e-7)


@given(COUNTS)
def test_they_are_what_scipy_says(pair):
    p, q = (c / c.sum() for c in pair)

    assert distances.jensen_shannon(*pair) == pytest.approx(distance.jensenshannon(p, q, base=2), abs=1e-7)
    assert distances.hellinger(*pair) == pytest.approx(distance.euclidean(np.sqrt(p), np.sqrt(q)) / np.sqrt(2))
    assert distances.kolmogorov_smirnov(*pair) == pytest.approx(np.abs(np.cumsum(p) - np.cumsum(q)).max())


@given(COUNTS)
def test_chi_square_is_scipys_without_cells_that_are_empty_in_both(pair):
    table = np.array(pair)
    table = table[:, table.sum(axis=0) > 0]
    statistic, p_value = distances.chi_square(*pair)
    if table.shape[1] < 2:
        assert (statistic, p_value) == (0.0, 1.0)
        return
    expected = stats.chi2_contingency(table, correction=False)
    assert statistic == pytest.approx(expected.statistic, abs=1e-9)
    assert p_value == pytest.approx(expected.pvalue, abs=1e-9)


def test_the_stability_index_is_the_textbooks():
    # Shares 0.1, 0.2, 0.7 against 0.2, 0.2, 0.6: 0.1 ln 2 + 0 - 0.1 ln(6/7).
    expected = 0.1 * np.log(2) - 0.1 * np.log(6 / 7)

    assert distances.psi(np.array([10, 20, 70]), np.array([20, 20, 60])) == pytest.approx(expected)


def test_an_empty_cell_counts_as_a_share_of_one_in_ten_thousand():
    expected = (1 - 1e-4) * np.log(1e4) * 2

    assert distances.psi(np.array([1, 0]), np.array([0, 1])) == pytest.approx(expected)


@given(
    COUNTS.flatmap(
        lambda pair: st.tuples(st.just(pair), arrays(np.float64, len(pair[0]), elements=st.floats(0.01, 10)))
    )
)
def test_wasserstein_is_the_integral_of_the_gap_between_the_two_lines(drawn):
    (p, q), widths = drawn
    ends = np.append(0.0, np.cumsum(widths))
    grid = np.unique(np.concatenate([np.linspace(a, b, 400) for a, b in pairwise(ends)]))
    gap = np.abs(
        np.interp(grid, ends, np.append(0, np.cumsum(p / p.sum())))
        - np.interp(grid, ends, np.append(0, np.cumsum(q / q.sum())))
    )

    assert distances.wasserstein(p, q, ends) == pytest.approx(np.trapezoid(gap, grid), rel=1e-3, abs=1e-6)


def test_on_a_fine_grid_wasserstein_and_ks_are_those_of_the_values():
    random = np.random.default_rng(0)
    a, b = random.normal(0, 1, 20_000), random.normal(0.4, 1.3, 20_000)
    ends = np.linspace(min(a.min(), b.min()), max(a.max(), b.max()), 2001)
    p, q = np.histogram(a, ends)[0], np.histogram(b, ends)[0]

    assert distances.wasserstein(p, q, ends) == pytest.approx(stats.wasserstein_distance(a, b), rel=1e-3)
    assert distances.kolmogorov_smirnov(p, q) == pytest.approx(stats.ks_2samp(a, b).statistic, abs=2e-3)


def test_shares_of_nothing_are_nothing():
    assert distances.shares(np.zeros(3, np.int64)).tolist() == [0, 0, 0]
