"""Losses per row: what a search minimises and a gate compares is their mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# The log of a probability of 0 is infinite; float32 scores reach 0 and 1 by rounding alone.
_EDGE = 1e-7


def log_loss(y: Floats, p: Floats) -> Floats:
    """-log of the probability given to what happened, in nats; probabilities are kept 1e-7 away from 0 and 1."""
    p = np.clip(p, _EDGE, 1 - _EDGE)
    return -np.where(y > 0, np.log(p), np.log1p(-p))


def squared_error(y: Floats, prediction: Floats) -> Floats:
    """Squared difference; of probabilities this is the Brier score."""
    return np.square(y - prediction)


def absolute_error(y: Floats, prediction: Floats) -> Floats:
    """Absolute difference."""
    return np.abs(y - prediction)


def poisson_deviance(y: Floats, prediction: Floats) -> Floats:
    """2 (y log(y/ŷ) - y + ŷ); NaN for a negative label, infinite where a prediction is not above 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        log_ratio = np.where(y > 0, y * np.log(y / prediction), 0.0)
        deviance = np.where(prediction > 0, 2 * (log_ratio - y + prediction), np.inf)
    return np.where(y >= 0, deviance, np.nan)


ROW_LOSSES: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "log_loss": log_loss,
    "brier": squared_error,
    "mae": absolute_error,
    "squared_error": squared_error,
    "poisson_deviance": poisson_deviance,
}
"""By the names that a gate's metric may have."""


def row_losses(metric: str, y: Floats, scores: Floats) -> Floats:
    """The loss of each row, float64 [n].

    Args:
        metric: one of ROW_LOSSES.
        y: labels, [n].
        scores: probabilities or predicted numbers, [n].
    """
    return ROW_LOSSES[metric](y, scores)
