"""How scores become probabilities: a function of the score, fitted on calibration rows and stored as numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A float32 probability cannot tell itself from 1 any closer than this.
_EDGE = 1e-7


def logit(p: Floats) -> Floats:
    """Log odds of probabilities, which are kept 1e-7 away from 0 and 1."""
    p = np.minimum(np.maximum(p, _EDGE), 1 - _EDGE)  # np.clip costs a single request twice as much
    odds: Floats = np.log(p / (1 - p))
    return odds


def calibrator(numbers: Mapping[str, Any]) -> Callable[[Floats], Floats]:
    """The function that stored numbers describe.

    `sigmoid`: 1 / (1 + exp(slope · logit(p) + intercept)). `isotonic`: linear between `thresholds`, constant beyond.

    >>> calibrator({"kind": "isotonic", "thresholds": [0.2, 0.6], "values": [0.0, 1.0]})(np.array([0.1, 0.4, 0.9]))
    array([0. , 0.5, 1. ])
    """
    if numbers["kind"] == "sigmoid":
        slope, intercept = numbers["slope"], numbers["intercept"]
        return lambda p: 1.0 / (1.0 + np.exp(slope * logit(p) + intercept))
    if numbers["kind"] == "isotonic":
        thresholds, values = np.asarray(numbers["thresholds"]), np.asarray(numbers["values"])
        return lambda p: np.interp(p, thresholds, values)
    return lambda p: p


def fit_sigmoid(scores: Floats, labels: Floats) -> dict[str, Any]:
    """Platt scaling of the log odds with his smoothed targets, by Newton's method.

    The targets (n₊ + 1)/(n₊ + 2) and 1/(n₋ + 2) keep a separable set from infinite slopes.
    J. Platt, Probabilistic outputs for support vector machines, 1999; Newton steps with backtracking as in
    Lin, Lin & Weng, A note on Platt's probabilistic outputs, Machine Learning 68, 2007.
    """
    positive = labels > 0
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    target = np.where(positive, (n_positive + 1) / (n_positive + 2), 1 / (n_negative + 2))
    design = np.stack([-logit(scores), -np.ones_like(scores)], axis=1)  # sigmoid(design · (slope, intercept))
    beta = np.array([0.0, np.log((n_negative + 1) / (n_positive + 1))])
    for _ in range(100):
        p = 1 / (1 + np.exp(-design @ beta))
        gradient = design.T @ (p - target)
        hessian = (design * (p * (1 - p))[:, None]).T @ design + 1e-12 * np.eye(2)
        step = _backtrack(design, target, beta, gradient, np.linalg.solve(hessian, gradient))
        beta = beta - step
        if np.abs(step).max() < 1e-10:
            break
    return {"kind": "sigmoid", "slope": float(beta[0]), "intercept": float(beta[1])}


def _backtrack(design: Floats, target: Floats, beta: Floats, gradient: Floats, step: Floats) -> Floats:
    """The Newton step, halved until it lowers the cross-entropy (Armijo's rule)."""

    def loss(b: Floats) -> float:
        z = design @ b
        return float(np.sum(np.logaddexp(0, z) - target * z))

    before = loss(beta)
    for _ in range(30):
        if loss(beta - step) <= before - 1e-4 * float(gradient @ step):
            break
        step = step / 2
    return step


def fit_isotonic(scores: Floats, labels: Floats) -> dict[str, Any]:
    """The non-decreasing step function of least squares (pool adjacent violators), joined by lines.

    B. Zadrozny & C. Elkan, Transforming classifier scores into accurate multiclass probability estimates, KDD 2002.
    """
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(scores, labels)
    return {
        "kind": "isotonic",
        "thresholds": fitted.X_thresholds_.astype(float).tolist(),
        "values": fitted.y_thresholds_.astype(float).tolist(),
    }


def fit_calibration(kind: str, scores: Floats, labels: Floats) -> dict[str, Any]:
    """Fit one of none, sigmoid and isotonic on uncalibrated probabilities and 0/1 labels, both [n]."""
    if kind == "sigmoid":
        return fit_sigmoid(scores, labels)
    if kind == "isotonic":
        return fit_isotonic(scores, labels)
    return {"kind": "none"}
