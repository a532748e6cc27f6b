"""What labels tell, once they are known: whether they come, whether they changed, whether there is harm or bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from evergrow.contracts import EVENT_TIMESTAMP, Metric, Observation, Slice, Verdict, start_of
from evergrow.errors import NotEnoughData
from evergrow.evaluation.slices import Skipped
from evergrow.learning.losses import row_losses
from evergrow.monitoring import bias, drift, estimated, harm, performance, worth
from evergrow.monitoring.baseline import LABEL, SCORE, Baseline
from evergrow.monitoring.inputs import scene_of
from evergrow.monitoring.performance import DAY, VERSION, DayPerformance, WorstSlice
from evergrow.monitoring.profile import profile
from evergrow.monitoring.scene import Scene
from evergrow.monitoring.truth import LABEL_FIRST_KNOWN_AT, Delay, LabelDay, delay, label_days
from evergrow.monitoring.worth import DayWorth
from evergrow.prediction_log.records import logged
from evergrow.spec import ContinualModel

Floats = NDArray[np.float64]

LABELS, BIAS = 0.01, 0.02
"""Shares of the accepted false alarms that the checks of missing labels and of groups have."""
RECENT = 28
"""Matured days whose rows are compared by group and by slice."""
REFIT = 7
"""Days after which estimates are made by what had matured since."""


@dataclass(frozen=True)
class Estimate:
    """What a day's performance was held to be before its labels were known.

    Attributes:
        day: of the predictions (UTC).
        version: that answered.
        metric: estimated, with its 95 % prediction interval.
    """

    day: date
    version: int
    metric: Metric


@dataclass(frozen=True)
class Judged:
    """What labels told of a model, as of an instant.

    Attributes:
        delay: how long labels take.
        labels: how far each day's are in.
        performance: of each version on each day that has labels.
        estimates: of the gate's metric, on each day there is enough to learn from.
        slices: performance over the recent matured days, by value of each slice column.
        worst: the slices that fare worst on them, searched for.
        observations: what was seen.
        worth: of each matured day, if the document says what predictions are worth.
    """

    delay: Delay
    labels: Sequence[LabelDay]
    performance: Sequence[DayPerformance]
    estimates: Sequence[Estimate]
    slices: Sequence[Slice | Skipped]
    worst: Sequence[WorstSlice]
    observations: Sequence[Observation]
    worth: Sequence[DayWorth] = ()


def judge(
    document: ContinualModel, outcomes: pd.DataFrame, baselines: Mapping[int, Baseline], as_of: datetime
) -> Judged:
    """All that the labels known as of an instant tell.

    Args:
        document: of the model.
        outcomes: of `evergrow.monitoring.truth.join`, with `version`, `score`, slice and group columns, and, for
            what needs them, features; [n ≥ 1].
        baselines: of each version.
        as_of: the instant.
    """
    rule, metric = document.spec.monitoring, document.spec.evaluation.gate.metric
    wait = delay(outcomes, as_of, rule.matured)
    today = (as_of - timedelta(days=1)).date()
    labels_scene = scene_of(document, None, today, "the other days", LABELS)
    days = label_days(outcomes, wait, as_of, labels_scene.alpha)
    names = tuple(dict.fromkeys((metric, *document.spec.evaluation.metrics)))
    judged = performance.matured(outcomes, days)
    recent = _recent(judged)
    losses = row_losses(metric, recent[LABEL].to_numpy(np.float64), recent[SCORE].to_numpy(np.float64))
    columns = [c for c in {logged(f.name): 0 for b in baselines.values() for f in b.features} if c in recent]
    slices = [logged(column) for column in rule.slices_of(document.spec.evaluation)]
    realised = performance.of_days(outcomes, days, names)
    estimates = [e for v in sorted(baselines) for e in _estimates(document, outcomes, days, v, baselines[v])]
    return Judged(
        delay=wait,
        labels=days,
        performance=realised,
        estimates=estimates,
        slices=performance.of_slices(recent, slices, names) if len(recent) else [],
        worst=performance.worst_slices(recent, losses, [*dict.fromkeys((*slices, *columns))]) if len(recent) else [],
        observations=[
            *_labels(labels_scene, wait, days),
            *_harm(document, judged, days, baselines),
            *_label_drift(document, judged, baselines),
            *_bias(document, recent, losses, today),
            *_track_records(document, estimates, realised, today),
        ],
        worth=worth.of_days(rule.worth, judged) if rule.worth else (),
    )


def _recent(rows: pd.DataFrame) -> pd.DataFrame:
    if rows.empty:
        return rows
    recent: pd.DataFrame = rows[
        rows[EVENT_TIMESTAMP] >= rows[EVENT_TIMESTAMP].max().floor("D") - timedelta(days=RECENT - 1)
    ].reset_index(drop=True)
    return recent


def _labels(scene: Scene, wait: Delay, days: Sequence[LabelDay]) -> list[Observation]:
    """Whether labels come: the newest day whose labels had their time."""
    old = [day for day in days if day.state != "immature"]
    test = "share without label"
    if not old:
        reason = "no day's labels have had their time yet"
        if wait.age is None:
            reason = f"of {sum(day.rows for day in days):,} predictions, no label is known yet"
        verdict = Verdict(outcome="inconclusive", reason=reason)
        return [scene.observe("labels", "labels", test, 0.0, 1 - wait.coverage, 0, verdict, alarm=True)]
    newest = old[-1]
    missing = 1 - newest.labelled / newest.rows
    told = f"{newest.day}: {newest.labelled:,} of {newest.rows:,} labels are in, of all days {wait.coverage:.1%}"
    if newest.p_value is None:
        verdict = Verdict(outcome="inconclusive", reason=f"{told}; too few days to compare with")
    else:
        told += f"; p {newest.p_value:.2g}, alarm at {scene.alpha:.2g}"
        verdict = Verdict.when(newest.state != "overdue", told)
    of_day = replace(scene, since=start_of(newest.day), until=start_of(newest.day) + timedelta(days=1))
    return [
        of_day.observe(
            "labels", "labels", test, missing, 1 - wait.coverage, newest.rows, verdict, alarm=True,
            p_value=newest.p_value,
        )
    ]  # fmt: skip


def _harm(
    document: ContinualModel, judged: pd.DataFrame, days: Sequence[LabelDay], baselines: Mapping[int, Baseline]
) -> list[Observation]:
    served = sorted(int(version) for version in judged[VERSION].unique())
    found = (harm.observe(document, judged, days, baselines[v].losses, v, len(served)) for v in served)
    return [one for one in found if one is not None]


def _label_drift(
    document: ContinualModel, judged: pd.DataFrame, baselines: Mapping[int, Baseline]
) -> list[Observation]:
    """Of the newest matured day, against the label's own days in the holdout."""
    if judged.empty:
        return []
    newest = judged[EVENT_TIMESTAMP].dt.date.max()
    rows = judged[judged[EVENT_TIMESTAMP].dt.date == newest]
    found = []
    for version, of_version in rows.groupby(VERSION):
        number = int(str(version))
        baseline = baselines[number]
        scene = scene_of(document, number, newest, f"holdout of version {number}", 1.0)
        now = profile([baseline.label_axis], pa.table({LABEL: of_version[LABEL].to_numpy(np.float64)}))
        days = list(baseline.labels.values())
        found += drift.observe(scene, now, days, ["label-drift"], document.spec.monitoring.drift)
    return found


def _bias(document: ContinualModel, recent: pd.DataFrame, losses: Floats, today: date) -> list[Observation]:
    rules = document.spec.monitoring.fairness
    if not rules:
        return []
    known = performance.scored(recent, DAY)
    scene = scene_of(document, None, today, "the other groups", BIAS / len(rules))
    if len(recent):
        scene = replace(scene, since=recent[EVENT_TIMESTAMP].min().floor("D").to_pydatetime())
    return [bias.observe(scene, rule, recent, known.y, known.scores, losses, known.blocks) for rule in rules]


def _estimates(
    document: ContinualModel, outcomes: pd.DataFrame, days: Sequence[LabelDay], version: int, baseline: Baseline
) -> list[Estimate]:
    """The gate's metric of each day, by what had matured when its week began: as it would have been told then."""
    metric = document.spec.evaluation.gate.metric
    rows = outcomes[outcomes[VERSION] == version]
    if metric not in estimated.ESTIMABLE[document.spec.task] or rows.empty:
        return []
    numeric = [name for f in baseline.features if f.kind == "numeric" and (name := logged(f.name)) in rows]
    foreseen = numeric if document.spec.task == "regression" else []
    found = []
    every = sorted({day.day for day in days} & set(rows[EVENT_TIMESTAMP].dt.date))
    at = rows[EVENT_TIMESTAMP].dt.date
    for start in range(0, len(every), REFIT):
        then = pd.Timestamp(start_of(every[start]))
        known = rows[(rows[EVENT_TIMESTAMP] < then) & (rows[LABEL_FIRST_KNOWN_AT] <= then)]
        try:
            estimator = estimated.fit(
                document.spec.task, metric, _rows(known, foreseen), known[LABEL].to_numpy(np.float64)
            )
        except NotEnoughData:
            continue
        week = every[start : start + REFIT]
        found += [Estimate(day, version, estimator.estimate(_rows(rows[at == day], foreseen))) for day in week]
    return found


def _rows(rows: pd.DataFrame, foreseen: Sequence[str]) -> estimated.Rows:
    """Scores, days, and the columns that a loss is foreseen by."""
    days = (performance.seconds(rows) // DAY).astype(np.intp)
    return estimated.Rows(rows[SCORE].to_numpy(np.float64), days, rows[[*foreseen]].to_numpy(np.float32))


def _track_records(
    document: ContinualModel, estimates: Sequence[Estimate], realised: Sequence[DayPerformance], today: date
) -> list[Observation]:
    """The newest estimate of each version, with what its estimates have been worth so far."""
    metric = document.spec.evaluation.gate.metric
    came = {(d.day, d.version): m for d in realised if d.state == "matured" for m in d.metrics if m.name == metric}
    found = []
    for version in sorted({e.version for e in estimates}):
        made = [e for e in estimates if e.version == version]
        values = np.array([came[e.day, version].value if (e.day, version) in came else np.nan for e in made])
        newest = made[-1]
        scene = scene_of(document, version, newest.day, "its own track record", 1.0)
        try:
            record = estimated.track_record([e.metric for e in made], values)
            error, verdict, days = record.mean_absolute_error, record.verdict, record.days
            told = f"{metric} {newest.metric.value:.4f} estimated for {newest.day}; {verdict.reason}"
            told += f", off by {error:.4f} on average over {days} days"
            verdict = Verdict(outcome=verdict.outcome, reason=told)
        except NotEnoughData as few:
            error, verdict = 0.0, Verdict(outcome="inconclusive", reason=str(few))
        found.append(
            scene.observe(
                "estimated-performance", metric, "estimate before labels", newest.metric.value, error,
                newest.metric.rows, verdict, low=newest.metric.low, high=newest.metric.high,
            )
        )  # fmt: skip
    return found
