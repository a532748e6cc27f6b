"""Has mean loss risen? A test that may look after every block of time, for as long as a model serves.

Realised losses arrive block by block. A rise by more than a margin is to be seen early, and false alarms are to be as
rare as was asked for, however often one looks. The statistic is a Shiryaev-Roberts e-detector: the sum, over every
block that the rise may have begun with, of the likelihood ratio of the losses since then, mixed over several sizes of
rise (J. Shin, A. Ramdas & A. Rinaldo, E-detectors: a nonparametric framework for sequential change detection, New
England Journal of Statistics in Data Science 2, 2024). What a likelihood needs is learned from the reference: the mean
and its error, the profile of day and week, how much days and rows differ, how days hang together. Because all of that
is estimated, the threshold is no bound but calibrated: references and what follows them are simulated together.

    reference = Reference.of(means, rows)
    detector = Detector(reference, margin=0.01, alarms_per_month=1 / 12)
    state = detector.start()
    state, finding = detector.step(state, mean, rows)  # once a block; `state` is small, and JSON in between
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evergrow.contracts import Value

Floats = NDArray[np.float64]

MONTH = 30.4375
"""Days of a mean month: 365.25 / 12."""
LEAST_DAYS = 8
"""Of a reference: fewer say next to nothing of how days differ."""
MOST_ALARMS = 2.0
"""A month: more frequent ones are not resolved by the calibration."""

RISES = (1.0, 2.0, 4.0)
"""Sizes of rise that are mixed, in standard deviations of a day's mean."""
CLIPS = (2.5, 3.0, 3.75)
"""Standard deviations of a day's mean at which a block's deviation is cut off, for each of the rises: one storm is no
harm, and the smaller the rise that is looked for, the less a storm tells of it."""
COLLAPSE = 12.5
"""A rise so large, in a window's own standard errors, that no storm explains it: judged by what was not cut off."""
WINDOWS = 8
"""Starts kept per doubling of their age."""
SUMS = 8
"""Kept of each window."""

_CORRELATIONS = np.array([0.0, 0.15, 0.3, 0.45, 0.6, 0.75])
_SHARES = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
_LARGEST = 600.0  # of an exponent
_NONE = 1e-9  # rows of a window that has none: its variance is so large that it tells nothing


@dataclass(frozen=True)
class Null:
    """What quiet losses look like, of P series at once.

    A block's mean loss is mean + profile + effect + noise. The effect is AR(1); the noise has variance noise / rows.

    Attributes:
        mean: mean loss over the reference's rows, [P].
        profile: what is added at each block of the week, counted from the reference's first, [P, 7 · per_day].
        effect: variance of the effect, [P].
        persistence: its correlation from block to block, [P].
        noise: variance of a row's noise, [P].
        error: variance of `mean` about the truth, [P].
        day: variance of the mean of a day, [P].
        between: variance of days' means beyond what the rows' noise within days gives them, [P].
        within: variance of a row's noise as blocks differ within their day, [P].
        weekly: variance of a day's profile about the truth, [P].
        freedom: degrees of freedom that the variances were learned with, [P].
        per_day: blocks in a day.
    """

    mean: Floats
    profile: Floats
    effect: Floats
    persistence: Floats
    noise: Floats
    error: Floats
    day: Floats
    between: Floats
    within: Floats
    weekly: Floats
    freedom: Floats
    per_day: int

    @property
    def share(self) -> Floats:
        """Share of the rows' noise in `day`, [P]."""
        return 1 - self.between / np.maximum(self.day, 1e-300)


def learn(means: Floats, rows: Floats, per_day: int) -> Null:
    """The null of each of P references of R blocks, `means` and `rows` [P, R]; a block without rows counts for nothing.

    How long windows vary comes from how days differ; how windows shorter than a day vary, from how blocks differ within
    their days too. The effect is scaled so that its mean over a day has the variance found of days.
    """
    mean = (means * rows).sum(1) / rows.sum(1)
    deviation = np.where(rows > 0, means - mean[:, None], 0.0)
    day_rows, days = by_day(deviation, rows, per_day)
    profile, spent = shrunk(days, day_rows, 7)
    rest, typical = days - tiled(profile, days.shape[1]), harmonic_mean(day_rows)
    profile = np.repeat(profile, per_day, axis=1)
    effect, persistence, noise = fit_days(rest, day_rows, spent)
    day, within = effect + noise / typical, noise
    if per_day > 1:
        apart = np.where(rows > 0, deviation - np.repeat(days, per_day, axis=1)[:, : means.shape[1]], 0.0)
        hours, within = fit_hours(apart, rows, per_day)
        profile = profile + np.tile(hours, 7)
        persistence = persistence ** (1 / per_day)
        evenly = np.ones((len(means), per_day))
        effect = effect / window_variance(evenly, np.ones_like(day), persistence, np.zeros_like(day))
    error = window_variance(rows, effect, persistence, noise)
    between = np.maximum(day - within / typical, 0.0)
    weekly = spent / 6 * day * 7 / days.shape[1]
    freedom = (day_rows > 0).sum(1) - 1.0 - spent
    return Null(mean, profile, effect, persistence, noise, error, day, between, within, weekly, freedom, per_day)


def by_day(values: Floats, rows: Floats, per_day: int) -> tuple[Floats, Floats]:
    """Rows and mean of each day of blocks [P, R], both [P, D]; the last day may be cut short."""
    first = np.arange(0, values.shape[1], per_day)
    count = np.add.reduceat(rows, first, axis=1)
    return count, np.add.reduceat(values * rows, first, axis=1) / np.maximum(count, 1e-300)


def tiled(profile: Floats, length: int) -> Floats:
    """A profile [P, k] repeated to [P, length]."""
    return np.tile(profile, -(-length // profile.shape[1]))[:, :length]


def harmonic_mean(rows: Floats) -> Floats:
    """Of the rows of blocks that have any, [P]: what the noise of a mean goes by."""
    some = rows > 0
    mean: Floats = some.sum(1) / np.where(some, 1 / np.where(some, rows, 1.0), 0.0).sum(1)
    return mean


def shrunk(values: Floats, rows: Floats, period: int) -> tuple[Floats, Floats]:
    """Means by position in the period, [P, period], shrunk as far as they look like chance, and what they cost.

    The factor is 1 - 1/F, F being the ratio of mean squares between positions and within them (positive-part James
    and Stein; B. Efron & C. Morris, Data analysis using Stein's estimator and its generalizations, Journal of the
    American Statistical Association 70, 1975). The cost is in degrees of freedom, [P].
    """
    length = values.shape[1]
    if length < 2 * period:
        return np.zeros((len(values), period)), np.zeros(len(values))
    member = (np.arange(length)[:, None] % period == np.arange(period)).astype(float)
    weight = rows @ member
    effect = (values * rows) @ member / np.maximum(weight, 1e-300)
    effect -= ((effect * weight).sum(1) / weight.sum(1))[:, None]
    between = (weight * effect**2).sum(1) / (period - 1)
    within = (rows * (values - effect @ member.T) ** 2).sum(1) / (length - period)
    factor = np.clip(1 - within / np.maximum(between, 1e-300), 0.0, 1.0)
    return effect * factor[:, None], factor * (period - 1)


def fit_hours(within: Floats, rows: Floats, per_day: int) -> tuple[Floats, Floats]:
    """The profile of the day, [P, per_day], and the variance of a row's noise, [P], by deviations from days' means."""
    hours, spent = shrunk(within, rows, per_day)
    rest = within - tiled(hours, within.shape[1])
    count, _ = by_day(rest, (rows > 0).astype(float), per_day)
    freedom = np.maximum((count - (count > 0)).sum(1) - spent, 1.0)
    return hours, (rows * rest**2).sum(1) / freedom


def fit_days(deviation: Floats, rows: Floats, spent: Floats) -> tuple[Floats, Floats, Floats]:
    """Variance of the effect of days, its correlation from day to day, and variance of a row's noise; each [P].

    Restricted likelihood of AR(1) plus noise on a grid of correlations and of shares of noise, by the Kalman filter;
    the answers are means over the posterior under a flat prior, since a maximum is at the grid's edge half of the time.

    Args:
        deviation: of each day's mean, profile taken off, [P, D].
        rows: of each day, [P, D].
        spent: degrees of freedom that the profile cost, [P].
    """
    correlation, share = (g.ravel() for g in np.meshgrid(_CORRELATIONS, _SHARES))
    typical = harmonic_mean(rows)
    state = np.zeros((2, len(rows), len(share)))  # of the deviations, and of the column of ones that is their mean
    variance = np.tile(1 - share, (len(rows), 1))
    sums = np.zeros((4, *variance.shape))
    for value, n in zip(deviation.T[:, :, None], rows.T[:, :, None], strict=True):
        seen = n > 0
        spread = variance + share * typical[:, None] / np.where(seen, n, 1.0) + 1e-9
        off, one = value - state[0], 1 - state[1]
        sums += seen * np.array([np.log(spread), off * off / spread, off * one / spread, one * one / spread])
        gain = seen * variance / spread
        state = correlation * (state + gain * np.array([off, one]))
        variance = correlation**2 * variance * (1 - gain) + (1 - correlation**2) * (1 - share)
    freedom = (rows > 0).sum(1)[:, None] - 1
    scale = (sums[1] - sums[2] ** 2 / sums[3]) / (freedom - spent[:, None]) + 1e-300
    likelihood = -0.5 * (freedom * np.log(scale) + sums[0] + np.log(sums[3]))
    posterior = np.exp(likelihood - likelihood.max(1, keepdims=True))
    total = posterior / posterior.sum(1, keepdims=True) * scale
    effect = (total * (1 - share)).sum(1)
    together = (total * (1 - share) * correlation).sum(1) / np.maximum(effect, 1e-300)
    return effect, together, (total * share).sum(1) * typical


def window_variance(rows: Floats, effect: Floats, persistence: Floats, noise: Floats) -> Floats:
    """Variance of the mean over the rows of a window of blocks, `rows` [P, n]; [P]."""
    square, cross = np.zeros((2, len(rows)))
    for n in rows.T:
        square = square + 2 * n * cross + n * n * effect
        cross = persistence * (cross + n * effect)
    total = rows.sum(1)
    variance: Floats = (square + noise * total) / total**2
    return variance


def normal(t: Floats, freedom: Floats) -> Floats:
    """The normal score of a Student's t, nearly: sign(t) · √(f · log(1 + t² / f)).

    A variance that was learned too small makes every deviation look large; without this, references on which that
    happened give most false alarms, and the threshold that bears them makes all others slow. (D. L. Wallace, Bounds on
    normal approximations to Student's and the chi-square distributions, Annals of Mathematical Statistics 30, 1959.)
    """
    score: Floats = np.sign(t) * np.sqrt(freedom * np.log1p(t * t / freedom))
    return score


class Windows:
    """Sums over the blocks from each start that is kept until now, of P series; starts thin out with their age.

    Attributes:
        starts: number of the first block of each window, rising, [C].
        sums: rows; rows × deviation cut off for each of RISES, × deviation, × loss; and the square and cross of
            `window_variance`; [8, P, C].
    """

    def __init__(self, starts: NDArray[np.int64], sums: Floats) -> None:
        self.starts, self.sums = starts, sums

    @classmethod
    def none(cls, paths: int) -> Self:
        """Before the first block."""
        return cls(np.zeros(0, np.int64), np.zeros((SUMS, paths, 0)))

    def add(self, block: int, means: Floats, rows: Floats, null: Null) -> None:
        """Take in the block of that number: its means and rows, each [P]."""
        age = np.maximum((block + 1 - self.starts) // WINDOWS, 1)
        kept = self.starts % (1 << np.frexp(age)[1].astype(np.int64) - 1) == 0
        self.starts = np.append(self.starts[kept], block)
        self.sums = np.concatenate([self.sums[:, :, kept], np.zeros((SUMS, len(rows), 1))], axis=2)
        deviation = means - null.mean - null.profile[:, block % null.profile.shape[1]]
        # Of a day as busy as this block: a share of the rows' noise that hangs on volume is no storm.
        storm = np.sqrt(null.between + null.within / np.maximum(rows, _NONE) / null.per_day)
        clipped = [np.clip(deviation, -clip * storm, clip * storm) for clip in CLIPS]
        self.sums[:6] += (np.array([np.ones_like(rows), *clipped, deviation, means]) * rows)[:, :, None]
        n, effect = rows[:, None], null.effect[:, None]
        self.sums[6] += 2 * n * self.sums[7] + n * n * effect
        self.sums[7] = null.persistence[:, None] * (self.sums[7] + n * effect)

    def idle(self, null: Null) -> None:
        """Let a block without rows pass."""
        self.sums[7] *= null.persistence[:, None]

    def variance(self, null: Null) -> Floats:
        """Of each window's mean deviation about the truth, the errors of mean and profile included, [P, C]."""
        rows = np.maximum(self.sums[0], _NONE)
        days = (self.starts[-1] + 1 - self.starts) / null.per_day
        long = (self.sums[6] + null.noise[:, None] * rows) / rows**2
        short = null.between[:, None] + null.within[:, None] / rows
        # Over a whole week the errors of a profile add up to nothing.
        week = null.weekly[:, None] * np.maximum(1 / np.maximum(days, 1) - 1 / 7, 0)
        variance: Floats = np.where(days < 1, short, long) + null.error[:, None] + week
        return variance

    def ratios(self, null: Null, margin: float) -> Floats:
        """Likelihood ratio of a rise that began with each window, mixed over its sizes, [P, C]."""
        error = np.sqrt(self.variance(null))
        excess: Floats = (self.sums[1:5] / np.maximum(self.sums[0], _NONE) - margin) / error
        sizes = np.array(RISES)[:, None, None] * np.sqrt(null.day)[:, None] / error
        scores = normal(excess[:-1], null.freedom[:, None])
        exponents = np.concatenate([sizes * (scores - sizes / 2), COLLAPSE * (excess[-1:] - COLLAPSE / 2)])
        mixed: Floats = np.exp(np.minimum(exponents, _LARGEST)).mean(axis=0)
        return mixed

    def log_evidence(self, null: Null, margin: float) -> Floats:
        """Log of the e-detector, [P], by days: a start stands for those after it that were dropped."""
        gaps = np.append(np.diff(self.starts), 1) / null.per_day
        found: Floats = np.log((gaps * self.ratios(null, margin)).sum(1))
        return found


def log_evidence(null: Null, means: Floats, rows: Floats, first: int, margin: float = 0.0) -> Floats:
    """The e-detector's log after each block of P series that follow their references, [P, T]; none starts again.

    Args:
        null: of the P references.
        means: mean loss of each block, [P, T].
        rows: its rows, [P, T].
        first: number of the first block, counted from the reference's first.
        margin: rise that is tolerated, in the loss's unit.
    """
    windows, found = Windows.none(len(means)), np.empty(means.shape)
    for t in range(means.shape[1]):
        windows.add(first + t, means[:, t], rows[:, t], null)
        found[:, t] = windows.log_evidence(null, margin)
    return found


DESIGN_CORRELATION = 0.4
"""From day to day, in the simulated null."""
DESIGN_TAIL = 5
"""Degrees of freedom of Student's t that days' effects have there."""
DESIGN_SHARES = (0.25, 0.5, 0.9)
"""Share of the rows' noise in a day's variance there: the nearest to the reference's own is taken."""
QUIET_DAYS = 61
PATHS = 4000
_EXCEEDED = np.array([0.98, 0.9, 0.8, 0.65, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05, 0.03])


@dataclass(frozen=True)
class Calibration:
    """How rare the e-detector's values are while nothing has risen.

    Attributes:
        log_evidence: values of its log, rising, [k].
        log_days: log of the mean days until it first reaches each, [k].
        width: standard errors that every window's mean stays within for a month, with probability 0.95.
    """

    log_evidence: Floats
    log_days: Floats
    width: float

    def days(self, log_evidence: float) -> float:
        """Mean days from one false alarm to the next if this value were the threshold."""
        return math.exp(min(_line(log_evidence, self.log_evidence, self.log_days), _LARGEST))

    def threshold(self, alarms_per_month: float) -> float:
        """The value that is reached that often."""
        return _line(math.log(MONTH / alarms_per_month), self.log_days, self.log_evidence)


def _line(x: float, xs: Floats, ys: Floats) -> float:
    """Interpolate; beyond either end, go on as between that end and the fourth point from it."""
    if xs[0] <= x <= xs[-1]:
        return float(np.interp(x, xs, ys))
    near, far = (0, 3) if x < xs[0] else (-1, -4)
    return float(ys[near] + (x - xs[near]) * (ys[near] - ys[far]) / (xs[near] - xs[far]))


def calibration(days: int, per_day: int, share: float) -> Calibration:
    """Of references of that many days; computed once for each process and kind.

    Blocks of a day can't tell the share of the rows' noise well enough to go by it.
    """
    return calibrate(days, per_day, min(DESIGN_SHARES, key=lambda s: abs(s - share)) if per_day > 1 else 0.5)


@cache
def calibrate(days: int, per_day: int, share: float) -> Calibration:
    """Simulate references of that many days, and quiet losses after each; the same for the same arguments."""
    random = np.random.default_rng(0)
    paths, quiet = round(PATHS / math.sqrt(per_day)), QUIET_DAYS * per_day
    means = quiet_losses(random, paths, days + QUIET_DAYS, per_day, share)
    rows, cut = np.ones_like(means), days * per_day
    null = learn(means[:, :cut], rows[:, :cut], per_day)
    windows, most, widest = Windows.none(paths), np.full(paths, -np.inf), np.zeros(paths)
    for t in range(cut, cut + quiet):
        windows.add(t, means[:, t], rows[:, t], null)
        most = np.maximum(most, windows.log_evidence(null, 0.0))
        if t < cut + MONTH * per_day:
            errors = np.abs(windows.sums[4] / windows.sums[0]) / np.sqrt(windows.variance(null))
            widest = np.maximum(widest, errors.max(1))
    return Calibration(
        log_evidence=np.quantile(most, 1 - _EXCEEDED),
        log_days=np.log(QUIET_DAYS / -np.log1p(-_EXCEEDED)),
        width=float(np.quantile(widest, 0.95)),
    )


def quiet_losses(random: np.random.Generator, paths: int, days: int, per_day: int, share: float) -> Floats:
    """Losses of the design, a day's mean of variance 1, [paths, days · per_day]."""
    scale = math.sqrt((1 - share) * (DESIGN_TAIL - 2) / DESIGN_TAIL)
    effect = scale * random.standard_t(DESIGN_TAIL, (paths, days))
    for t in range(1, days):
        effect[:, t] = DESIGN_CORRELATION * effect[:, t - 1] + math.sqrt(1 - DESIGN_CORRELATION**2) * effect[:, t]
    noise = random.normal(0, math.sqrt(share * per_day), (paths, days * per_day))
    return np.repeat(effect, per_day, axis=1) + noise


class Reference(Value):
    """What quiet losses looked like: the numbers of `Null` for one series, over so many blocks."""

    blocks: int
    per_day: int
    mean: float
    profile: tuple[float, ...]
    effect: float
    persistence: float
    noise: float
    error: float
    day: float
    between: float
    within: float
    weekly: float
    freedom: float

    @classmethod
    def of(cls, means: ArrayLike, rows: ArrayLike, per_day: int = 1) -> Self:
        """Learn from blocks of equal length in order of time, none left out.

        Args:
            means: mean loss of each block, [R]; of a block without rows, anything.
            rows: labelled rows of each block, [R].
            per_day: blocks in a day, from 1 to 24.

        Raises:
            ValueError: fewer than LEAST_DAYS days have rows, or a mean is not finite.
        """
        loss, n = np.asarray(means, dtype=np.float64), np.asarray(rows, dtype=np.float64)
        if not 1 <= per_day <= 24:
            raise ValueError(f"`per_day` must be from 1 to 24, found {per_day}")
        if loss.shape != n.shape or loss.ndim != 1:
            raise ValueError(f"`means` and `rows` must be two lists of one length, found {loss.shape} and {n.shape}")
        loss = np.where(n == 0, 0.0, loss)
        if not (np.isfinite(loss).all() and np.isfinite(n).all() and (n >= 0).all()):
            raise ValueError("`means` and `rows` must be finite, and `rows` at least 0")
        days = int((by_day(loss[None], n[None], per_day)[0] > 0).sum()) if len(n) else 0
        if days < LEAST_DAYS:
            raise ValueError(f"`rows` must be above 0 on at least {LEAST_DAYS} days, found {days}")
        null = learn(loss[None], n[None], per_day)
        numbers = {name: float(getattr(null, name)[0]) for name in _NUMBERS}
        return cls(blocks=len(n), per_day=per_day, profile=tuple(null.profile[0].tolist()), **numbers)

    def null(self) -> Null:
        """The same numbers, as arrays of one series."""
        numbers = {name: np.array([getattr(self, name)]) for name in _NUMBERS}
        return Null(profile=np.array([self.profile]), per_day=self.per_day, **numbers)

    def calibration(self) -> Calibration:
        """Of references like this one."""
        return calibration(math.ceil(self.blocks / self.per_day), self.per_day, float(self.null().share[0]))


_NUMBERS = ("mean", "effect", "persistence", "noise", "error", "day", "between", "within", "weekly", "freedom")


class State(Value):
    """All that is kept from block to block: about 8 windows per doubling of the time since the last alarm.

    Attributes:
        block: number of the block to come, counted from the reference's first.
        starts: of `Windows`, C of them.
        sums: of `Windows`, 8 × C.
    """

    block: int
    starts: tuple[int, ...] = ()
    sums: tuple[tuple[float, ...], ...] = ((),) * SUMS


@dataclass(frozen=True)
class Finding:
    """What is known after a block.

    Attributes:
        evidence: days in which so much evidence is seen once while nothing has risen.
        alarm: whether that is rarer than false alarms may be. The test then starts again.
        since: number of the block that the rise most likely began with; 0 is the first after the reference.
        mean: mean loss over the rows since then.
        rise: how much higher that is than the reference's, its profile of day and week allowed for.
        low: lower end of the rise's interval; all intervals of a month hold at once with probability 0.95.
        high: upper end of it.
        rows: since then.
        reason: all of that in a line.
    """

    evidence: float
    alarm: bool
    since: int
    mean: float
    rise: float
    low: float
    high: float
    rows: float
    reason: str


@dataclass(frozen=True)
class Detector:
    """The test that mean loss has risen by more than `margin` over the reference's.

    Attributes:
        reference: what quiet losses looked like.
        margin: rise that is tolerated, ≥ 0, in the loss's unit.
        alarms_per_month: false alarms to expect in a month while the rise is at most `margin`; 1/12 is one a year.
        metric: name of the loss, for reasons.
        begin: instant of the reference's first block, for reasons.
    """

    reference: Reference
    margin: float = 0.0
    alarms_per_month: float = 1 / 12
    metric: str = "loss"
    begin: datetime | None = None

    def __post_init__(self) -> None:
        if not 0 < self.alarms_per_month <= MOST_ALARMS:
            raise ValueError(f"`alarms_per_month` must be in (0, {MOST_ALARMS:g}], found {self.alarms_per_month}")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"`margin` must be at least 0, found {self.margin}")

    def start(self, skipped: int = 0) -> State:
        """The state before the first block, which comes `skipped` blocks after the reference's last."""
        return State(block=self.reference.blocks + skipped)

    def step(self, state: State, mean: float, rows: float) -> tuple[State, Finding | None]:
        """The state after one more block, and what is known by then: nothing as long as no block had rows.

        Args:
            state: the state before it.
            mean: mean loss of the block's labelled rows; anything if there are none.
            rows: labelled rows, ≥ 0.

        Raises:
            ValueError: the mean of some rows is not finite.
        """
        if rows > 0 and not math.isfinite(mean):
            raise ValueError(f"`mean` must be finite, found {mean}")
        null, windows = self.reference.null(), Windows(np.array(state.starts, np.int64), np.array(state.sums)[:, None])
        if rows > 0:
            windows.add(state.block, np.array([mean]), np.array([float(rows)]), null)
        else:
            windows.idle(null)
        if not len(windows.starts):
            return State(block=state.block + 1), None
        finding = self._judge(windows, null)
        if finding.alarm:
            return State(block=state.block + 1), finding
        sums = tuple(map(tuple, windows.sums[:, 0].tolist()))
        return State(block=state.block + 1, starts=tuple(windows.starts.tolist()), sums=sums), finding

    def _judge(self, windows: Windows, null: Null) -> Finding:
        calibration = self.reference.calibration()
        log = float(windows.log_evidence(null, self.margin)[0])
        alarm = log >= calibration.threshold(self.alarms_per_month)
        best = int(np.argmax(windows.ratios(null, self.margin)[0]))
        rows, excess, loss = windows.sums[[0, 4, 5], 0, best]
        rise, reach = excess / rows, calibration.width * math.sqrt(windows.variance(null)[0, best])
        since, evidence = int(windows.starts[best]), calibration.days(log)
        reason = (
            f"mean {self.metric} {loss / rows:.3f} since {self._when(since)}, "
            f"reference {loss / rows - rise:.3f} + {self.margin:g}; "
            f"evidence 1 in {_days(evidence)}, alarm at 1 in {_days(MONTH / self.alarms_per_month)} days"
        )
        since -= self.reference.blocks
        return Finding(evidence, alarm, since, loss / rows, rise, rise - reach, rise + reach, rows, reason)

    def _when(self, block: int) -> str:
        if self.begin is None:
            return f"block {block - self.reference.blocks}"
        at = self.begin + timedelta(days=block / self.reference.per_day)
        return f"{at:%Y-%m-%d}" if self.reference.per_day == 1 else f"{at:%Y-%m-%d %H:%M}"


def _days(days: float) -> str:
    return f"{days:,.0f}" if days < 1e6 else "over a million"


def detect(detector: Detector, means: Sequence[float], rows: Sequence[float]) -> list[Finding | None]:
    """What the detector finds after each of the blocks that follow its reference."""
    state, findings = detector.start(), []
    for mean, n in zip(means, rows, strict=True):
        state, finding = detector.step(state, mean, n)
        findings.append(finding)
    return findings
