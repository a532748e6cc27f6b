"""From log, labels and counters to findings, held against services that are simulated."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evergrow.rollout import answers
from evergrow.rollout.analysis import judge
from evergrow.rollout.gains import ASSIGNED, PROPENSITY, UNIT
from evergrow.rollout.guardrails import Answered, Split
from evergrow.rollout.machine import GUARDRAILS, Seen, advance
from evergrow.rollout.prior import checks, decisive, prior
from evergrow.spec.rollout import Finding, RolloutSpec
from tests.unit.rollout.simulated import (
    CANDIDATE,
    HOUR,
    STABLE,
    START,
    answered,
    as_of,
    baseline,
    copied,
    document,
    rollout,
    status,
)

BASE, OTHER = baseline(), baseline(seed=7, rows=1000)
LATER = START + 20 * HOUR
GUARDED = {"guardrails": ["errors", "latency", "shift"]}
WELL = {STABLE: Answered(3000, 2, 3), CANDIDATE: Answered(3000, 2, 3)}
CANARY = ({3: 0.95, 4: 0.05}, {3: 0.75, 4: 0.25}, {3: 0.5, 4: 0.5})


def evidence(log, how, now=LATER, counters=None, candidates=(CANDIDATE,), model=None, **fields):
    """Of a log, with the labels that are known at an instant."""
    model = model or document()
    known = prior(model, how, STABLE, dict.fromkeys((STABLE, *candidates), BASE))
    return judge(model, status(how, **fields), candidates, as_of(log, now), counters or {}, known, now)


def found(log, how, check="loss", candidate=CANDIDATE, **kwargs) -> Finding:
    """The finding of one check."""
    (one,) = (f for f in evidence(log, how, **kwargs).findings if f.check == check and f.candidate == candidate)
    return one


# -- what decides --


def test_a_better_version_passes_every_check_and_is_promoted():
    how = rollout(analysis=GUARDED, steps=[{"weight": 5}, {"weight": 25}, {"weight": 50}])
    seen = evidence(answered(9000, CANARY, {CANDIDATE: 0.7}), how, counters=WELL, step_started=START + 7 * HOUR)

    assert [(f.check, f.outcome) for f in seen.findings] == [
        ("sample ratio", "pass"), ("errors", "pass"), ("latency", "pass"), ("score shift", "pass"), ("loss", "pass"),
    ]  # fmt: skip
    spec = RolloutSpec(model="delays", candidates=(CANDIDATE,))
    before = status(how, step=2, step_started=START + 7 * HOUR)
    looked = Seen({3: 1, 4: 1}, seen.requests, seen.findings)
    assert advance(spec, how, before, looked, LATER).phase == "Promoted"


def test_an_equal_version_is_not_promoted_and_one_twice_as_bad_fails_for_harm():
    assert found(answered(9000), rollout()).outcome == "fail"
    assert found(answered(300), rollout()).outcome == "inconclusive"
    worse = found(answered(1500, size={CANDIDATE: 2.0}), rollout())
    assert worse.outcome == "fail"
    assert "worse, p" in worse.reason


def test_an_equal_version_is_promoted_at_most_as_often_as_alpha_whatever_callers_keep_theirs():
    """Of 60 rollouts 3 are accepted; the 99 % limit is 8. Of an entity each row would count: a third of them."""
    how = rollout(sticky=["guest"], analysis={"alpha": 0.05})
    promoted = [found(answered(3000, entities=40, seed=i), how, now=LATER).outcome for i in range(60)]

    assert promoted.count("pass") <= 8


def test_steps_of_more_than_half_of_the_traffic_are_evidence_too():
    how = rollout(steps=[{"weight": 50}, {"weight": 90}])
    better = answered(9000, ({3: 0.5, 4: 0.5}, {3: 0.1, 4: 0.9}), {STABLE: 3.0, CANDIDATE: 1.0})

    assert found(better, how).outcome == "pass"
    assert found(better, how).requests == 9000


def test_labels_that_have_not_had_their_time_wait_and_when_none_came_in_time_it_is_an_error():
    how = rollout(analysis={"labelsWithin": "6h"})
    log = answered(6000, size={CANDIDATE: 0.5}, span=2 * HOUR, delay=5 * HOUR)

    assert found(log, how, now=START + 2 * HOUR).outcome == "inconclusive"
    assert found(log, how, now=START + 9 * HOUR).outcome == "pass"
    late = found(log.assign(label_first_known_at=log["event_timestamp"] + 7 * HOUR), how, now=START + 30 * HOUR)
    assert late.outcome == "error"
    assert "none of 6,000 answers has a label that came in time" in late.reason


def test_a_label_that_comes_too_late_counts_as_missing_for_good():
    how = rollout(analysis={"labelsWithin": "1h"})
    log = answered(6000, size={CANDIDATE: 0.5})
    late = np.random.default_rng(0).random(6000) < 0.7
    log.loc[late, "label_first_known_at"] += timedelta(hours=5)
    before, after = found(log, how, now=START + 15 * HOUR), found(log, how, now=START + 90 * HOUR)

    assert before.requests == after.requests == pytest.approx(1800, abs=120)
    assert f"only {after.requests:,} of 6,000 answers have a label that came in time" in after.reason


def test_blocks_are_judged_when_they_are_over_and_never_otherwise():
    log, how = answered(6000, span=10 * HOUR), rollout(analysis={"labelsWithin": "30m", "block": "1h"})

    assert [found(log, how, now=START + h * HOUR / 2).requests for h in range(2, 8)] == [0, 600, 600, 1200, 1200, 1800]


def test_money_decides_where_it_is_to_and_is_told_where_it_is_not():
    model = document(worth={"currency": "EUR", "perUnitOfError": 2.0})
    log = answered(9000, size={CANDIDATE: 0.7})
    by_worth = rollout(analysis={"decides": "worth", "effect": 0.2})

    assert found(log, by_worth, "worth", model=model).outcome == "pass"
    assert found(log, rollout(), "worth", model=model).outcome == "pass"
    worse = answered(9000, size={CANDIDATE: 1.5})
    assert found(worse, by_worth, "worth", model=model).outcome == "fail"
    assert found(worse, by_worth, "loss", model=model).outcome == "inconclusive"
    assert "this decides nothing" in found(worse, by_worth, "loss", model=model).reason


def test_money_that_nobody_has_set_cannot_decide():
    one = found(answered(600), rollout(analysis={"decides": "worth"}), "worth")

    assert one.outcome == "error"
    assert "spec.monitoring.worth" in one.reason


def test_an_estimate_needs_no_label_and_each_version_is_foreseen_by_its_own_past():
    how = rollout(analysis={"decides": "estimate"})
    log = answered(9000).drop(columns=["label", "label_first_known_at"])
    now = START + 20 * HOUR

    def outcome(ours):
        bases = {STABLE: OTHER, CANDIDATE: ours}
        known = prior(document(), how, STABLE, bases)
        seen = judge(document(), status(how), (CANDIDATE,), log, {}, known, now)
        return [f.outcome for f in seen.findings if f.check == "estimate"]

    assert outcome(baseline(seed=5, size=0.5, rows=1000)) == ["pass"]
    assert outcome(baseline(seed=5, size=2.0, rows=1000)) == ["fail"]
    assert outcome(baseline(seed=5, rows=150)) == ["error"]


def test_a_copy_is_foreseen_by_its_own_versions_past_too():
    """Losses of a normal's size are 0.798 of it on average."""
    how = rollout("shadow", analysis={"decides": "estimate"})
    known = prior(document(), how, STABLE, {STABLE: OTHER, CANDIDATE: baseline(seed=5, size=0.5, rows=1000)})
    log = copied(answered(3000)).drop(columns=["label", "label_first_known_at"])
    seen = judge(document(), status(how), (CANDIDATE,), log, {}, known, LATER)
    (one,) = (f for f in seen.findings if f.check == "estimate")

    assert one.effect == pytest.approx(0.5 * 0.798, abs=0.1)


def test_a_test_of_fixed_size_is_silent_until_its_horizon():
    how = rollout("ab-test", requests=4000)
    log = answered(8000, size={CANDIDATE: 0.7})

    assert found(log[:3900], how).outcome == "inconclusive"
    assert found(log, how).outcome == "pass"
    assert found(log, how) == found(log[:4100], how)
    assert found(answered(8000), how).outcome == "fail"


def test_a_shadow_is_judged_by_the_pairs_of_both_answers():
    how = rollout("shadow", analysis={"block": "1m", "disagreement": {"difference": 2.0, "share": 0.2}})
    better, worse = (copied(answered(24_000), size) for size in (0.5, 2.0))

    assert found(better, how).outcome == "pass"
    assert found(worse, how).outcome == "fail"
    assert found(better, how, "paired scores").outcome == "pass"
    assert found(worse, how, "paired scores").outcome == "fail"
    assert found(better, how, "sample ratio").outcome == "pass"
    assert evidence(better, how).requests == {CANDIDATE: 24_000}


def test_a_shadow_waits_for_copies_that_do_not_arrive():
    how = rollout("shadow", share=50)

    assert found(copied(answered(2000), share=0.5), how, "sample ratio").outcome == "pass"
    assert found(copied(answered(2000), share=0.3), how, "sample ratio").outcome == "inconclusive"


def test_pairs_are_the_same_row_of_the_same_request_and_ambiguous_ones_are_none():
    log = copied(answered(300, rows=3))
    log.loc[log["request_id"].isin(["r0-1", "r0-2"]), "request_id"] = "same"
    log = log[~(log["prediction_id"].str.contains("00000001-1-") & (log["version"] == CANDIDATE))]
    rows = answers.read(log.sample(frac=1, random_state=0), (), HOUR)
    paired = answers.pairs(rows, STABLE, CANDIDATE)
    ours = log[log["version"] == CANDIDATE]
    expected = {(r, p.rpartition("-")[2]): s for r, p, s in ours[["request_id", "prediction_id", "score"]].to_numpy()}

    assert len(paired) == 3 * 298
    assert all(expected[r, k] == s for r, k, s in paired[["request_id", "row", "score_candidate"]].to_numpy())


# -- guardrails --


def test_a_candidate_of_which_each_twentieth_request_fails_is_dropped():
    how = rollout(analysis=GUARDED)
    log = answered(6000)

    assert found(log, how, "errors", counters={CANDIDATE: Answered(3000, 150, 0)}).outcome == "fail"
    assert found(log, how, "errors", counters=WELL).outcome == "pass"


def test_where_nobody_counts_errors_it_is_an_error_and_late_answers_are_the_logs():
    how = rollout(analysis=GUARDED)
    log = answered(6000)
    slow = log.assign(latency_ms=np.where(log["version"] == CANDIDATE, 2000.0, 10.0))

    assert found(log, how, "errors").outcome == "error"
    assert "version 4 that failed are not counted" in found(log, how, "errors").reason
    assert found(log, how, "latency").outcome == "pass"
    assert found(slow, how, "latency").outcome == "fail"
    assert found(slow, how, "latency", counters=WELL).outcome == "pass"
    untimed = {version: Answered(3000, 2, None) for version in (STABLE, CANDIDATE)}
    assert found(slow, how, "latency", counters=untimed).outcome == "fail"


@pytest.mark.parametrize("weights", [({3: 0.5, 4: 0.5},), CANARY, ({3: 1.0}, {3: 0.9, 4: 0.1})])
def test_a_split_that_is_not_as_weighed_fails_and_one_that_is_passes(weights):
    assert found(answered(6000, weights), rollout(), "sample ratio").outcome == "pass"
    assert found(answered(6000, weights, lost={CANDIDATE: 0.3}), rollout(), "sample ratio").outcome == "fail"
    assert found(answered(6000, weights, lost={CANDIDATE: 1.0}), rollout(), "sample ratio").outcome == "fail"


def test_the_first_request_after_a_change_of_weights_is_of_the_new_ones_whoever_answered_it():
    of = pd.DataFrame({"version": [3, 3, 3, 4, 3, 4, 3], "propensity": [1.0, 1.0, 1.0, 0.1, 0.9, 0.6, 0.4]})
    draws = of.assign(unit=range(len(of)))

    assert answers.splits(draws, CANDIDATE) == [Split((10, 90), (1, 1)), Split((60, 40), (1, 1))]
    assert answers.splits(draws[:3], CANDIDATE) == []


def test_good_splits_seldom_fail():
    """At a level of 0.01: of 100 services at most 4, the 99 % limit."""
    how = rollout(analysis={"decides": "guardrails"})
    outcomes = [found(answered(800, CANARY, seed=i), how, "sample ratio").outcome for i in range(100)]

    assert outcomes.count("fail") <= 4


def test_what_one_server_has_not_shipped_yet_is_no_wrong_split():
    """The candidate's newest two minutes are not there yet."""
    log = answered(5000, span=HOUR / 6)
    now = START + HOUR / 6
    late = (log["version"] == CANDIDATE) & (log["event_timestamp"] > now - timedelta(minutes=2))

    assert found(log[~late], rollout(), "sample ratio", now=now).outcome == "pass"
    known = prior(document(), rollout(), STABLE, {STABLE: BASE})
    at_once = judge(document(), status(rollout()), (CANDIDATE,), log[~late], {}, known, now, timedelta(0))
    assert at_once.findings[0].outcome == "fail"


def test_callers_that_keep_their_version_count_once_in_the_split():
    log = answered(6000, entities=200)
    kept, each = (found(log, rollout(sticky=keys), "sample ratio") for keys in (["guest"], []))

    assert (kept.outcome, kept.requests) == ("pass", 200)
    assert each.requests == 6000


def test_who_asked_for_a_version_was_not_drawn():
    log = answered(4000)
    named = log[log["version"] == CANDIDATE].assign(route="named", propensity=np.nan)
    named = named.assign(prediction_id="n" + named["prediction_id"], score=1e6)
    both = pd.concat([log, named])

    assert evidence(both, rollout()) == evidence(log, rollout())


def test_scores_that_moved_fail_also_where_all_traffic_changes_sides_at_once():
    how = rollout(analysis={"guardrails": ["shift"], "shift": 0.3})
    green = rollout("blue-green", analysis={"guardrails": ["shift"], "shift": 0.3})
    sides = ({STABLE: 1.0}, {CANDIDATE: 1.0})

    for rule, weights in ((how, ({3: 0.5, 4: 0.5},)), (green, sides)):
        assert found(answered(6000, weights), rule, "score shift").outcome == "pass"
        assert found(answered(6000, weights, shift={CANDIDATE: 20.0}), rule, "score shift").outcome == "fail"


def test_scores_of_before_the_candidate_came_are_not_compared():
    """By day scores are other than by night, when there was no candidate."""
    log = answered(8000, ({STABLE: 1.0}, {STABLE: 0.5, CANDIDATE: 0.5}))
    night = (log["event_timestamp"] < START + 5 * HOUR).to_numpy()
    log["score"] = np.where(night, log["score"] - 50, log["score"])

    assert found(log, rollout(analysis={"guardrails": ["shift"], "shift": 0.3}), "score shift").outcome == "pass"


def test_a_version_that_takes_all_traffic_is_held_against_guardrails_alone():
    how = rollout("blue-green", analysis=GUARDED)
    log = answered(6000, ({STABLE: 1.0}, {CANDIDATE: 1.0}))
    seen = evidence(log, how, counters=WELL, started=START + 5 * HOUR)

    assert {f.check: f.outcome for f in seen.findings} == dict.fromkeys(GUARDRAILS[:4], "pass")
    assert seen.requests == {CANDIDATE: 3000}


# -- bandit --


def test_a_bandit_of_three_finds_the_best_once_its_rewards_are_in():
    how = rollout("bandit", analysis={"labelsWithin": "4h"})
    thirds = {3: 0.34, 4: 0.33, 5: 0.33}
    log = answered(6000, (thirds, {3: 0.2, 4: 0.6, 5: 0.2}), {4: 0.9, 5: 0.6}, delay=3 * HOUR)
    early, late = (evidence(log, how, START + h * HOUR, candidates=(4, 5)) for h in (3, 20))

    assert (early.shares, early.best) == ({3: 34, 4: 33, 5: 33}, None)
    assert (late.shares, late.best) == ({3: 5, 4: 5, 5: 90}, 5)
    told = {(f.candidate, f.check): f for f in late.findings}
    assert {key: f.outcome for key, f in told.items()} == {
        (4, "sample ratio"): "pass", (4, "loss"): "inconclusive", (5, "sample ratio"): "pass", (5, "loss"): "pass",
    }  # fmt: skip
    # The mean of a standard normal's size is 0.798.
    assert told[5, "loss"].effect == pytest.approx(0.4 * 0.798, abs=0.05)
    assert told[4, "loss"].effect == pytest.approx(0.1 * 0.798, abs=0.05)


def test_a_bandits_rewards_never_fail_and_none_at_all_is_an_error():
    how = rollout("bandit")
    log = answered(6000, size={CANDIDATE: 3.0})

    assert found(log, how).outcome == "inconclusive"
    assert evidence(log, how).best == STABLE
    never = evidence(log.assign(label_first_known_at=log["event_timestamp"] + 5 * HOUR), how)
    assert [f.outcome for f in never.findings if f.check == "loss"] == ["error"]
    assert never.shares == {3: 50, 4: 50}


def test_old_rewards_count_less_where_they_are_to():
    """Version 4 was the better one in the first half, and is the worse one since."""
    halves = ({3: 0.5, 4: 0.5},) * 2
    log = answered(12_000, halves, {CANDIDATE: 0.5})
    turned = (log["event_timestamp"] >= START + 6 * HOUR) & (log["version"] == CANDIDATE)
    log.loc[turned, "label"] = log["score"] + 4 * (log["label"] - log["score"])

    assert evidence(log, rollout("bandit", halvesAfter="30m"), START + 12 * HOUR).best == STABLE
    first = log[log["event_timestamp"] < START + 6 * HOUR]
    assert evidence(first, rollout("bandit", halvesAfter="30m"), START + 12 * HOUR).best == CANDIDATE


def test_a_bandits_arm_that_gets_less_than_its_weight_fails_the_split():
    how = rollout("bandit")
    log = answered(6000, ({3: 0.34, 4: 0.33, 5: 0.33}, {3: 0.2, 4: 0.6, 5: 0.2}), lost={5: 0.3})

    assert found(log, how, "sample ratio", candidate=5, candidates=(4, 5)).outcome == "fail"


# -- what there is to go by --


def test_without_any_answer_nothing_is_known_and_nothing_is_raised():
    for kind in ("canary", "shadow", "ab-test", "bandit", "blue-green"):
        seen = evidence(answered(10)[:0], rollout(kind, analysis=GUARDED))
        assert seen.requests == {CANDIDATE: 0}
        assert {f.check: f.outcome for f in seen.findings}["errors"] == "error"
        assert {f.outcome for f in seen.findings if f.check != "errors"} == {"inconclusive"}
    frame = pd.DataFrame()
    known = prior(document(), rollout(), STABLE, {STABLE: BASE})
    assert judge(document(), status(rollout()), (CANDIDATE,), frame, {}, known, LATER).requests == {CANDIDATE: 0}


def test_requests_are_those_that_a_candidate_was_drawn_for_since_the_move_began():
    log = answered(6000, rows=2)
    seen = evidence(log, rollout(), step_started=START + 5 * HOUR)
    ours = log[(log["version"] == CANDIDATE) & (log["event_timestamp"] >= START + 5 * HOUR)]

    assert seen.requests == {CANDIDATE: len(ours) // 2}


def test_candidates_that_were_dropped_are_not_judged():
    how = rollout("bandit")
    log = answered(3000, ({3: 0.34, 4: 0.33, 5: 0.33},))
    seen = evidence(log, how, candidates=(4, 5), dropped=(5,))

    assert {f.candidate for f in seen.findings} == {4}
    assert set(seen.shares) == {3, 4}


def test_a_log_without_the_key_that_callers_keep_their_version_by_is_an_error():
    seen = evidence(answered(600).drop(columns="guest"), rollout(sticky=["guest"]))

    assert [(f.check, f.outcome) for f in seen.findings] == [("sample ratio", "error")]
    assert "'guest'" in seen.findings[0].reason


def test_answers_of_before_the_rollout_are_none_of_its_evidence():
    log = answered(6000, size={CANDIDATE: 0.5})

    assert found(log, rollout(), started=START + 9 * HOUR).requests == 600


@pytest.mark.parametrize("kind", ["single", "shadow", "canary", "blue-green", "ab-test", "bandit"])
@pytest.mark.parametrize("decides", ["loss", "worth", "estimate", "guardrails"])
def test_the_check_that_the_strategy_waits_for_is_made(kind, decides):
    from evergrow.rollout.machine import moves_of

    how = rollout(kind, analysis={"decides": decides})
    awaited = {move.passes for move in moves_of(how, status(how))} - {None, "guardrails"}

    assert awaited <= {decisive(how)}
    assert set(checks(document(), how)) >= awaited


def test_the_same_registry_makes_the_same_plan():
    model = document(worth={"currency": "EUR", "perUnitOfError": 2.0})
    one, two = (prior(model, rollout(), STABLE, {STABLE: baseline()}) for _ in range(2))

    assert one == two
    assert one.plans["loss"].effect == 0.1
    assert one.plans["worth"].effect == pytest.approx(0.05 * 2 * 0.798, rel=0.05)
    assert one != prior(model, rollout(), STABLE, {STABLE: OTHER})


# -- laws --


@settings(max_examples=15, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 3), st.sampled_from([(), ("guest",)]))
def test_the_order_in_which_rows_come_makes_no_difference(random, rows, sticky):
    log = answered(400, CANARY, {CANDIDATE: 0.7}, rows=rows, entities=60)
    order = list(range(len(log)))
    random.shuffle(order)

    assert evidence(log.iloc[order], rollout(sticky=sticky)) == evidence(log, rollout(sticky=sticky))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([5, 20, 50, 80]), min_size=1, max_size=5), st.integers(0, 9), st.integers(0, 40))
def test_splits_are_counted_by_the_weights_that_held(shares, seed, entities):
    weights = [{3: 1 - share / 100, 4: share / 100} for share in shares]
    log = answered(500, weights, seed=seed, entities=entities)
    rows = answers.drawn(answers.read(log, ("guest",) if entities else (), HOUR))
    once = rows.drop_duplicates("guest") if entities else rows
    told = Counter()
    for split in answers.splits(rows, CANDIDATE):
        told[split.weights] += np.array(split.requests)
    share = np.where(once["version"] == CANDIDATE, once["propensity"], 1 - once["propensity"])
    expected = Counter()
    for percent, version in zip((100 * share).round().astype(int).tolist(), once["version"], strict=True):
        expected[percent, 100 - percent] += np.array([version == CANDIDATE, version != CANDIDATE], int)

    assert {k: v.tolist() for k, v in told.items()} == {k: v.tolist() for k, v in expected.items()}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(1, 30))
def test_of_a_caller_only_its_first_block_and_its_first_weights_count(seed, entities):
    log = answered(400, CANARY, entities=entities, seed=seed, span=3 * HOUR)
    rows = answers.read(log, ("guest",), HOUR / 2)
    kept = answers.against(answers.drawn(rows), STABLE, CANDIDATE)
    expected = []
    for _, mine in rows.groupby("guest"):
        first = mine.iloc[0]
        chance = np.where(mine["version"] == CANDIDATE, mine["propensity"], 1 - mine["propensity"]).round(6)
        expected += mine["prediction_id"][(mine["block"] == first["block"]) & (chance == chance[0])].tolist()

    assert sorted(kept["prediction_id"]) == sorted(expected)
    assert (kept[ASSIGNED] == (kept["version"] == CANDIDATE)).all()
    assert kept.groupby(UNIT)[PROPENSITY].nunique().max() == 1


def test_callers_that_come_over_when_their_weights_rise_are_one_value_of_one_weight():
    """Their mean over two weights could be beyond what bets can lose."""
    how = rollout(sticky=["guest"], analysis={"block": "24h"}, steps=[{"weight": 5}, {"weight": 50}])
    log = answered(4000, ({3: 0.95, 4: 0.05}, {3: 0.5, 4: 0.5}), {CANDIDATE: 4.0}, entities=500)

    assert found(log, how, now=START + 48 * HOUR).outcome in ("inconclusive", "fail")
