"""What predictions were worth: each by its cell, days by their rows, and against not acting at all."""

import numpy as np
import pytest

from evergrow.monitoring import worth
from evergrow.spec.model import Worth
from tests.unit.monitoring.builders import outcomes

RULE = Worth(currency="EUR", threshold=0.5, true_positive=10, false_positive=-2, false_negative=-30, true_negative=1)


def test_each_prediction_is_worth_the_amount_of_its_cell():
    y, scores = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.5, 0.9, 0.4, 0.1])

    assert worth.of_rows(RULE, y, scores).tolist() == [10, -2, -30, 1]


def test_a_regression_pays_for_each_unit_of_error():
    rule = Worth(currency="USD", per_unit_of_error=0.5)

    assert worth.of_rows(rule, np.array([3.0, 3.0]), np.array([1.0, 4.0])).tolist() == [-1.0, -0.5]


def test_a_day_is_worth_the_sum_of_its_predictions_within_its_interval():
    rows = outcomes(days=3)
    found = worth.of_days(RULE, rows)

    assert [day.day.day for day in found] == [1, 2, 3]
    for day in found:
        part = rows[rows["event_timestamp"].dt.day == day.day.day]
        y = part["label"].to_numpy()
        assert day.worth == pytest.approx(worth.of_rows(RULE, y, part["score"].to_numpy()).sum())
        assert day.without == pytest.approx(np.where(y > 0, -30, 1).sum())
        assert day.low < day.worth < day.high


def test_a_model_that_knows_something_is_worth_more_than_none():
    assert all(day.worth > day.without for day in worth.of_days(RULE, outcomes(days=5)))


def test_no_rows_are_worth_nothing():
    assert list(worth.of_days(RULE, outcomes(days=1).iloc[:0])) == []
