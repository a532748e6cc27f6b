"""How far one distribution is from another, of counts in the same cells.

All take counts (or shares) of a reference and of now, [cells], and are 0 for equal shares. Missing values are left out
by the caller. Where the cells cut a number's range, a distance is that of the two step functions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, rel_entr

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

LEAST = 1e-4
"""Share that an empty cell counts as in the population stability index, whose logarithm has no zero."""


def shares(counts: Counts) -> Floats:
    """Of the whole, float64 [cells]; zeros of nothing."""
    whole = counts.sum()
    return counts / whole if whole else np.zeros(len(counts))


def psi(reference: Counts, now: Counts) -> float:
    """Population stability index, Σ (q - p) ln(q / p), ≥ 0: the Kullback-Leibler divergence, both ways added.

    E. M. Lewis, An Introduction to Credit Scoring, 1994, whose rule of thumb is 0.1 for a slight and 0.25 for a major
    shift. Empty cells count as a share of 1e-4.
    """
    p, q = np.maximum(shares(reference), LEAST), np.maximum(shares(now), LEAST)
    return float(np.sum((q - p) * np.log(q / p)))


def jensen_shannon(reference: Counts, now: Counts) -> float:
    """Jensen-Shannon distance, 0 … 1: root of the divergence, in bits. J. Lin, IEEE Trans. Inf. Theory 37, 1991."""
    p, q = shares(reference), shares(now)
    middle = (p + q) / 2
    divergence = float(np.sum(rel_entr(p, middle) + rel_entr(q, middle))) / 2 / np.log(2)
    return float(np.sqrt(max(0.0, divergence)))


def hellinger(reference: Counts, now: Counts) -> float:
    """Hellinger distance, 0 … 1: ‖√p - √q‖ / √2."""
    return float(np.linalg.norm(np.sqrt(shares(reference)) - np.sqrt(shares(now))) / np.sqrt(2))


def total_variation(reference: Counts, now: Counts) -> float:
    """Largest difference that any set of cells has in probability, 0 … 1: Σ |p - q| / 2."""
    return float(np.abs(shares(reference) - shares(now)).sum() / 2)


def kolmogorov_smirnov(reference: Counts, now: Counts) -> float:
    """Largest difference of the distribution functions at the cells' ends, 0 … 1.

    It misses at most the largest share that a cell has in either.
    """
    return float(np.abs(np.cumsum(shares(reference)) - np.cumsum(shares(now))).max(initial=0.0))


def wasserstein(reference: Counts, now: Counts, ends: Floats) -> float:
    """Earth mover's distance in the column's unit, ≥ 0: the area between the distribution functions.

    Each cell's mass is spread evenly over it: the functions are lines between the ends.

    Args:
        reference: counts, [cells].
        now: counts, [cells].
        ends: of the cells, finite and rising, [cells + 1].
    """
    gap = np.append(0.0, np.cumsum(shares(reference)) - np.cumsum(shares(now)))
    left, right, width = gap[:-1], gap[1:], np.diff(ends)
    crosses = left * right < 0
    away = np.abs(left) + np.abs(right)
    # Where the lines cross within a cell, two triangles instead of a trapezoid.
    area = np.where(crosses, (left**2 + right**2) / np.where(away > 0, away, 1.0), away) / 2
    return float(np.sum(area * width))


def chi_square(reference: Counts, now: Counts) -> tuple[float, float]:
    """Pearson's test that both come from one distribution: the statistic, ≥ 0, and its p-value.

    Rows are taken for independent. Cells that are empty in both are left out.
    """
    there = (reference + now) > 0
    table = np.vstack([reference[there], now[there]]).astype(np.float64)
    sizes = table.sum(axis=1, keepdims=True)
    if there.sum() < 2 or not sizes.all():
        return 0.0, 1.0
    expected = sizes * table.sum(axis=0) / table.sum()
    statistic = float(np.sum((table - expected) ** 2 / expected))
    return statistic, float(chdtrc(int(there.sum()) - 1, statistic))
