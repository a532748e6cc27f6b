"""A bandit's shares: what is known decides them, every version keeps its floor, and what is not known is shared evenly."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from evergrow.rollout.bandit import Arm, best, best_of, shares
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
