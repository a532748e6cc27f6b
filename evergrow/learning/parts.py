"""The parts of a training set: fitted on, calibrated on, held out. They follow each other in time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT, Task, TrainingSet
from evergrow.data.references import set_aside
from evergrow.errors import DataError, NotEnoughData


@dataclass(frozen=True)
class Parts:
    """Rows by what they are for; labels of `fit` were known when `calibration` began, and so on.

    `set_aside` are rows before the holdout that nothing is fitted or calibrated on, by the training set's rule.
    """

    fit: pd.DataFrame
    calibration: pd.DataFrame
    holdout: pd.DataFrame
    set_aside: pd.DataFrame


def split(about: TrainingSet, rows: pd.DataFrame, *, calibrates: bool = True) -> Parts:
    """Cut at the training set's bounds, leaving out rows whose label came after the part that they are in.

    Without that, the fit would know what nobody knew at the instant it plays to stand at.

    Args:
        about: names the bounds.
        rows: all rows.
        calibrates: whether calibration or a search needs rows of its own; if not, they are fitted on.
    """
    asked, known = rows[EVENT_TIMESTAMP], rows[KNOWN_AT]
    second = pd.Timestamp(about.holdout_from)
    first = pd.Timestamp(about.calibration_from) if calibrates else second
    aside = set_aside(rows, about.set_aside)
    return Parts(
        fit=rows[(asked < first) & (known <= first) & ~aside],
        calibration=rows[(asked >= first) & (asked < second) & (known <= second) & ~aside],
        holdout=rows[asked >= second],
        set_aside=rows[(asked < second) & aside],
    )


def labels(about: TrainingSet, rows: pd.DataFrame) -> NDArray[np.float64]:
    """The labels as numbers, float64 [n].

    Raises:
        DataError: one is missing, not finite, or neither 0 nor 1 in a classification.
    """
    try:
        y = rows[about.label].to_numpy(dtype=np.float64, na_value=math.nan)
    except (TypeError, ValueError) as error:
        raise DataError(f"label `{about.label}`: must be numbers, {error}", data=[error]) from error
    if unknown := int((~np.isfinite(y)).sum()):
        raise DataError(f"label `{about.label}`: must be known and finite, found {unknown:,} rows where it is not")
    if about.task == "binary-classification" and not np.isin(y, (0, 1)).all():
        wrong = y[~np.isin(y, (0, 1))][0]
        raise DataError(f"label `{about.label}`: must be 0 or 1, found {wrong:g}", data=[f"found {wrong:g}"])
    return y


def check_fit(task: Task, label: str, y: NDArray[np.float64], part: str, needed: int = 2) -> None:
    """Refuse to fit on nothing, or on one class.

    Raises:
        NotEnoughData: says which part and what it holds.
    """
    if len(y) < needed:
        raise NotEnoughData(
            f"{part}: needs at least {needed} labelled rows, found {len(y)}",
            hint="train as of a later instant, or shorten evaluation.holdout and training.calibrationLength",
        )
    if task == "binary-classification" and len(np.unique(y)) < 2:
        raise NotEnoughData(f"{part}: needs both classes, found only {label} = {y[0]:g} in {len(y):,} rows")
