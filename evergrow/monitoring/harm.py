"""Harm: a version's realised loss, block by block, against its holdout's, by a test that may look after each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from evergrow.contracts import EVENT_TIMESTAMP, Observation, Verdict
from evergrow.learning.losses import row_losses
from evergrow.monitoring.baseline import SCORE, Losses
from evergrow.monitoring.inputs import scene_of
from evergrow.monitoring.performance import VERSION, seconds
from evergrow.monitoring.scene import Scene
from evergrow.monitoring.truth import LABEL, LabelDay
from evergrow.spec import ContinualModel
from evergrow.statistics.sequential import LEAST_DAYS, Detector, Finding, Reference, detect

Floats = NDArray[np.float64]

SHARE = 0.9
"""Of the accepted false alarms: data that is broken shows at once, harm is what takes patience."""
STANDS = 7
"""Days for which an alarm stands: the test starts again after one, and what lasts is seen again by then."""
PER_DAY = 8
"""Blocks of a day: of three hours each, harm is seen sooner than of whole days."""
HOURS = 24 // PER_DAY
_EPOCH = date(1970, 1, 1)


def observe(
    document: ContinualModel,
    judged: pd.DataFrame,
    days: Sequence[LabelDay],
    losses: Losses,
    version: int,
    versions: int,
) -> Observation | None:
    """Whether a version does harm, as of its newest matured day; None if it has none.

    Args:
        document: of the model: the metric, the accepted rise and the accepted false alarms.
        judged: predictions of matured days with labels, of all versions.
        days: the state of each day's labels.
        losses: of the version's holdout.
        version: which one.
        versions: that share the accepted false alarms.
    """
    rows = judged[judged[VERSION] == version]
    if rows.empty:
        return None
    last = rows[EVENT_TIMESTAMP].dt.date.max()
    scene = scene_of(document, version, last, f"holdout of version {version}", SHARE / versions)
    rule, metric = document.spec.monitoring, document.spec.evaluation.gate.metric
    known = len(np.unique(losses.hours // 24))
    if known < LEAST_DAYS:
        reason = f"the holdout has {known} days, at least {LEAST_DAYS} are needed to judge by"
        return _observation(scene, metric, rule.harm, None, Verdict(outcome="inconclusive", reason=reason), len(rows))
    found = follow(document, rows, days, losses, versions)
    return observed(scene, metric, rule.harm, found, len(rows)) if found else None


def follow(
    document: ContinualModel, rows: pd.DataFrame, days: Sequence[LabelDay], losses: Losses, versions: int = 1
) -> list[Finding]:
    """What the test finds after each block of one version's predictions; arguments as of `observe`."""
    means, counts = reference(losses)
    begin = _first_day(losses)
    first, last = rows[EVENT_TIMESTAMP].dt.date.min(), rows[EVENT_TIMESTAMP].dt.date.max()
    # What served before the holdout was over is not news to it.
    start = max(first, begin + timedelta(days=len(means) // PER_DAY))
    if start > last:
        return []
    rule, metric = document.spec.monitoring, document.spec.evaluation.gate.metric
    detector = Detector(
        Reference.of(means, counts, PER_DAY),
        rule.harm,
        rule.false_alarms_per_month * SHARE / versions,
        metric,
        datetime(begin.year, begin.month, begin.day, tzinfo=UTC),
    )
    skipped = (start - begin).days * PER_DAY - len(means)
    found = detect(detector, *_stream(rows, metric, days, start, last, skipped))
    return [one for one in found[skipped:] if one]


def _first_day(losses: Losses) -> date:
    return _EPOCH + timedelta(days=int(losses.hours[0]) // 24)


def reference(losses: Losses) -> tuple[Floats, Floats]:
    """Mean loss and rows of each block of the holdout's days, none left out."""
    numbers, means, rows = losses.blocks(HOURS)
    place = numbers - int(losses.hours[0]) // 24 * PER_DAY
    blocks = -(-(int(place[-1]) + 1) // PER_DAY) * PER_DAY
    every, counts = np.zeros(blocks), np.zeros(blocks)
    every[place], counts[place] = means, rows
    return every, counts


def _stream(
    rows: pd.DataFrame, metric: str, days: Sequence[LabelDay], start: date, last: date, skipped: int
) -> tuple[list[float], list[float]]:
    """Mean loss and rows of each block after the holdout; those of a day that is not matured count as without rows."""
    matured = {day.day for day in days if day.state == "matured"}
    loss = row_losses(metric, rows[LABEL].to_numpy(np.float64), rows[SCORE].to_numpy(np.float64))
    judged = (
        rows[EVENT_TIMESTAMP].dt.date.isin(matured).to_numpy() & (rows[EVENT_TIMESTAMP].dt.date >= start).to_numpy()
    )
    place = (seconds(rows) // (3600 * HOURS) - (start - _EPOCH).days * PER_DAY)[judged]
    blocks = ((last - start).days + 1) * PER_DAY
    counts = np.bincount(place, minlength=blocks)
    means = np.bincount(place, loss[judged], blocks) / np.maximum(counts, 1)
    before = [0.0] * skipped
    return [*before, *means.tolist()], [*before, *counts.astype(float).tolist()]


def observed(scene: Scene, metric: str, margin: float, found: Sequence[Finding], rows: int) -> Observation:
    """The first of the alarms that stand, or the newest finding, of which there is one at least."""
    standing = [one for one in found[-STANDS * PER_DAY :] if one.alarm]
    shown = standing[0] if standing else found[-1]
    return _observation(scene, metric, margin, shown, Verdict.when(not standing, shown.reason), rows)


def _observation(
    scene: Scene, metric: str, margin: float, found: Finding | None, verdict: Verdict, rows: int
) -> Observation:
    effect, bounds = 0.0, {}
    if found is not None:
        effect, bounds = found.rise, {"low": found.low, "high": found.high}
    return scene.observe(
        "performance", metric, "rise of the mean loss, sequential", effect, margin, rows, verdict, alarm=True, **bounds
    )
