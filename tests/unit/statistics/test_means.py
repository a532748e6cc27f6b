import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dct
from scipy.stats import t as student

from evergrow.statistics.means import PERSISTENCE, Estimate, estimate, leave_out, mean, time_blocks


def test_the_error_is_that_of_the_equal_weighted_cosine_estimator():
    values = np.random.default_rng(0).normal(size=64)
    transforms = dct(values, type=2, norm="ortho")  # the same cosines, by another's hand
    freedom = 6  # 0.4 · 64^(2/3) = 6.4
    frequencies = np.pi * np.arange(1, freedom + 1) / 64
    spectrum = 1 / np.abs(1 - PERSISTENCE * np.exp(-1j * frequencies)) ** 2 * (1 - PERSISTENCE) ** 2
    variance = np.mean(transforms[1 : freedom + 1] ** 2) / spectrum.mean()
    found = estimate(values.mean(), values)
    assert found.freedom == freedom
    assert found.error == pytest.approx(np.sqrt(variance / 64), rel=1e-12)


def test_bounds_are_students_t():
    found = Estimate(value=1.0, error=0.5, freedom=4, blocks=30)
    assert found.lower(0.05) == pytest.approx(1 - 0.5 * student.ppf(0.95, 4))
    assert found.upper(0.05) == pytest.approx(1 + 0.5 * student.ppf(0.95, 4))


def test_a_single_block_says_nothing_of_the_error():
    found = mean(np.array([1.0, 2.0]), np.array([0, 0]))
    assert (found.value, found.lower(0.05), found.upper(0.05)) == (1.5, -np.inf, np.inf)


def test_the_mean_weighs_rows_the_same_however_they_fall_into_blocks():
    values = np.array([1.0, 2.0, 3.0, 10.0])
    assert mean(values, np.array([0, 0, 0, 1])).value == 4.0


def test_the_mean_of_equal_blocks_has_the_error_of_the_blocks_means():
    values = np.random.default_rng(1).normal(size=(30, 7))
    rows = mean(values.ravel(), np.repeat(np.arange(30), 7))
    assert rows.error == pytest.approx(estimate(0.0, values.mean(axis=1)).error)


def test_leaving_out_blocks_gives_the_means_error_for_a_mean():
    random = np.random.default_rng(2)
    values = random.normal(size=400)
    blocks = np.repeat(np.arange(20), 20)
    found = leave_out(lambda rows: float(values[rows].mean()), blocks)
    assert found.value == pytest.approx(values.mean())
    assert found.error == pytest.approx(mean(values, blocks).error, rel=1e-9)


def test_leaving_out_blocks_follows_the_delta_method_for_a_smooth_statistic():
    values = np.random.default_rng(3).normal(5, 1, 3000)
    blocks = np.repeat(np.arange(60), 50)
    found = leave_out(lambda rows: float(np.sqrt(np.square(values[rows]).mean())), blocks)
    square = mean(np.square(values), blocks)
    assert found.error == pytest.approx(square.error / (2 * np.sqrt(square.value)), rel=0.02)


def test_correlated_blocks_have_a_wider_interval_than_the_same_blocks_in_any_order():
    random = np.random.default_rng(4)
    correlated = np.empty(300)
    correlated[0] = 0
    for t in range(1, 300):
        correlated[t] = 0.6 * correlated[t - 1] + random.normal()
    shuffled = [estimate(0.0, random.permutation(correlated)).error for _ in range(50)]
    assert estimate(0.0, correlated).error > 1.4 * np.median(shuffled)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=60), st.integers(1, 10**5), st.integers(1, 10))
def test_blocks_are_numbered_in_order_without_gaps(seconds, length, at_most):
    seconds = np.sort(np.array(seconds, dtype=np.int64))
    for blocks in (time_blocks(seconds, length), time_blocks(seconds, length, at_most)):
        assert blocks[0] == 0
        assert set(np.diff(blocks)) <= {0, 1}
    assert blocks.max() < at_most


def test_rows_of_one_day_share_a_block_and_blocks_start_at_midnight():
    hours = np.array([0, 23, 24, 47, 48]) * 3600
    assert time_blocks(hours, 86400).tolist() == [0, 0, 1, 1, 2]


def test_blocks_of_many_rows_weigh_more_in_the_error_too():
    random = np.random.default_rng(5)
    blocks = np.repeat(np.arange(60), random.integers(5, 200, 60))
    values = random.normal(size=60)[blocks] + random.normal(size=len(blocks))
    by_leaving_out = leave_out(lambda rows: float(values[rows].mean()), blocks)
    assert mean(values, blocks).error == pytest.approx(by_leaving_out.error, rel=0.03)
