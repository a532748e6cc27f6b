"""Whether a new day is like the days before, when days differ by more than the chance of their rows.

A test that takes a day's rows for independent calls every day of a busy service unusual. Here the days of a reference
tell how much days differ, and a new one is held against that: Student's prediction of one more observation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import pdtr, pdtrc, stdtr

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

FEWEST = 8
"""Days of a reference below which nothing is called unusual."""


def prediction(value: float, history: Floats) -> float:
    """Probability that one more observation lies at least this high: (x - mean) / (s √(1 + 1/n)) is t with n - 1.

    Args:
        value: the new one.
        history: those before, [n ≥ 2], independent and about normal.

    Returns:
        The one-sided p-value; 0 or 1 if the history does not vary and the value is another, ½ if it is the same.

    >>> round(prediction(3.0, np.array([-1.0, 0.0, 1.0])), 3)
    0.061
    """
    n, gap = len(history), value - float(np.mean(history))
    error = float(np.std(history, ddof=1)) * math.sqrt(1 + 1 / n)
    if error <= 1e-12 * max(1.0, abs(value)):
        return 0.5 if abs(gap) <= 1e-12 * max(1.0, abs(value)) else float(gap < 0)
    return float(stdtr(n - 1, -gap / error))


def high_distance(value: float, history: Floats) -> float:
    """p-value of a distance as large as this, given those of the reference's days to the reference, [n].

    A divergence of counts is about a multiple of a chi-square, and the cube root of that about normal: E. B. Wilson &
    M. M. Hilferty, The distribution of chi-square, PNAS 17, 1931; the multiple takes up how much days differ.
    """
    return prediction(math.copysign(abs(value) ** (1 / 3), value), np.cbrt(history))


def high_count(value: float, history: Sequence[float] | Floats, two_sided: bool = False) -> float:
    """p-value of a day's number of rows this high, or this far off, given those of days before.

    The larger of two: what the differences of the days say (by logarithms), and what chance alone says (Poisson's, of
    their mean). The second has a say where all days have the same number.
    """
    before = np.asarray(history, np.float64)
    mean = float(before.mean())
    days = prediction(math.log1p(value), np.log1p(before))
    at_least = float(pdtrc(value - 1, mean)) if value >= 1 else 1.0
    above, below = max(days, at_least), max(1 - days, float(pdtr(value, mean)))
    return min(1.0, 2 * min(above, below)) if two_sided else above


def high_share(count: int, rows: int, counts: Counts, sizes: Counts) -> float:
    """p-value of a share as high as count / rows, given those of the reference's days.

    The larger of two: what the differences of the days say (Student's prediction of arcsin √share, whose variance does
    not depend on the share: F. J. Anscombe, Biometrika 35, 1948), and what the chance of rows alone says (the
    beta-binomial that the days together predict, from Jeffreys' prior). The second has a say where all days are at 0.

    Args:
        count: rows that have it today.
        rows: rows of today, ≥ count.
        counts: rows that had it, per day of the reference, [n ≥ 2].
        sizes: rows per day of the reference, [n].
    """
    from scipy.stats import betabinom

    by_days = prediction(_arcsine(count, rows), np.array([_arcsine(k, n) for k, n in zip(counts, sizes, strict=True)]))
    k, n = int(counts.sum()), int(sizes.sum())
    by_rows = float(betabinom.sf(count - 1, rows, k + 0.5, n - k + 0.5)) if rows else 1.0
    return max(by_days, by_rows)


def wilson(count: int, rows: int) -> tuple[float, float]:
    """95 % interval of a share (rows taken for independent). E. B. Wilson, JASA 22, 1927; (0, 1) of no rows."""
    if not rows:
        return 0.0, 1.0
    z, share = 1.959963984540054, count / rows
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return max(0.0, middle - half), min(1.0, middle + half)


def _arcsine(count: int, rows: int) -> float:
    return math.asin(math.sqrt((count + 3 / 8) / (rows + 3 / 4)))
