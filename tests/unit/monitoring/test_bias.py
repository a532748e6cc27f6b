"""Differences between groups: fairlearn's values, intervals that hold, alarms beyond the limit and none within."""

import numpy as np
import pytest
from fairlearn.metrics import MetricFrame, selection_rate, true_positive_rate

from evergrow.learning.losses import log_loss
from evergrow.monitoring import bias, performance
from evergrow.monitoring.performance import DAY
from evergrow.spec.model import Fairness
from tests.unit.monitoring.builders import outcomes, scene

RULE = Fairness(column="origin", metric="selection_rate", threshold=0.4, limit=0.1)


def arguments(rows):
    known = performance.scored(rows, DAY)
    return rows, known.y, known.scores, log_loss(known.y, known.scores), known.blocks


def gaps(rule, rows):
    rows, y, scores, losses, blocks = arguments(rows)
    return bias.gaps(rule, rows[rule.column], y, scores, losses, blocks)


def favoured(rows, by=0.2):
    return rows.assign(score=np.where(rows["origin"] == "LGA", np.minimum(1, rows["score"] + by), rows["score"]))


@pytest.mark.parametrize(
    ("metric", "function"), [("selection_rate", selection_rate), ("true_positive_rate", true_positive_rate)]
)
def test_the_largest_difference_is_fairlearns(metric, function):
    rows = favoured(outcomes())
    rule = RULE.model_copy(update={"metric": metric})
    called = (rows["score"] >= 0.4).astype(int)
    frame = MetricFrame(metrics=function, y_true=rows["label"], y_pred=called, sensitive_features=rows["origin"])

    assert max(gap.effect for gap in gaps(rule, rows)) == pytest.approx(frame.difference())


def test_the_difference_of_losses_is_that_of_their_means():
    rows = favoured(outcomes())
    _, _, _, losses, _ = arguments(rows)
    by_group = rows.assign(loss=losses).groupby("origin")["loss"].mean()

    assert max(g.effect for g in gaps(RULE.model_copy(update={"metric": "loss"}), rows)) == pytest.approx(
        by_group.max() - by_group.min()
    )


def test_the_bound_is_above_the_truth_about_as_rarely_as_it_says():
    """Groups are alike: the true difference is 0. Whole days are easier or harder for all."""
    wrong = []
    for seed in range(300):
        rows = outcomes(days=28, per_day=60, seed=seed)
        luck = np.random.default_rng(seed).normal(0, 0.1, 28)
        rows["score"] = np.clip(rows["score"] + luck[rows["event_timestamp"].dt.day - 1], 0, 1)
        for gap in gaps(RULE, rows):
            signed = gap.effect if gap.more < gap.less else -gap.effect
            wrong.append(signed / gap.error > 1.9)  # about t(4) at 6.5 %

    assert 0.03 < np.mean(wrong) < 0.12


def observe(rows, rule=RULE, alpha=0.01):
    rows, y, scores, losses, blocks = arguments(rows)
    return bias.observe(scene(alpha=alpha), rule, rows, y, scores, losses, blocks)


def test_a_difference_beyond_the_limit_is_an_alarm_that_names_both_groups():
    found = observe(favoured(outcomes(days=28), by=0.25))

    assert (found.verdict.outcome, found.alarm, found.slice) == ("fail", True, "origin=LGA")
    assert "LGA is" in found.verdict.reason
    assert "limit 0.1" in found.verdict.reason
    assert found.low < found.effect < found.high


def test_groups_that_are_treated_alike_raise_nothing():
    assert observe(outcomes(days=28)).verdict.outcome == "pass"


def test_a_difference_that_may_be_chance_is_inconclusive():
    rows = favoured(outcomes(days=6, per_day=40), by=0.1)

    assert observe(rows, RULE.model_copy(update={"limit": 0.01}), alpha=1e-4).verdict.outcome == "inconclusive"


def test_groups_without_enough_rows_cannot_be_compared():
    assert observe(outcomes(days=1, per_day=60)).verdict.outcome == "inconclusive"


def test_a_column_that_is_not_there_is_an_error():
    found = observe(outcomes(), RULE.model_copy(update={"column": "gender"}))

    assert found.verdict.outcome == "error"
    assert "'gender'" in found.verdict.reason
