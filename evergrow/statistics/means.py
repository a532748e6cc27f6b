"""Intervals and one-sided bounds for estimates from dependent observations, by blocks of time.

A model's losses of one day resemble each other, and those of the next. An interval that takes rows for independent
is far too short, and a gate built on it promotes by luck. Here rows are summed up by block of time, and the blocks'
long-run variance allows for what correlation is left between them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import digamma, polygamma, stdtr, stdtrit

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

PERSISTENCE = 0.7
"""Correlation from one block to the next that levels are designed for; measured to hold up to 0.6, from 8 blocks on."""
_SAME = 1e-6
"""Variance of logs below which variances are taken for the same."""


@dataclass(frozen=True)
class Estimate:
    """An estimate with its standard error.

    Attributes:
        value: the estimate.
        error: its standard error, ≥ 0.
        freedom: degrees of freedom of Student's t that its error is worth; 0 if there is no error to speak of.
        blocks: blocks of time behind it.
    """

    value: float
    error: float
    freedom: int
    blocks: int

    def lower(self, alpha: float) -> float:
        """The value that the truth lies above with confidence 1 - alpha; -inf from a single block."""
        return self.value - self._reach(alpha)

    def upper(self, alpha: float) -> float:
        """The value that the truth lies below with confidence 1 - alpha; +inf from a single block."""
        return self.value + self._reach(alpha)

    def below(self, limit: float) -> float:
        """p-value of the truth being `limit` or more, small if it is surely below; 1 from a single block."""
        if self.freedom < 1:
            return 1.0
        if self.error == 0:
            return float(self.value >= limit)
        return float(stdtr(self.freedom, (self.value - limit) / self.error))

    def _reach(self, alpha: float) -> float:
        if self.freedom < 1:
            return float("inf")
        return float(stdtrit(self.freedom, 1 - alpha)) * self.error


def estimate(value: float, influence: Floats) -> Estimate:
    """Standard error of `value` from what each block, in order of time, contributes to it.

    The long-run variance is the mean square of the first B = 0.4 T^(2/3) cosine transforms of the contributions
    (equal-weighted cosine estimator), and (value - truth) / error is Student's t with B degrees of freedom:
    E. Lazarus, D. Lewis, J. Stock & M. Watson, HAR inference: recommendations for practice, Journal of Business &
    Economic Statistics 36, 2018. With few blocks those frequencies are not close to zero and the estimate is biased
    down; it is divided by what it would expect of an AR(1) of correlation PERSISTENCE, relative to the truth.

    Args:
        value: the estimate.
        influence: T contributions, whose mean is `value` up to a constant.

    >>> estimate(0.0, np.zeros(30)).error
    0.0
    """
    blocks = len(influence)
    if blocks < 2:
        return Estimate(value, float("inf"), 0, blocks)
    freedom = max(1, round(0.4 * blocks ** (2 / 3)))
    angle = np.pi * np.arange(1, freedom + 1)[:, None] / blocks
    transforms = np.sqrt(2 / blocks) * np.cos(angle * (np.arange(blocks) + 0.5)) @ influence
    seen = (1 - PERSISTENCE) ** 2 / (1 - 2 * PERSISTENCE * np.cos(angle) + PERSISTENCE**2)
    variance = float(np.mean(transforms**2) / np.mean(seen))
    return Estimate(value, float(np.sqrt(variance / blocks)), freedom, blocks)


def mean(values: Floats, blocks: Ints) -> Estimate:
    """The mean over rows, each weighing the same; a block's contribution is linear in its sum and its rows.

    Args:
        values: float64 [n], n ≥ 1.
        blocks: the block of each row, 0 … T - 1 in order of time, none empty.
    """
    rows = np.bincount(blocks)
    value = float(values.mean())
    sums = np.bincount(blocks, weights=values - value)
    return estimate(value, sums / rows.mean())


def alike(estimates: Sequence[Estimate]) -> list[Estimate]:
    """The same estimates, of stretches of time that are alike, with errors that the other stretches tell of, too.

    A block's variance is a mean of the stretch's own and of one that is common to all. What the common one weighs is
    read off how much the stretches differ: G. Smyth, Linear models and empirical Bayes methods for assessing
    differential expression in microarray experiments, Statistical Applications in Genetics and Molecular Biology 3,
    2004, sections 3 and 6.2. A stretch that is more restless than that keeps its own. Errors of 0 tell nothing.

    Args:
        estimates: each with freedom.
    """
    if len(estimates) < 2 or min(one.error for one in estimates) == 0:
        return list(estimates)
    freedom = np.array([one.freedom for one in estimates], np.float64)
    own = np.array([one.error**2 * one.blocks for one in estimates])
    worth, common = _common(own, freedom)
    variances = np.maximum(own, (worth * common + freedom * own) / (worth + freedom))
    worths = np.minimum(worth + freedom, freedom.sum()).astype(int)
    return [
        replace(one, error=float(np.sqrt(variance / one.blocks)), freedom=int(total))
        for one, variance, total in zip(estimates, variances, worths, strict=True)
    ]


def _common(variances: Floats, freedom: Floats) -> tuple[float, float]:
    """Degrees of freedom that a common variance is worth, and that variance, by the moments of the variances' logs."""
    logs = np.log(variances) - digamma(freedom / 2) + np.log(freedom / 2)
    spread = max(float(np.var(logs, ddof=1) - polygamma(1, freedom / 2).mean()), _SAME)
    half = brentq(lambda h: float(polygamma(1, h)) - spread, 1e-6, 2 / _SAME)
    return 2 * half, float(np.exp(logs.mean() + digamma(half) - np.log(half)))


def leave_out(statistic: Callable[[Ints], float], blocks: Ints) -> Estimate:
    """Any smooth statistic, its contributions found by leaving out block after block (jackknife pseudo-values).

    B. Efron & C. Stein, The jackknife estimate of variance, Annals of Statistics 9, 1981.

    Args:
        statistic: its value over rows given by their positions.
        blocks: the block of each row, 0 … T - 1 in order of time, none empty.
    """
    everything = np.arange(len(blocks))
    value, count = statistic(everything), int(np.max(blocks)) + 1
    if count < 2:
        return estimate(value, np.zeros(count))
    without = np.array([statistic(everything[blocks != b]) for b in range(count)])
    return estimate(value, (count - 1) * (without.mean() - without))


def time_blocks(seconds: NDArray[np.int64], length: float, at_most: int | None = None) -> Ints:
    """Number the blocks of time that rows fall into, in order and without gaps, [n].

    Args:
        seconds: instants since any origin, [n].
        length: length of a block in seconds; blocks start at multiples of it.
        at_most: neighbouring blocks are joined until there are no more than this.

    >>> time_blocks(np.array([0, 10, 86400, 864000]), 86400).tolist()
    [0, 0, 1, 2]
    """
    _, numbers = np.unique(seconds // int(length), return_inverse=True)
    count = int(np.max(numbers, initial=0)) + 1
    if at_most is not None and count > at_most:
        numbers = numbers // -(-count // at_most)
    return numbers.astype(np.intp)
