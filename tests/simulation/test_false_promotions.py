"""The gate's promise, measured: what is not better is promoted with probability alpha at most."""

import pytest
from scipy.stats import binom

from benchmarks.false_promotions import GATE, promotions

RUNS = 1000
# A gate that promotes with probability alpha exactly stays at or below this in 99 % of tests.
BOUND = binom.ppf(0.99, RUNS, GATE.alpha) / RUNS


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy-tailed"])
@pytest.mark.parametrize("correlation", [0.0, 0.3, 0.5, 0.6])
def test_a_challenger_that_is_not_better_is_promoted_no_more_often_than_alpha(correlation, heavy):
    rate, naive = promotions(correlation, runs=RUNS, heavy=heavy, seed=11)
    assert rate <= BOUND
    # The simulation can tell: a test that takes rows for independent fails it by far.
    assert naive > 3 * GATE.alpha


@pytest.mark.parametrize("blocks", [8, 14, 90])
def test_the_rate_holds_for_short_and_long_holdouts(blocks):
    rate, _ = promotions(0.5, runs=RUNS, blocks=blocks, seed=12)
    assert rate <= BOUND


def test_a_challenger_that_is_worse_is_promoted_less_often_still():
    rate, _ = promotions(0.5, runs=RUNS, advantage=-0.03, seed=13)
    assert rate <= 0.02


def test_a_challenger_that_is_really_better_is_promoted():
    # 0.06 is 0.6 standard deviations of a day's mean difference, 0.12 is 1.2.
    assert promotions(0.0, runs=500, advantage=0.06, seed=14)[0] > 0.5
    assert promotions(0.5, runs=500, advantage=0.12, seed=14)[0] > 0.75
