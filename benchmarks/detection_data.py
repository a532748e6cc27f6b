"""Series of realised losses to detect harm in: simulated ones, and those of models of the flights of 2013."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.signal import lfilter

from evergrow.learning.losses import row_losses
from models.arrival_delay.data import Flights
from models.arrival_delay.estimator import build

Floats = NDArray[np.float64]

REFERENCE = 28
"""Days that every detector learns from first."""
MEAN, DAY, CORRELATION, DAILY = 0.45, 0.03, 0.3, 1000
"""Of simulated losses: mean, standard deviation of days' effects, their correlation, rows a day."""


@dataclass(frozen=True)
class Series:
    """Losses in the order they became known.

    Attributes:
        losses: [n].
        days: when each became known, in days, rising from 0, [n].
        length: days in all.
    """

    losses: Floats
    days: Floats
    length: int

    @property
    def reference(self) -> int:
        """Rows of the reference."""
        return int(np.searchsorted(self.days, REFERENCE))

    def blocks(self, per_day: int) -> tuple[Floats, Floats]:
        """Mean loss and rows of each block, [length · per_day]."""
        block = (self.days * per_day).astype(int)
        rows = np.bincount(block, minlength=self.length * per_day).astype(float)
        sums = np.bincount(block, self.losses, minlength=self.length * per_day)
        return sums / np.maximum(rows, 1), rows


def simulated(count: int, length: int, rise: float, over: int, begin: int, seed: int) -> list[Series]:
    """Losses that are gamma distributed, their means those of AR(1) days, which rise from day `begin` on.

    Args:
        count: of series.
        length: days of each.
        rise: of the mean loss.
        over: days that the rise takes; 0: sudden.
        begin: day on which it begins.
        seed: seeds the series; the same for every rise.
    """
    random, found = np.random.default_rng(seed), []
    days = (np.arange(length * DAILY) + 0.5) / DAILY
    share = np.clip((days - begin) / over, 0, 1) if over else (days >= begin).astype(float)
    for _ in range(count):
        effect = random.normal(0, DAY, length)
        for t in range(1, length):
            effect[t] = CORRELATION * effect[t - 1] + np.sqrt(1 - CORRELATION**2) * effect[t]
        level = MEAN + np.repeat(effect, DAILY) + rise * share
        found.append(Series(level * random.gamma(2.0, 0.5, len(days)), days, length))
    return found


QUIET_MONTHS: Mapping[str, Mapping[str, float]] = {
    "rows independent": {"effect": 0.0},
    "days correlated 0.3": {"correlation": 0.3},
    "days heavy-tailed": {"tail": 3},
    "weekends harder, days correlated 0.3": {"correlation": 0.3, "weekend": 0.04},
    "volume varying, days correlated 0.3": {"correlation": 0.3, "volume": 0.7},
    "days heavy-tailed and correlated 0.3": {"correlation": 0.3, "tail": 3},
    "days correlated 0.6": {"correlation": 0.6},
}


def quiet_blocks(
    count: int,
    days: int,
    per_day: int,
    seed: int,
    effect: float = DAY,
    correlation: float = 0.0,
    tail: float = math.inf,
    weekend: float = 0.0,
    volume: float = 0.0,
) -> tuple[Floats, Floats]:
    """Mean losses and rows of blocks in which nothing rises, [count, days · per_day].

    Args:
        count: of series.
        days: of each.
        per_day: blocks in a day.
        seed: seeds them.
        effect: standard deviation of days' effects.
        correlation: of one day's effect with the next one's.
        tail: degrees of freedom of Student's t that they have; infinite: normal.
        weekend: by how much losses of two days a week are higher.
        volume: standard deviation of the log of a day's rows.
    """
    random = np.random.default_rng(seed)
    shocks = random.normal(size=(count, days))
    if math.isfinite(tail):
        shocks = random.standard_t(tail, (count, days)) * math.sqrt((tail - 2) / tail)
    effects = lfilter([math.sqrt(1 - correlation**2)], [1, -correlation], shocks)
    rows = np.repeat(DAILY / per_day * np.exp(volume * random.normal(size=(count, days))), per_day, axis=1)
    means = MEAN + effect * np.repeat(effects, per_day, axis=1) + 0.5 / np.sqrt(rows) * random.normal(size=rows.shape)
    return means + weekend * (np.arange(days * per_day) // per_day % 7 >= 5), rows


KEYS = {
    "carrier_delays": "carrier",
    "origin_delays": "origin",
    "route_delays": "route",
    "plane_delays": "tailnum",
    "weather": "origin",
}
NEW_YEAR = pd.Timestamp("2013-01-01", tz="UTC")


@dataclass(frozen=True)
class FlightRows:
    """Flights in the order their outcome became known: features [n, k], late or not [n], days since New Year [n]."""

    names: Sequence[str]
    features: Floats
    late: Floats
    days: Floats

    def without(self, prefixes: tuple[str, ...]) -> Floats:
        """The features, those of which the name begins so missing."""
        missing = [name.startswith(prefixes) for name in self.names]
        return np.where(missing, np.nan, self.features)


def flight_rows() -> FlightRows:
    """Every flight of 2013 that landed, with what was known when its prediction was asked."""
    source = Flights()
    end = pd.Timestamp("2014-01-02", tz="UTC").to_pydatetime()
    tables = source.derive({t.name: source.read(t.name, None, end) for t in source.tables})
    rows = tables["examples"].dropna(subset=["late"]).reset_index(drop=True)
    local = rows.scheduled_departure.dt.tz_convert("America/New_York").dt
    columns = {
        "minutes": rows.scheduled_minutes,
        "distance": rows.distance,
        "hour": local.hour,
        "weekday": local.dayofweek,
    }
    columns |= {key: rows[key].astype("category").cat.codes for key in ("carrier", "origin")}
    for name, key in KEYS.items():
        columns |= as_known(rows, tables[name], key)
    features = pd.DataFrame(columns)
    order = np.argsort(rows.known_at.to_numpy(), kind="stable")
    days = ((rows.known_at - NEW_YEAR) / pd.Timedelta(days=1)).to_numpy()[order]
    return FlightRows(list(columns), features.to_numpy(float)[order], rows.late.to_numpy()[order], days)


def as_known(rows: pd.DataFrame, table: pd.DataFrame, key: str) -> Mapping[str, pd.Series]:
    """Columns of a feature table, each row's as known when it was asked; named after their table's key."""
    asked = rows[["event_timestamp", key]].assign(row=rows.index).dropna().sort_values("event_timestamp", kind="stable")
    known = table.drop(columns="event_timestamp").sort_values("created_timestamp", kind="stable")
    joined = pd.merge_asof(asked, known, left_on="event_timestamp", right_on="created_timestamp", by=key)
    values = joined.set_index("row").drop(columns=["event_timestamp", "created_timestamp", key])
    return {str(name): values[name].reindex(rows.index) for name in values}


def log_loss(late: Floats, scores: Floats) -> Floats:
    """Of each row, [n]."""
    return row_losses("log_loss", late, scores)


def trained_once(rows: FlightRows) -> Series:
    """Losses from February on of a model trained on what was known of January."""
    january, later = rows.days < 31, rows.days >= 31
    model = build(max_iter=60).fit(rows.features[january], rows.late[january])
    losses = log_loss(rows.late[later], model.predict_proba(rows.features[later])[:, 1])
    days = rows.days[later] - 31
    kept = days < 334
    return Series(losses[kept], days[kept], 334)


HARMS: Mapping[str, tuple[str, ...]] = {
    "weather missing": ("temp", "humid", "wind", "precip", "pressure", "visib"),
    "trailing delays missing": ("carrier_", "origin_", "route_", "plane_"),
}
SHUFFLED = (0.25, 1.0)


def never_decayed(rows: FlightRows, seed: int) -> Mapping[str, Floats]:
    """Losses of each flight by a model of the other weeks of the year, [n], as they are ("") and with each harm."""
    random = np.random.default_rng(seed)
    odd = (rows.days // 7).astype(int) % 2 == 1
    kinds = {"": rows.features} | {name: rows.without(prefixes) for name, prefixes in HARMS.items()}
    scores = {name: np.empty(len(odd)) for name in kinds}
    for half in (odd, ~odd):
        others = random.permutation(np.flatnonzero(~half))[:60_000]
        model = build(max_iter=60).fit(rows.features[others], rows.late[others])
        for name, features in kinds.items():
            scores[name][half] = model.predict_proba(features[half])[:, 1]
    for share in SHUFFLED:
        chosen = np.flatnonzero(random.random(len(odd)) < share)
        scores[f"{share:.0%} of scores shuffled"] = scores[""].copy()
        scores[f"{share:.0%} of scores shuffled"][chosen] = scores[""][random.permutation(chosen)]
    return {name: log_loss(rows.late, s) for name, s in scores.items()}


def resampled(
    rows: FlightRows, before: Floats, after: Floats, count: int, weeks: int, begin: int, seed: int
) -> list[Series]:
    """Series of weeks of 2013 drawn at random: whole, with their days in order, so that none has a trend.

    Args:
        rows: the flights.
        before: losses of each flight while all is well, [n].
        after: losses with the harm, from day `begin` on, [n].
        count: of series.
        weeks: of each, reference included.
        begin: day on which the harm begins.
        seed: seeds the draws; the same for every harm.
    """
    random, found = np.random.default_rng(seed), []
    edges = np.searchsorted(rows.days, np.arange(53) * 7.0)
    for _ in range(count):
        drawn = random.integers(0, 52, weeks)
        at = np.concatenate([np.arange(edges[w], edges[w + 1]) for w in drawn])
        days = np.concatenate([rows.days[edges[w] : edges[w + 1]] + 7.0 * (i - w) for i, w in enumerate(drawn)])
        found.append(Series(np.where(days < begin, before[at], after[at]), days, 7 * weeks))
    return found
