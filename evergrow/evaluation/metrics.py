"""Metrics of labels and scores, each with which way is better and where it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evergrow.contracts import Metric
from evergrow.learning import losses
from evergrow.statistics.means import Ints, leave_out

Floats = NDArray[np.float64]

LEVEL = 0.95
"""Of every reported interval."""
BINS = 10


@dataclass(frozen=True)
class Measure:
    """A metric.

    Attributes:
        value: of labels [n] and scores [n]; NaN where it is not defined.
        higher_is_better: which way is better.
        low: its lowest possible value.
        high: its highest.
    """

    value: Callable[[Floats, Floats], float]
    higher_is_better: bool = False
    low: float = 0.0
    high: float = math.inf


def cumulative(y: Floats, scores: Floats) -> tuple[Floats, Floats, Floats]:
    """True and false positives when all rows of at least each distinct score are called positive.

    Returns:
        distinct scores falling, true positives, false positives, all [u].
    """
    order = np.argsort(-scores, kind="stable")
    y, scores = y[order], scores[order]
    last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    true = np.cumsum(y)[last]
    return scores[last], true, last + 1 - true


def roc_auc(y: Floats, scores: Floats) -> float:
    """Probability that a positive row scores above a negative one, ties half: the area under the ROC curve."""
    positives = float(y.sum())
    negatives = len(y) - positives
    if not positives or not negatives:
        return math.nan
    _, true, false = cumulative(y, scores)
    return float(np.trapezoid(np.append(0, true), np.append(0, false))) / (positives * negatives)


def average_precision(y: Floats, scores: Floats) -> float:
    """Precision averaged over recall, without interpolation: Σ (Rₖ - Rₖ₋₁) Pₖ."""
    positives = float(y.sum())
    if not positives:
        return math.nan
    _, true, false = cumulative(y, scores)
    return float(np.sum(np.diff(np.append(0, true)) * true / (true + false))) / positives


def bins_of_equal_rows(scores: Floats) -> Ints:
    """The decile that each score falls into, [n]; equal scores share theirs."""
    edges = np.quantile(scores, np.arange(1, BINS) / BINS)
    return np.searchsorted(edges, scores, side="right")


def calibration_error(y: Floats, scores: Floats) -> float:
    """Expected calibration error: |mean score - share of positives| per decile of the scores, averaged over rows."""
    gaps = np.bincount(bins_of_equal_rows(scores), weights=scores - y, minlength=BINS)
    return float(np.abs(gaps).sum()) / len(y)


def rmse(y: Floats, predictions: Floats) -> float:
    """Root of the mean squared error."""
    return math.sqrt(losses.squared_error(y, predictions).mean())


def r2(y: Floats, predictions: Floats) -> float:
    """1 - squared error / squared error of the rows' own mean; NaN if all labels are equal."""
    spread = float(np.square(y - y.mean()).sum())
    return 1 - float(losses.squared_error(y, predictions).sum()) / spread if spread else math.nan


def _mean(loss: str) -> Callable[[Floats, Floats], float]:
    return lambda y, scores: float(losses.row_losses(loss, y, scores).mean())


MEASURES: Mapping[str, Measure] = {
    **{loss: Measure(_mean(loss)) for loss in losses.ROW_LOSSES},
    "brier": Measure(_mean("brier"), high=1.0),
    "roc_auc": Measure(roc_auc, higher_is_better=True, high=1.0),
    "average_precision": Measure(average_precision, higher_is_better=True, high=1.0),
    "calibration_error": Measure(calibration_error, high=1.0),
    "rmse": Measure(rmse),
    "r2": Measure(r2, higher_is_better=True, low=-math.inf, high=1.0),
}


def measure(name: str, y: Floats, scores: Floats, blocks: Ints) -> Metric | None:
    """A metric with its 95 % interval; None where it is not defined or its interval is not finite.

    Args:
        name: one of MEASURES.
        y: labels, [n].
        scores: probabilities or predicted numbers, [n].
        blocks: the block of time of each row, 0 … T - 1 without gaps.
    """
    metric = MEASURES[name]
    estimate = leave_out(lambda rows: metric.value(y[rows], scores[rows]), blocks)
    tail = (1 - LEVEL) / 2
    low, high = max(metric.low, estimate.lower(tail)), min(metric.high, estimate.upper(tail))
    if not all(map(math.isfinite, (estimate.value, low, high, estimate.error))):
        return None
    return Metric(name=name, value=estimate.value, low=low, high=high, rows=len(y))
