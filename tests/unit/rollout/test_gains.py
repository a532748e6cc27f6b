"""What a candidate gains: found when it is there, never promoted when it is not, and said to be missing when it is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from evergrow.rollout.gains import ASSIGNED, OUTCOME, PROPENSITY, UNIT, Plan, at_horizon, by_draws, by_pairs
from evergrow.spec.rollout import AbTest, Analysis

RULE = Analysis(alpha=0.05, harm=0.01, power=0.9)
PLAN = Plan("loss", "lower", low=0.0, high=2.0, centre=0.5, variance=0.09, effect=0.05)


def rollout(
    n: int = 12_000,
    better: float = 0.0,
    weight: float = 0.5,
    seed: int = 0,
    missing: float = 0.0,
    rows_a_unit: int = 1,
) -> tuple[pd.DataFrame, np.ndarray]:
    """Requests whose losses hang together by the hour and by the unit; the candidate's are lower by `better`."""
    random = np.random.default_rng(seed)
    units = np.repeat(np.arange(-(-n // rows_a_unit)), rows_a_unit)[:n]
    blocks = np.arange(n) // 200
    hour = np.cumsum(random.normal(0, 0.02, n // 200 + 1))[blocks] * 0.5
    entity = random.normal(0, 0.1, units.max() + 1)[units]
    assigned = (random.random(units.max() + 1) < weight)[units]
    loss = 0.5 + hour + entity + random.normal(0, 0.25, n) - better * assigned
    loss[random.random(n) < missing] = np.nan
    rows = pd.DataFrame({ASSIGNED: assigned, PROPENSITY: weight, OUTCOME: loss, UNIT: units})
    return rows, blocks


@pytest.mark.parametrize("weight", [0.1, 0.5])
def test_a_better_candidate_passes_and_a_worse_one_fails(weight):
    better = by_draws(RULE, PLAN, 4, *rollout(60_000, 0.05, weight))
    worse = by_draws(RULE, PLAN, 4, *rollout(60_000, -0.05, weight))

    assert better.outcome == "pass", better.reason
    assert better.low is not None
    assert better.low > 0
    assert worse.outcome == "fail", worse.reason
    assert worse.high is not None
    assert worse.high < 0


def test_an_equal_candidate_is_not_promoted_and_is_given_up_in_the_end():
    found = by_draws(RULE, PLAN, 4, *rollout(60_000, 0.0))

    assert found.outcome == "fail"
    assert "not better by 0.05" in found.reason


def test_an_equal_candidate_is_promoted_where_a_margin_is_given():
    rule, plan = Analysis(margin=0.05), Plan("loss", "lower", 0.0, 2.0, 0.5, 0.09, 0.01)

    assert by_draws(rule, plan, 4, *rollout(60_000, 0.0)).outcome == "pass"
    assert by_draws(rule, plan, 4, *rollout(60_000, -0.1)).outcome == "fail"


def test_of_money_more_is_better():
    rows, blocks = rollout(60_000, 0.05)
    plan = Plan("worth", "higher", 0.0, 2.0, 0.5, 0.09, 0.05)

    assert by_draws(RULE, plan, 4, rows, blocks).outcome == "fail"
    assert by_draws(RULE, plan, 4, rows.assign(**{OUTCOME: 1 - rows[OUTCOME]}), blocks).outcome == "pass"


def test_too_few_requests_are_inconclusive_and_no_label_at_all_is_an_error():
    rows, blocks = rollout(300, 0.05)

    assert by_draws(RULE, PLAN, 4, rows, blocks).outcome == "inconclusive"
    assert by_draws(RULE, PLAN, 4, rows.assign(**{OUTCOME: np.nan}), blocks).outcome == "error"
    assert by_draws(RULE, PLAN, 4, rows[:0], blocks[:0]).outcome == "inconclusive"


def test_missing_labels_cost_requests_and_no_truth():
    found = by_draws(RULE, PLAN, 4, *rollout(60_000, 0.05, missing=0.3))

    assert found.outcome == "pass"
    assert found.requests < 45_000


def test_the_interval_holds_what_was_gained():
    for seed in range(20):
        found = by_draws(RULE, PLAN, 4, *rollout(8_000, 0.03, seed=seed))
        if found.low is not None and found.high is not None:
            assert found.low <= 0.03 <= found.high


@pytest.mark.parametrize("rows_a_unit", [1, 20])
def test_equal_candidates_are_promoted_at_most_as_often_as_alpha_whatever_shares_a_draw(rows_a_unit):
    """Of 100 rollouts 5 are accepted; the 99 % limit is 11."""
    promoted = 0
    for seed in range(100):
        found = by_draws(RULE, PLAN, 4, *rollout(4_000, 0.0, seed=seed, rows_a_unit=rows_a_unit))
        promoted += found.outcome == "pass"
    assert promoted <= 11


def test_a_caller_that_keeps_its_version_is_one_draw_however_often_it_comes():
    """60 callers, each in every block: their losses differ for good, and with the draw so do the versions'."""
    random, promoted = np.random.default_rng(0), 0
    for _ in range(60):
        callers = np.tile(np.arange(60), 100)
        assigned, size = random.random(60) < 0.5, random.normal(0, 0.3, 60)
        loss = 0.5 + size[callers] + random.normal(0, 0.1, 6000)
        rows = pd.DataFrame({ASSIGNED: assigned[callers], PROPENSITY: 0.5, OUTCOME: loss, UNIT: callers})
        found = by_draws(RULE, PLAN, 4, rows, np.arange(6000) // 60)
        promoted += found.outcome == "pass"
    assert promoted <= 8


def test_a_test_of_fixed_size_is_silent_until_its_horizon_and_read_once():
    rows, _ = rollout(12_000, 0.05)
    rule = AbTest(weight=50, requests=6000)

    assert at_horizon(RULE, PLAN, rule, 4, rows[:5999]).outcome == "inconclusive"
    read = at_horizon(RULE, PLAN, rule, 4, rows[:6000])
    assert read.outcome == "pass"
    assert at_horizon(RULE, PLAN, rule, 4, rows) == read
    assert at_horizon(RULE, PLAN, rule, 4, rollout(12_000, 0.0, seed=5)[0]).outcome == "fail"


def test_the_horizon_is_planned_from_the_smallest_effect_worth_finding():
    found = at_horizon(RULE, PLAN, AbTest(weight=50), 4, rollout(100)[0])

    # (1.645 + 1.282)² x 4 x 0.09 / 0.05²
    assert "of 1,234 labelled" in found.reason


def pairs(better: float, blocks: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    number = np.repeat(np.arange(blocks), 50)
    return better + random.normal(0, 0.03, blocks)[number] + random.normal(0, 0.2, 50 * blocks), number


def test_pairs_of_a_shadow_tell_better_from_worse():
    assert by_pairs(RULE, PLAN, 4, *pairs(0.05)).outcome == "pass"
    assert by_pairs(RULE, PLAN, 4, *pairs(-0.05)).outcome == "fail"
    assert by_pairs(RULE, PLAN, 4, *pairs(0.05, blocks=6)).outcome == "inconclusive"


def test_a_plan_cuts_outcomes_where_next_to_none_is():
    known = np.random.default_rng(0).exponential(0.5, 20_000)
    plan = Plan.of("loss", "lower", known, None)

    assert plan.low == 0.0
    assert (known > plan.high).mean() < 0.001
    assert plan.effect == pytest.approx(0.05 * plan.centre)
