"""A bandit's shares follow what is known, every version keeps its floor, and what is not known is shared evenly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from evergrow.rollout.bandit import Arm, arms_of, best, best_of, shares
from evergrow.spec.rollout import Bandit

RULE = Bandit(floor=5, confidence=0.95, requests=100)
arms = st.dictionaries(
    st.integers(1, 9),
    st.builds(Arm, st.integers(0, 1000), st.floats(-5, 5), st.floats(0.01, 2)),
    min_size=1,
    max_size=6,
)


def two(difference: float, error: float = 0.1, requests: int = 500) -> dict[int, Arm]:
    return {3: Arm(requests, 0.0, error), 4: Arm(requests, difference, error)}


@pytest.mark.parametrize("difference", [-0.3, 0.0, 0.05, 0.2])
def test_the_probability_of_being_the_best_of_two_is_that_of_their_difference(difference):
    expected = norm.cdf(difference / (0.1 * 2**0.5))

    assert best_of(two(difference))[4] == pytest.approx(expected, abs=0.012)


def test_equal_versions_are_equally_likely_the_best():
    found = best_of({version: Arm(100, 1.0, 0.2) for version in range(5)})

    assert all(p == pytest.approx(0.2, abs=0.012) for p in found.values())


def test_until_every_version_has_its_least_evidence_all_share_evenly():
    assert shares(RULE, {**two(9.0), 5: Arm(99, -9.0, 0.1)}) == {3: 34, 4: 33, 5: 33}
    assert shares(RULE, {**two(9.0), 5: Arm(100, -9.0, 0.1)}) == {3: 5, 4: 90, 5: 5}


def test_the_best_is_named_when_it_is_surely_so_and_not_before():
    assert best(RULE, two(1.0)) == 4
    assert best(RULE, two(-1.0)) == 3
    assert best(RULE, two(0.1)) is None
    assert best(RULE, two(1.0, requests=99)) is None


@given(arms)
def test_shares_are_whole_and_nobody_is_below_the_floor(known):
    found = shares(RULE, known)

    assert sum(found.values()) == 100
    assert set(found) == set(known)
    assert min(found.values()) >= min(RULE.floor, 100 // len(known))


@given(arms)
def test_the_same_evidence_gives_the_same_shares(known):
    assert shares(RULE, known) == shares(RULE, dict(reversed(known.items())))


def test_a_versions_value_is_what_it_would_have_earned_had_it_answered_everyone():
    """Version 4 had most of the traffic when times were bad; its plain mean is the lower one, its value the higher."""
    random = np.random.default_rng(0)
    good = np.arange(20_000) < 10_000
    share = np.where(good, 0.2, 0.8)
    ours = random.random(20_000) < share
    reward = np.where(good, 1.0, 0.0) + 0.1 * ours + random.normal(0, 0.3, 20_000)
    blocks = np.arange(20_000) // 500
    split = {3: ~ours, 4: ours}
    drawn = {3: 1 - share[~ours], 4: share[ours]}
    arms = arms_of({v: reward[m] for v, m in split.items()}, drawn, {v: blocks[m] for v, m in split.items()})

    assert reward[ours].mean() < reward[~ours].mean()
    assert arms[4].mean - arms[3].mean == pytest.approx(0.1, abs=0.03)
    assert arms[3].requests == (~ours).sum()


def test_the_error_of_a_value_is_how_much_it_varies():
    values, errors = [], []
    for seed in range(300):
        random = np.random.default_rng(seed)
        rewards = random.normal(0, 1, 400) + np.repeat(random.normal(0, 1, 40), 10)
        (arm,) = arms_of({3: rewards}, {3: np.full(400, 0.5)}, {3: np.arange(400) // 10}).values()
        values.append(arm.mean)
        errors.append(arm.error)

    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.12)
