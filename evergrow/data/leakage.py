"""Features that tell the label too well to be known before it: suspects, for a person to look at."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

AUC_LIMIT = 0.9
"""A feature that alone ranks labels this well (or, mirrored, this badly) is suspect."""
RHO_LIMIT = 0.98
"""The same of a regression, as Spearman's rank correlation: yesterday's count may honestly reach 0.95."""
MISSING_LIMIT = 0.8
"""Probability that a row lacking the feature has the higher label than one that has it, or the lower one."""
DELAY_LIMIT = 0.99
"""Rank correlation with the time from question to label. Planned durations honestly come close to it."""
FEWEST_ROWS = 30


class Suspect(NamedTuple):
    """A feature, the rule it met, and the figure."""

    feature: str
    rule: str
    value: float
    reason: str


def suspects(features: pd.DataFrame, y: Floats, delay: Floats, binary: bool) -> list[Suspect]:
    """All suspects among the columns of `features`, in their order.

    Args:
        features: one column per feature; numeric ones as numbers, others as they are.
        y: labels [n].
        delay: seconds from the question to when the label became known [n].
        binary: labels are 0 and 1.
    """
    return [suspect for name in features for suspect in _suspects_of(str(name), features[name], y, delay, binary)]


def _suspects_of(name: str, column: pd.Series, y: Floats, delay: Floats, binary: bool) -> Iterator[Suspect]:
    strength, limit = power(column, y, binary), AUC_LIMIT if binary else RHO_LIMIT
    if strength >= limit:
        told = f"alone it ranks labels with AUC {strength:.3f}" if binary else f"rank correlation {strength:.3f}"
        yield Suspect(name, "predicts alone", strength, f"{told}, suspect from {limit:g}{_equals(column, y)}")
    absent = column.isna().to_numpy()
    concordance = missing_power(absent, y)
    if concordance >= MISSING_LIMIT:
        reason = f"mean label {y[absent].mean():.3g} where it is missing, {y[~absent].mean():.3g} where it is not"
        yield Suspect(name, "missing tells", concordance, reason)
    if pd.api.types.is_numeric_dtype(column):
        rho = abs(spearman(numbers(column), delay))
        if rho >= DELAY_LIMIT:
            reason = f"rank correlation {rho:.3f} with how long the label took, suspect from {DELAY_LIMIT:g}"
            yield Suspect(name, "follows the label's delay", rho, reason)


def _equals(column: pd.Series, y: Floats) -> str:
    if not pd.api.types.is_numeric_dtype(column):
        return ""
    values = numbers(column)
    share = float(np.mean(np.isclose(values, y)))
    return f"; equals the label in {100 * share:.1f} % of rows" if share >= 0.5 else ""


def power(column: pd.Series, y: Floats, binary: bool) -> float:
    """How well one feature alone ranks labels: AUC in 0.5…1, or |Spearman's rho| in 0…1; missing left out.

    Levels of a categorical feature are scored by their mean label in the other half of the rows, for otherwise a
    level of one row would tell its label. NaN if it cannot be told.
    """
    score = numbers(column) if pd.api.types.is_numeric_dtype(column) else level_means(column, y)
    here = np.isfinite(score)
    if here.sum() < FEWEST_ROWS:
        return math.nan
    if not binary:
        return abs(spearman(score[here], y[here]))
    area = auc(y[here] > 0, score[here])
    return max(area, 1 - area)


def missing_power(absent: NDArray[np.bool_], y: Floats) -> float:
    """Probability, in 0.5…1, that labels of rows with and without the value are ordered one way, ties half."""
    if min(absent.sum(), (~absent).sum()) < FEWEST_ROWS:
        return math.nan
    area = auc(absent, y)
    return max(area, 1 - area)


def auc(positive: NDArray[np.bool_], scores: Floats) -> float:
    """Probability that a positive row scores above another, ties half (Mann and Whitney, 1947).

    >>> auc(np.array([False, True, True]), np.array([1.0, 1.0, 2.0]))
    0.75
    """
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return math.nan
    return float((ranks(scores)[positive].sum() - n * (n + 1) / 2) / (n * m))


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation over the rows where both are numbers; NaN if one of them is constant.

    >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0])), 12)
    1.0
    """
    both = np.isfinite(a) & np.isfinite(b)
    if both.sum() < 2:
        return math.nan
    x, z = ranks(a[both]), ranks(b[both])
    x, z = x - x.mean(), z - z.mean()
    scale = math.sqrt(float(x @ x) * float(z @ z))
    return float(x @ z) / scale if scale else math.nan


def ranks(values: Floats) -> Floats:
    """Ranks from 1, equal values sharing their mean rank."""
    return pd.Series(values).rank().to_numpy(np.float64)


def level_means(column: pd.Series, y: Floats) -> Floats:
    """Per row the mean label of its level over every second row that it is not itself among; NaN if there is none."""
    codes, levels = pd.factorize(column)
    even = np.arange(len(codes)) % 2 == 0
    scores = np.full(len(codes), np.nan)
    for half in (even, ~even):
        known = ~half & (codes >= 0)
        rows = np.bincount(codes[known], minlength=len(levels))
        sums = np.bincount(codes[known], weights=y[known], minlength=len(levels))
        means = np.divide(sums, rows, out=np.full(len(levels), np.nan), where=rows > 0)
        asked = half & (codes >= 0)
        scores[asked] = means[codes[asked]]
    return scores


def numbers(column: Any) -> Floats:
    """A numeric column as floats, missing as NaN."""
    values: Floats = column.to_numpy(np.float64, na_value=np.nan)
    return values
