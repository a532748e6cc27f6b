"""What predictions were worth in money, by what became of them: the view of who pays for the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtrit

from evergrow.contracts import EVENT_TIMESTAMP
from evergrow.monitoring.performance import HOUR, scored
from evergrow.spec.model import Worth
from evergrow.statistics.means import mean

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class DayWorth:
    """What the predictions of a day were worth.

    Attributes:
        day: of the predictions (UTC).
        rows: predictions with labels.
        worth: of all of them, in the document's currency.
        low: lower end of its 95 % interval, from the hours of the day; -inf of a single hour.
        high: upper end of it.
        without: what the same day would have been worth had no prediction been acted on.
    """

    day: date
    rows: int
    worth: float
    low: float
    high: float
    without: float


def of_rows(rule: Worth, y: Floats, scores: Floats) -> Floats:
    """What each prediction was worth, [n].

    Of a classification: the amount of its cell, acted on from the threshold up. Of a regression: minus the price of a
    unit of error, by its absolute size.

    Args:
        rule: the amounts.
        y: labels, [n].
        scores: probabilities or predicted numbers, [n].
    """
    if rule.per_unit_of_error is not None:
        return -rule.per_unit_of_error * np.abs(y - scores)
    acted = scores >= rule.threshold
    right = np.where(acted, rule.true_positive, rule.false_negative)
    wrong = np.where(acted, rule.false_positive, rule.true_negative)
    return np.where(y > 0, right, wrong).astype(np.float64)


def of_days(rule: Worth, judged: pd.DataFrame) -> Sequence[DayWorth]:
    """The worth of each day, oldest first.

    Args:
        rule: the amounts.
        judged: predictions of matured days with labels.
    """
    days = judged.groupby(judged[EVENT_TIMESTAMP].dt.date) if len(judged) else ()
    return [_of_day(rule, day, rows.reset_index(drop=True)) for day, rows in days]


def _of_day(rule: Worth, day: date, rows: pd.DataFrame) -> DayWorth:
    known = scored(rows, HOUR)
    each = of_rows(rule, known.y, known.scores)
    found, n = mean(each, known.blocks), len(rows)
    reach = float(stdtrit(found.freedom, 0.975)) * found.error * n if found.freedom else np.inf
    total = float(each.sum())
    idle = 0.0 if rule.per_unit_of_error is not None else float(of_rows(rule, known.y, np.full(n, -np.inf)).sum())
    return DayWorth(day, n, total, total - reach, total + reach, idle)
