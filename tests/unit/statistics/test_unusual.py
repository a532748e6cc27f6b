"""Whether a day is unusual: rare where nothing has changed, whatever days are like, and seen where something has."""

import numpy as np
import pytest
from scipy import stats

from evergrow.statistics import unusual

DAYS, RUNS = 28, 4000


def rates(p_values, alphas=(0.1, 0.01)):
    return [float(np.mean(np.asarray(p_values) <= alpha)) for alpha in alphas]


def test_a_prediction_is_the_t_test_of_one_against_many():
    random = np.random.default_rng(0)
    history, value = random.normal(size=12), 1.7
    expected = stats.ttest_ind([value], history, alternative="greater").pvalue

    assert unusual.prediction(value, history) == pytest.approx(expected)


def test_without_any_spread_only_another_value_is_unusual():
    same = np.zeros(10)

    assert unusual.prediction(0.0, same) == 0.5
    assert unusual.prediction(1.0, same) == 0.0
    assert unusual.prediction(-1.0, same) == 1.0


@pytest.mark.parametrize("spread", [0.0, 0.3], ids=["rows alone", "days differ"])
def test_quiet_shares_are_as_rarely_unusual_as_asked(spread):
    random = np.random.default_rng(1)
    found = []
    for _ in range(RUNS):
        share = 1 / (1 + np.exp(-random.normal(-3, spread, DAYS + 1)))
        counts, sizes = random.binomial(900, share), np.full(DAYS + 1, 900)
        found.append(unusual.high_share(int(counts[-1]), 900, counts[:-1], sizes[:-1]))
    often, rarely = rates(found)

    assert 0.05 < often <= 0.115
    assert 0.003 < rarely <= 0.017


def test_a_share_that_trebles_is_unusual_though_days_differ():
    random = np.random.default_rng(2)
    share = 1 / (1 + np.exp(-random.normal(-3, 0.3, DAYS)))
    counts, sizes = random.binomial(900, share), np.full(DAYS, 900)

    assert unusual.high_share(150, 900, counts, sizes) < 1e-3
    assert unusual.high_share(45, 900, counts, sizes) > 0.05


def test_one_row_where_there_never_was_any_is_chance_and_many_are_not():
    counts, sizes = np.zeros(DAYS, np.int64), np.full(DAYS, 900)

    assert unusual.high_share(0, 900, counts, sizes) > 0.5
    assert unusual.high_share(1, 900, counts, sizes) > 0.01
    assert unusual.high_share(20, 900, counts, sizes) < 1e-6


def test_quiet_distances_are_as_rarely_unusual_as_asked():
    random = np.random.default_rng(3)
    found = []
    for _ in range(RUNS):
        scale = random.gamma(4, 0.25)
        distances = scale * random.chisquare(9, DAYS + 1) / 900
        found.append(unusual.high_distance(distances[-1], distances[:-1]))
    often, rarely = rates(found)

    assert 0.08 < often < 0.12
    assert 0.005 < rarely < 0.015


def test_a_number_of_rows_is_unusual_either_way_if_both_are_asked_for():
    before = [900, 950, 880, 920, 910, 905, 940, 930, 890]

    assert unusual.high_count(100, before, two_sided=True) < 1e-6
    assert unusual.high_count(5000, before, two_sided=True) < 1e-6
    assert unusual.high_count(100, before) > 0.99
    assert unusual.high_count(915, before, two_sided=True) > 0.5


def test_where_every_day_has_the_same_number_chance_decides():
    same = [72] * 28

    assert unusual.high_count(72, same, two_sided=True) > 0.9
    assert unusual.high_count(73, same, two_sided=True) > 0.5
    assert unusual.high_count(65, same, two_sided=True) > 0.3
    assert unusual.high_count(20, same, two_sided=True) < 1e-9
    assert unusual.high_count(200, same, two_sided=True) < 1e-9


@pytest.mark.parametrize(("count", "rows"), [(0, 10), (3, 10), (10, 10), (50, 1000)])
def test_wilsons_interval_is_the_published_one(count, rows):
    expected = stats.binomtest(count, rows).proportion_ci(method="wilson")

    assert unusual.wilson(count, rows) == pytest.approx((expected.low, expected.high))


def test_of_no_rows_every_share_is_possible():
    assert unusual.wilson(0, 0) == (0.0, 1.0)
