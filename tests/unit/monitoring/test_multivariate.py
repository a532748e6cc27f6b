import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2, kstest, mannwhitneyu
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import rbf_kernel

from evergrow.contracts import Feature
from evergrow.errors import NotEnoughData
from evergrow.monitoring.multivariate import (
    as_numbers,
    classifier_test,
    codes,
    draw,
    gaussian_kernel,
    kernel_test,
    permutation_test,
    rank_sum,
)

FEATURES = (
    Feature(name="wind", kind="numeric"),
    Feature(name="delay", kind="numeric"),
    Feature(name="noise", kind="numeric"),
    Feature(name="origin", kind="categorical"),
)


def flights(seed, rows=300, *, correlation=0.0, blocks=None, block=0.0, missing=0.1):
    """Features of the same distribution each, whatever the correlation of wind and delay; days may differ."""
    random = np.random.default_rng(seed)
    wind, other, noise = random.normal(size=(3, rows))
    origin = random.choice(["EWR", "JFK", None], rows)
    delay = correlation * wind + np.sqrt(1 - correlation**2) * other
    if blocks is not None:
        wind = wind + random.normal(0, block, blocks.max() + 1)[blocks]
    wind = np.where(random.random(rows) < missing, np.nan, wind)
    return pd.DataFrame({"wind": wind, "delay": delay, "noise": noise, "origin": origin})


def every_day(days, rows=20):
    return np.repeat(np.arange(days), rows)


def by_hand(X, Y, width):
    """The unbiased squared discrepancy, pair by pair."""

    def k(a, b):
        return np.exp(-((a - b) ** 2).sum() / (2 * width**2))

    n, m = len(X), len(Y)
    within = sum(k(X[i], X[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    other = sum(k(Y[i], Y[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within + other - 2 * sum(k(x, y) for x in X for y in Y) / (n * m)


@pytest.fixture(scope="module")
def correlated():
    return flights(1, 600), flights(2, 600, correlation=0.9)


# The classifier.


def test_a_correlation_that_no_feature_shows_is_seen_and_blamed_on_its_two_features(correlated):
    found = classifier_test(*correlated, FEATURES)
    assert (found.comparison.column, found.comparison.test) == ("*", "c2st-auc")
    assert found.comparison.effect > 0.15
    assert found.comparison.p_value < 1e-9
    assert {name for name, _ in found.importance[:2]} == {"wind", "delay"}
    assert found.importance[1][1] > 5 * abs(found.importance[2][1])
    for name in ("wind", "delay"):
        alone = [Feature(name=name, kind="numeric")]
        assert classifier_test(*correlated, alone).comparison.p_value > 0.01


def test_a_new_level_and_a_missing_one_are_seen():
    before, now = flights(3), flights(4)
    now["origin"] = np.where(np.arange(300) % 4 == 0, "LGA", now["origin"])
    found = classifier_test(before, now, FEATURES)
    assert found.comparison.p_value < 1e-3
    assert found.importance[0][0] == "origin"
    gone = classifier_test(before, flights(4, missing=0.6), FEATURES)
    assert gone.comparison.p_value < 1e-6
    assert gone.importance[0][0] == "wind"


def test_where_every_row_gives_itself_away_the_effect_is_a_half():
    now = flights(5).assign(noise=100.0)
    assert classifier_test(flights(6), now, FEATURES).comparison.effect == pytest.approx(0.5, abs=1e-3)


def test_where_nothing_differs_p_values_are_uniform():
    numeric = FEATURES[1:3]
    found = [
        classifier_test(flights(i, 150), flights(1000 + i, 100), numeric, seed=2000 + i).comparison for i in range(40)
    ]
    assert kstest([c.p_value for c in found], "uniform").pvalue > 0.01
    assert abs(np.mean([c.effect for c in found])) < 0.02


def test_days_that_differ_by_chance_are_no_drift_if_blocks_are_given():
    before, now = every_day(20, 15), every_day(10, 15)
    blind, seeing = [], []
    for i in range(8):
        sides = flights(i, 300, blocks=before, block=2.0), flights(500 + i, 150, blocks=now, block=2.0)
        blind.append(classifier_test(*sides, FEATURES[:1], seed=i + 50).comparison.p_value)
        seeing.append(classifier_test(*sides, FEATURES[:1], blocks=(before, now), seed=i + 50).comparison.p_value)
    assert sum(p < 0.05 for p in blind) >= 5
    assert sum(p < 0.05 for p in seeing) <= 2


def test_drift_is_seen_through_blocks_too():
    before, now = every_day(30), every_day(10)
    sides = flights(1, 600, blocks=before, block=0.5), flights(2, 200, blocks=now, block=0.5, correlation=0.95)
    assert classifier_test(*sides, FEATURES, blocks=(before, now)).comparison.p_value < 0.01


def test_the_same_seed_gives_the_same_answer(correlated):
    first, second = (classifier_test(*correlated, FEATURES[:2], seed=3) for _ in range(2))
    assert first == second
    assert kernel_test(*correlated, FEATURES, seed=3) == kernel_test(*correlated, FEATURES, seed=3)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=3, max_size=40))
def test_the_rank_sum_of_single_rows_is_mann_whitneys(rows):
    now, scores = np.array([a for a, _ in rows]), np.array([b for _, b in rows], dtype=float)
    if now.all() or not now.any():
        return
    summed, variance = rank_sum(scores, np.arange(len(rows)), now)
    pairs = now.sum() * (~now).sum()
    assert summed == pytest.approx((roc_auc_score(now, scores) - 0.5) * pairs, abs=1e-9)
    if np.ptp(scores):
        theirs = mannwhitneyu(
            scores[now], scores[~now], alternative="two-sided", method="asymptotic", use_continuity=False
        )
        assert summed**2 / variance == pytest.approx(chi2.isf(theirs.pvalue, 1), rel=1e-6, abs=1e-6)


def test_the_rank_sum_of_blocks_has_the_variance_of_all_deals():
    random = np.random.default_rng(0)
    block = random.integers(0, 7, 40)
    scores = random.integers(0, 9, 40).astype(float)
    sums = []
    for chosen in itertools.combinations(range(7), 3):
        current = np.isin(np.arange(7), chosen)
        summed, variance = rank_sum(scores, block, current)
        sums.append(summed)
    assert np.mean(sums) == pytest.approx(0, abs=1e-9)
    assert variance == pytest.approx(np.var(sums))


# The kernel.


def test_the_discrepancy_is_that_of_all_pairs():
    before, now = flights(1, 25), flights(2, 15, correlation=0.9)
    X = as_numbers(pd.concat([before, now]), FEATURES)
    distances = np.sqrt([((a - b) ** 2).sum() for a, b in itertools.combinations(X, 2)])
    found = kernel_test(before, now, FEATURES, permutations=9)
    assert found.effect == pytest.approx(by_hand(X[:25], X[25:], np.median(distances)), rel=1e-3)
    width = np.sqrt(np.median(distances**2))
    assert found.effect == pytest.approx(by_hand(X[:25], X[25:], width), rel=1e-9)


def test_the_kernel_is_scikit_learns_but_for_the_diagonal():
    X = np.random.default_rng(0).normal(size=(30, 3))
    squares = ((X[:, None] - X[None]) ** 2).sum(axis=2)
    theirs = rbf_kernel(X, gamma=1 / (2 * np.median(squares[np.triu_indices(30, 1)])))
    assert gaussian_kernel(X) == pytest.approx(theirs - np.eye(30))


def test_the_kernel_sees_a_correlation_too_and_nothing_where_nothing_is(correlated):
    found = kernel_test(*correlated, FEATURES)
    assert (found.column, found.test, found.rows, found.reference_rows) == ("*", "mmd2", 600, 600)
    assert found.p_value == 0.001
    alike = kernel_test(flights(3, 600), flights(4, 600), FEATURES)
    assert alike.p_value > 0.05
    assert abs(alike.effect) < 0.1 * found.effect


def test_where_nothing_differs_the_kernels_p_values_are_uniform():
    found = [
        kernel_test(flights(i, 60), flights(1000 + i, 40), FEATURES, permutations=99, seed=i + 2000) for i in range(100)
    ]
    assert kstest([c.p_value for c in found], "uniform").pvalue > 0.01


def test_the_kernel_deals_whole_days():
    before, now = every_day(20, 10), every_day(10, 10)
    blind, seeing = [], []
    for i in range(40):
        sides = flights(i, 200, blocks=before, block=2.0), flights(500 + i, 100, blocks=now, block=2.0)
        blind.append(kernel_test(*sides, FEATURES[:1], permutations=99, seed=i + 50).p_value)
        seeing.append(kernel_test(*sides, FEATURES[:1], blocks=(before, now), permutations=99, seed=i + 50).p_value)
    assert np.mean(np.array(blind) < 0.05) > 0.4
    assert np.mean(np.array(seeing) < 0.05) <= 0.15


def test_what_a_days_rows_have_in_common_is_no_discrepancy():
    before, now = every_day(20, 10), every_day(20, 10)
    effects = [
        kernel_test(
            flights(i, 200, blocks=before, block=2.0),
            flights(500 + i, 200, blocks=now, block=2.0),
            FEATURES[:1],
            blocks=(before, now),
            permutations=1,
        ).effect
        for i in range(60)
    ]
    assert abs(np.mean(effects)) < 3 * np.std(effects) / np.sqrt(60)


def test_constant_columns_and_columns_without_values_do_not_matter():
    before, now = flights(1, 50), flights(2, 50)
    for side in (before, now):
        side["noise"], side["delay"], side["origin"] = 1.0, np.nan, None
        side["wind"] = side["wind"].replace(np.nan, np.inf)
    assert 0 < kernel_test(before, now, FEATURES, permutations=9).p_value <= 1
    assert 0 < classifier_test(before, now, FEATURES).comparison.p_value <= 1
    for same in (FEATURES[1:2], FEATURES[2:3], FEATURES[3:]):
        assert kernel_test(before, now, same, permutations=9).p_value == 1
        assert classifier_test(before, now, same).comparison.p_value == 1


def test_distances_do_not_depend_on_units():
    rows = flights(1)
    scaled = rows.assign(wind=1000 * rows["wind"] + 5, origin=rows["origin"].str.lower())
    assert as_numbers(rows, FEATURES) == pytest.approx(as_numbers(scaled, FEATURES))


# What both stand on.


def test_a_permutation_test_deals_as_often_as_there_are_deals():
    values = np.array([5.0, 4.0, 1.0, 2.0, 3.0, 0.0])
    current = np.array([True, True, False, False, False, False])
    effect, p = permutation_test(lambda deals: deals @ values, current, 4999, np.random.default_rng(0))
    assert effect == 9
    assert p == pytest.approx(1 / 15, abs=0.01)  # one of the 15 pairs
    with pytest.raises(ValueError, match="`permutations` must be at least 1, found 0"):
        permutation_test(lambda deals: deals @ values, current, 0, np.random.default_rng(0))


def test_rows_are_thinned_out_evenly_and_blocks_stay_apart():
    before, now = flights(1, 5000), flights(2, 70)
    blocks = every_day(50, 100), every_day(7, 10)  # the same numbers on both sides
    sample = draw(before, now, FEATURES, blocks, 500, 2, np.random.default_rng(0))
    assert np.bincount(sample.block).tolist() == [10] * 57
    assert sample.current.tolist() == [False] * 50 + [True] * 7
    assert sample.of_now.sum() == 70
    numbers = before.index[before["delay"].isin(sample.rows["delay"][:500])]
    assert set(np.diff(numbers)) <= {9, 10, 11}


def test_levels_have_codes_by_frequency_and_rare_ones_share_the_last():
    many = pd.DataFrame({"tail": [f"N{i // 2}" for i in range(600)] + ["N7", None, 3.0]})
    found = codes(many, [Feature(name="tail", kind="categorical")])[:, 0]
    assert found[14] == 0
    assert np.nanmax(found) == 253
    assert np.isnan(found[601])
    assert len(as_numbers(many, [Feature(name="tail", kind="categorical")]).T) == 51  # 50 levels and none


def test_too_few_blocks_are_refused():
    before, now = flights(1), flights(2, 40)
    with pytest.raises(NotEnoughData, match="current: at least 5 blocks are needed, found 2"):
        classifier_test(before, now, FEATURES, blocks=(every_day(30, 10), every_day(2)))
    with pytest.raises(NotEnoughData, match="current: at least 2 blocks are needed, found 0"):
        kernel_test(before, now[:0], FEATURES)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="`features` must name at least one"):
        kernel_test(flights(1), flights(2), [])
    with pytest.raises(ValueError, match="one per row of the current's 300 is needed, found 20"):
        kernel_test(flights(1), flights(2), FEATURES, blocks=(np.arange(300), every_day(1)))
