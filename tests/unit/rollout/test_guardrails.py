"""Guardrails: what is surely beyond its limit fails, what is surely within passes, and little says nothing."""

from __future__ import annotations

import numpy as np
import pytest

from evergrow.rollout.guardrails import Answered, Split, errors, latency, paired_scores, sample_ratio, score_shift
from evergrow.spec.rollout import Analysis, Disagreement, Errors, Latency

RULE = Analysis(errors=Errors(limit=0.02), latency=Latency(milliseconds=100, late=0.05), shift=0.2)


@pytest.mark.parametrize(
    ("failed", "requests", "outcome"),
    [(0, 20, "inconclusive"), (0, 1000, "pass"), (5, 1000, "pass"), (20, 1000, "inconclusive"), (50, 1000, "fail"),
     (5, 20, "fail"), (0, 0, "inconclusive")],
)  # fmt: skip
def test_errors_are_held_against_their_limit(failed, requests, outcome):
    found = errors(RULE, 4, Answered(requests, failed, 0))

    assert found is not None
    assert found.outcome == outcome, found.reason
    assert "against 2.00%" in found.reason
    assert found.low <= found.effect <= found.high


@pytest.mark.parametrize(("late", "outcome"), [(20, "pass"), (50, "inconclusive"), (120, "fail")])
def test_late_answers_are_held_against_their_share(late, outcome):
    found = latency(RULE, 4, Answered(1000, 0, late))

    assert found is not None
    assert found.outcome == outcome
    assert "later than 100 ms" in found.reason


def test_what_is_no_guardrail_says_nothing():
    rule = Analysis(guardrails=())
    one = np.array([0.5])

    assert errors(rule, 4, Answered(1, 1, 1)) is latency(rule, 4, Answered(1, 1, 1)) is None
    assert score_shift(rule, 4, one, one) is None


def test_a_split_that_is_not_as_weighed_fails_and_one_that_is_passes():
    good = [Split((10, 90), (98, 902)), Split((50, 50), (505, 495))]
    bad = [*good, Split((50, 50), (300, 700))]

    assert sample_ratio(RULE, 4, good).outcome == "pass"
    assert sample_ratio(RULE, 4, bad).outcome == "fail"
    assert sample_ratio(RULE, 4, [Split((10, 90), (3, 20))]).outcome == "inconclusive"
    assert sample_ratio(RULE, 4, []).outcome == "inconclusive"


def test_scores_that_are_distributed_otherwise_fail():
    random = np.random.default_rng(0)
    same, other = random.normal(0, 1, 5000), random.normal(1.5, 1, 5000)

    assert score_shift(RULE, 4, random.normal(0, 1, 5000), same).outcome == "pass"
    assert score_shift(RULE, 4, other, same).outcome == "fail"
    assert score_shift(RULE, 4, other[:50], same).outcome == "inconclusive"


def test_pairs_that_are_too_often_far_apart_fail():
    random = np.random.default_rng(0)
    theirs = random.random(2000)
    rule = Disagreement(difference=0.1, share=0.05)

    assert paired_scores(RULE, 4, rule, theirs + random.normal(0, 0.02, 2000), theirs).outcome == "pass"
    assert paired_scores(RULE, 4, rule, theirs + random.normal(0, 0.1, 2000), theirs).outcome == "fail"
