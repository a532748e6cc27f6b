import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from evergrow.statistics.ecdf import LEAST, Comparison, compare_counts, compare_values, radius

samples = st.lists(st.integers(0, 12), min_size=1, max_size=30)


def apart(first, second) -> float:
    """Kolmogorov's distance, by looking at every value."""
    first, second = np.array(first), np.array(second)
    return max(abs((first <= x).mean() - (second <= x).mean()) for x in np.concatenate([first, second]))


def chance_of_leaving(constant: float, leading: float = 0.85) -> float:
    """Of the theorem: the probability that any t ≥ m is outside A √((log(log(e t / m)) + C) / t), at the best η."""
    found = []
    for eta in np.linspace(1.001, 2 * leading**2 - 1e-6, 4000):
        gap = leading - math.sqrt(2 * (eta - 1) / constant)
        gamma = 2 / eta * gap**2
        if gap > 0 and gamma > 1:
            found.append(4 * math.exp(-gamma * constant) * (1 + 1 / ((gamma - 1) * math.log(eta))))
    return min(found)


@pytest.mark.parametrize("alpha", [0.25, 0.1, 0.05, 0.025, 0.01, 0.001, 1e-6])
def test_the_constants_hold_by_the_theorems_own_formula_and_give_little_away(alpha):
    constant = 0.8 * math.log(1612 / alpha)
    assert alpha / 5 < chance_of_leaving(constant) <= alpha
    assert radius(5000, alpha) == pytest.approx(0.85 * math.sqrt((math.log(math.log(50 * math.e)) + constant) / 5000))


def test_a_published_implementation_that_tunes_the_constant_is_two_percent_narrower_at_most():
    # confseq 0.0.11: empirical_process_lil_bound(t, alpha, 100, 0.85)
    for rows, alpha, published in (
        (100, 0.05, 0.242253270924622),
        (1000, 0.05, 0.0820477877091474),
        (100_000, 0.025, 0.00878856152472017),
        (100_000, 0.01, 0.00905614561142655),
    ):
        assert published <= radius(rows, alpha, least=100) <= 1.02 * published


def test_below_the_fewest_rows_nothing_is_said():
    assert radius(LEAST - 1, 0.05) == math.inf
    few, many = np.arange(LEAST - 1.0), np.arange(5000.0) + 1e6
    assert compare_values(few, many, 0.05).verdict(0.1) == "open"
    assert compare_values(np.array([]), many, 0.05).verdict(0.1) == "open"
    assert compare_counts(np.array([0, 0]), np.array([9, 9]), 0.05).verdict(0.1) == "open"


@given(samples, samples)
def test_the_distance_of_values_is_that_of_kolmogorov_and_smirnov(first, second):
    found = compare_values(np.sort(np.array(first, float)), np.sort(np.array(second, float)), 0.05)
    assert found.low == found.high == pytest.approx(apart(first, second), abs=1e-12)


@settings(max_examples=200)
@given(samples, samples, st.lists(st.floats(-0.5, 12.4), min_size=0, max_size=6))
def test_counts_in_any_cells_enclose_the_distance_of_the_values(first, second, cuts):
    ends = np.unique([-1.0, 13.0, *cuts])
    counts = [np.histogram(sample, ends)[0] for sample in (first, second)]
    found = compare_counts(*counts, alpha=0.05)
    assert found.low - 1e-12 <= apart(first, second) <= found.high + 1e-12


def test_fine_cells_lose_next_to_nothing():
    random = np.random.default_rng(0)
    first, second = random.normal(size=4000), random.normal(0.2, 1, size=3000)
    ends = np.linspace(-6, 6, 1001)
    cells = compare_counts(np.histogram(first, ends)[0], np.histogram(second, ends)[0], 0.05)
    assert cells.high - cells.low < 0.01
    assert cells.radius == compare_values(np.sort(first), np.sort(second), 0.05).radius


def test_the_radius_is_that_of_both_samples_at_half_of_alpha_each():
    found = compare_values(np.arange(500.0), np.arange(9000.0), 0.1)
    assert found.radius == radius(500, 0.05) + radius(9000, 0.05)


def shifted(shift: float, rows: int, seed: int) -> Comparison:
    random = np.random.default_rng(seed)
    return compare_values(np.sort(random.normal(shift, 1, rows)), np.sort(random.normal(size=rows)), 0.05)


def test_distributions_far_apart_are_more_and_the_same_ones_are_within_once_there_are_enough_rows():
    assert shifted(1.0, 3000, seed=1).verdict(0.1) == "more"  # truly 0.38
    assert shifted(0.0, 10_000, seed=2).verdict(0.1) == "within"
    assert shifted(0.0, 300, seed=3).verdict(0.1) == "open"
    assert shifted(0.25, 10_000, seed=4).verdict(0.1) == "open"  # truly 0.099


def test_a_verdict_needs_the_worse_end_of_what_counts_leave_open():
    loose = Comparison(low=0.1, high=0.3, radius=0.05)
    assert [loose.verdict(tolerance) for tolerance in (0.04, 0.06, 0.34, 0.36)] == ["more", "open", "open", "within"]


def test_the_true_distribution_is_left_no_more_often_than_alpha_at_any_of_all_looks():
    random, paths, left = np.random.default_rng(5), 300, 0
    looks = np.unique(np.geomspace(20, 4000, 60).astype(int))
    bounds = [radius(int(n), 0.2, least=20) for n in looks]
    for _ in range(paths):
        u = random.random(4000)
        for n, bound in zip(looks, bounds, strict=True):
            x = np.sort(u[:n])
            distance = max((np.arange(1, n + 1) / n - x).max(), (x - np.arange(n) / n).max())
            if distance > bound:
                left += 1
                break
    assert left <= binom.ppf(0.99, paths, 0.2)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: radius(100, 0.3), r"`alpha` must be in \(0, 0\.25\], found 0\.3"),
        (lambda: radius(100, 0.1, least=0), r"`least` must be at least 1, found 0"),
        (
            lambda: compare_values(np.array([2.0, 1.0]), np.array([1.0]), 0.1),
            r"`first` must be sorted, found 2\.0 before",
        ),
        (lambda: compare_values(np.array([1.0]), np.array([np.nan]), 0.1), r"`second` must be finite, found nan"),
        (lambda: compare_counts(np.array([1]), np.array([1, 2]), 0.1), r"a count for each of 1 cells, found 2"),
        (lambda: compare_counts(np.array([1, -3]), np.array([1, 2]), 0.1), r"`first` must be at least 0, found -3"),
        (lambda: compare_counts(np.array([1]), np.array([1]), 0.6), r"`alpha` must be in \(0, 0\.5\], found 0\.6"),
    ],
)
def test_bad_input_is_named_with_its_rule_and_its_value(bad, message):
    with pytest.raises(ValueError, match=message):
        bad()
