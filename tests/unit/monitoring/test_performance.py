"""Realised performance: matured days alone are judged, the worst slices are found, and none where there is none."""

import numpy as np
import pytest

from evergrow.evaluation.slices import Skipped
from evergrow.learning.losses import row_losses
from evergrow.monitoring import performance, truth
from tests.unit.monitoring.builders import DAY, START, outcomes

METRICS = ("log_loss", "roc_auc")


def judged(rows, as_of):
    wait = truth.delay(rows, as_of, 0.95)
    return truth.label_days(rows, wait, as_of, 0.001)


def losses(rows):
    return row_losses("log_loss", rows["label"].to_numpy(), rows["score"].to_numpy())


def test_each_day_and_version_has_its_metrics_with_intervals():
    rows = outcomes(days=4)
    rows.loc[rows.index % 3 == 0, "version"] = 2
    found = performance.of_days(rows, judged(rows, START + 9 * DAY), METRICS)

    assert [(d.day.day, d.version) for d in found] == [(day, v) for day in (1, 2, 3, 4) for v in (1, 2)]
    for one in found:
        part = rows[(rows["event_timestamp"].dt.day == one.day.day) & (rows["version"] == one.version)]
        assert one.rows == len(part)
        assert one.metrics[0].value == pytest.approx(losses(part).mean())
        assert one.metrics[0].low < one.metrics[0].value < one.metrics[0].high


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    from scipy.special import entr, expit

    logit = np.random.default_rng(0).normal(-1, 1, 1_000_000)
    expected = (entr(expit(logit)) + entr(expit(-logit))).mean()
    held = [
        day.metrics[0].low <= expected <= day.metrics[0].high
        for seed in range(8)
        for rows in [outcomes(days=40, seed=seed)]
        for day in performance.of_days(rows, judged(rows, START + 50 * DAY), ("log_loss",))
    ]

    assert 0.92 <= np.mean(held) <= 0.99


def test_an_immature_day_is_never_among_the_matured():
    as_of = START + 20 * DAY
    rows = outcomes(days=20, delay=2 * DAY)
    late = rows["label_first_known_at"] > as_of
    rows = rows.assign(label=rows["label"].mask(late), label_first_known_at=rows["label_first_known_at"].mask(late))
    days = judged(rows, as_of)
    found = performance.matured(rows, days)

    assert {d.state for d in days} == {"matured", "immature"}
    assert set(found["event_timestamp"].dt.date) == {d.day for d in days if d.state == "matured"}
    immature = {d.day for d in days if d.state == "immature"}
    assert {d.state for d in performance.of_days(rows, days, METRICS) if d.day in immature} <= {"immature"}


def test_slices_have_intervals_and_small_ones_are_left_out_by_name():
    rows = outcomes(days=20)
    rows.loc[:5, "origin"] = "HPN"
    found = performance.of_slices(rows, ["origin", "absent"], METRICS)

    assert [s.value for s in found if isinstance(s, Skipped)] == ["HPN"]
    assert {s.value for s in found if not isinstance(s, Skipped)} == {"EWR", "JFK", "LGA"}


COLUMNS = ["origin", "carrier", "wind"]


def test_a_slice_that_fares_worse_is_found_and_named():
    rows = outcomes(days=30)
    bad = rows["carrier"] == "EV"
    rows.loc[bad, "score"] = 0.5 * rows.loc[bad, "score"] + 0.4
    found = performance.worst_slices(rows, losses(rows), COLUMNS)

    assert found[0].where == "carrier=EV"
    assert found[0].loss == pytest.approx(losses(rows)[bad].mean())
    assert found[0].excess == pytest.approx(losses(rows)[bad].mean() - losses(rows)[~bad].mean())
    assert 0 < found[0].low < found[0].excess


def test_a_pair_is_found_where_only_together_they_are_worse():
    rows = outcomes(days=30)
    bad = ((rows["carrier"] == "EV") & (rows["origin"] == "LGA")).to_numpy()
    rows.loc[bad, "score"] = 1 - rows.loc[bad, "score"]
    (worst, *_) = performance.worst_slices(rows, losses(rows), COLUMNS)

    assert set(worst.where.split(" and ")) == {"carrier=EV", "origin=LGA"}


def test_where_nothing_is_worse_nothing_is_found():
    found = [performance.worst_slices(r, losses(r), COLUMNS) for r in (outcomes(days=30, seed=s) for s in range(40))]

    assert sum(map(bool, found)) <= 4


def test_days_that_are_bad_altogether_make_no_slice_worse():
    rows = outcomes(days=30)
    bad = rows["event_timestamp"].dt.day % 2 == 0
    rows.loc[bad, "score"] = 0.5
    assert performance.worst_slices(rows, losses(rows), COLUMNS) == []


def test_no_rows_have_no_worst_slice():
    rows = outcomes(days=1).iloc[:0]

    assert performance.worst_slices(rows, np.zeros(0), COLUMNS) == []
