"""Look at a model in service: count what was answered, join the labels that are known, judge each day that is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow as pa

from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT, ModelVersion, Observation, instant
from evergrow.data.lake import Lake
from evergrow.environment import Environment
from evergrow.errors import RegistryError
from evergrow.evaluation.evaluate import BASELINE
from evergrow.integrations.mlflow import MlflowRegistry
from evergrow.integrations.object_store import fetch
from evergrow.integrations.prediction_store import PredictionStore
from evergrow.integrations.watch_store import WatchStore
from evergrow.journal import note, step
from evergrow.monitoring import truth
from evergrow.monitoring.baseline import Baseline, logged
from evergrow.monitoring.days import Day
from evergrow.monitoring.inputs import observe_day
from evergrow.monitoring.outcomes import Judged, judge
from evergrow.monitoring.watch import DayTraffic, Watch
from evergrow.spec import ContinualModel, parse

CATCH_UP = 7
"""Days back that are judged if monitoring did not run when they were over."""
COMPARED = 28
"""Days before a day that its volume and freshness are held against."""
MOST_ROWS = 200_000
"""Rows with all their columns that are looked at together; of more, days are thinned out evenly."""


@step
def main(spec: str, as_of: str, watch: str) -> int:
    """Write what was seen as of an instant into the directory `watch`; returns how many alarms there are."""
    document, environment, now = parse(spec), Environment.read(), instant(as_of)
    fetch(environment, f"data/{document.name}")
    with TemporaryDirectory() as scratch:
        look = Look(document, environment, now, Path(scratch))
        seen = look.watch()
    seen.save(Path(watch))
    alarms = sum(one.alarm and one.verdict.outcome in ("fail", "error") for one in seen.observations)
    rows = sum(day.rows for day in seen.traffic)
    note("observe", f"{rows:,} predictions, {len(seen.observations)} observations, {alarms} alarms")
    return alarms


@dataclass
class Look:
    """One look at a model as of an instant.

    Attributes:
        document: of the model.
        environment: where predictions, labels and versions are.
        as_of: nothing that came later counts.
        scratch: a directory for what is fetched.
    """

    document: ContinualModel
    environment: Environment
    as_of: datetime
    scratch: Path
    _baselines: dict[int, Baseline] = field(default_factory=dict)

    @cached_property
    def registry(self) -> MlflowRegistry:
        """Where versions are."""
        return MlflowRegistry(self.environment)

    @cached_property
    def predictions(self) -> PredictionStore:
        """The prediction log."""
        return PredictionStore.of(self.environment)

    @cached_property
    def store(self) -> WatchStore:
        """What was seen before."""
        return WatchStore(self.predictions.store, self.document.name)

    @cached_property
    def days(self) -> list[date]:
        """The days that are over, from the first with predictions on, within the history; oldest first."""
        first = (self.as_of - self.document.spec.monitoring.history).date()
        served = [day for day in self.predictions.days(self.document.name) if first <= day and self._over(day)]
        last = (self.as_of - timedelta(days=1)).date()
        return [min(served) + timedelta(days=i) for i in range((last - min(served)).days + 1)] if served else []

    def _over(self, day: date) -> bool:
        return _start(day) + timedelta(days=1) <= self.as_of

    def watch(self) -> Watch:
        """All of it."""
        counted = {day: self.store.count(self.predictions, day, self.baseline) for day in self.days}
        inputs = self._judge_days(counted)
        judged = self._judge_labels()
        return Watch.of(
            self.document.name,
            self.as_of,
            self.document.spec.evaluation.gate.metric,
            {version: baseline.losses.mean for version, baseline in sorted(self._baselines.items())},
            [DayTraffic(day=d, version=v, rows=one.rows) for d, of_day in counted.items() for v, one in of_day.items()],
            judged,
            [*inputs, *(judged.observations if judged else ())],
        )

    def _judge_days(self, counted: Mapping[date, Mapping[int, Day]]) -> Sequence[Observation]:
        """Judge the days that are over and were not judged yet; returns what was seen of the newest."""
        found: Sequence[Observation] = ()
        for i, day in enumerate(self.days[-CATCH_UP:], start=max(0, len(self.days) - CATCH_UP)):
            known = self.store.observations(day)
            if known is None:
                before = [counted[earlier] for earlier in self.days[max(0, i - COMPARED) : i]]
                known = observe_day(self.document, day, counted[day], self._baselines, before)
                self.store.keep(day, known)
                note("observe", f"{day}: judged")
            found = known
        return found

    def _judge_labels(self) -> Judged | None:
        if not self.days:
            return None
        outcomes = self.outcomes()
        for version in outcomes["version"].unique():
            self.baseline(int(version))
        return judge(self.document, outcomes, self._baselines, self.as_of)

    def outcomes(self) -> pd.DataFrame:
        """The predictions of the history with the labels that are known."""
        label, rule = self.document.spec.label, self.document.spec.monitoring
        examples = Lake(self.environment.data(self.document.name)).read("examples")
        rows = self._answered()
        features = [logged(f.name) for b in self._baselines.values() for f in b.features]
        key = list(label.key) or truth.shared_key(list(rows.columns), list(examples.columns), label.column, features)
        groups = {rule.column for rule in rule.fairness} | set(rule.slices_of(self.document.spec.evaluation))
        extra = sorted((groups & set(examples.columns)) - set(rows.columns))
        wanted = [*dict.fromkeys([EVENT_TIMESTAMP, KNOWN_AT, label.column, *key, *extra])]
        return truth.join(rows, examples[wanted], label.column, key, label.within, self.as_of, extra)

    def _answered(self) -> pd.DataFrame:
        """The predictions of the history, of a busy service every n-th."""
        since, until = _start(self.days[0]), self.as_of
        answered = sum(part.num_rows for part in self.predictions.scan(self.document.name, since, until, ["version"]))
        every = max(1, -(-answered // MOST_ROWS))
        parts, seen = [], 0
        for part in self.predictions.scan(self.document.name, since, until):
            parts.append(part.take(pa.array(range(-seen % every, part.num_rows, every), pa.int64())))
            seen += part.num_rows
        return pa.concat_tables(parts, promote_options="permissive").to_pandas()

    def baseline(self, version: int) -> Baseline:
        """What a version is held against.

        Raises:
            RegistryError: the registry does not have it.
            DataError: it was judged by an evergrow that kept no baseline.
        """
        if version not in self._baselines:
            found = self._resolved(version)
            folder = self.registry.evaluation(found, self.scratch / f"evaluation-{version}")
            self._baselines[version] = Baseline.load(folder / BASELINE)
        return self._baselines[version]

    def _resolved(self, version: int) -> ModelVersion:
        found = self.registry.resolve(self.document.name, str(version))
        if found is None:
            raise RegistryError(
                f"{self.document.name}: predictions were logged by version {version}, which the registry does not have",
                hint="was it deleted, or is MLFLOW_TRACKING_URI another environment's?",
            )
        return found


def _start(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)
