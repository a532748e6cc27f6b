"""Curves and tables of a report: plain finite numbers, ready for JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evergrow.evaluation.metrics import BINS, bins_of_equal_rows, cumulative
from evergrow.learning.bundle import Score
from evergrow.learning.losses import row_losses

Floats = NDArray[np.float64]

ROC_POINTS = 200
IMPORTANCE_ROWS = 1000
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


def roc(y: Floats, scores: Floats) -> dict[str, Any]:
    """False and true positive rates by falling threshold, at most ROC_POINTS, from (0, 0) to (1, 1).

    The first threshold is 1: nothing scores above it. (scikit-learn's is infinite, which JSON and Kubeflow refuse.)
    Nothing if there is one class only.
    """
    positives = float(y.sum())
    negatives = len(y) - positives
    if not positives or not negatives:
        return {}
    thresholds, true, false = cumulative(y, scores)
    keep = np.unique(np.linspace(0, len(true) - 1, ROC_POINTS - 1).astype(int))
    return {
        "fpr": [0.0, *(false[keep] / negatives).tolist()],
        "tpr": [0.0, *(true[keep] / positives).tolist()],
        "thresholds": [max(1.0, float(thresholds[0])), *thresholds[keep].tolist()],
    }


def calibration(y: Floats, scores: Floats) -> dict[str, Any]:
    """Mean score and share of positives per decile of the scores: equal where probabilities are right."""
    bins = bins_of_equal_rows(scores)
    rows = np.bincount(bins, minlength=BINS)
    filled = rows > 0
    mean = {
        name: (np.bincount(bins, weights=values, minlength=BINS)[filled] / rows[filled]).tolist()
        for name, values in (("predicted", scores), ("observed", y))
    }
    return {**mean, "rows": rows[filled].tolist()}


def confusion(y: Floats, scores: Floats, threshold: float) -> dict[str, Any]:
    """Counts by true label (rows) and by whether the score reaches the threshold (columns)."""
    called = scores >= threshold
    matrix = [[int(np.sum((y == label) & (called == bool(call)))) for call in (0, 1)] for label in (0, 1)]
    return {"labels": ["0", "1"], "matrix": matrix, "threshold": threshold}


def residuals(y: Floats, predictions: Floats) -> dict[str, Any]:
    """Quantiles of label - prediction."""
    return {"quantiles": list(QUANTILES), "values": np.quantile(y - predictions, QUANTILES).tolist()}


def importance(
    score: Score, X: NDArray[np.float32], y: Floats, names: Sequence[str], metric: str, seed: int
) -> Mapping[str, float]:
    """How much the mean loss rises when one feature is shuffled among the rows, greatest first.

    L. Breiman, Random forests, Machine Learning 45, 2001. At most IMPORTANCE_ROWS rows, evenly spread over time.
    """
    random = np.random.default_rng(seed)
    rows = np.unique(np.linspace(0, len(X) - 1, IMPORTANCE_ROWS).astype(int))
    X, y = X[rows], y[rows]
    order = random.permutation(len(X))
    shuffled = np.repeat(X[None], len(names), axis=0)
    for j in range(len(names)):
        shuffled[j, :, j] = X[order, j]
    scores = score(shuffled.reshape(-1, X.shape[1])).reshape(len(names), len(X))
    before = row_losses(metric, y, score(X)).mean()
    rises = {name: float(row_losses(metric, y, s).mean() - before) for name, s in zip(names, scores, strict=True)}
    return dict(sorted(rises.items(), key=lambda item: -item[1]))
