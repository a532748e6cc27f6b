"""Drift: how far a day's values are from the reference's, held against how far the reference's own days are apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from evergrow.contracts import Comparison, Feature, Observation, ObservationKind, Verdict
from evergrow.monitoring.profile import Axis, Counts, Profile, axes_of, profile
from evergrow.monitoring.scene import Scene
from evergrow.statistics import distances
from evergrow.statistics.unusual import FEWEST, high_distance

Floats = NDArray[np.float64]

GROUPS = 10
"""Groups of about equal reference mass that distances of numbers are made of."""


def grouped(axis: Axis, reference: Counts, now: Counts) -> tuple[Counts, Counts]:
    """Counts of both without missing values, in cells that are wide enough to compare.

    Categories keep their cells. Numbers have GROUPS groups of about equal reference mass, and one on either side of the
    reference's range.
    """
    if axis.kind == "categorical" or not axis.edges:
        return reference[:-1], now[:-1]
    rising = np.cumsum(reference[:-1])
    whole = int(rising[-1])
    group = np.clip(-(-rising * GROUPS // max(1, whole)), 1, GROUPS)
    group[rising == 0] = 0
    group[np.searchsorted(rising, whole) + 1 :] = GROUPS + 1
    return _sums(group, reference[:-1]), _sums(group, now[:-1])


def stability(axis: Axis, reference: Counts, now: Counts) -> float:
    """Population stability index of one column's counts, ≥ 0."""
    return distances.psi(*grouped(axis, reference, now))


def _sums(group: Counts, counts: Counts) -> Counts:
    return np.bincount(group, weights=counts, minlength=GROUPS + 2).astype(np.int64)


def own_distances(days: Sequence[Profile]) -> Floats:
    """How far each day of a reference is from its other days, as stability indices, [days, axes]."""
    if not days:
        return np.zeros((0, 0))
    whole = sum(days[1:], days[0])
    return np.array(
        [
            [
                stability(axis, rest, own)
                for (axis, rest), (_, own) in zip((whole - day).columns(), day.columns(), strict=True)
            ]
            for day in days
        ]
    )


def observe(
    scene: Scene,
    now: Profile,
    reference: Sequence[Profile],
    kinds: Sequence[ObservationKind],
    threshold: float,
    alarm: bool = False,
) -> list[Observation]:
    """Drift of each column of a day, held against how far the reference's own days are apart.

    A column drifted if its stability index reaches the threshold and is unusual among those of the reference's days:
    neither the chance of few rows nor what comes and goes every day is drift.

    Args:
        scene: whose alpha all columns share.
        now: of the rows that are looked at.
        reference: of each day of the reference.
        kinds: of drift, per axis.
        threshold: stability index from which a column counts as drifted.
        alarm: whether it asks anyone to act.
    """
    return observe_against(scene, now, Usual.of(reference), kinds, threshold, alarm)


@dataclass(frozen=True)
class Usual:
    """A reference that many days are held against.

    Attributes:
        whole: all of its rows.
        own: how far each of its days is from its other days, [days, axes].
    """

    whole: Profile
    own: Floats

    @classmethod
    def of(cls, days: Sequence[Profile]) -> Self:
        """Of its days."""
        return cls(sum(days[1:], days[0]), own_distances(days))


def observe_against(
    scene: Scene, now: Profile, usual: Usual, kinds: Sequence[ObservationKind], threshold: float, alarm: bool = False
) -> list[Observation]:
    """As `observe`, for a reference that is used again."""
    alpha = scene.alpha / max(1, len(now.axes))
    columns = zip(kinds, usual.whole.columns(), now.columns(), strict=True)
    return [
        _observed(scene, kind, axis, before, after, usual.own[:, i], alpha, threshold, alarm)
        for i, (kind, (axis, before), (_, after)) in enumerate(columns)
        if after[:-1].sum() and before[:-1].sum()
    ]


def _observed(
    scene: Scene, kind: ObservationKind, axis: Axis, before: Counts, after: Counts, own: Floats, alpha: float,
    threshold: float, alarm: bool,
) -> Observation:  # fmt: skip
    effect, rows = stability(axis, before, after), int(after[:-1].sum())
    usual = float(np.median(own))
    told = f"{axis.name}: stability index {effect:.3f} to {scene.reference}, whose own days have {usual:.3f}, "
    told += f"threshold {threshold:g}"
    if len(own) < FEWEST:
        verdict = Verdict(outcome="inconclusive", reason=f"{told}; {len(own)} days to compare, needs {FEWEST}")
        return scene.observe(kind, axis.name, "psi", effect, threshold, rows, verdict, alarm=alarm)
    p = high_distance(effect, own)
    told += f"; p {p:.2g}, unusual at {alpha:.2g}; most changed: {most_changed(axis, before[:-1], after[:-1])}"
    verdict = Verdict.when(effect < threshold or p > alpha, told)
    return scene.observe(kind, axis.name, "psi", effect, threshold, rows, verdict, p_value=p, alarm=alarm)


SLICE_ROWS = 200
"""A slice of fewer rows is not looked at: its stability index would be chance alone."""
FARTHER = 2.0
"""A slice is told if it drifted so many times as far as all rows: what all do is told of all."""
JUMP = 1.0
"""Stability index, day against the days before, from which a column jumped."""


def observe_slices(
    scene: Scene,
    now: Mapping[str, Profile],
    reference: Mapping[str, Profile],
    days: Sequence[Profile],
    kinds: Sequence[ObservationKind],
    threshold: float,
) -> list[Observation]:
    """Columns that drifted within a slice, though not, or far less, in all rows together.

    The index that chance alone gives, (groups - 1) (1/n + 1/m) on average, is taken off first: F. Yurdakul &
    J. Naranjo, Statistical properties of the population stability index, Journal of Risk Model Validation 14, 2020.
    A slice has no days of its own to be held against; it is held against those of all rows.

    Args:
        scene: whose alpha all slices and columns share.
        now: of each slice's rows that are looked at; "" are all rows.
        reference: of each slice's rows in the reference.
        days: of all rows of each day of the reference.
        kinds: of drift, per axis.
        threshold: stability index from which a column counts as drifted.
    """
    whole, own = compare_stability(sum(days[1:], days[0]), now[""]), own_distances(days)
    slices = [name for name in now if name and name in reference and _large(now[name], reference[name])]
    alpha = scene.alpha / max(1, len(slices) * len(kinds))
    return [
        observation
        for name in slices
        for i, (kind, (axis, before), (_, after)) in enumerate(
            zip(kinds, reference[name].columns(), now[name].columns(), strict=True)
        )
        if (observation := _in_slice(scene, name, kind, axis, before, after, whole[i], own[:, i], alpha, threshold))
    ]


def compare_stability(reference: Profile, now: Profile) -> list[float]:
    """The stability index of each column."""
    return [stability(axis, old, new) for (axis, old), (_, new) in zip(reference.columns(), now.columns(), strict=True)]


def _large(now: Profile, reference: Profile) -> bool:
    return min(now.rows, reference.rows) >= SLICE_ROWS


def _in_slice(
    scene: Scene, name: str, kind: ObservationKind, axis: Axis, before: Counts, after: Counts, whole: float,
    own: Floats, alpha: float, threshold: float,
) -> Observation | None:  # fmt: skip
    n, m = int(after[:-1].sum()), int(before[:-1].sum())
    if not n or not m or len(own) < FEWEST:
        return None
    few = grouped(axis, before, after)
    effect = distances.psi(*few) - (np.count_nonzero(few[0] + few[1]) - 1) * (1 / n + 1 / m)
    p = high_distance(effect, own)
    if effect < max(threshold, FARTHER * whole) or p > alpha:
        return None
    reason = (
        f"{axis.name} where {name}: stability index {effect:.3f} beyond chance, {whole:.3f} in all rows, threshold "
        f"{threshold:g}; p {p:.2g}, unusual at {alpha:.2g}; most changed: {most_changed(axis, before[:-1], after[:-1])}"
    )
    verdict = Verdict(outcome="fail", reason=reason)
    return scene.observe(kind, axis.name, "psi", effect, threshold, n, verdict, slice=name, p_value=p)


class ProfileDrift:
    """evergrow's own `DriftTool`: everything from two profiles, so that the reference is counted once for ever."""

    def compare(
        self, reference: pd.DataFrame, current: pd.DataFrame, features: Sequence[Feature]
    ) -> Sequence[Comparison]:
        """Distances of all features; see `compare` for which."""
        names = [feature.name for feature in features]
        before = pa.Table.from_pandas(reference[names], preserve_index=False)
        axes = axes_of(features, before)
        now = pa.Table.from_pandas(current[names], preserve_index=False)
        return compare(profile(axes, before), profile(axes, now))


def compare(reference: Profile, now: Profile) -> list[Comparison]:
    """Distances column by column.

    Numbers: psi, ks, jensenshannon, hellinger, and wasserstein in standard deviations of the reference. Categories:
    psi, jensenshannon, hellinger, and chi2 as its statistic with a p-value that takes rows for independent. A column
    without values in either has none.
    """
    found: list[Comparison] = []
    for i, ((axis, before), (_, after)) in enumerate(zip(reference.columns(), now.columns(), strict=True)):
        rows, reference_rows = int(after[:-1].sum()), int(before[:-1].sum())
        if not rows or not reference_rows:
            continue
        low, high = min(reference.low[i], now.low[i]), max(reference.high[i], now.high[i])
        found += [
            Comparison(column=axis.name, test=test, effect=effect, p_value=p, rows=rows, reference_rows=reference_rows)
            for test, effect, p in _tests(axis, before, after, low, high)
        ]
    return found


def _tests(
    axis: Axis, before: Counts, now: Counts, low: float, high: float
) -> Iterator[tuple[str, float, float | None]]:
    few = grouped(axis, before, now)
    yield "psi", distances.psi(*few), None
    yield "jensenshannon", distances.jensen_shannon(*few), None
    yield "hellinger", distances.hellinger(*few), None
    if axis.kind == "categorical":
        yield "chi2", *distances.chi_square(*few)
        return
    yield "ks", distances.kolmogorov_smirnov(before[:-1], now[:-1]), None
    # Nothing lies beyond the extremes of both: what is there of a cell is what its mass is spread over.
    ends = np.clip([low, *axis.edges, high], low, high)
    if axis.spread > 0 and np.isfinite(ends).all():
        yield "wasserstein", distances.wasserstein(before[:-1], now[:-1], ends) / axis.spread, None


def most_changed(axis: Axis, reference: Counts, now: Counts) -> str:
    """The cell whose share changed most, in words: "EWR 36 % → 51 %"."""
    p, q = distances.shares(reference), distances.shares(now)
    cell = int(np.argmax(np.abs(q - p)))
    return f"{axis.name_of(cell)} {p[cell]:.1%} → {q[cell]:.1%}"
