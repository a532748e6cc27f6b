"""Data that is broken: columns that went, values that are missing, out of range or new, too many or too old.

Each check holds a share of the day's rows against the shares of the reference's days. What fails here is an alarm: a
model does not know that its inputs are wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evergrow.contracts import Observation, ObservationKind, Verdict
from evergrow.monitoring.profile import Axis, Profile
from evergrow.monitoring.scene import Scene
from evergrow.statistics.unusual import FEWEST, high_count, high_share, wilson

Counts = NDArray[np.int64]

AGES = (
    1,
    10,
    60,
    300,
    900,
    1800,
    3600,
    2 * 3600,
    3 * 3600,
    6 * 3600,
    12 * 3600,
    *(86400 * d for d in (1, 2, 3, 7, 14, 30, 90)),
)
"""Ends of the cells that the ages of features are counted in, in seconds."""
_AGE = "age of "


def age_axis(view: str) -> Axis:
    """The axis of how old a view's features were when they were looked up, in seconds."""
    return Axis(name=f"{_AGE}{view}", kind="numeric", edges=tuple(map(float, AGES)))


LATENCY = Axis(name="latency_ms", kind="numeric", edges=tuple(round(0.05 * 1.25**i, 4) for i in range(60)))
"""Milliseconds from the lookup of features to the answer: cells a quarter wide, from 0.05 ms to half a minute."""


def quantile(axis: Axis, counts: Counts, share: float) -> float | None:
    """Upper end of the cell that a quantile lies in; None of no values, infinity beyond the last."""
    rising = np.cumsum(counts[:-1])
    if not rising[-1]:
        return None
    cell = int(np.searchsorted(rising, share * rising[-1]))
    return axis.edges[cell] if cell < len(axis.edges) else float("inf")


def is_age(axis: Axis) -> bool:
    """Whether an axis is that of a view's age."""
    return axis.name.startswith(_AGE)


def schema(scene: Scene, rows: int, misfits: Mapping[str, str], axes: Sequence[Axis]) -> Iterator[Observation]:
    """Columns that are absent from the log, or that are of another kind; one observation if there is none."""
    for axis in axes:
        if axis.name in misfits:
            reason = f"{axis.name} is {misfits[axis.name]}, {scene.reference} has a {axis.kind} column"
            verdict = Verdict(outcome="fail", reason=reason)
            yield scene.observe("schema", axis.name, "kind of column", 1.0, 0.0, rows, verdict, alarm=True)
    if not misfits:
        verdict = Verdict(outcome="pass", reason=f"all {len(axes)} columns are as in {scene.reference}")
        yield scene.observe("schema", "all columns", "kind of column", 0.0, 0.0, rows, verdict, alarm=True)


def values(scene: Scene, now: Profile, reference: Sequence[Profile]) -> list[Observation]:
    """Shares of missing, out-of-range and unseen values of each column, each against the reference's days.

    Args:
        scene: whose alpha all of these checks share.
        now: of the rows that are looked at.
        reference: of each day of the reference.
    """
    checks = list(_checks(now, reference))
    return [_share(scene, *check, scene.alpha / len(checks)) for check in checks]


LEAST: Mapping[ObservationKind, float] = {"ranges": 0.05}
"""Least share that fails, however unusual: single values that are far out are no other unit."""

_Check = tuple[ObservationKind, str, str, int, int, Counts, Counts]


def _checks(now: Profile, reference: Sequence[Profile]) -> Iterator[_Check]:
    """Kind, column, what is counted, its count and the rows now, and both per day of the reference."""
    columns = [[counts for _, counts in day.columns()] for day in reference]
    for i, (axis, counts) in enumerate(now.columns()):
        days = np.array([day[i] for day in columns])
        missing, whole = days[:, -1], days.sum(axis=1)
        yield "nulls", axis.name, "missing", int(counts[-1]), now.rows, missing, whole
        there = int(counts[:-1].sum())
        if axis.kind == "numeric" and axis.edges:
            outside = int(counts[0] + counts[-2])
            yield "ranges", axis.name, "far out of range", outside, there, days[:, 0] + days[:, -2], whole - missing
        elif axis.kind == "categorical":
            yield "categories", axis.name, "unseen", int(counts[-2]), there, days[:, -2], whole - missing


def _share(
    scene: Scene, kind: ObservationKind, column: str, what: str, count: int, rows: int, counts: Counts, sizes: Counts,
    alpha: float,
) -> Observation:  # fmt: skip
    effect = count / rows if rows else 0.0
    usual = counts.sum() / max(1, sizes.sum())
    if len(counts) < FEWEST:
        p, outcome = None, "inconclusive"
    else:
        p = high_share(count, rows, counts, sizes)
        outcome = "fail" if p <= alpha and effect >= LEAST.get(kind, 0.0) else "pass"
    held = f"; p {p:.2g}, alarm at {alpha:.2g}" if p is not None else f"; {len(counts)} days to compare, needs {FEWEST}"
    reason = f"{column}: {effect:.2%} {what} of {rows:,}, {scene.reference} {usual:.2%}{held}"
    low, high = wilson(count, rows)
    verdict = Verdict(outcome=outcome, reason=reason)
    return scene.observe(
        kind, column, f"share {what}", effect, float(usual), rows, verdict, alarm=True, p_value=p, low=low, high=high
    )


def volume(scene: Scene, rows: int, before: Sequence[int]) -> Observation:
    """The day's number of predictions against those of the days before, either way."""
    usual = float(np.median(before)) if len(before) else 0.0
    if len(before) < FEWEST:
        verdict = Verdict(outcome="inconclusive", reason=f"{len(before)} days to compare with, needs {FEWEST}")
        return scene.observe("volume", "predictions", "rows a day", rows, usual, rows, verdict, alarm=True)
    p = high_count(rows, before, two_sided=True)
    reason = (
        f"{rows:,} predictions, median of {len(before)} days before {usual:,.0f}; p {p:.2g}, alarm at {scene.alpha:.2g}"
    )
    verdict = Verdict.when(p > scene.alpha, reason)
    return scene.observe("volume", "predictions", "rows a day", rows, usual, rows, verdict, alarm=True, p_value=p)


def freshness(scene: Scene, now: Profile, before: Sequence[Profile]) -> list[Observation]:
    """Per view, the share of answers whose features were older than the oldest 1 % of the days before, or not there."""
    ages = [(axis, i) for i, axis in enumerate(now.axes) if is_age(axis)]
    return [_fresh(scene, axis, i, now, before, scene.alpha / len(ages)) for axis, i in ages]


def _fresh(scene: Scene, axis: Axis, i: int, now: Profile, before: Sequence[Profile], alpha: float) -> Observation:
    days = np.array([list(day.columns())[i][1] for day in before]).reshape(len(before), axis.cells)
    counts = list(now.columns())[i][1]
    rising = np.cumsum(days.sum(axis=0))
    edge = int(np.searchsorted(rising, 0.99 * rising[-1])) if len(before) else axis.cells - 1
    old, older = int(counts[edge + 1 :].sum()), days[:, edge + 1 :].sum(axis=1)
    limit = axis.name_of(min(edge, axis.cells - 2))
    return _share(
        scene, "freshness", axis.name.removeprefix(_AGE), f"older than {limit} s or absent", old, now.rows, older,
        days.sum(axis=1), alpha,
    )  # fmt: skip
