"""The evidence of a rollout: read from the prediction log, the lake and the registry, and judged by the core.

A segment of the log is immutable: each is read once, and what is needed of it is kept for as long as its rollout is
looked at. What decides is computed anew when another block's time has come or labels have changed; guardrails, when
time or new answers have. A witness that starts from nothing says the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from evergrow.contracts import EVENT_TIMESTAMP
from evergrow.data.lake import Lake
from evergrow.environment import Environment
from evergrow.integrations.held_out import held_out
from evergrow.integrations.mlflow import MlflowRegistry
from evergrow.integrations.object_store import ObjectStore, fetch
from evergrow.integrations.prediction_store import PredictionStore
from evergrow.monitoring import truth
from evergrow.monitoring.baseline import Baseline
from evergrow.monitoring.truth import LABEL, LABEL_FIRST_KNOWN_AT, PREDICTION_ID
from evergrow.ports import ModelRegistry
from evergrow.prediction_log.records import HASH_KEY, RESERVED, logged
from evergrow.prediction_log.tables import time_column
from evergrow.rollout import analysis, answers
from evergrow.rollout.analysis import SETTLED, Case, Told
from evergrow.rollout.attempt import Attempt
from evergrow.rollout.evidence import Evidence
from evergrow.rollout.guardrails import Answered
from evergrow.rollout.prior import Prior, decisive, features, prior
from evergrow.spec import ContinualModel
from evergrow.spec.rollout import BlueGreen, ModelRollout, Rollout

TICK = timedelta(seconds=5)
"""Guardrails are judged as of so many seconds, however often somebody looks; the log grows no faster."""
FETCHED_EVERY = timedelta(seconds=60)
"""How often labels are fetched from a store while no further block's time has come."""
LISTED_EVERY = timedelta(seconds=60)
"""How often at most days before yesterday are listed."""
BY_LABELS = ("loss", "worth")
"""What decides by labels."""
PATIENCE = timedelta(seconds=10)
"""How long a store that does not answer is asked: whoever looks at rollouts looks again soon, and has others to see."""
UNUSED = RESERVED - {*answers.COLUMNS}
"""What every prediction has and no rollout is judged by."""


@dataclass
class _Reading:
    """What was read for one attempt.

    Attributes:
        attempt: its name, and when it began.
        prior: what was known before its first request.
        hidden: columns of the log that are not needed: UNUSED, and features but for those that losses are foreseen by.
        known: features of its versions, by their names in the log.
        since: earlier answers are not needed.
        segments: those that were read.
        rows: what is needed of them, as `answers.read` gives it.
        listed: when all days were listed.
        guards: what guardrails told, and by what.
        decides: what decides told, and by what.
    """

    attempt: tuple[str, datetime]
    prior: Prior
    hidden: frozenset[str]
    known: frozenset[str]
    since: datetime
    segments: set[str] = field(default_factory=set)
    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    listed: datetime | None = None
    guards: tuple[object, Told] | None = None
    decides: tuple[object, Told] | None = None


class LogWitness:
    """`evergrow.ports.Witness` on the prediction log. It keeps one attempt of each model; not for several threads."""

    def __init__(
        self,
        environment: Environment,
        counters: Callable[[str], Mapping[int, Answered]],
        registry: ModelRegistry | None = None,
        settled: timedelta = SETTLED,
    ) -> None:
        """Nothing is read yet.

        Args:
            environment: where predictions, labels and versions are.
            counters: requests of a model by version since its rollout began, as the gateway or the servers counted
                them; versions that nobody counts are left out.
            registry: where versions are; MLflow if None.
            settled: see `analysis.SETTLED`.
        """
        self.environment, self.counters, self.settled = environment, counters, settled
        self.registry = registry or MlflowRegistry(environment)
        self.predictions = PredictionStore(ObjectStore.of(environment, PATIENCE))
        self._readings: dict[str, _Reading] = {}
        self._fetched: dict[str, tuple[datetime, datetime]] = {}

    def examine(self, model: ContinualModel, attempt: Attempt, now: datetime) -> Evidence:
        """What is known now of an attempt whose moves have begun; nothing of one that is over.

        Raises:
            StoreError: the store refused or does not answer.
            RegistryError: the registry does not answer, or lacks a version.
            DataError: a version has no baseline, or labels have had their time and cannot be read or joined.
        """
        status = attempt.status
        if attempt.over:
            self._readings.pop(model.name, None)
        if attempt.over or status.rollout is None or status.stable is None or status.started is None:
            return Evidence()
        reading = self._reading(model, attempt.document, status.rollout, status.stable, status.started)
        alive = tuple(one for one in attempt.document.spec.candidates if one not in status.dropped)
        at = answers.start_of_block(now, TICK)
        case = Case(model, status.rollout, status, status.stable, alive, reading.prior, at, self.settled)
        return analysis.with_counters(case, self._told(case, reading), self.counters(model.name))

    def _told(self, case: Case, reading: _Reading) -> Told:
        """What the log tells; what was told before, where nothing has come that could change it."""
        try:
            self._read(case, reading)
        except answers.NoKeyError as error:
            return analysis.unreadable(case, str(error))
        guards, decides = _seen(case, reading.rows), self._due(case, reading.rows)
        if reading.guards is None or reading.guards[0] != guards:
            reading.guards = guards, analysis.guarded(case, reading.rows)
        if reading.decides is None or reading.decides[0] != decides:
            reading.decides = decides, analysis.decided(case, self._labelled(case, reading))
        return analysis.together(reading.guards[1], reading.decides[1])

    # -- what was known before --

    def _reading(
        self, model: ContinualModel, attempt: ModelRollout, rollout: Rollout, stable: int, started: datetime
    ) -> _Reading:
        known = self._readings.get(model.name)
        if known is None or known.attempt != (attempt.name, started):
            versions = (stable, *attempt.spec.candidates) if decisive(rollout) else ()
            baselines = self._baselines(model.name, versions)
            by_name = {logged(f.name) for b in baselines.values() for f in b.features}
            foreseen = {c for b in baselines.values() for c in features(model, b)}
            needed = {*map(logged, (*rollout.sticky, *model.spec.label.key))}
            known = self._readings[model.name] = _Reading(
                (attempt.name, started),
                prior(model, rollout, stable, baselines) if baselines else Prior({}),
                (frozenset(by_name) | UNUSED) - needed - (foreseen if decisive(rollout) == "estimate" else set()),
                frozenset(by_name),
                _since(rollout, started),
            )
        return known

    def _baselines(self, model: str, versions: Sequence[int]) -> dict[int, Baseline]:
        with TemporaryDirectory() as scratch:
            return {version: held_out(self.registry, model, version, Path(scratch)) for version in versions}

    # -- answers --

    def _read(self, case: Case, reading: _Reading) -> None:
        """Read the segments that have come since."""
        new = [name for name in self._segments(case, reading) if name not in reading.segments]
        if not new and len(reading.rows.columns):
            return
        parts = [self._segment(case, reading, name) for name in new]
        more = pa.concat_tables(parts, promote_options="permissive").to_pandas() if parts else pd.DataFrame()
        rows = [part for part in (reading.rows, more) if len(part)]
        reading.rows = answers.read(pd.concat(rows) if rows else more, case.rollout.sticky, case.rollout.analysis.block)
        reading.segments |= {*new}

    def _segments(self, case: Case, reading: _Reading) -> Iterator[str]:
        """Of all days; but each time, of the newest two alone, for nothing comes to older ones as a rule."""
        first, last = reading.since.date(), case.now.date()
        if reading.listed is not None and abs(case.now - reading.listed) < LISTED_EVERY:
            first = max(first, last - timedelta(days=1))
        else:
            reading.listed = case.now
        for i in range((last - first).days + 1):
            yield from self.predictions.segments(case.document.name, first + timedelta(days=i))

    def _segment(self, case: Case, reading: _Reading, name: str) -> pa.Table:
        table = self.predictions.segment(name, _needed(case, reading))
        kept = [c for c in table.column_names if c not in reading.hidden and not c.endswith(time_column(""))]
        return table.select(kept).filter(pc.greater_equal(table[EVENT_TIMESTAMP], reading.since))

    # -- labels --

    def _due(self, case: Case, rows: pd.DataFrame) -> object:
        """By what it is decided: answers whose time has come, and the labels that are there."""
        until = analysis.judged_until(case)
        due = int(rows[EVENT_TIMESTAMP].searchsorted(pd.Timestamp(until)))
        if decisive(case.rollout) not in BY_LABELS or not due:
            return case.candidates, until, due
        return case.candidates, until, due, self._labels_state(case, until)

    def _labels_state(self, case: Case, until: datetime) -> tuple[int, int] | None:
        """Another one whenever the examples are; they are fetched first, if it is time or another block's has come."""
        model = case.document.name
        judged, fetched = self._fetched.get(model, (None, case.now))
        if judged != until or abs(case.now - fetched) >= FETCHED_EVERY:
            fetch(self.environment, f"data/{model}")
            self._fetched[model] = until, case.now
        path = Lake(self.environment.data(model)).path("examples")
        found = path.stat() if path.exists() else None
        return None if found is None else (found.st_mtime_ns, found.st_size)

    def _labelled(self, case: Case, reading: _Reading) -> pd.DataFrame:
        """The rows whose time has come, with the labels that were known when it had."""
        until = analysis.judged_until(case)
        due = reading.rows[reading.rows[EVENT_TIMESTAMP] < pd.Timestamp(until)]
        drawn = answers.drawn(due)
        if decisive(case.rollout) not in BY_LABELS or not len(drawn):
            return due
        examples = Lake(self.environment.data(case.document.name)).read("examples")
        secret = os.environ.get(HASH_KEY, "").encode() or None
        as_of = until + case.rollout.analysis.labels_within
        found = truth.outcomes(case.document, drawn, examples, sorted(reading.known), as_of, secret)
        return due.merge(found[[PREDICTION_ID, LABEL, LABEL_FIRST_KNOWN_AT]], on=PREDICTION_ID, how="left")


def _since(rollout: Rollout, started: datetime) -> datetime:
    """All that a rollout is judged by; of one that changes sides at once, scores of before, too."""
    return started - rollout.strategy.watch if isinstance(rollout.strategy, BlueGreen) else started


def _needed(case: Case, reading: _Reading) -> list[str] | None:
    """Columns of a segment; None: all but for hidden ones, any of which labels may be found by."""
    key, decides = case.document.spec.label.key, decisive(case.rollout)
    if decides in BY_LABELS and not key:
        return None
    foreseen = reading.known - reading.hidden if decides == "estimate" else ()
    return [*answers.COLUMNS, *map(logged, (*case.rollout.sticky, *key)), *foreseen]


def _seen(case: Case, rows: pd.DataFrame) -> object:
    """By what guardrails are judged: the answers up to now, and those of them that count as draws."""
    at = rows[EVENT_TIMESTAMP]
    ends = [int(at.searchsorted(pd.Timestamp(end), "right")) for end in (case.now, case.now - case.settled)]
    return case.candidates, case.status.step_started, len(rows), *ends
