"""Which of the rows a model is fitted on: each window gives a set of rows, never weights.

What is random is decided by one number a row, which depends on the seed and on when the row was asked for, and on
nothing else: what one training keeps, the next keeps, too, as long as the window wants as much of its time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from evergrow.contracts import Task
from evergrow.data.mixing import uniform
from evergrow.learning.learn import single_threaded
from evergrow.learning.losses import row_losses
from evergrow.spec.windows import All, Decay, Dynamic, Fixed, Hard, Reservoir, Season, Similar, Sliding, Window
from evergrow.statistics.change import last_change

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Ages = NDArray[np.int64]

FEWEST = 50
"""Rows that a probe is fitted on at least: of fewer, it learns nothing."""
MOST = 50_000
"""Rows that a probe is fitted on at most, spread evenly over time; of those that a classifier tells apart, of each."""
CAP = 0.95
"""Of the older rows, the share that is less like the recent ones than a row that is surely kept."""
_DAY = 86_400_000_000
_PROBES: Mapping[str, str] = {"mae": "absolute_error", "poisson_deviance": "poisson"}


@dataclass(frozen=True)
class Candidates:
    """Rows that may be fitted on, in order of `asked`."""

    asked: NDArray[np.datetime64]
    """When each was asked for: datetime64[us], UTC, [n]."""
    X: NDArray[np.float32]
    """Features, [n, k]: NaN where missing; categories by any numbers that stand for the same all the time."""
    y: Floats
    """Labels, [n]."""

    @classmethod
    def at(cls, asked: NDArray[np.datetime64]) -> Candidates:
        """Rows of which no more is known than when they were asked for; enough unless a window `needs_features`."""
        return cls(asked, np.empty((len(asked), 0), np.float32), np.full(len(asked), np.nan))

    def only(self, rows: Mask) -> Candidates:
        """Some of them."""
        return Candidates(self.asked[rows], self.X[rows], self.y[rows])

    def __len__(self) -> int:
        return len(self.asked)


def needs_features(window: Window) -> bool:
    """Whether a window looks at features and labels, and not only at when rows were asked for."""
    return isinstance(window, Dynamic | Similar | Hard)


def select(window: Window, rows: Candidates, until: np.datetime64, task: Task, metric: str, seed: int) -> Mask:
    """Which of the rows are fitted on, bool [n].

    Dynamic, similar and hard windows keep all rows where there are too few, or of one class only, to learn from.

    >>> asked = np.arange("2024-01-01", "2024-01-11", dtype="datetime64[D]").astype("datetime64[us]")
    >>> newest = select(Sliding(length="3d"), Candidates.at(asked), asked[-1], "regression", "mae", seed=0)
    >>> asked[newest].astype("datetime64[D]").astype(str).tolist()
    ['2024-01-08', '2024-01-09']

    Args:
        window: of the document.
        rows: that may be fitted on; those that were not asked for before `until` never are, and change nothing.
        until: end of the part that is fitted on, UTC.
        task: of the labels.
        metric: the gate's, by which a row is predicted well or badly; one of `evergrow.learning.losses.ROW_LOSSES`.
        seed: of all that is random.
    """
    chosen: Mask = rows.asked < until.astype("datetime64[us]")
    past = rows if chosen.all() else rows.only(chosen)
    if len(past):
        chosen[chosen] = _selected(window, past, until, _Probing(task, metric, seed))
    return chosen


def _selected(window: Window, rows: Candidates, until: np.datetime64, by: _Probing) -> Mask:
    ages = (until.astype("datetime64[us]") - rows.asked).astype(np.int64)
    match window:
        case All():
            return np.ones(len(rows), np.bool_)
        case Fixed():
            return np.asarray((rows.asked >= _utc(window.since)) & (rows.asked < _utc(window.until)))
        case Sliding():
            return _newer(ages, window.length)
        case Season():
            return _newer(ages, window.recent) | _in_season(window, ages)
        case Decay():
            return np.asarray(chances(rows.asked, by.seed) < np.exp2(-ages / _us(window.half_life)))
        case Reservoir():
            recent = _newer(ages, window.recent)
            return recent | _smallest(np.where(recent, np.inf, chances(rows.asked, by.seed)), window.rows)
        case Dynamic():
            return np.asarray(ages < _unchanged(window, rows, ages, by))
        case Similar():
            return _resembling(_newer(ages, window.recent), rows, ages, by)
        case Hard():
            return _hardest(window, _newer(ages, window.recent), rows, by)
        case _:
            assert_never(window)


def chances(asked: NDArray[np.datetime64], seed: int) -> Floats:
    """One number a row, uniform in [0, 1): of the seed, the instant, and the row's place among those of that instant.

    Args:
        asked: datetime64[us], sorted, [n].
        seed: in [0, 2^64).
    """
    instants = asked.astype("datetime64[us]").astype(np.int64)
    place = np.arange(len(instants)) - np.searchsorted(instants, instants, side="left")
    return uniform(seed, (instants.view(np.uint64), place.astype(np.uint64)), len(instants))


def _newer(ages: Ages, length: timedelta) -> Mask:
    return np.asarray(ages < _us(length))


def _in_season(window: Season, ages: Ages) -> Mask:
    """Rows that are within `within` of the nearest of the instants one, two, ... whole periods ago."""
    period = _us(window.period)
    whole = np.maximum((ages + period // 2) // period, 1)
    return np.asarray(np.abs(ages - whole * period) <= _us(window.within))


def _smallest(values: Floats, count: int) -> Mask:
    """The so many smallest of the finite values; of equal ones, the first."""
    chosen = np.zeros(len(values), np.bool_)
    chosen[np.argsort(values, kind="stable")[:count]] = True
    return chosen & np.isfinite(values)


def _unchanged(window: Dynamic, rows: Candidates, ages: Ages, by: _Probing) -> float:
    """How far back features mean what they mean now, in microseconds; infinitely far if no change is seen.

    Two probes are fitted on every other day of the newest `least`. A day of these is scored by the probe that has not
    seen it, and an older one by both, whose losses (not scores, of which a mean would be better than either) are
    averaged: so each day's loss is one of a probe that was fitted on other days, and no step is made by fitting. What
    is compared are the losses of days; a change of how hard rows are looks like one of what features mean.
    """
    days, recent = ages // _DAY, _newer(ages, window.least)
    probes = [by.fitted(rows.only(recent & (days % 2 == half))) for half in (0, 1)]
    if recent.all() or None in probes:
        return math.inf
    losses = [by.losses(probe, rows) for probe in probes]
    each = np.where(recent, np.where(days % 2 == 0, losses[1], losses[0]), (losses[0] + losses[1]) / 2)
    # From the oldest day to the newest.
    present, day, count = np.unique(-days, return_inverse=True, return_counts=True)
    means = np.bincount(day, each) / count
    if not np.isfinite(means).all():
        return math.inf
    first = last_change(means, window.alpha)
    return math.inf if first == 0 else max(_us(window.least), (1 - int(present[first])) * _DAY)


def _resembling(recent: Mask, rows: Candidates, ages: Ages, by: _Probing) -> Mask:
    """Recent rows, and older ones by how likely rows of their features are recent.

    The odds that a classifier gives a row of being recent are the ratio of the densities of recent and of older rows
    there, up to a factor: M. Sugiyama, T. Suzuki & T. Kanamori, Density ratio estimation in machine learning, Cambridge
    2012, chapter 4. A row is kept with a probability of its odds by those at the quantile CAP of older rows. Odds are
    given by a classifier that was fitted on the other days: every second one.
    """
    if recent.all():
        return recent
    half, odds = ages // _DAY % 2, np.empty(len(rows))
    for this in (0, 1):
        newer, older = _spread(recent & (half == this)), _spread(~recent & (half == this))
        probe = by.fitted_classifier(rows.X[newer | older], recent[newer | older])
        if probe is None or min(newer.sum(), older.sum()) < FEWEST:
            return np.ones(len(rows), np.bool_)
        p = by.answers(probe, rows.X[half != this])
        odds[half != this] = p / np.maximum(1 - p, 1e-9)
    return recent | (chances(rows.asked, by.seed) * np.quantile(odds[~recent], CAP) < odds)


def _hardest(window: Hard, recent: Mask, rows: Candidates, by: _Probing) -> Mask:
    """Recent rows, and the share of the older ones that a model of the recent ones predicts worst."""
    probe = by.fitted(rows.only(recent))
    if recent.all() or probe is None:
        return np.ones(len(rows), np.bool_)
    losses = np.nan_to_num(by.losses(probe, rows), nan=np.inf, posinf=np.inf)
    count = math.ceil(window.share * int((~recent).sum()))
    worst = np.lexsort((chances(rows.asked, by.seed), -losses, recent))[:count]
    recent[worst] = True
    return recent


@dataclass(frozen=True)
class _Probing:
    """How the small models are fitted by which windows look at features."""

    task: Task
    metric: str
    seed: int

    def fitted(self, rows: Candidates) -> Any:
        """A model of the label; None if there is too little to learn from."""
        if len(rows) > MOST:
            rows = rows.only(_spread(np.ones(len(rows), np.bool_)))
        if self.task == "binary-classification":
            return self.fitted_classifier(rows.X, rows.y > 0)
        if len(rows) < FEWEST or not rows.X.shape[1]:
            return None
        if self.metric == "poisson_deviance" and (rows.y.min() < 0 or rows.y.sum() == 0):
            return None
        from sklearn.ensemble import HistGradientBoostingRegressor

        loss = _PROBES.get(self.metric, "squared_error")
        return _fit(HistGradientBoostingRegressor(loss=loss, **self._settings()), rows.X, rows.y)

    def fitted_classifier(self, X: NDArray[np.float32], y: Mask) -> Any:
        """A model that tells rows apart; None if there are too few of them, or they are all alike."""
        if len(y) < FEWEST or y.all() or not y.any() or not X.shape[1]:
            return None
        from sklearn.ensemble import HistGradientBoostingClassifier

        return _fit(HistGradientBoostingClassifier(**self._settings()), X, y)

    def answers(self, probe: Any, X: NDArray[np.float32]) -> Floats:
        """Probabilities, or predicted numbers, [n]."""
        with single_threaded():
            answers = probe.predict_proba(X)[:, 1] if hasattr(probe, "predict_proba") else probe.predict(X)
        return np.asarray(answers, np.float64)

    def losses(self, probe: Any, rows: Candidates) -> Floats:
        """Of each row, by the gate's metric, [n]."""
        return row_losses(self.metric, rows.y, self.answers(probe, rows.X))

    def _settings(self) -> dict[str, Any]:
        return {"max_iter": 50, "early_stopping": False, "random_state": self.seed}


def _fit(probe: Any, X: NDArray[np.float32], y: NDArray[Any]) -> Any:
    with single_threaded():
        return probe.fit(X, y)


def _spread(rows: Mask) -> Mask:
    """At most MOST of the rows, evenly spread."""
    (among,) = np.nonzero(rows)
    chosen = np.zeros_like(rows)
    chosen[among if len(among) <= MOST else among[np.linspace(0, len(among) - 1, MOST).astype(np.int64)]] = True
    return chosen


def _us(length: timedelta) -> int:
    return length // timedelta(microseconds=1)


def _utc(instant: datetime) -> np.datetime64:
    return np.datetime64(instant.astimezone(UTC).replace(tzinfo=None), "us")
