"""Training that goes on from a fitted estimator."""

from __future__ import annotations

import copy
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from evergrow.errors import SpecError
from evergrow.spec.updates import PartialFit, Recalibrate, Refit, Update, WarmStart

UPDATE = "spec.training.update"
X = NDArray[np.float32]
Labels = NDArray[np.float64] | NDArray[np.int64]


def gone_on(update: Update, estimator: Any, rows: X, y: Labels) -> Any:
    """The estimator after an update; the one that is given stays as it was.

    Args:
        update: of the document; not a refit.
        estimator: fitted; of a pipeline the last step goes on, by what the steps before it have learnt.
        rows: to go on with, [n, k].
        y: their labels, [n].

    Raises:
        SpecError: the estimator cannot go on in this way.
    """
    match update:
        case Recalibrate():
            return estimator
        case WarmStart():
            return _warm(update, copy.deepcopy(estimator), rows, y)
        case PartialFit():
            return _partial(update, copy.deepcopy(estimator), rows, y)
        case Refit():
            raise ValueError("a refit goes on from nothing")
        case _:
            assert_never(update)


def _warm(update: WarmStart, estimator: Any, rows: X, y: Labels) -> Any:
    last, rows = _last(estimator, rows)
    settings = last.get_params(deep=False)
    if "warm_start" not in settings or type(last).__name__.startswith("HistGradientBoosting"):
        raise SpecError(
            f"{UPDATE}: warm-start needs an estimator that may go on with other rows, found {type(last).__name__}",
            hint="GradientBoosting, forests, LogisticRegression, SGD and MLP do; of HistGradientBoosting scikit-learn "
            "says that going on is valid on the same rows only",
        )
    last.set_params(warm_start=True)
    if "n_estimators" in settings:
        last.set_params(n_estimators=last.n_estimators + update.rounds)
    last.fit(rows, y)
    return estimator


def _partial(update: PartialFit, estimator: Any, rows: X, y: Labels) -> Any:
    last, rows = _last(estimator, rows)
    if not hasattr(last, "partial_fit"):
        raise SpecError(
            f"{UPDATE}: partial-fit needs an estimator with `partial_fit`, found {type(last).__name__}",
            hint="SGDClassifier, SGDRegressor, MLPClassifier, GaussianNB and the like have it",
        )
    for _ in range(update.passes):
        last.partial_fit(rows, y)
    return estimator


def _last(estimator: Any, rows: X) -> tuple[Any, Any]:
    """The step that learns, and the rows as it sees them."""
    from sklearn.pipeline import Pipeline

    if not isinstance(estimator, Pipeline):
        return estimator, rows
    return estimator[-1], estimator[:-1].transform(rows) if len(estimator) > 1 else rows
