"""Where a series changed last: against scipy's test, against river's ADWIN, and against chance."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from river.drift import ADWIN
from scipy import stats
from scipy.signal import lfilter

from evergrow.statistics.change import _t, correlation_of, last_change, strongest


def series(runs, blocks, correlation=0.0, seed=0):
    """AR(1) with standard deviation 1, [runs, blocks]."""
    noise = np.random.default_rng(seed).normal(size=(runs, blocks + 100))
    return lfilter([1], [1, -correlation], noise, axis=1)[:, 100:] * np.sqrt(1 - correlation**2)


def shifted(values, *at, by=3.0):
    """A step up at each place."""
    return values + by * sum((np.arange(values.shape[-1]) >= place).astype(float) for place in at)


@given(st.lists(st.floats(-1e3, 1e3), min_size=14, max_size=40), st.integers(2, 12))
def test_each_split_is_tested_as_scipy_does(values, split):
    values = np.round(np.array(values), 3)
    (found,) = _t(values, np.array([split]))
    with np.errstate(all="ignore"):
        expected = stats.ttest_ind(values[split:], values[:split]).statistic
    if np.isfinite(expected) and np.ptp(values) > 1e-3 and abs(expected) < 1e4:
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(("blocks", "correlation"), [(20, 0.0), (20, 0.6), (60, 0.3), (60, 0.6), (200, 0.6)])
def test_what_does_not_change_is_cut_no_more_often_than_alpha(blocks, correlation):
    runs = 600
    cut = sum(last_change(one, 0.05) > 0 for one in series(runs, blocks, correlation))
    assert cut <= stats.binom.ppf(0.999, runs, 0.05)


def test_blocks_that_hang_together_would_be_cut_far_more_often_if_that_were_not_seen():
    runs = 200
    naive = sum(strongest(one)[1] <= 0.05 for one in series(runs, 60, 0.6))
    assert naive > 0.3 * runs


@pytest.mark.parametrize("correlation", [0.0, 0.3])
def test_a_change_is_found_where_it_was(correlation):
    found = np.array([last_change(one, 0.05) for one in shifted(series(100, 90, correlation), 60)])
    assert np.mean(np.abs(found - 60) <= 3) > 0.85


@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.6])
def test_the_correlation_is_about_what_it_is_and_a_change_hardly_touches_it(correlation):
    same = [correlation_of(one) for one in series(50, 400, correlation)]
    changed = [correlation_of(one) for one in shifted(series(50, 400, correlation), 250)]
    assert np.mean(same) == pytest.approx(correlation + 0.5 / 20, abs=0.03)
    assert np.mean(changed) == pytest.approx(np.mean(same), abs=0.03)


def test_of_several_changes_the_last_one_counts():
    found = np.array([last_change(one, 0.05) for one in shifted(series(100, 120), 30, 80)])
    assert np.mean(np.abs(found - 80) <= 2) > 0.9


def test_a_change_that_went_back_again_is_a_change():
    up_and_down = shifted(series(50, 90), 30) - shifted(np.zeros((50, 90)), 60)
    found = np.array([last_change(one, 0.05) for one in up_and_down])
    assert np.mean(np.abs(found - 60) <= 2) > 0.9


def test_river_cuts_about_where_we_do():
    """Its windows are cut in buckets, and its bound is one for any distribution: it keeps some of what was before."""
    for one in shifted(series(10, 400, seed=3), 300, by=4):
        adwin = ADWIN(delta=0.05, clock=1, min_window_length=5, grace_period=5)
        for value in one / 10:
            adwin.update(value)
        assert abs(last_change(one, 0.05) - 300) <= 2
        assert 400 - adwin.width == pytest.approx(300, abs=32)


@given(st.integers(0, 10_000), st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_the_unit_of_what_is_measured_does_not_matter(seed, scale, offset):
    one = shifted(series(1, 50, 0.2, seed), 30, by=2)[0]
    assert last_change(one * scale + offset, 0.05) == last_change(one, 0.05)


@given(st.lists(st.floats(-10, 10), max_size=60), st.integers(3, 10))
def test_at_least_so_many_blocks_are_kept(values, least):
    first = last_change(np.array(values), 0.5, least)
    assert first == 0 or len(values) - first >= least


@pytest.mark.parametrize("blocks", [0, 1, 13])
def test_too_few_blocks_are_kept_whole(blocks):
    assert last_change(shifted(np.zeros(blocks), 7), 0.05) == 0
    assert strongest(np.zeros(blocks)) == (0, 1.0)


def test_what_never_varies_is_kept_and_a_bare_step_is_cut():
    assert last_change(np.full(50, 0.3), 0.05) == 0
    assert last_change(shifted(np.full(50, 0.3), 20), 0.05) == 20


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((np.array([1.0, np.nan]), 0.05), "finite"),
        ((np.zeros((2, 2)), 0.05), r"\[T\]"),
        ((np.zeros(3), 0.0), "`alpha`.*found 0"),
        ((np.zeros(3), 0.05, 2), "`least`.*found 2"),
    ],
)
def test_what_is_no_series_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        last_change(*arguments)
