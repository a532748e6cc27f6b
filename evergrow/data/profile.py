"""What a data snapshot looks like, as numbers: distributions, what is missing, labels over time, correlations."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT, TrainingSet
from evergrow.data.leakage import Floats, Suspect, numbers, power, ranks, suspects

SAMPLE = 50_000
"""Rows that what needs ranks is computed on, evenly spread over time."""
BINS = 30
LEVELS = 8
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
DELAYS = (0.5, 0.9, 0.99, 1.0)
Z = 1.959963984540054
"""Of a 95 % interval."""


@dataclass(frozen=True)
class Distribution:
    """One feature.

    Attributes:
        name: of the feature.
        kind: numeric or categorical.
        missing: share of rows without it.
        distinct: number of values.
        power: how well it alone ranks labels: AUC, or |rho| of a regression; NaN if that cannot be told.
        quantiles: at QUANTILES, of a numeric feature.
        heights: rows per bin of equal width between the 0.5 % and 99.5 % quantile, what lies outside in the end bins.
        edges: of the first and the last bin.
        levels: the commonest values of a categorical feature with their shares of the rows.
    """

    name: str
    kind: str
    missing: float
    distinct: int
    power: float
    quantiles: tuple[float, ...] = ()
    heights: tuple[int, ...] = ()
    edges: tuple[float, float] = (0.0, 0.0)
    levels: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class LabelMean:
    """Mean label of some rows, with its 95 % interval (rows taken as independent)."""

    name: str
    rows: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Profile:
    """A snapshot.

    Attributes:
        features: one each.
        suspects: what may leak.
        days: first day, and rows asked per day from then on.
        weeks: mean label per week.
        slices: mean label per value of each slice column.
        missing: per feature that lacks values, its missing share per week; NaN in a week without rows.
        numeric: names of the numeric features that vary.
        correlations: Spearman's, of those [k, k].
        delays: hours until labels were known, at the quantiles DELAYS.
        delay_heights: rows per bin of equal width from 0 to the 99 % quantile.
        sampled: rows that power, suspects and correlations are computed on.
    """

    features: tuple[Distribution, ...]
    suspects: tuple[Suspect, ...]
    days: tuple[datetime, tuple[int, ...]]
    weeks: tuple[LabelMean, ...]
    slices: dict[str, tuple[LabelMean, ...]]
    missing: dict[str, tuple[float, ...]]
    numeric: tuple[str, ...]
    correlations: Floats
    delays: tuple[float, ...]
    delay_heights: tuple[int, ...]
    sampled: int


def profile(training_set: TrainingSet, rows: pd.DataFrame) -> Profile:
    """Describe a snapshot of at least one row. Pure; the same rows give the same numbers."""
    names = [feature.name for feature in training_set.features]
    y, binary = numbers(rows[training_set.label]), training_set.task == "binary-classification"
    delay = (rows[KNOWN_AT] - rows[EVENT_TIMESTAMP]).dt.total_seconds().to_numpy(np.float64)
    sample = np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(int))
    some = rows.iloc[sample]
    varying = tuple(f.name for f in training_set.features if f.kind == "numeric" and rows[f.name].nunique() > 1)
    day, week = _days(rows), _weeks(rows)
    return Profile(
        features=tuple(
            distribution(f.name, f.kind, rows[f.name], power(some[f.name], y[sample], binary))
            for f in training_set.features
        ),
        suspects=tuple(suspects(some[names], y[sample], delay[sample], binary)),
        days=(rows[EVENT_TIMESTAMP].min().floor("D").to_pydatetime(), tuple(np.bincount(day).tolist())),
        weeks=label_means(week, y, binary),
        slices={column: label_means(_values(rows[column]), y, binary) for column in training_set.slices},
        missing=missing_by_week(rows[names], week),
        numeric=varying,
        correlations=rank_correlations(some[list(varying)]),
        delays=tuple((np.quantile(delay, DELAYS) / 3600).tolist()),
        delay_heights=_delay_heights(delay),
        sampled=len(some),
    )


def distribution(name: str, kind: str, column: pd.Series, strength: float) -> Distribution:
    """Describe one feature; `strength` is how well it alone ranks labels."""
    missing, distinct = float(column.isna().mean()), int(column.nunique())
    if kind != "numeric":
        shares = column.value_counts(normalize=False).head(LEVELS) / max(1, len(column))
        levels = tuple((str(value), float(share)) for value, share in shares.items())
        return Distribution(name, kind, missing, distinct, strength, levels=levels)
    values = numbers(column)
    values = values[np.isfinite(values)]
    if not len(values):
        return Distribution(name, kind, missing, distinct, strength)
    low, high = np.quantile(values, (0.005, 0.995)).tolist()
    heights, _ = np.histogram(values.clip(low, high), bins=min(BINS, max(1, distinct)), range=(low, high))
    quantiles = tuple(np.quantile(values, QUANTILES).tolist())
    return Distribution(name, kind, missing, distinct, strength, quantiles, tuple(heights.tolist()), (low, high))


def label_means(groups: pd.Series, y: Floats, binary: bool) -> tuple[LabelMean, ...]:
    """Mean label per group, in order of the groups' names.

    The interval is Wilson's for 0/1 labels (E. B. Wilson, JASA 22, 1927), else value ± 1.96 standard errors.
    """
    codes, names = pd.factorize(groups, sort=True)
    n = np.bincount(codes, minlength=len(names))
    mean = np.bincount(codes, weights=y, minlength=len(names)) / n
    squares = np.bincount(codes, weights=y**2, minlength=len(names)) / n
    spread = np.sqrt(np.maximum(0.0, squares - mean**2) / n)
    if binary:
        middle = (mean + Z**2 / (2 * n)) / (1 + Z**2 / n)
        half = Z / (1 + Z**2 / n) * np.sqrt(mean * (1 - mean) / n + Z**2 / (4 * n**2))
    else:
        middle, half = mean, Z * spread
    ends = zip(names, n, mean, middle - half, middle + half, strict=True)
    return tuple(LabelMean(str(name), int(k), *map(float, numbers_)) for name, k, *numbers_ in ends)


def missing_by_week(features: pd.DataFrame, week: pd.Series) -> dict[str, tuple[float, ...]]:
    """Share missing in each week that has rows, of each feature that misses any; in order of the weeks."""
    codes, names = pd.factorize(week, sort=True)
    rows = np.bincount(codes, minlength=len(names))
    absent = {str(name): features[name].isna().to_numpy() for name in features}
    return {
        name: tuple((np.bincount(codes, weights=lacking, minlength=len(names)) / rows).tolist())
        for name, lacking in absent.items()
        if lacking.any()
    }


def rank_correlations(features: pd.DataFrame) -> Floats:
    """Spearman's rank correlation of all pairs [k, k]; missing values take the middle rank, which weakens it."""
    if features.empty:
        return np.zeros((0, 0))
    columns = []
    for name in features:
        ranked = ranks(numbers(features[name]))
        ranked = np.where(np.isnan(ranked), np.nanmean(ranked) if not np.isnan(ranked).all() else 0.0, ranked)
        ranked = ranked - ranked.mean()
        columns.append(ranked / (math.sqrt(float(ranked @ ranked)) or 1.0))
    matrix = np.column_stack(columns)
    correlations: Floats = np.clip(matrix.T @ matrix, -1, 1)
    return correlations


def strongest(names: tuple[str, ...], correlations: Floats, most: int = 15) -> list[tuple[str, str, float]]:
    """The pairs that hang together most, strongest first."""
    i, j = np.tril_indices(len(names), -1)
    order = np.argsort(-np.abs(correlations[i, j]), kind="stable")[:most]
    return [(names[j[k]], names[i[k]], float(correlations[i[k], j[k]])) for k in order]


def _days(rows: pd.DataFrame) -> NDArray[np.int64]:
    days = rows[EVENT_TIMESTAMP].dt.floor("D")
    since: NDArray[np.int64] = ((days - days.min()) // pd.Timedelta(days=1)).to_numpy(np.int64)
    return since


def _weeks(rows: pd.DataFrame) -> pd.Series:
    """The Monday (UTC) of each row's week, as text that sorts."""
    asked = rows[EVENT_TIMESTAMP].dt
    monday = asked.floor("D") - pd.to_timedelta(asked.weekday, unit="D")
    codes, mondays = pd.factorize(monday)
    return pd.Series(np.asarray(mondays.strftime("%Y-%m-%d"), object)[codes], index=rows.index)


def _values(column: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column) and column.nunique() > 20:
        column = pd.qcut(column, 4, duplicates="drop").astype(object)
    return column.astype(object).where(column.notna(), "missing").astype(str)


def _delay_heights(delay: Floats) -> tuple[int, ...]:
    top = float(np.quantile(delay, 0.99)) or 1.0
    return tuple(np.histogram(delay.clip(0, top), bins=BINS, range=(0, top))[0].tolist())
