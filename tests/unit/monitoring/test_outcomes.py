"""What labels tell: harm is seen where there is some, estimates come before labels, and nothing is made up."""

import numpy as np
import pandas as pd
import pytest

from evergrow.contracts import Observation
from evergrow.monitoring.outcomes import judge
from evergrow.spec import parse
from tests import builders
from tests.unit.monitoring.builders import DAY, START, outcomes
from tests.unit.monitoring.test_days import baseline

BEFORE = outcomes(days=28, start=START - 28 * DAY, seed=50)
BASE = baseline(BEFORE)


def document(**monitoring):
    """Of a model whose scores are probabilities of `label`."""
    dumped = builders.document(evaluation={"slices": ["origin"]}).dump()
    dumped["spec"]["monitoring"] = {**dumped["spec"]["monitoring"], **monitoring}
    return parse(dumped)


def known_at(rows, as_of):
    later = (rows["label_first_known_at"] > as_of).to_numpy()
    return rows.assign(label=rows["label"].mask(later), label_first_known_at=rows["label_first_known_at"].mask(later))


def judged(rows, as_of=START + 40 * DAY, model=None, versions=(1,)):
    return judge(model or document(), known_at(rows, as_of), dict.fromkeys(versions, BASE), as_of)


def seen(found, kind) -> list[Observation]:
    return [one for one in found.observations if one.kind == kind]


def test_labels_that_come_as_usual_raise_nothing():
    found = judged(outcomes(days=30, never=0.05))

    (labels,) = seen(found, "labels")
    assert (labels.verdict.outcome, labels.alarm) == ("pass", True)
    assert found.delay.coverage == pytest.approx(0.95, abs=0.01)
    assert [d.state for d in found.labels] == ["matured"] * 30


def test_a_version_that_does_as_well_as_on_its_holdout_does_no_harm():
    (found,) = seen(judged(outcomes(days=30)), "performance")

    assert (found.verdict.outcome, found.alarm, found.version) == ("pass", True, 1)
    assert found.low < 0 < found.high


def test_a_loss_that_rose_is_harm_and_says_since_when_and_by_how_much():
    rows = outcomes(days=30)
    late = (rows["event_timestamp"] >= START + 20 * DAY).to_numpy()
    rows["score"] = np.where(late, 0.5 * rows["score"] + 0.35, rows["score"])
    (found,) = seen(judged(rows), "performance")

    assert found.verdict.outcome == "fail"
    assert "mean log_loss 0.6" in found.verdict.reason
    assert 0.05 < found.effect < 0.2
    assert found.low < found.effect < found.high


def test_a_rise_that_is_tolerated_is_no_harm():
    rows = outcomes(days=30)
    rows["score"] = 0.5 * rows["score"] + 0.35
    (harm,) = seen(judged(rows), "performance")
    (tolerated,) = seen(judged(rows, model=document(harm=0.5)), "performance")

    assert (harm.verdict.outcome, tolerated.verdict.outcome) == ("fail", "pass")


def test_days_whose_labels_are_not_all_in_are_not_judged():
    """The labels that come first are the bad ones: on immature days alone the loss has risen."""
    as_of = START + 30 * DAY
    rows = known_at(outcomes(days=30, delay=2 * DAY), as_of)
    newest = rows["event_timestamp"] >= START + 28 * DAY
    rows.loc[newest & rows["label"].notna(), "score"] = 1 - rows["label"]
    found = judge(document(), rows, {1: BASE}, as_of)

    assert {d.state for d in found.labels[-2:]} == {"immature"}
    assert [o.verdict.outcome for o in seen(found, "performance")] == ["pass"]


def test_labels_that_stay_away_raise_an_alarm():
    rows = outcomes(days=30, never=0.05)
    lost = (rows["event_timestamp"] >= START + 29 * DAY).to_numpy()
    rows = rows.assign(label=rows["label"].mask(lost), label_first_known_at=rows["label_first_known_at"].mask(lost))
    (labels,) = seen(judged(rows), "labels")

    assert labels.verdict.outcome == "fail"
    assert "0 of 2" in labels.verdict.reason
    assert labels.since == START + 29 * DAY


def test_before_any_label_there_is_nothing_to_judge():
    found = judged(outcomes(days=3, never=1.0))

    assert [o.verdict.outcome for o in seen(found, "labels")] == ["inconclusive"]
    assert (found.performance, found.estimates, found.slices, found.worst) == ([], [], [], [])


def test_a_label_that_became_more_frequent_has_drifted_and_one_as_ever_has_not():
    same = judged(outcomes(days=10))
    more = outcomes(days=10)
    more["label"] = np.where(np.random.default_rng(0).random(len(more)) < 0.5, 1.0, more["label"])

    assert [o.verdict.outcome for o in seen(same, "label-drift")] == ["pass"]
    assert [o.verdict.outcome for o in seen(judged(more), "label-drift")] == ["fail"]
    assert not seen(same, "label-drift")[0].alarm


def test_estimates_come_before_labels_and_are_held_against_what_came():
    rows = outcomes(days=40, delay=3 * DAY)
    found = judged(rows)
    realised = {d.day: d.metrics[0].value for d in found.performance if d.state == "matured"}
    held = [e.metric.low <= realised[e.day] <= e.metric.high for e in found.estimates if e.day in realised]

    assert max(e.day for e in found.estimates) > max(realised)
    assert len(held) >= 20
    assert np.mean(held) > 0.85
    (record,) = seen(found, "estimated-performance")
    assert record.verdict.outcome == "pass"
    assert "off by 0.0" in record.verdict.reason


def test_what_was_estimated_then_used_nothing_that_came_later():
    rows = outcomes(days=40, delay=3 * DAY)
    changed = rows.copy()
    late = changed["event_timestamp"] >= START + 30 * DAY
    changed.loc[late, "label"] = 1 - changed.loc[late, "label"]
    before = {e.day: e.metric for e in judged(rows).estimates if e.day < (START + 30 * DAY).date()}
    after = {e.day: e.metric for e in judged(changed).estimates if e.day < (START + 30 * DAY).date()}

    assert before == after


def test_estimates_that_turned_out_wrong_are_told_not_to_deserve_trust():
    rows = outcomes(days=40)
    late = rows["event_timestamp"] >= START + 14 * DAY
    rows.loc[late, "label"] = 1 - rows.loc[late, "label"]
    # What was learned meanwhile is right again: only the days before it was learned are wrong.
    (record,) = seen(judged(rows), "estimated-performance")

    assert record.verdict.outcome in ("fail", "inconclusive")


def test_groups_are_watched_where_the_document_says_so():
    rule = {"column": "origin", "metric": "selection_rate", "threshold": 0.4, "limit": 0.1}
    rows = outcomes(days=30)
    assert seen(judged(rows), "bias") == []
    assert [o.verdict.outcome for o in seen(judged(rows, model=document(fairness=[rule])), "bias")] == ["pass"]

    rows["score"] = np.where(rows["origin"] == "LGA", np.minimum(0.999, rows["score"] + 0.3), rows["score"])
    (unfair,) = seen(judged(rows, model=document(fairness=[rule])), "bias")
    assert (unfair.verdict.outcome, unfair.slice) == ("fail", "origin=LGA")


def test_versions_are_judged_apart():
    rows = outcomes(days=20)
    rows["version"] = np.where(rows["event_timestamp"] < START + 10 * DAY, 1, 2)
    found = judged(rows, versions=(1, 2))

    assert {(d.day.day <= 10, d.version) for d in found.performance} == {(True, 1), (False, 2)}
    assert {o.version for o in seen(found, "label-drift")} == {2}


def test_instants_of_rows_may_be_finer_than_seconds():
    rows = outcomes(days=12)
    rows["event_timestamp"] = rows["event_timestamp"] + pd.Timedelta(microseconds=1)

    assert len(judged(rows).labels) == 12
