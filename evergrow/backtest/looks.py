"""What monitoring would have seen of a model, instant by instant: harm by labels as they came, and drift."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from evergrow.backtest.past import DAY, Past, instant_of, opened
from evergrow.backtest.tasks import PAST, Work, opened_cut, scores
from evergrow.contracts import Feature, Observation, ObservationKind, Value, Verdict
from evergrow.learning.losses import row_losses
from evergrow.monitoring import drift, harm
from evergrow.monitoring.baseline import LABEL, Losses
from evergrow.monitoring.drift import Usual
from evergrow.monitoring.profile import Axis, axes_of, profile
from evergrow.monitoring.scene import Scene, daily_alpha
from evergrow.statistics.sequential import LEAST_DAYS, Detector, Finding, Reference, State

Floats = NDArray[np.float64]
HOLDOUT = "its holdout"
KEPT = harm.STANDS * harm.PER_DAY
"""Findings that an alarm may still stand among."""


class Matured(Value):
    """Per instant the last day (since 1970) whose labels have had their time; -1: none."""

    days: tuple[int, ...]


class Mature(Work):
    """Which days may be judged, by how long labels have taken so far: as `monitoring.truth` says."""

    kind: ClassVar[str] = "mature"

    instants: tuple[int, ...]
    share: float = Field(description="of the labels that ever come, by which a day is matured")
    history: timedelta

    def run(self, folder: Path) -> Matured:
        """Estimate the delay at each instant from the rows of the history before it."""
        past = opened(folder / PAST)
        return Matured(days=tuple(self._last(past, now) for now in self.instants))

    def _last(self, past: Past, now: int) -> int:
        from scipy.stats import CensoredData, ecdf

        rows = past.between(now - round(self.history / timedelta(microseconds=1)), now + 1)
        _, known = past.labels(rows, now)
        came = known <= now
        if not came.any():
            return -1
        asked = past.asked[rows]
        waited = np.maximum(np.where(came, known, now) - asked, 0).astype(np.float64)
        curve = ecdf(CensoredData(waited[came], right=waited[~came])).cdf
        wanted = self.share * float(curve.probabilities[-1]) * (1 - 1e-12)
        age = curve.quantiles[min(int(np.searchsorted(curve.probabilities, wanted)), len(curve.quantiles) - 1)]
        return int((now - age) // DAY) - 1


class Carry(Value):
    """What a test goes on from."""

    state: State
    day: int = Field(description="the next that it takes in")
    findings: tuple[Finding, ...] = Field(description="the newest")
    rows: int = Field(description="that it has taken in")


class Harmed(Value):
    """Per instant what the test says; None: nothing yet."""

    seen: tuple[Observation | None, ...]
    carry: Carry | None


class Harm(Work):
    """Whether a model's realised loss has risen above that of its holdout, by monitoring's own test.

    A day is taken in at the first instant at which it is matured, with the labels that are known then.
    """

    kind: ClassVar[str] = "harm"
    name: str
    model: str
    rows: str = Field(description="of the cut that it was trained by")
    since: int = Field(description="when it began to serve")
    instants: tuple[int, ...]
    matured: tuple[int, ...]
    metric: str
    margin: float
    alarms_per_month: float
    carry: Carry | None = Field(description="of the instants before; None: these are the first")

    def run(self, folder: Path) -> Harmed:
        """Follow the test through the instants."""
        past, cut = opened(folder / PAST), opened_cut(folder, self.rows)
        losses = row_losses(self.metric, cut["holdout_y"], scores(folder, self.model, cut["holdout"]))
        held = Losses.of(past.asked[cut["holdout"]] // 1_000_000, losses)
        days = len(np.unique(held.hours // 24))
        if days < LEAST_DAYS:
            return Harmed(seen=tuple(self._too_few(now, days) for now in self.instants), carry=None)
        detector, carry = self._begun(held)
        seen = []
        for now, last in zip(self.instants, self.matured, strict=True):
            carry = self._taken_in(folder, past, detector, carry, now, last)
            observed = None
            if carry.findings:
                scene = self._scene(carry.day - 1)
                observed = harm.observed(scene, self.metric, self.margin, carry.findings, carry.rows)
            seen.append(observed)
        return Harmed(seen=tuple(seen), carry=carry)

    def _begun(self, held: Losses) -> tuple[Detector, Carry]:
        means, counts = harm.reference(held)
        day = int(held.hours[0]) // 24
        reference = Reference.of(means, counts, harm.PER_DAY)
        at = instant_of(day * DAY)
        detector = Detector(reference, self.margin, self.alarms_per_month * harm.SHARE, self.metric, at)
        if self.carry is not None:
            return detector, self.carry
        over = day + len(means) // harm.PER_DAY
        first = max(self.since // DAY, over)
        state = detector.start((first - over) * harm.PER_DAY)
        return detector, Carry(state=state, day=first, findings=(), rows=0)

    def _taken_in(self, folder: Path, past: Past, detector: Detector, carry: Carry, now: int, last: int) -> Carry:
        """All days up to `last`."""
        state, findings, rows = carry.state, list(carry.findings), carry.rows
        for day in range(carry.day, last + 1):
            means, counts = self._blocks(folder, past, day, now)
            rows += int(counts.sum())
            for mean, count in zip(means, counts, strict=True):
                state, finding = detector.step(state, float(mean), float(count))
                findings += [finding] if finding else []
        day = max(carry.day, last + 1)
        return Carry(state=state, day=day, findings=tuple(findings[-KEPT:]), rows=rows)

    def _blocks(self, folder: Path, past: Past, day: int, now: int) -> tuple[Floats, Floats]:
        """Mean loss and labelled rows of each block of a day."""
        rows = past.between(max(day * DAY, self.since), (day + 1) * DAY)
        y, _ = past.labels(rows, now)
        labelled = ~np.isnan(y)
        loss = row_losses(self.metric, y[labelled], scores(folder, self.model, rows)[labelled])
        block = (past.asked[rows][labelled] - day * DAY) * harm.PER_DAY // DAY
        counts = np.bincount(block, minlength=harm.PER_DAY).astype(np.float64)
        return np.bincount(block, loss, harm.PER_DAY) / np.maximum(counts, 1), counts

    def _scene(self, day: int) -> Scene:
        alpha = daily_alpha(self.alarms_per_month, harm.SHARE)
        since = instant_of(day * DAY)
        return Scene(self.name, None, since, since + timedelta(days=1), HOLDOUT, alpha)

    def _too_few(self, now: int, days: int) -> Observation:
        reason = f"the holdout has {days} days, at least {LEAST_DAYS} are needed to judge by"
        verdict = Verdict(outcome="inconclusive", reason=reason)
        scene = self._scene(now // DAY - 1)
        test = "rise of the mean loss, sequential"
        return scene.observe("performance", self.metric, test, 0.0, self.margin, 0, verdict, alarm=True)


class Drifted(Value):
    """Per instant which columns have drifted, of all that are watched."""

    watched: tuple[tuple[ObservationKind, str], ...]
    failed: tuple[tuple[Observation, ...], ...]

    def observations(self, position: int) -> tuple[Observation, ...]:
        """All of an instant: those that failed, and of the others that they did not."""
        failed = self.failed[position]
        away = {(one.kind, one.subject) for one in failed}
        return (*failed, *(_quiet(kind, subject) for kind, subject in self.watched if (kind, subject) not in away))


class Drift(Work):
    """Which features, and whether the label, have drifted from a training's holdout, by monitoring's own test."""

    kind: ClassVar[str] = "drift"

    name: str
    rows: str = Field(description="of the cut whose holdout is the reference")
    instants: tuple[int, ...]
    matured: tuple[int, ...]
    of: tuple[ObservationKind, ...]
    threshold: float
    alarms_per_month: float

    def run(self, folder: Path) -> Drifted:
        """Hold the day before each instant, and of the label the newest matured one, against the holdout's days."""
        past, cut = opened(folder / PAST), opened_cut(folder, self.rows)
        asked = past.asked[cut["holdout"]] // DAY
        failed: list[list[Observation]] = [[] for _ in self.instants]
        watched: list[tuple[ObservationKind, str]] = []
        if "feature-drift" in self.of:
            table = pa.table(past.decoded(cut["holdout"]))
            axes = axes_of(past.features, table)
            parts = [profile(axes, table.filter(pa.array(asked == day))) for day in np.unique(asked)]
            watched += [("feature-drift", axis.name) for axis in axes]
            self._features(past, axes, Usual.of(parts), failed)
        if "label-drift" in self.of:
            watched.append(("label-drift", LABEL))
            self._labels(past, cut["holdout_y"], asked, failed)
        return Drifted(watched=tuple(watched), failed=tuple(map(tuple, failed)))

    def _features(self, past: Past, axes: Sequence[Axis], usual: Usual, failed: list[list[Observation]]) -> None:
        for i, now in enumerate(self.instants):
            day = now // DAY - 1
            rows = past.between(day * DAY, (day + 1) * DAY)
            if rows.stop > rows.start:
                now_ = profile(axes, pa.table(past.decoded(rows)))
                kinds: list[ObservationKind] = ["feature-drift"] * len(axes)
                failed[i] += _failed(drift.observe_against(self._scene(day), now_, usual, kinds, self.threshold))

    def _labels(self, past: Past, holdout: Floats, asked: NDArray[np.int64], failed: list[list[Observation]]) -> None:
        axis = Axis.of(Feature(name=LABEL, kind="numeric"), pa.chunked_array([holdout]))
        usual = Usual.of([profile([axis], pa.table({LABEL: holdout[asked == day]})) for day in np.unique(asked)])
        for i, (now, day) in enumerate(zip(self.instants, self.matured, strict=True)):
            y, _ = past.labels(past.between(day * DAY, (day + 1) * DAY), now)
            known = y[~np.isnan(y)]
            if day >= 0 and len(known):
                now_ = profile([axis], pa.table({LABEL: known}))
                failed[i] += _failed(
                    drift.observe_against(self._scene(day), now_, usual, ["label-drift"], self.threshold)
                )

    def _scene(self, day: int) -> Scene:
        since = instant_of(day * DAY)
        alpha = daily_alpha(self.alarms_per_month, 1.0)
        return Scene(self.name, None, since, since + timedelta(days=1), HOLDOUT, alpha)


def _failed(observations: Sequence[Observation]) -> Iterator[Observation]:
    return (one for one in observations if one.verdict.outcome == "fail")


@lru_cache(maxsize=10_000)
def _quiet(kind: ObservationKind, subject: str) -> Observation:
    """That a column has not drifted: the same object every day."""
    at = instant_of(0)
    return Scene("", None, at, at, HOLDOUT, 0.5).observe(
        kind, subject, "psi", 0.0, 0.0, 0, Verdict(outcome="pass", reason="not drifted")
    )
