import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dct
from scipy.stats import t as student

from evergrow.statistics.means import PERSISTENCE, Estimate, alike, estimate, leave_out, mean, time_blocks


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


def drawn(count, worth, freedom, seed=0):
    """Estimates of stretches whose variances differ as a scaled inverse chi-square with so many degrees of freedom."""
    random = np.random.default_rng(seed)
    variances = 9.0 * worth / random.chisquare(worth, count)
    seen = variances * random.chisquare(freedom, count) / freedom
    return [Estimate(float(i), float(np.sqrt(v / 30)), freedom, 30) for i, v in enumerate(seen)]


@pytest.mark.parametrize("worth", [2, 8, 30])
def test_what_a_common_variance_weighs_is_what_the_stretches_variances_were_drawn_with(worth):
    found = alike(drawn(20_000, worth, 4))
    total = 4 + worth
    assert {one.freedom for one in found} <= set(range(int(0.9 * total) - 1, int(1.1 * total) + 2))
    own, seen = (np.array([one.error**2 * 30 for one in some]) for some in (drawn(20_000, worth, 4), found))
    np.testing.assert_allclose(seen, np.maximum(own, (worth * 9.0 + 4 * own) / total), rtol=0.1)


def test_stretches_of_the_same_variance_are_worth_all_their_days_together():
    random = np.random.default_rng(2)
    each = [Estimate(0.0, float(np.sqrt(random.chisquare(50) / 50)), 50, 30) for _ in range(12)]
    assert [one.freedom for one in alike(each)] == [600] * 12


def test_stretches_of_other_variances_keep_their_own():
    each = [Estimate(0.0, 10.0**power, 400, 30) for power in range(-1, 2)]
    found = alike(each)
    assert [one.error for one in found] == pytest.approx([one.error for one in each], rel=0.05)
    assert {one.freedom for one in found} == {400}


@given(st.integers(2, 12), st.integers(1, 9), st.integers(0, 2**16))
def test_no_error_becomes_smaller_by_others_and_values_stay(count, freedom, seed):
    each = drawn(count, 5, freedom, seed)
    found = alike(each)
    assert [(one.value, one.blocks) for one in found] == [(one.value, one.blocks) for one in each]
    assert all(after.error >= before.error * (1 - 1e-12) for before, after in zip(each, found, strict=True))
    assert all(freedom <= one.freedom <= freedom * count for one in found)
    assert [one.error for one in alike(each[::-1])] == pytest.approx([one.error for one in found[::-1]])


def test_one_stretch_or_one_without_error_learns_nothing():
    one = Estimate(1.0, 2.0, 4, 30)
    assert alike([one]) == [one]
    assert alike([]) == []
    assert alike([one, Estimate(0.0, 0.0, 4, 30)]) == [one, Estimate(0.0, 0.0, 4, 30)]


def test_a_p_value_is_students_t_from_below():
    found = Estimate(value=1.0, error=0.5, freedom=4, blocks=30)
    assert found.below(2.0) == pytest.approx(student.cdf(-2.0, 4))
    assert found.below(found.upper(0.05)) == pytest.approx(0.05)
    assert (Estimate(1.0, 0.0, 4, 30).below(1.0), Estimate(1.0, 0.0, 4, 30).below(1.1)) == (1.0, 0.0)
    assert mean(np.array([1.0, 2.0]), np.array([0, 0])).below(-9.0) == 1.0
