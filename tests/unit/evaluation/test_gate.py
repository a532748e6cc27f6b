import inspect
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.contracts import Metric
from evergrow.evaluation.gate import (
    ChallengerLosses,
    ChampionLosses,
    ControlLosses,
    check_control,
    check_floor,
    check_limit,
    compare,
)
from evergrow.spec.model import Floor, Gate

DAYS = np.repeat(np.arange(30), 50)
RANDOM = np.random.default_rng(0)
LOSSES = RANDOM.gamma(2, 0.25, 1500)
NOISE = RANDOM.normal(0, 0.1, 1500)


def verdict(challenger, champion=LOSSES, *, margin=0.0, alpha=0.05, blocks=DAYS, minimum=200):
    gate = Gate(metric="log_loss", margin=margin, alpha=alpha)
    return compare(ChampionLosses(champion), ChallengerLosses(challenger), blocks, gate, minimum)


def test_a_better_challenger_passes_a_worse_one_fails_and_an_equal_one_is_inconclusive():
    assert verdict(LOSSES - 0.05 + NOISE).outcome == "pass"
    assert verdict(LOSSES + 0.05 + NOISE).outcome == "fail"
    assert verdict(LOSSES.copy()).outcome == "inconclusive"


@given(st.floats(-0.2, 0.2), st.integers(0, 2**16))
def test_swapping_champion_and_challenger_flips_the_verdict(shift, seed):
    other = LOSSES + shift + np.random.default_rng(seed).normal(0, 0.3, 1500)
    flipped = {"pass": "fail", "fail": "pass", "inconclusive": "inconclusive"}
    assert verdict(LOSSES, other).outcome == flipped[verdict(other, LOSSES).outcome]


def test_the_two_roles_are_two_types_so_that_a_type_checker_sees_a_swap():
    roles = list(inspect.signature(compare, eval_str=True).parameters.values())[:2]
    assert [role.annotation for role in roles] == [ChampionLosses, ChallengerLosses]
    assert not issubclass(ChampionLosses, ChallengerLosses)
    assert not issubclass(ChallengerLosses, ChampionLosses)


def test_a_margin_asks_for_more_than_better():
    better = LOSSES - 0.05 + NOISE
    assert verdict(better, margin=0.02).outcome == "pass"
    assert verdict(better, margin=0.05).outcome == "inconclusive"
    assert verdict(better, margin=0.08).outcome == "fail"


def test_a_negative_margin_lets_an_equal_or_slightly_worse_challenger_pass():
    assert verdict(LOSSES.copy(), margin=-0.01).outcome == "pass"
    assert verdict(LOSSES + 0.005, margin=-0.01).outcome == "pass"
    assert verdict(LOSSES + 0.02, margin=-0.01).outcome == "fail"


def test_a_reduction_of_exactly_the_margin_does_not_pass():
    assert verdict(np.ones(1500), np.full(1500, 1.5), margin=0.5).outcome == "inconclusive"


def test_a_stricter_alpha_asks_for_more_evidence():
    slightly = LOSSES - 0.006 + NOISE
    assert verdict(slightly, alpha=0.2).outcome == "pass"
    assert verdict(slightly, alpha=0.001).outcome == "inconclusive"


def test_the_reason_shows_both_numbers_the_difference_the_margin_rows_and_blocks():
    reason = verdict(np.full(1500, 0.412), np.full(1500, 0.398)).reason
    assert reason == (
        "log_loss 0.4120 vs champion 0.3980, difference -0.0140 [-0.0140, -0.0140], margin 0, n=1,500 in 30 blocks"
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("who", ["challenger", "champion"])
def test_a_loss_that_is_no_finite_number_is_an_error_that_says_whose(bad, who):
    broken = LOSSES.copy()
    broken[7] = bad
    found = verdict(broken, LOSSES + 1) if who == "challenger" else verdict(LOSSES - 1, broken)
    assert found.outcome == "error"
    assert f"1 of the {who}'s 1,500 losses are not finite" in found.reason


def test_no_rows_is_an_error():
    found = verdict(np.empty(0), np.empty(0), blocks=np.empty(0, dtype=int))
    assert (found.outcome, found.reason) == ("error", "log_loss: no rows to compare on")


def test_losses_on_different_rows_are_an_error():
    assert verdict(LOSSES[:-1], LOSSES).outcome == "error"


def test_too_few_rows_or_blocks_are_inconclusive_however_much_better():
    assert verdict(LOSSES - 0.3).outcome == "pass"
    few_rows = verdict(LOSSES[:150] - 0.3, LOSSES[:150], blocks=np.repeat(np.arange(10), 15))
    assert few_rows.outcome == "inconclusive"
    assert "needs 200 rows" in few_rows.reason
    few_blocks = verdict(LOSSES - 0.3, blocks=DAYS // 5)
    assert few_blocks.outcome == "inconclusive"
    assert "needs 8 blocks" in few_blocks.reason


def metric(low, value, high, name="roc_auc"):
    return Metric(name=name, value=value, low=low, high=high, rows=500)


@pytest.mark.parametrize(
    ("floor", "found", "outcome"),
    [
        ({"at_least": 0.7}, metric(0.71, 0.75, 0.79), "pass"),
        ({"at_least": 0.7}, metric(0.70, 0.75, 0.79), "pass"),
        ({"at_least": 0.7}, metric(0.69, 0.75, 0.79), "inconclusive"),
        ({"at_least": 0.7}, metric(0.60, 0.65, 0.71), "inconclusive"),
        ({"at_least": 0.7}, metric(0.60, 0.65, 0.69), "fail"),
        ({"at_most": 0.7}, metric(0.60, 0.65, 0.69), "pass"),
        ({"at_most": 0.7}, metric(0.60, 0.65, 0.71), "inconclusive"),
        ({"at_most": 0.7}, metric(0.71, 0.75, 0.79), "fail"),
        ({"at_least": 0.0}, metric(-0.1, 0.1, 0.3), "inconclusive"),
    ],
)
def test_a_floor_is_cleared_by_the_whole_interval(floor, found, outcome):
    assert check_floor(Floor(metric="roc_auc", **floor), [found]).verdict.outcome == outcome


def test_a_floor_whose_metric_is_missing_is_an_error():
    check = check_floor(Floor(metric="roc_auc", at_least=0.7), [metric(0.8, 0.8, 0.8, name="brier")])
    assert (check.verdict.outcome, check.verdict.reason) == ("error", "roc_auc is missing")


def test_a_floors_reason_shows_the_interval_and_the_floor():
    check = check_floor(Floor(metric="roc_auc", at_least=0.7), [metric(0.6, 0.65, 0.69)])
    assert check.verdict.reason == "roc_auc 0.6500 [0.6000, 0.6900], at least 0.7, n=500"


@pytest.mark.parametrize(("value", "outcome"), [(4.9, "pass"), (5.0, "pass"), (5.1, "fail"), (math.nan, "error")])
def test_a_limit_may_be_reached_but_not_passed(value, outcome):
    assert check_limit("latency", value, 5.0, "ms").verdict.outcome == outcome


def controlled(update, control=LOSSES, *, tolerance=0.02, minimum=200, alpha=0.05):
    gate = Gate(metric="log_loss", margin=0.3, alpha=alpha)
    return check_control(ControlLosses(control), ChallengerLosses(update), DAYS, gate, tolerance, minimum).verdict


def test_an_update_fails_if_it_is_surely_worse_than_its_control_and_passes_otherwise():
    assert controlled(LOSSES + 0.05 + NOISE).outcome == "fail"
    assert controlled(LOSSES.copy()).outcome == "pass"
    assert controlled(LOSSES - 0.05 + NOISE).outcome == "pass"


def test_worse_by_less_than_is_tolerated_or_by_chance_is_not_surely_worse():
    worse = LOSSES + 0.1 * LOSSES.mean() + NOISE / 10
    assert controlled(worse, tolerance=0.08).outcome == "fail"
    assert controlled(worse, tolerance=0.12).outcome == "pass"
    by_chance = LOSSES + RANDOM.normal(0.02, 1, 1500)
    assert controlled(by_chance, alpha=0.01).outcome == "pass"


@given(st.floats(-0.2, 0.2), st.floats(0, 1), st.integers(0, 2**16))
def test_it_fails_where_the_gate_would_with_what_is_tolerated_as_its_margin(shift, tolerance, seed):
    update = LOSSES + shift + np.random.default_rng(seed).normal(0, 0.3, 1500)
    expected = verdict(update, margin=-tolerance * LOSSES.mean()).outcome
    assert (controlled(update, tolerance=tolerance).outcome == "fail") == (expected == "fail")


def test_the_control_says_both_numbers_and_its_name():
    reason = controlled(np.full(1500, 0.412), np.full(1500, 0.398)).reason
    assert "log_loss 0.4120 vs control 0.3980, difference -0.0140 [-0.0140, -0.0140], margin -0.00796" in reason


@pytest.mark.parametrize("who", ["challenger", "control"])
def test_a_control_without_a_finite_number_is_an_error_and_no_pass(who):
    broken = LOSSES.copy()
    broken[7] = math.nan
    found = controlled(broken) if who == "challenger" else controlled(LOSSES, broken)
    assert found.outcome == "error"
    assert f"1 of the {who}'s" in found.reason
    assert controlled(LOSSES[:0], LOSSES[:0]).outcome == "error"


def test_too_few_rows_fail_no_update():
    assert controlled(LOSSES + 0.05 + NOISE, minimum=2000).outcome == "pass"
