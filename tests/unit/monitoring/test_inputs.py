"""A day's answers, judged by their profiles alone: what broke is an alarm, what moved explains, versions apart."""

from datetime import timedelta

import numpy as np
import pytest

from evergrow.monitoring.days import Day
from evergrow.monitoring.inputs import observe_day
from evergrow.spec import parse
from tests.unit.monitoring.builders import DAY, START, outcomes
from tests.unit.monitoring.test_days import baseline, segment
from tests.unit.monitoring.test_outcomes import document

BASE = baseline(outcomes(days=28, start=START - 28 * DAY, seed=50))
FIRST = START.date()


def answers(seed, change=lambda rows: rows, version=1, per_day=400):
    rows = change(outcomes(days=1, per_day=per_day, seed=seed))
    table = segment(rows)
    return Day.none(FIRST, version, BASE, table.column_names).add("s", table, BASE)


BEFORE = [{1: answers(100 + i)} for i in range(20)]


def observe(today, before=BEFORE, model=None):
    versions = {day.version: day for day in today}
    return observe_day(model or document(), FIRST, versions, dict.fromkeys(versions, BASE), before)


def failed(found, alarms_only=False):
    return {(o.kind, o.subject) for o in found if o.verdict.outcome == "fail" and (o.alarm or not alarms_only)}


def test_a_day_like_those_before_fails_nothing():
    found = observe([answers(1)])

    assert failed(found) == set()
    assert {
        "schema",
        "nulls",
        "ranges",
        "categories",
        "volume",
        "freshness",
        "jump",
        "feature-drift",
        "prediction-drift",
    } <= {o.kind for o in found}


def test_alarms_are_for_what_is_broken_and_drift_is_none():
    found = observe([answers(1)])

    assert {o.kind for o in found if o.alarm} == {
        "schema", "nulls", "ranges", "categories", "volume", "freshness", "jump",
    }  # fmt: skip


def test_a_column_that_jumped_is_an_alarm():
    found = observe([answers(1, lambda rows: rows.assign(wind=rows["wind"] / 1.852 - 4))])

    assert ("jump", "wind") in failed(found, alarms_only=True)
    assert ("jump", "carrier") not in failed(found)


def test_what_crept_there_over_weeks_has_drifted_and_did_not_jump():
    creeping = [{1: answers(100 + i, lambda rows, i=i: rows.assign(wind=rows["wind"] + 0.4 * i))} for i in range(28)]
    found = observe([answers(1, lambda rows: rows.assign(wind=rows["wind"] + 0.4 * 28))], creeping)

    assert ("feature-drift", "wind") in failed(found)
    assert failed(found, alarms_only=True) == set()


def test_another_unit_and_missing_values_are_alarms_that_name_the_column():
    scaled = observe([answers(1, lambda rows: rows.assign(wind=rows["wind"] * 1000))])
    lacking = observe([answers(1, lambda rows: rows.assign(wind=np.where(rows.index % 3 == 0, np.nan, rows["wind"])))])

    assert ("ranges", "wind") in failed(scaled, alarms_only=True)
    assert failed(lacking, alarms_only=True) == {("nulls", "wind")}


def test_an_unseen_category_is_named():
    found = observe(
        [answers(1, lambda rows: rows.assign(carrier=np.where(rows.index % 10 == 0, "ZZ", rows["carrier"])))]
    )
    (told,) = [o for o in found if (o.kind, o.subject) == ("categories", "carrier")]

    assert told.verdict.outcome == "fail"
    assert "such as 'ZZ'" in told.verdict.reason


def test_a_day_without_answers_is_told_by_its_volume():
    found = observe([])

    assert [(o.kind, o.verdict.outcome, o.alarm) for o in found] == [("volume", "fail", True)]


def test_days_before_the_first_answer_do_not_count_as_days_without():
    found = observe([answers(1)], [{}, {}, *BEFORE])
    (volume,) = [o for o in found if o.kind == "volume"]

    assert volume.verdict.outcome == "pass"


def test_versions_are_judged_apart_and_share_the_false_alarms():
    broken = answers(2, lambda rows: rows.assign(wind=rows["wind"] * 1000), version=2, per_day=200)
    found = observe([answers(1, per_day=200), broken])

    assert {o.version for o in found if o.verdict.outcome == "fail"} == {2}
    alone, shared = (
        next(o.verdict.reason for o in seen if (o.kind, o.subject, o.version) == ("nulls", "wind", 1))
        for seen in (observe([answers(1)]), found)
    )
    assert float(alone.rpartition(" ")[2]) == pytest.approx(2 * float(shared.rpartition(" ")[2]), rel=0.1)


def test_more_accepted_false_alarms_make_a_weaker_sign_enough():
    weak = [answers(1, lambda rows: rows.assign(wind=np.where(rows.index % 134 == 0, np.nan, rows["wind"])))]
    strict, lax = (observe(weak, model=document(falseAlarmsPerMonth=rate)) for rate in (0.001, 4))

    assert ("nulls", "wind") not in failed(strict)
    assert ("nulls", "wind") in failed(lax)


def test_the_window_is_the_day():
    assert {(o.since, o.until) for o in observe([answers(1)])} == {(START, START + timedelta(days=1))}


@pytest.mark.parametrize("how", ["hashed", "leftOut"])
def test_what_the_log_may_not_have_is_no_broken_data(how):
    """A feature that is hashed in the log has categories nobody saw, and one that is left out is missing."""
    dumped = document().dump()
    dumped["spec"]["serving"]["log"][how] = ["carrier"]
    model = parse(dumped)

    def as_logged(rows):
        return rows.assign(carrier=[f"hash-{i}" for i in range(len(rows))] if how == "hashed" else None)

    assert ("categories" if how == "hashed" else "nulls", "carrier") in failed(observe([answers(1, as_logged)]))
    found = observe([answers(1, as_logged)], model=model)
    assert failed(found, alarms_only=True) == set()
    assert "carrier" not in {one.subject for one in found}
    assert "wind" in {one.subject for one in found}
