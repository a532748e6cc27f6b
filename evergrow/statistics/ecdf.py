"""How far apart are two distributions, such as the scores of two versions? Bounds that hold at every look.

The empirical distribution function of t independent rows of one distribution stays, for all t ≥ m at once and with
probability at least 1 - α, within

    0.85 √((log(log(e t / m)) + 0.8 log(1612 / α)) / t)

of the true one, everywhere: S. R. Howard & A. Ramdas, Sequential estimation of quantiles with applications to A/B
testing and best-arm identification, Bernoulli 28, 2022, Theorem 2 with A = 0.85 and C = 0.8 log(1612 / α), which is a
Dvoretzky-Kiefer-Wolfowitz inequality for all times. Two samples are bounded at α / 2 each, whatever their sizes are.
Rows are taken for independent draws from one distribution each: of rows that share an entity or a request, one is to be
taken, and both samples are to be of the same span of time.

    comparison = compare_values(np.sort(candidate), np.sort(stable), alpha=0.05)
    comparison.verdict(tolerance=0.1)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
Answer = Literal["more", "within", "open"]

LEAST = 100
"""Rows of either sample below which nothing is said."""
MOST_ALPHA = 0.5
"""The constants hold up to half of this for each sample (checked by the theorem's own formula)."""


@dataclass(frozen=True)
class Comparison:
    """The largest difference of two distribution functions, as far as it is known.

    Attributes:
        low: least that the difference of the samples can be, 0 … 1; by counts, that at the cells' ends.
        high: largest that it can be; by values, the same.
        radius: how far the difference of the samples may be from the true one; infinite while rows are too few.
    """

    low: float
    high: float
    radius: float

    def verdict(self, tolerance: float) -> Answer:
        """Whether the true difference is surely more than the tolerance, surely within it, or open."""
        if self.low - self.radius > tolerance:
            return "more"
        return "within" if self.high + self.radius <= tolerance else "open"


def radius(rows: int, alpha: float, least: int = LEAST) -> float:
    """Distance of an empirical distribution function from the true one, at all times with probability 1 - alpha.

    Args:
        rows: so far.
        alpha: in (0, 0.25].
        least: rows from which on it holds; fixed in advance, ≥ 1. The bound is narrowest not long after.

    Returns:
        The bound; infinite below `least` rows.

    >>> round(radius(10_000, 0.025), 4)
    0.0277
    """
    if not 0 < alpha <= MOST_ALPHA / 2:
        raise ValueError(f"`alpha` must be in (0, {MOST_ALPHA / 2}], found {alpha}")
    if least < 1:
        raise ValueError(f"`least` must be at least 1, found {least}")
    if rows < least:
        return math.inf
    return 0.85 * math.sqrt((math.log1p(math.log(rows / least)) + 0.8 * math.log(1612 / alpha)) / rows)


def compare_values(first: Floats, second: Floats, alpha: float, least: int = LEAST) -> Comparison:
    """Compare two samples by their values.

    Args:
        first: rising, [n].
        second: rising, [m].
        alpha: probability that any verdict is ever wrong, in (0, 0.5].
        least: rows of either from which on there are verdicts.

    Raises:
        ValueError: values are not finite or do not rise, `alpha` or `least` is out of range.
    """
    for name, values in (("first", first), ("second", second)):
        if not np.isfinite(values).all():
            raise ValueError(f"`{name}` must be finite, found {values[~np.isfinite(values)][0]}")
        falls = np.flatnonzero(np.diff(values) < 0)
        if len(falls):
            raise ValueError(f"`{name}` must be sorted, found {values[falls[0]]} before {values[falls[0] + 1]}")
    both = np.concatenate([first, second])
    gap = _below(first, both) - _below(second, both)
    distance = float(np.abs(gap).max(initial=0.0))
    return Comparison(distance, distance, _radius(len(first), len(second), alpha, least))


def compare_counts(first: Counts, second: Counts, alpha: float, least: int = LEAST) -> Comparison:
    """Compare two samples by counts in the same cells, in order; counts of many places and times may be added up.

    Within a cell the functions may be apart by more than at its ends: at most by how far one has risen at the right
    end above the other at the left.

    Args:
        first: [cells].
        second: [cells].
        alpha: see `compare_values`.
        least: see `compare_values`.

    Raises:
        ValueError: the cells differ in number, a count is below 0, `alpha` or `least` is out of range.
    """
    if first.shape != second.shape:
        raise ValueError(f"`second` must have a count for each of {len(first)} cells, found {len(second)}")
    for name, counts in (("first", first), ("second", second)):
        if (counts < 0).any():
            raise ValueError(f"`{name}` must be at least 0, found {counts.min()}")
    f, g = (np.append(0.0, np.cumsum(counts)) / max(1, counts.sum()) for counts in (first, second))
    within = np.maximum(f[1:] - g[:-1], g[1:] - f[:-1])
    low, high = float(np.abs(f - g).max()), float(within.max(initial=0.0))
    return Comparison(low, high, _radius(int(first.sum()), int(second.sum()), alpha, least))


def _below(values: Floats, at: Floats) -> Floats:
    """Share of the values that are at most `at`."""
    return np.asarray(np.searchsorted(values, at, side="right") / max(1, len(values)), np.float64)


def _radius(first: int, second: int, alpha: float, least: int) -> float:
    if not 0 < alpha <= MOST_ALPHA:
        raise ValueError(f"`alpha` must be in (0, {MOST_ALPHA}], found {alpha}")
    return radius(first, alpha / 2, least) + radius(second, alpha / 2, least)
