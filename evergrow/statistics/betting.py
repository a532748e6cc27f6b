"""Is a mean above its limit? Evidence that may be looked at after every block, and a decision at any of them.

A gambler starts with a capital of 1 and bets on each value x that it exceeds the null: capital × (1 + λ (x - null)).
While the mean is at most the null no bet gains on average, so the capital is a supermartingale from 1, and the
probability that it ever reaches 1/α is at most α (Ville's inequality): exact at any sample size, at any time, for any
distribution that is bounded on the side where the bet can lose. G. Shafer, Testing by betting, JRSS-A 184, 2021;
I. Waudby-Smith & A. Ramdas, Estimating means of bounded random variables by betting, JRSS-B 86, 2024.

The values are those of an experiment: request i goes to the candidate with a known probability p_i, and

    x_i = (A_i / p_i - (1 - A_i) / (1 - p_i)) (Y_i - m)

has mean τ_i, what the candidate does to the outcome of request i, whatever the outcomes are and however they hang
together: only the draw A_i is random (D. W. Ham, I. Bojinov, M. Lindon & M. Tingley, Design-based confidence sequences,
2022). Hence the one condition: **one value for each independent draw.** Rows that share a draw, as those of one request
or of one entity within a block do, are first averaged by `unit_means`. Draws that are kept from block to block make the
later blocks no news, and such a test rejects harmless candidates (tested): of an entity that keeps its version, only
the first block counts. The mean of a whole block is a valid value too, whatever hangs together within it; but a bet on
it has to be as small as one on a single row, which is n times too timid if its n rows were drawn one by one.

    test = PlannedTest(effect=0.02, variance=0.36, bounds=extremes((0.05, 0.5), 0.1, 0.0, 1.0))
    state = test.start()
    x = differences(assigned, propensity, outcome, centre=0.1)
    state = test.step(state, x, overlap(propensity))  # once a block; `state` is small, and JSON in between
    test.verdict(state), test.interval(state, alpha=0.1)

**Bets are fixed in advance.** What is claimed on rejection is that the weighted mean of the effects so far is above the
null, even where effects change with time: a capital of fixed bets is at most exp(λ Σ w (τ - null)) times a martingale,
so where the running mean is at most the null, it is no higher than that martingale. Bets that follow what was seen may
grow rich on effects that swing around a mean of zero. They would protect only the null that no effect is above it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr, ndtri

from evergrow.contracts import Value

Floats = NDArray[np.float64]
Alternative = Literal["greater", "less"]
Answer = Literal["greater", "less", "inconclusive", "open"]

MULTIPLES = (1.0, 2.0, 4.0)
"""Effects that are bet on, in planned ones."""
SHARES = (0.5, 0.25, 0.25)
"""Of the capital on each: half on the planned effect decides as fast as a test of fixed size, or faster (tested)."""
LIMIT = 0.5
"""Share of its capital that a bet may lose on one value."""
FURTHER = (-32, -16, -8, -4, -2, -1, 1, 2, 4, 8, 16)
"""Nulls against which the same bets are kept too, for bounds of the mean: in planned effects from the null."""
_SAFE = 0.9  # share of its capital that a bet may lose against a further null


# --- values


def differences(
    assigned: ArrayLike,
    propensity: ArrayLike,
    outcome: ArrayLike,
    centre: ArrayLike,
    low: float = -math.inf,
    high: float = math.inf,
) -> Floats:
    """What each row says of the candidate's effect on the outcome: (A/p - (1-A)/(1-p)) (Y - m), [n].

    Args:
        assigned: whether the candidate's answer was given, [n] of 0 or 1.
        propensity: probability of that as it was drawn, in (0, 1), [n] or one for all.
        outcome: loss, error or whatever is compared, [n]; cut off at `low` and `high`.
        centre: a number known before the draws, such as the mean outcome of earlier blocks or a prediction of this
            outcome from what the request holds, [n] or one for all. The closer, the less the values vary; any is right.
        low: least outcome.
        high: largest outcome.

    Raises:
        ValueError: an assignment is neither 0 nor 1, a propensity is not in (0, 1), a number is not finite.

    >>> differences([1, 0], 0.5, [1.0, 1.0], 0.2).tolist()
    [1.6, -1.6]
    """
    a, p, m = (np.asarray(values, np.float64) for values in (assigned, propensity, centre))
    y = np.clip(np.asarray(outcome, np.float64), low, high)
    _require(np.isin(a, (0, 1)), "assigned", "0 or 1", a)
    _require((p > 0) & (p < 1), "propensity", "in (0, 1)", p)
    _require(np.isfinite(y), "outcome", "finite", y)
    _require(np.isfinite(m), "centre", "finite", m)
    return np.asarray((a / p - (1 - a) / (1 - p)) * (y - m), np.float64)


def overlap(propensity: ArrayLike) -> Floats:
    """Weight of a row: 4 p (1 - p), from 0 to 1. How precise its value is, relative to one drawn half and half.

    Evidence goes on from one step of a rollout to the next: the same bet suits every p once values are weighted so.
    The effect is then that on rows where either version might have answered (overlap weights: F. Li, K. Morgan & A.
    Zaslavsky, Balancing covariates via propensity score weighting, JASA 113, 2018).
    """
    p = np.asarray(propensity, np.float64)
    return np.asarray(4 * p * (1 - p), np.float64)


def extremes(propensity: ArrayLike, centre: ArrayLike, low: float, high: float) -> tuple[float, float]:
    """Least and largest that weight × value can be, weights being `overlap`'s: 4 (A - p) (Y - m).

    Args:
        propensity: every one that is planned.
        centre: every one that may be used; [low, high] if that is not known.
        low: least outcome.
        high: largest outcome.

    >>> extremes(0.5, 0.0, 0.0, 1.0)
    (-2.0, 2.0)
    """
    p, m = np.meshgrid(np.asarray(propensity, np.float64), np.asarray(centre, np.float64))
    above, below = high - m, m - low
    least = -np.maximum((1 - p) * below, p * above)
    return 4 * float(least.min()), 4 * float(np.maximum((1 - p) * above, p * below).max())


def unit_means(values: Floats, units: NDArray[np.int64]) -> Floats:
    """Mean of the values of each unit, [units], in order of their labels; a unit is what shares a draw, or a block.

    >>> unit_means(np.array([1.0, 3.0, 5.0]), np.array([7, 7, 9])).tolist()
    [2.0, 5.0]
    """
    _, number = np.unique(units, return_inverse=True)
    return np.asarray(np.bincount(number, weights=values) / np.bincount(number), np.float64)


def numbered(blocks: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where each block begins, [blocks], and the number of the block of each row, from 0 on, [n]; blocks do not fall.

    >>> [found.tolist() for found in numbered(np.array([7, 7, 9]))]
    [[0, 2], [0, 0, 1]]
    """
    new = np.ones(len(blocks), bool)
    new[1:] = blocks[1:] != blocks[:-1]
    return np.flatnonzero(new), np.cumsum(new) - 1


# --- the capital


class Capital(Value):
    """All that is kept from block to block.

    Attributes:
        rows: values so far.
        weight: sum of their weights.
        logs: log of the capital on each bet, against the null and then against each further one, [nulls][bets].
        most: log of the largest capital that was ever seen against the null, ≥ 0.
    """

    rows: int = 0
    weight: float = 0.0
    logs: tuple[tuple[float, ...], ...]
    most: float = 0.0

    @property
    def log_capital(self) -> float:
        """Log of the capital on all bets together: log evidence against the null."""
        return float(np.logaddexp.reduce(self.logs[0]))

    @property
    def p_value(self) -> float:
        """Least of 1 / capital over time: at most α with probability at most α under the null, at any time."""
        return math.exp(-self.most)


@dataclass(frozen=True)
class BettingTest:
    """Test that a mean is at most the null (or at least, if the alternative is "less").

    Attributes:
        null: the mean that is bet against.
        bound: weight × value never lies beyond it on the side where bets lose: below, or above if the alternative is
            "less". The other side needs no bound.
        bets: λ of each bet, > 0, at most LIMIT over the largest loss.
        shares: of the first capital on each bet; they add up to 1.
        alternative: what the mean is if the null is wrong.
        further: nulls against which the bets are kept too, for `bound_of_mean`.
    """

    null: float
    bound: float
    bets: tuple[float, ...]
    shares: tuple[float, ...] = SHARES
    alternative: Alternative = "greater"
    further: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.alternative not in ("greater", "less"):
            raise ValueError(f'`alternative` must be "greater" or "less", found {self.alternative!r}')
        if not 0 < self.reach < math.inf:
            raise ValueError(f"`bound` must be finite and beyond the null {self.null:g}, found {self.bound:g}")
        if len(self.bets) != len(self.shares) or not math.isclose(sum(self.shares), 1.0) or min(self.shares) <= 0:
            raise ValueError(f"`shares` must be above 0 and add up to 1, one a bet, found {self.shares}")
        if not 0 < min(self.bets) <= max(self.bets) <= LIMIT / self.reach * (1 + 1e-12):
            raise ValueError(f"`bets` must be in (0, {LIMIT / self.reach:g}], found {self.bets}")

    @classmethod
    def planned(
        cls, effect: float, variance: float, bound: float, null: float = 0.0, alternative: Alternative = "greater"
    ) -> Self:
        """The test that is fastest about where the mean is off the null by `effect`.

        Capital grows fastest with λ = effect / variance (J. L. Kelly, A new interpretation of information rate, Bell
        System Technical Journal 35, 1956, to second order); MULTIPLES of it are bet, none beyond what is safe.

        Args:
            effect: distance of the mean from the null that is to be seen, > 0.
            variance: of a value of weight 1, > 0: planned. If it is another, the test is slower, and still right.
            bound: see the class.
            null: see the class.
            alternative: see the class.
        """
        _require_positive(effect=effect, variance=variance)
        reach = _reach(null, bound, alternative)
        safe = LIMIT / reach if reach > 0 else 0.0
        bets = tuple(min(float(k * effect / variance), safe) for k in MULTIPLES)
        off = effect if alternative == "greater" else -effect
        further = tuple(float(null + k * off) for k in FURTHER)
        return cls(null, bound, bets, alternative=alternative, further=further)

    @property
    def reach(self) -> float:
        """The largest loss of a bet of 1 on one value, whatever its weight is."""
        return _reach(self.null, self.bound, self.alternative)

    @property
    def _sign(self) -> float:
        return 1.0 if self.alternative == "greater" else -1.0

    def start(self) -> Capital:
        """Before the first block."""
        return Capital(logs=(tuple(math.log(share) for share in self.shares),) * (1 + len(self.further)))

    def gains(self, values: ArrayLike, weights: ArrayLike = 1.0, null: float | None = None) -> Floats:
        """Log of what each bet's capital is multiplied by at each value, [..., bets].

        Args:
            values: [...].
            weights: share of the bet on each, in [0, 1] and known before the draw, [...] or one for all.
            null: another one than the test's. A bet that is not safe against it loses all.
        """
        x, w = np.asarray(values, np.float64), np.asarray(weights, np.float64)
        mean, bets = self.null if null is None else null, np.array(self.bets)
        risk = bets * _reach(mean, self.bound, self.alternative)
        safe = np.where(risk <= _SAFE, bets, 0.0)
        gained = np.log1p((self._sign * w * (x - mean))[..., None] * safe)
        return np.where(safe > 0, gained, -np.inf)

    def step(self, state: Capital, values: ArrayLike, weights: ArrayLike = 1.0, blocks: ArrayLike = 0) -> Capital:
        """The state after one more block, or several; the order of values within one does not matter.

        Args:
            state: the state before it.
            values: of the block, one for each independent draw, [n] or a number.
            weights: of each, see `gains`.
            blocks: number of the block of each, not falling, [n], or one for all: several blocks at once are what they
                are one after the other, to the bit, in much less time.

        Raises:
            ValueError: a value is not finite or beyond the bound, a weight is not in [0, 1].
        """
        x = np.atleast_1d(np.asarray(values, np.float64))
        w = np.broadcast_to(np.asarray(weights, np.float64), x.shape)
        self._check(x, w)
        starts, number = numbered(np.broadcast_to(np.asarray(blocks), x.shape))
        nulls = (self.null, *self.further)
        logs = [_after(log, self.gains(x, w, m), number) for m, log in zip(nulls, state.logs, strict=True)]
        return Capital(
            rows=state.rows + len(x),
            weight=sum((float(part.sum()) for part in np.split(w, starts[1:])), state.weight),
            logs=tuple(tuple(log[-1].tolist()) for log in logs),
            most=max([state.most, *np.logaddexp.reduce(logs[0][1:], axis=1).tolist()]),
        )

    def _check(self, x: Floats, w: Floats) -> None:
        _require(np.isfinite(x), "values", "finite", x)
        _require((w >= 0) & (w <= 1), "weights", "in [0, 1]", w)
        within = self._sign * (w * x - self.bound) >= -1e-9 * self.reach
        side = "at least" if self.alternative == "greater" else "at most"
        _require(within, "weights × values", f"{side} {self.bound:g}", w * x)

    def bound_of_mean(self, state: Capital, alpha: float) -> float:
        """The weighted mean so far lies above this (below, if the alternative is "less"): all times with 1 - alpha.

        The means that the same bets reject at 1 / alpha. Between two of the nulls that are kept, the log of a bet's
        capital is a concave function of the null, and the chord is surely below it. The null is beyond the bound just
        when the capital against it is at least 1 / alpha. Not intersected over time: where effects change, so does the
        mean that is bounded.

        Args:
            state: of this test.
            alpha: probability that the bound is ever wrong.

        Returns:
            The bound, at most the last of the further nulls; infinite while not even the first of them is rejected.
        """
        # By this test's sign: means rise, capital falls.
        kept = sorted(zip((self._sign * null for null in (self.null, *self.further)), state.logs, strict=True))
        level = -math.log(alpha)
        rejected = sum(float(np.logaddexp.reduce(log)) >= level for _, log in kept)
        if not rejected or rejected == len(kept):
            return self._sign * (kept[-1][0] if rejected else -math.inf)
        (left, high), (right, low) = kept[rejected - 1 : rejected + 1]
        # A bet that is not safe at the right end has no chord.
        ends = [(first, last) for first, last in zip(high, low, strict=True) if last > -math.inf]

        def excess(part: float) -> float:
            logs = [first + part * (last - first) for first, last in ends]
            return float(np.logaddexp.reduce(logs)) - level if logs else -math.inf

        part = float(brentq(excess, 0, 1)) if excess(0) > 0 else 0.0
        return self._sign * (left + part * (right - left))


def _after(log: Sequence[float], gained: Floats, number: NDArray[np.intp]) -> Floats:
    """The log of each bet's capital before the first block and after each, [blocks + 1, bets].

    Each gain is added to those of its block in its turn, and each block to what was before it.
    """
    each = [np.bincount(number, weights=of_bet) for of_bet in gained.T]
    return np.add.accumulate(np.vstack([log, np.column_stack(each)]), axis=0)


def _reach(null: float, bound: float, alternative: Alternative) -> float:
    """Largest of w null - w x over weights in [0, 1]; of w x - w null for "less"."""
    return max(null, 0.0) - bound if alternative == "greater" else bound + max(-null, 0.0)


# --- a plan


def planned_rows(effect: float, variance: float, alpha: float = 0.05, power: float = 0.9) -> int:
    """Rows that a one-sided z-test of fixed size needs: (z_α + z_β)² variance / effect².

    >>> planned_rows(effect=0.02, variance=0.36)
    7708
    """
    _require_positive(effect=effect, variance=variance)
    _require_probability(alpha=alpha, power=power)
    return math.ceil((ndtri(1 - alpha) + ndtri(power)) ** 2 * variance / effect**2)


def horizon(effect: float, variance: float, alpha: float, power: float, bet: float | None = None) -> int:
    """Rows by which the capital has reached 1/alpha with probability `power` where the mean is off by `effect`.

    Of the first bet alone, whose log capital is about a Brownian motion with drift: the inverse Gaussian distribution
    of the time when it first passes log(1 / (α share)) (A. Wald, Sequential Analysis, 1947, A:63).

    Args:
        effect: distance of the mean from the null.
        variance: of a value.
        alpha: level of the test.
        power: probability of having seen the effect by then.
        bet: the first bet; effect / variance unless it had to be smaller to be safe.
    """
    _require_positive(effect=effect, variance=variance)
    _require_probability(alpha=alpha, power=power)
    spread = 1.0 if bet is None else bet * variance / effect
    drift, level = spread - spread**2 / 2, -math.log(alpha * SHARES[0])

    def missing(time: float) -> float:
        ahead, root = drift * time, spread * math.sqrt(time)
        back = math.exp(2 * drift * level / spread**2 + log_ndtr(-(ahead + level) / root))
        return float(ndtr((ahead - level) / root)) + back - power

    last = level / drift
    while missing(last) < 0:
        last *= 2
    return math.ceil(float(brentq(missing, 1e-6 * last, last)) * variance / effect**2)


class Capitals(Value):
    """State of a `PlannedTest`: the capitals against a mean of at most 0, and against one of at least the effect."""

    greater: Capital
    less: Capital


@dataclass(frozen=True)
class PlannedTest:
    """Is a mean above 0, or is it below the planned effect? Two tests side by side, until one of them rejects.

    The verdict "greater" is wrong with probability at most `alpha` where the mean is at most 0; "less" with at most
    half of 1 - `power` where it is at least `effect`; the other half is what the horizon costs, where the verdict is
    "inconclusive" if neither has rejected: to go on is allowed, and not worth it.

    Attributes:
        effect: the mean that is to be told from 0, > 0.
        variance: of a value of weight 1, as planned: 4 × the mean square of outcome - centre. Better too large than too
            small: twice the true one makes the test a little slower, half of it costs a fourth of the power.
        bounds: least and largest that weight × value can be, as `extremes` gives them.
        alpha: probability of "greater" where the mean is at most 0.
        power: least probability of "greater" where the mean is `effect` (and the variance as planned).
    """

    effect: float
    variance: float
    bounds: tuple[float, float]
    alpha: float = 0.05
    power: float = 0.9

    def __post_init__(self) -> None:
        _require_positive(effect=self.effect, variance=self.variance)
        _require_probability(alpha=self.alpha, power=self.power)

    @cached_property
    def greater(self) -> BettingTest:
        """Against a mean of at most 0."""
        return BettingTest.planned(self.effect, self.variance, self.bounds[0])

    @cached_property
    def less(self) -> BettingTest:
        """Against a mean of at least the planned effect."""
        return BettingTest.planned(self.effect, self.variance, self.bounds[1], null=self.effect, alternative="less")

    @property
    def miss(self) -> float:
        """Level of the test that says "less"."""
        return (1 - self.power) / 2

    @cached_property
    def horizon(self) -> int:
        """Rows of weight 1 by which an effect as planned would have been seen."""
        return horizon(self.effect, self.variance, self.alpha, 1 - self.miss, self.greater.bets[0])

    def start(self) -> Capitals:
        """Before the first block."""
        return Capitals(greater=self.greater.start(), less=self.less.start())

    def step(self, state: Capitals, values: ArrayLike, weights: ArrayLike = 1.0, blocks: ArrayLike = 0) -> Capitals:
        """The state after one more block, or several: see `BettingTest.step`.

        To go on after a verdict harms neither level.
        """
        return Capitals(
            greater=self.greater.step(state.greater, values, weights, blocks),
            less=self.less.step(state.less, values, weights, blocks),
        )

    def verdict(self, state: Capitals) -> Answer:
        """What is known by now; if both tests reject in the same block, the mean is above 0, if by less than feared."""
        if state.greater.p_value <= self.alpha:
            return "greater"
        if state.less.p_value <= self.miss:
            return "less"
        return "inconclusive" if state.greater.weight >= self.horizon else "open"

    def interval(self, state: Capitals, alpha: float) -> tuple[float, float]:
        """The weighted mean so far lies between these at all times with probability 1 - alpha; half on either side."""
        lower = self.greater.bound_of_mean(state.greater, alpha / 2)
        return lower, self.less.bound_of_mean(state.less, alpha / 2)


def _require(holds: NDArray[np.bool_], name: str, rule: str, values: Floats) -> None:
    if not np.all(holds):
        found = np.broadcast_to(values, np.shape(holds))[~np.asarray(holds)].flat[0]
        raise ValueError(f"`{name}` must be {rule}, found {found:g}")


def _require_positive(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < math.inf:
            raise ValueError(f"`{name}` must be above 0, found {number}")


def _require_probability(**numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 < number < 1:
            raise ValueError(f"`{name}` must be in (0, 1), found {number}")
