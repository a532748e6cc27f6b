"""How many days it takes to see that losses have risen, against river and Evidently at equally many false alarms."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter
from scipy.stats import binom

from benchmarks.detection_data import (
    QUIET_MONTHS,
    REFERENCE,
    Series,
    flight_rows,
    never_decayed,
    quiet_blocks,
    resampled,
    simulated,
    trained_once,
)
from benchmarks.measure import Result
from evergrow.statistics.sequential import MONTH, calibration, learn, log_evidence

os.environ["DO_NOT_TRACK"] = "1"  # Evidently reads it on import

Floats = NDArray[np.float64]

PER_DAY = 8
ALARMS_PER_MONTH = 1 / 12
QUIET, HARMED = 250, 120
"""Series of each."""
WATCHED = 63
"""Days that quiet series are watched after the reference."""
BEGIN = REFERENCE + 14
"""Day on which harm begins."""
PATIENCE = 42
"""Days after which a harm counts as found at last."""
SIMULATED = {
    "sudden, small": (0.03, 0),
    "sudden, medium": (0.06, 0),
    "sudden, large": (0.15, 0),
    "sudden, collapse": (0.3, 0),
    "over 14 days, medium": (0.06, 14),
}


@dataclass(frozen=True)
class Trace:
    """A detector's statistic over time: the instants it is known at, in days [k], and its values [k]."""

    days: Floats
    values: Floats

    def first(self, level: float, begin: float) -> float:
        """Days from `begin` until the statistic is at `level` or above; inf if it never is."""
        hits = np.flatnonzero((self.values >= level) & (self.days > begin))
        return float(self.days[hits[0]] - begin) if len(hits) else math.inf


class Rival(Protocol):
    """A detector with one knob: it alarms where its statistic reaches the level."""

    def first(self, series: Sequence[Series], level: float, begin: float) -> Floats:
        """Days from `begin` to each series' first alarm, inf where there is none."""
        ...

    def tuned(self, quiet: Sequence[Series], alarmed: int) -> float:
        """The level at which so many of the quiet series have an alarm."""
        ...


@dataclass(frozen=True)
class Traced:
    """A rival whose statistic does not hang on the level, so that one pass gives every level's alarms."""

    trace: Callable[[Series], Trace]

    def first(self, series: Sequence[Series], level: float, begin: float) -> Floats:
        """Days from `begin` to each series' first alarm."""
        return np.array([self.trace(s).first(level, begin) for s in series])

    def tuned(self, quiet: Sequence[Series], alarmed: int) -> float:
        """Between the largest values of two neighbours, ranked by it."""
        most = sorted((self.trace(s).values.max() for s in quiet), reverse=True)
        return (most[alarmed - 1] + most[alarmed]) / 2


def page_hinkley(series: Series, delta: float = 0.005, alpha: float = 1 - 0.0001) -> Trace:
    """The statistic of river's PageHinkley(mode="up") after each row, at its default delta and alpha."""
    mean = np.cumsum(series.losses) / np.arange(1, len(series.losses) + 1)
    total = lfilter([1.0], [1.0, -alpha], series.losses - mean - delta)
    watched = slice(series.reference, None)
    return Trace(series.days[watched], (total - np.minimum.accumulate(total))[watched])


def wasserstein(series: Series) -> Trace:
    """Evidently's default for a number: each day's losses against the reference's, every 7th row of it."""
    import pandas as pd
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    reference = pd.Series(series.losses[: series.reference : 7])
    edges = np.searchsorted(series.days, np.arange(REFERENCE, series.length + 1))
    days = [pd.Series(series.losses[a:b]) for a, b in pairwise(edges)]
    test = get_stattest(reference, days[0], ColumnType.Numerical, None)
    values = [test(reference, day, ColumnType.Numerical, None).drift_score for day in days]
    return Trace(np.arange(REFERENCE + 1.0, series.length + 1), np.array(values))


class Adwin:
    """river's ADWIN, row by row; of its detections those of a rise. Its level is -log10 of its delta."""

    def first(self, series: Sequence[Series], level: float, begin: float) -> Floats:
        """Days from `begin` to each series' first alarm."""
        return np.array([self._first(s, 10**-level, begin) for s in series])

    def _first(self, series: Series, delta: float, begin: float) -> float:
        from river.drift import ADWIN

        detector, after = ADWIN(delta=delta), int(np.searchsorted(series.days, begin))
        for row, loss in enumerate(series.losses.tolist()):
            before = detector.estimation if row % 32 == 31 else 0.0  # it looks every 32 rows
            detector.update(loss)
            if detector.drift_detected and row >= after and detector.estimation > before:
                return float(series.days[row] - begin)
        return math.inf

    def tuned(self, quiet: Sequence[Series], alarmed: int) -> float:
        """The nearest of ten levels, found by halving their ratio."""
        low, high, tried = 0.5, 300.0, []
        for _ in range(10):
            level = math.sqrt(low * high)
            found = int(np.isfinite(self.first(quiet, level, REFERENCE)).sum())
            tried.append((abs(found - alarmed), level))
            if found == alarmed:
                break
            low, high = (level, high) if found > alarmed else (low, level)
        return min(tried)[1]


def firsts(means: Floats, rows: Floats, days: int, per_day: int, begin: float) -> Floats:
    """Days from `begin` to the first alarm of our test at its own threshold, its state going on; [P].

    Args:
        means: mean losses of blocks, those of the reference first, [P, T].
        rows: their rows, [P, T].
        days: of the reference.
        per_day: blocks in a day.
        begin: day from which on alarms count.
    """
    cut = days * per_day
    null = learn(means[:, :cut], rows[:, :cut], per_day)
    found = log_evidence(null, means[:, cut:], rows[:, cut:], cut)
    levels = [calibration(days, per_day, share).threshold(ALARMS_PER_MONTH) for share in null.share]
    known = days + np.arange(1, found.shape[1] + 1) / per_day
    return np.array([Trace(known, f).first(level, begin) for f, level in zip(found, levels, strict=True)])


def ours(series: Sequence[Series], begin: float, per_day: int = PER_DAY) -> Floats:
    """Days from `begin` to each series' first alarm by our test."""
    means, rows = np.stack([s.blocks(per_day) for s in series], axis=1)
    return firsts(means, rows, REFERENCE, per_day, begin)


RIVALS: Mapping[str, Rival] = {
    "ADWIN": Adwin(),
    "Page-Hinkley": Traced(page_hinkley),
    "Evidently": Traced(wasserstein),
}


def interval(trials: int, days: float) -> tuple[float, float]:
    """Central 95 % of the share of trials of that many days with an alarm, if the rate is the one that was set."""
    share = 1 - math.exp(-ALARMS_PER_MONTH * days / MONTH)
    low, high = binom.ppf([0.025, 0.975], trials, share) / trials
    return float(low), float(high)


def false_alarms(name: str, alarmed: int, trials: int, days: float, detail: str = "") -> Result:
    """Quiet series with an alarm: not more of them than the setting may give by chance."""
    low, high = interval(trials, days)
    share = alarmed / trials
    side = "within" if low <= share <= high else "below" if share < low else "above"
    return Result(
        f"harm detector: quiet series of {days:g} days with a false alarm, {name}",
        100 * share,
        "%",
        f"≤ {100 * high:.3g}",
        share <= high,
        f"set: {ALARMS_PER_MONTH:.3g} a month; {side} the 95 % interval, {low:.1%} to {high:.1%}, of {trials:,} series"
        + detail,
    )


STRESS = ("days heavy-tailed and correlated 0.3", "days correlated 0.6")
"""Beyond what the test is designed for: measured, and only stated."""


def quiet_months() -> list[Result]:
    """1,000 months after a reference each, of several kinds, by blocks of a day and of three hours."""
    results = []
    for per_day, blocks in ((1, "blocks of a day"), (PER_DAY, f"blocks of {24 // PER_DAY} h")):
        for kind, settings in QUIET_MONTHS.items():
            means, rows = quiet_blocks(1000, REFERENCE + 30, per_day, seed=3, **settings)
            alarmed = int(np.isfinite(firsts(means, rows, REFERENCE, per_day, REFERENCE)).sum())
            result = false_alarms(f"{kind}, {blocks}", alarmed, 1000, 30)
            results.append(replace(result, reach="stated", holds=True) if kind in STRESS else result)
    return results


def compared(name: str, series: Sequence[Series], levels: Mapping[str, float]) -> Result:
    """Mean days until harm is seen: ours over those of the quickest rival."""
    found = {"ours": ours(series, BEGIN), "ours by days": ours(series, BEGIN, 1)}
    found |= {rival: RIVALS[rival].first(series, level, BEGIN) for rival, level in levels.items()}
    days = {who: np.minimum(f, PATIENCE) for who, f in found.items()}
    ratio = days["ours"].mean() / min(days[rival].mean() for rival in levels)
    told = (f"{who} {d.mean():.2f} / {np.median(d):.2f} / {(d < PATIENCE).mean():.0%}" for who, d in days.items())
    return Result(
        f"days until harm is seen, {name}: ours over the best of river and Evidently",
        float(ratio),
        "×",
        "≤ 1.1",
        bool(ratio <= 1.1),
        f"mean / median days / seen within {PATIENCE}: {'; '.join(told)}",
    )


def levelled(name: str, quiet: Sequence[Series]) -> tuple[Result, Mapping[str, float]]:
    """Our false alarms on quiet series, and the rivals' levels that give them as many."""
    alarmed = int(np.isfinite(ours(quiet, REFERENCE)).sum())
    levels = {rival: arm.tuned(quiet, alarmed) for rival, arm in RIVALS.items()}
    counts = {r: int(np.isfinite(RIVALS[r].first(quiet, level, REFERENCE)).sum()) for r, level in levels.items()}
    by_days = int(np.isfinite(ours(quiet, REFERENCE, 1)).sum())
    told = ", ".join(f"{rival} {count} at {levels[rival]:.3g}" for rival, count in counts.items())
    detail = f"; alarms: ours {alarmed}, ours by days {by_days}, tuned to that: {told}"
    return false_alarms(name, alarmed, len(quiet), WATCHED, detail), levels


def on_simulated() -> list[Result]:
    """1,000 rows a day whose days differ and hang together."""
    quiet, levels = levelled("simulated rows", simulated(QUIET, REFERENCE + WATCHED, 0.0, 0, BEGIN, seed=1))
    results = [quiet]
    for name, (rise, over) in SIMULATED.items():
        harmed = simulated(HARMED, BEGIN + PATIENCE, rise, over, BEGIN, seed=2)
        results.append(compared(f"simulated, {name} (+{rise:g} on 0.45)", harmed, levels))
    return results


def on_flights() -> list[Result]:
    """Weeks of flights drawn at random, so that the quiet part has no trend; and the model of January, as it was."""
    rows = flight_rows()
    losses = never_decayed(rows, seed=0)
    well = losses[""]
    weeks = (REFERENCE + WATCHED) // 7, (BEGIN + PATIENCE) // 7
    quiet, levels = levelled("weeks of flights", resampled(rows, well, well, QUIET, weeks[0], BEGIN, seed=1))
    results = [quiet]
    for name, harmed in losses.items():
        if name:
            series = resampled(rows, well, harmed, HARMED, weeks[1], BEGIN, seed=2)
            results.append(compared(f"flights, {name} ({harmed.mean() - well.mean():+.3f})", series, levels))
    return [*results, decay(trained_once(rows), levels)]


def decay(series: Series, levels: Mapping[str, float]) -> Result:
    """When each detector says that the model of January has become worse; its reference is February."""
    found = {"ours": ours([series], REFERENCE)[0], "ours by days": ours([series], REFERENCE, 1)[0]}
    found |= {rival: RIVALS[rival].first([series], level, REFERENCE)[0] for rival, level in levels.items()}

    def told(days: float) -> str:
        on = date(2013, 2, 1) + timedelta(days=REFERENCE + days) if math.isfinite(days) else None
        return f"{on:%Y-%m-%d}" if on else "never"

    return Result(
        "days until the decay of a model of January is seen, flights of 2013 from March on",
        float(found["ours"]) if math.isfinite(found["ours"]) else float(series.length - REFERENCE),
        "days",
        "stated",
        True,
        "; ".join(f"{who}: {told(days)}" for who, days in found.items()),
    )


def run() -> list[Result]:
    """False alarms first, then delays at equally many of them."""
    return [*quiet_months(), *on_simulated(), *on_flights()]
