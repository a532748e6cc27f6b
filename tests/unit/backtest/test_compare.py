"""Policies are compared on the same days, and one is recommended only where that was shown."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.backtest.choose import Stretch, difference, mean_of, recommend
from evergrow.backtest.compare import compare, pareto
from evergrow.backtest.page import render
from evergrow.backtest.past import DAY, instant_of
from evergrow.backtest.replay import Training
from evergrow.backtest.results import Result, Results
from evergrow.backtest.tasks import Day
from evergrow.contracts import Verdict
from evergrow.errors import NotEnoughData
from evergrow.spec.policies import Recommend, WhatIf
from evergrow.statistics.means import mean

FIRST = 19_800
"""A day in 2024."""


def policy(name, losses, every, rows=500, outcome="promoted", first=FIRST):
    """A policy with a mean loss per day, that trains every so many days."""
    days = tuple(
        Day(day=first + i, rows=rows, loss=loss * rows, worth=float(i), age=3.0 * rows) for i, loss in enumerate(losses)
    )
    begun = [instant_of((first + i) * DAY) for i in range(0, len(losses), every)]
    trained = tuple(
        Training(
            began=at, ended=at + timedelta(hours=1), outcome=outcome, model="m", rows=1000, reason="due",
            verdict=Verdict(outcome="pass", reason=""),
        )
        for at in begun
    )  # fmt: skip
    return Result(
        policy=name, options={"when": name}, patch={"retraining": {"needed": every}}, trainings=trained, days=days
    )


def results(*policies, reference=None):
    first, last = datetime(2024, 3, 1, tzinfo=UTC), datetime(2024, 9, 1, tzinfo=UTC)
    return Results(
        model="delays", task="binary-classification", metric="log_loss", currency="", million_rows=0.0,
        reference=reference or policies[0].policy, decided=(first, last), decisions=len(policies[0].days),
        rows=100_000, digest="d" * 64, policies=policies,
    )  # fmt: skip


def often_and_seldom(seldom, **rule):
    """What is found of a policy that trains often, and of one that trains seldom and has these losses."""
    return compare(results(policy("often", noisy(0.5, 1), 5), policy("seldom", seldom, 40)), Recommend(**rule))


def noisy(level, seed, days=160, shared=0.05, own=0.002):
    """Losses of days that policies have in common, and a little of their own."""
    common = np.random.default_rng(99).normal(0, shared, days)
    return level + common + np.random.default_rng(seed).normal(0, own, days)


def test_a_mean_from_sums_of_days_is_that_of_the_rows():
    random = np.random.default_rng(0)
    blocks = np.sort(random.integers(0, 40, 900))
    values = random.normal(blocks / 10, 1)
    _, blocks = np.unique(blocks, return_inverse=True)
    sums, rows = np.bincount(blocks, values), np.bincount(blocks).astype(float)
    of_rows, of_days = mean(values, blocks), mean_of(sums, rows)
    assert of_days.value == pytest.approx(of_rows.value)
    assert of_days.error == pytest.approx(of_rows.error)
    assert (of_days.freedom, of_days.blocks) == (of_rows.freedom, of_rows.blocks)


def test_differences_are_paired_so_that_what_days_have_in_common_falls_out():
    rows = np.full(160, 500.0)
    better, worse = noisy(0.500, 1) * rows, noisy(0.502, 2) * rows
    found = difference(better, worse, rows)
    assert found.low < -0.002 < found.high < 0
    assert found.p_value < 0.01
    assert mean_of(better, rows).upper(0.025) - mean_of(better, rows).lower(0.025) > 5 * (found.high - found.low)
    same = difference(better, better, rows)
    assert (same.value, same.p_value) == (0.0, 1.0)


POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=12)


@given(POINTS)
def test_the_front_is_what_no_other_point_dominates(points):
    cost, loss = (np.array(one) for one in zip(*points, strict=True))
    found = pareto(cost, loss.astype(float))
    for i, (c, x) in enumerate(points):
        dominated = any((a <= c and b <= x and (a < c or b < x)) for a, b in points)
        assert found[i] != dominated


def test_regret_is_held_against_the_best_policy_and_the_best_of_each_day():
    # The first day is not judged.
    odd, even = np.tile([0.6, 0.4], 41)[1:], np.tile([0.4, 0.6], 41)[1:]
    found = compare(
        results(policy("a", odd, 10), policy("b", even, 5), policy("c", (odd + even) / 2 + 0.1, 80)), Recommend()
    )
    by_name = {one.policy: one for one in found.standings}
    assert by_name["a"].regret == pytest.approx(0.0, abs=1e-12)
    assert by_name["a"].beyond == pytest.approx(0.1)
    assert by_name["c"].regret == pytest.approx(0.1)
    assert by_name["c"].beyond == pytest.approx(0.2)
    assert (by_name["b"].trainings, by_name["c"].trainings) == (16, 1)
    assert by_name["a"].staleness == pytest.approx(3.0)
    assert by_name["c"].front
    assert not by_name["b"].front


def test_of_policies_that_are_shown_to_be_alike_the_one_that_trains_least_is_recommended():
    found = often_and_seldom(noisy(0.5, 2)).recommended
    assert found.policy == "seldom"
    assert found.later_trainings == (1, 15)
    assert "often" in found.reason + found.said


def test_a_policy_that_is_worse_by_more_than_the_tolerance_is_not_recommended_however_seldom_it_trains():
    found = often_and_seldom(noisy(0.51, 2))
    assert found.recommended.policy == "often"
    generous = often_and_seldom(noisy(0.51, 2), tolerance=0.1)
    assert generous.recommended.policy == "seldom"


def test_that_no_difference_was_found_is_no_reason_to_recommend():
    """Losses that vary so much that nothing is shown: the best is taken, though the other is not surely worse."""
    often, seldom = noisy(0.5, 1, own=0.2), noisy(0.505, 7, own=0.2)
    best = "often" if often[:80].mean() < seldom[:80].mean() else "seldom"
    found = compare(results(policy("often", often, 5), policy("seldom", seldom, 40)), Recommend())
    assert found.recommended.policy == best
    assert min(one.against.p_value for one in found.standings if one.policy != found.reference) > 0.05


def test_the_choice_goes_by_the_first_part_of_the_time_and_the_rest_checks_it():
    good_first = np.concatenate([noisy(0.48, 1)[:80], noisy(0.56, 1)[80:]])
    found = compare(
        results(policy("steady", noisy(0.5, 2), 5), policy("lucky", good_first, 5)), Recommend()
    ).recommended
    assert found.policy == "lucky"
    assert found.later.low > 0
    assert "surely lost more than steady" in found.said
    assert found.refuted
    everything = compare(
        results(policy("steady", noisy(0.5, 2), 5), policy("lucky", good_first, 5)), Recommend(chosen_by=1.0)
    ).recommended
    assert (everything.policy, everything.later, everything.refuted) == ("steady", None, False)


def test_a_choice_that_the_rest_of_the_time_refutes_is_shown_as_that():
    later = {"good": noisy(0.48, 1), "bad": np.concatenate([noisy(0.48, 1)[:80], noisy(0.56, 1)[80:]])}
    for name, refuted in (("good", False), ("bad", True)):
        ran = results(policy("steady", noisy(0.5, 2), 5), policy(name, later[name], 5))
        found = compare(ran, Recommend())
        assert (found.recommended.policy, found.recommended.refuted) == (name, refuted)
        page = render(ran, found, WhatIf())
        assert ("rather keep steady" in page) is refuted
        assert f'class="verdict {"fail" if refuted else "pass"}"' in page


def test_false_recommendations_are_as_rare_as_was_said():
    """Of policies that are worse by more than the tolerance, one that trains least is hardly ever taken for alike."""
    wrong = 0
    for seed in range(200):
        rows = np.full((80,), 500.0)
        random = np.random.default_rng(seed)
        common = random.normal(0, 0.05, 80)
        losses = [0.5 + common + random.normal(0, 0.01, 80) + worse for worse in (0.0, *[0.0051] * 5)]
        kept = [policy(str(i), loss, 5 if i == 0 else 40) for i, loss in enumerate(losses)]
        tables = np.array([one.table(np.arange(FIRST, FIRST + 80)) for one in kept])
        assert tables[0, 0].tolist() == rows.tolist()
        found = recommend(Stretch(tuple(kept), np.arange(FIRST, FIRST + 80), tables), 0, Recommend(chosen_by=1.0))
        wrong += found.policy != "0"
    assert wrong <= 20


def test_the_frugal_choice_loses_least_of_those_that_train_half_as_often():
    policies = [
        policy("often", noisy(0.5, 1), 5),
        policy("half", noisy(0.53, 2), 10),
        policy("rare", noisy(0.52, 3), 40),
    ]
    found = compare(results(*policies), Recommend()).frugal
    assert found.policy == "rare"
    assert found.later.low > 0
    assert found.later_trainings == (1, 15)
    assert compare(results(*policies[:1]), Recommend()).frugal is None
    assert compare(results(policies[2], *policies[:2]), Recommend()).frugal is None


def test_policies_that_served_nobody_for_long_are_left_out_and_named():
    late = policy("late", noisy(0.4, 3)[:40], 5, first=FIRST + 120)
    found = compare(results(policy("early", noisy(0.5, 1), 5), late, policy("other", noisy(0.5, 2), 9)), Recommend())
    assert found.left_out == ("late",)
    assert {one.policy for one in found.standings} == {"early", "other"}


def test_too_few_days_or_no_reference_are_errors_that_say_so():
    with pytest.raises(NotEnoughData, match="9 days on which 1 policies answered, at least 14"):
        compare(results(policy("a", noisy(0.5, 1)[:10], 5)), Recommend())
    late = policy("late", noisy(0.4, 3)[:40], 5, first=FIRST + 120)
    with pytest.raises(NotEnoughData, match="the reference late served nobody"):
        compare(results(policy("a", noisy(0.5, 1), 5), late, reference="late"), Recommend())


def test_the_page_tells_what_was_found_and_needs_nothing_from_elsewhere():
    ran = results(policy("often", noisy(0.5, 1), 5), policy("<seldom>", noisy(0.5, 2), 40, outcome="rejected"))
    found = compare(ran, Recommend())
    page = render(ran, found, WhatIf())
    assert "&lt;seldom&gt;" in page
    assert "<seldom>" not in page
    assert "retraining:" in page
    assert found.recommended.said in page.replace("&lt;", "<").replace("&gt;", ">")
    assert "http" not in page.replace("http-equiv", "")
    assert page == render(ran, found, WhatIf())
    budget = render(ran, found, WhatIf(spec={"retraining": {"budget": {"trainings": 2}}}))
    assert "whatever its options say:</p>\n<pre>spec:\n  retraining:\n    budget:\n      trainings: 2" in budget
    assert "whatever its options say" not in page
    short = results(policy("a", noisy(0.5, 1)[:20], 5))
    assert "28 days before" not in render(short, compare(short, Recommend()), WhatIf())
