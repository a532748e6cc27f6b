"""Where a series changed last: the newest stretch of it in which no change is seen."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr

Floats = NDArray[np.float64]

LEAST = 7
"""Blocks that a stretch has at least: of fewer, nobody knows how they vary."""
MOST_CORRELATED = 0.9
CAUTION = 0.5
"""Standard errors that are added to a correlation."""


def last_change(means: Floats, alpha: float, least: int = LEAST) -> int:
    """First block of the newest stretch within which no change of the mean is seen.

    A window that grows while its older and its newer part do not differ, and is cut where they do, is ADWIN's: A. Bifet
    & R. Gavaldà, Learning from time-changing data with adaptive windowing, SDM 2007. Its bound takes rows for
    independent and losses for bounded; here blocks of time take that part: each split of the window is tested by
    Student's t on blocks from which the autocorrelation of order one was removed, Bonferroni's correction over all
    splits and windows. Windows grow from the newest block, so that what changed and went back again is seen; the first
    one that has changed is cut at the split with the smallest p-value, and what is left is looked at again.

    Of AR(1) series of 20 to 365 blocks that do not change, 1 % are cut at alpha 0.05 if they are not correlated, and
    5 to 8 % if neighbours are by 0.6 (600 series each).

    Args:
        means: of blocks of equal length in the order of time, such as the loss of one model on each day, [T].
        alpha: probability of a cut where nothing has changed, for each window that is looked at, in (0, 1).
        least: blocks that are kept at least, and that a part has at least that is compared; 3 or more.

    Returns:
        In [0, T - least], or 0 where there are fewer than 2 `least` blocks.

    Raises:
        ValueError: `means` is not finite, or an argument is out of its range.
    """
    if means.ndim != 1 or not np.isfinite(means).all():
        raise ValueError("`means` must be finite numbers, [T]")
    if not 0 < alpha < 1:
        raise ValueError(f"`alpha` must be in (0, 1), found {alpha}")
    if least < 3:
        raise ValueError(f"`least` must be at least 3, found {least}")
    lengths, correlation = windows(len(means), least), correlation_of(means)
    for length in lengths:
        at, p_value = strongest(means[-length:], correlation, least)
        if p_value <= alpha / len(lengths):
            first = len(means) - length + at
            return first + last_change(means[first:], alpha, least)
    return 0


def windows(total: int, least: int = LEAST) -> list[int]:
    """Lengths of the windows that are looked at, each about 1.4 times the one before.

    >>> windows(90), windows(13)
    ([14, 20, 28, 40, 56, 79, 90], [])
    """
    found = []
    length = 2.0 * least
    while length < total:
        found.append(round(length))
        length *= np.sqrt(2)
    return [*found, total] if total >= 2 * least else []


def strongest(means: Floats, correlation: float = 0.0, least: int = LEAST) -> tuple[int, float]:
    """The split of a window that is the least likely by chance, and its p-value over all splits; (0, 1.0) of none.

    Args:
        means: of the window's blocks, [T].
        correlation: of neighbouring blocks.
        least: blocks of a part.
    """
    total = len(means)
    splits = np.arange(least, total - least + 1)
    if not len(splits):
        return 0, 1.0
    # Each block less what the one before says of it: a change of the mean is one of 1 - correlation as much.
    whitened = means.copy()
    whitened[1:] -= correlation * means[:-1]
    whitened[0] *= 1 - correlation
    t = np.abs(_t(whitened, splits))
    best = int(np.argmax(t))
    return int(splits[best]), float(min(1.0, 2 * stdtr(total - 3, -t[best]) * len(splits)))


def correlation_of(means: Floats) -> float:
    """Of neighbouring blocks, in [0, MOST_CORRELATED], by differences, which a change of the mean hardly touches.

    Of an AR(1), the mean squares of differences over one block and over two are as 1 to 1 + correlation; so they are
    without the largest tenth of each, which is where steps are. Somewhat more is taken, by its standard error: too
    little would have chance look like change.
    """
    if len(means) < 3:
        return 0.0
    one, two = _mean_square(np.diff(means)), _mean_square(means[2:] - means[:-2])
    found = two / one - 1 if one > 0 else 0.0
    return float(np.clip(found + CAUTION / np.sqrt(len(means)), 0.0, MOST_CORRELATED))


def _mean_square(values: Floats) -> float:
    """Without the largest tenth."""
    return float(np.sort(values**2)[: max(1, int(0.9 * len(values)))].mean())


def _t(values: Floats, splits: NDArray[np.int64]) -> Floats:
    """Student's two-sample t of each split, pooled variance; 0 where nothing varies and nothing differs."""
    total, sums, squares = len(values), np.cumsum(values), np.cumsum(values**2)
    older, newer = splits, total - splits
    before, after = sums[splits - 1] / older, (sums[-1] - sums[splits - 1]) / newer
    within = squares[-1] - older * before**2 - newer * after**2
    # What is left of sums of squares by rounding is no variance.
    within = np.where(within > 1e-12 * squares[-1], within, 0.0)
    error = np.sqrt(within / (total - 2) * (1 / older + 1 / newer))
    difference = after - before
    same = np.abs(difference) <= 1e-9 * np.sqrt(squares[-1] / total)
    return np.where(same, 0.0, np.divide(difference, error, out=np.full_like(error, np.inf), where=error > 0))
