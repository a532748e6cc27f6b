"""Look at a model in service: count what was answered, join the labels that are known, judge each day that is over."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import pyarrow as pa

from evergrow.contracts import EVENT_TIMESTAMP, Observation, instant, start_of
from evergrow.data.lake import Lake
from evergrow.environment import Environment
from evergrow.integrations import skew
from evergrow.integrations.drift_tools import second_opinions
from evergrow.integrations.feast import FeastStore
from evergrow.integrations.held_out import answering, held_out
from evergrow.integrations.mlflow import MlflowRegistry
from evergrow.integrations.object_store import fetch
from evergrow.integrations.places import place_of
from evergrow.integrations.prediction_store import PredictionStore
from evergrow.integrations.spending import Ledger, metered
from evergrow.integrations.watch_store import WatchStore
from evergrow.journal import note, step
from evergrow.learning.bundle import Bundle
from evergrow.monitoring import recent, second_opinion, truth
from evergrow.monitoring.baseline import Baseline
from evergrow.monitoring.costs import Costs, of_serving, of_steps
from evergrow.monitoring.days import Day
from evergrow.monitoring.inputs import observe_day, private, scene_of
from evergrow.monitoring.outcomes import judge
from evergrow.monitoring.skew import observations
from evergrow.monitoring.watch import DayTraffic, Watch
from evergrow.prediction_log.records import HASH_KEY, logged
from evergrow.spec import ContinualModel, parse

CATCH_UP = 7
"""Days back that are judged if monitoring did not run when they were over."""
COMPARED = 28
"""Days before a day that its volume and freshness are held against."""
COMPARED_ROWS = 2000
"""Predictions of a day whose features are recomputed, evenly spread."""
MOST_ROWS = 200_000
"""Rows with all their columns that are looked at together; of more, days are thinned out evenly."""


@step
@metered("monitoring")
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

    @cached_property
    def counted(self) -> Mapping[date, Mapping[int, Day]]:
        """What the answers of each day look like, by version."""
        return {day: self.store.count(self.predictions, day, self.baseline) for day in self.days}

    @property
    def hash_key(self) -> bytes | None:
        """What the server hashes columns of personal data with."""
        return os.environ.get(HASH_KEY, "").encode() or None

    def _over(self, day: date) -> bool:
        return start_of(day) + timedelta(days=1) <= self.as_of

    def watch(self) -> Watch:
        """All of it."""
        inputs = self._judge_days(self.counted)
        if not self.days:
            outcomes, judged, together = None, None, []
        else:
            outcomes = self.outcomes()
            judged = judge(self.document, outcomes, self._baselines, self.as_of)
            together = [*self._recent(outcomes), *self._skew()]
        return Watch.of(
            self.document.name,
            self.as_of,
            self.document.spec.evaluation.gate.metric,
            {version: baseline.losses.mean for version, baseline in sorted(self._baselines.items())},
            [
                DayTraffic(day=day, version=version, rows=one.rows, latency_ms=one.latency_ms)
                for day, of_day in self.counted.items()
                for version, one in of_day.items()
            ],
            judged,
            [*inputs, *together, *(judged.observations if judged else ())],
            self._costs(outcomes),
            worth.currency if (worth := self.document.spec.monitoring.worth) else "",
        )

    def _costs(self, outcomes: pd.DataFrame | None) -> Costs | None:
        """What serving the history and the pipelines' newest runs cost; None if the document has no prices."""
        worth, history = self.document.spec.monitoring.worth, self.document.spec.monitoring.history
        if worth is None or worth.prices is None:
            return None
        place = place_of(self.environment)
        replicas = place.execution.serving.autoscaling.min_replicas if place else 0
        spent = Ledger(self.predictions.store).read(self.document.name, history)
        serving = of_serving(worth.prices, outcomes, replicas) if outcomes is not None else ()
        return Costs(serving, of_steps(worth.prices, spent))

    def _judge_days(self, counted: Mapping[date, Mapping[int, Day]]) -> Sequence[Observation]:
        """Judge the days that are over and were not judged yet; returns what was seen of the newest."""
        found: Sequence[Observation] = ()
        for i, day in enumerate(self.days[-CATCH_UP:], start=max(0, len(self.days) - CATCH_UP)):
            known = self.store.observations(day)
            if known is None:
                before = [counted[earlier] for earlier in self.days[max(0, i - COMPARED) : i]]
                baselines = {version: self.baseline(version) for version in counted[day]}
                known = observe_day(self.document, day, counted[day], baselines, before)
                self.store.keep(day, known)
                note("observe", f"{day}: judged")
            found = known
        return found

    def _recent(self, outcomes: pd.DataFrame) -> list[Observation]:
        """What the answers of the last days tell together."""
        until = start_of(self.days[-1]) + timedelta(days=1)
        rows = recent.newest_version(outcomes, pd.Timestamp(until))
        if rows.empty:
            return []
        version = int(rows["version"].iloc[0])
        bundle = self.bundle(version)
        scene = scene_of(self.document, version, self.days[-1], f"holdout of version {version}", 1.0)
        scene = replace(scene, since=rows[EVENT_TIMESTAMP].min().to_pydatetime())
        baseline, tools = self.baseline(version), second_opinions(self.document.spec.monitoring.drift_tools)
        hidden = private(self.document)
        opinions = second_opinion.observe(scene, rows, baseline, tools, hidden)
        for one in opinions:
            if one.verdict.outcome == "error":
                note("observe", f"{one.subject}, {one.test}: error; the report says why")
        ours = recent.observe(scene, rows, baseline, lambda part: bundle.explain(bundle.columns(part)), hidden)
        return [*ours, *opinions]

    def _skew(self) -> list[Observation]:
        """The newest day's features, recomputed as of when each was asked for."""
        since = start_of(self.days[-1])
        until = since + timedelta(days=1)
        served = list(self.predictions.scan(self.document.name, since, until))
        if not sum(part.num_rows for part in served):
            return []
        store = FeastStore(self.environment)
        store.apply()
        log = self.document.spec.serving.log
        rows = pa.concat_tables(served, promote_options="permissive")
        found = skew.check(store, self.document.spec.features.service, rows, log, key=self.hash_key, rows=COMPARED_ROWS)
        about = {"model": self.document.name, "version": None, "since": since, "until": until}
        return list(observations(found, **about))

    def bundle(self, version: int) -> Bundle:
        """A version's model."""
        found = answering(self.registry, self.document.name, version)
        return Bundle.load(self.registry.fetch(found, self.scratch / f"bundle-{version}"))

    def outcomes(self) -> pd.DataFrame:
        """The predictions of the history with the labels that are known."""
        rule = self.document.spec.monitoring
        examples = Lake(self.environment.data(self.document.name)).read("examples")
        rows = self._answered()
        for version in rows["version"].unique():
            self.baseline(int(version))
        features = [logged(f.name) for b in self._baselines.values() for f in b.features]
        groups = {*(rule.column for rule in rule.fairness), *rule.slices_of(self.document.spec.evaluation)}
        return truth.outcomes(
            self.document, rows, examples, features, self.as_of, self.hash_key, [logged(column) for column in groups]
        )

    def _answered(self) -> pd.DataFrame:
        """The predictions of the history, of a busy service every n-th."""
        since, until = start_of(self.days[0]), self.as_of
        answered = sum(one.rows for of_day in self.counted.values() for one in of_day.values())
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
            self._baselines[version] = held_out(self.registry, self.document.name, version, self.scratch)
        return self._baselines[version]
