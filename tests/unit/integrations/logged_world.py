"""A folder with what a rollout is judged by: a log that grows by segments, labels that come, held-out rows."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from evergrow.data.lake import Lake
from evergrow.environment import Environment
from evergrow.evaluation.evaluate import BASELINE
from evergrow.integrations.memory import FixedClock, MemoryRegistry
from evergrow.integrations.prediction_store import PredictionStore
from evergrow.integrations.rollout_evidence import LogWitness
from evergrow.rollout.attempt import Attempt
from evergrow.rollout.guardrails import Answered
from evergrow.spec import ContinualModel, parse
from evergrow.spec.rollout import ModelRollout, Rollout
from tests.unit.integrations.builders import make_bundle, make_evaluation, make_report
from tests.unit.rollout.simulated import START, as_of, baseline, document, status

MINUTE = timedelta(minutes=1)
of_version = cache(lambda version: baseline(seed=version, rows=1000))
COUNTED = {4: Answered(1000, 1, 1), 5: Answered(1000, 1, 1)}
LOSS = {"guardrails": ["errors", "latency", "shift"], "labelsWithin": "10m", "block": "5m"}


def model(key=("order",), **spec: Any) -> ContinualModel:
    """Of rows that are found again by their order."""
    dumped = document().dump()
    dumped["spec"]["label"]["key"] = list(key)
    return parse({**dumped, "spec": {**dumped["spec"], **spec}})


class World:
    """A folder with a log that grows by segments, each shipped when its time is over, and labels that come.

    Attributes:
        log: all that is ever answered, with its labels.
    """

    def __init__(self, folder: Path, log: pd.DataFrame, baselines=(3, 4, 5), segment: timedelta = MINUTE) -> None:
        self.environment = Environment.read({"EVERGROW_HOME": str(folder / "home")})
        number = (log["event_timestamp"] - pd.Timestamp(START)) // segment
        self.log = log.assign(
            order=[f"o-{p.removeprefix('other')}" for p in log["request_id"] + log["prediction_id"].str[-2:]],
            number=number + 1,
            shipped=pd.Timestamp(START) + (number + 1) * segment,
        )
        self.predictions = PredictionStore.of(self.environment)
        self.lake = Lake(self.environment.data("delays"))
        self._put: set[str] = set()
        self.registry = MemoryRegistry(folder / "registry", FixedClock(START))
        for seed in range(1, 6):
            self._register(folder / f"version-{seed}", seed, seed in baselines)

    def _register(self, folder: Path, seed: int, judged: bool) -> None:
        bundle = make_bundle(folder / "bundle", seed, "delays")
        evaluation = make_evaluation(folder / "evaluation", make_report(bundle))
        if judged:
            (evaluation / BASELINE).mkdir()
            of_version(seed).save(evaluation / BASELINE)
        self.registry.register(bundle, make_report(bundle), evaluation)

    def ship(self, now: datetime, without: int | None = None) -> None:
        """Put the segments of before an instant into the store, all or but for those of a version."""
        rows = self.log[(self.log["shipped"] <= now) & (self.log["version"] != without)]
        for (version, number), part in rows.groupby(["version", "number"]):
            day = part["event_timestamp"].iloc[0].date()
            name = f"delays/day={day}/server-{version}-{number:08d}.parquet"
            if name in self._put:
                continue
            self._put.add(name)
            full = part.drop(columns=["label", "label_first_known_at", "number", "shipped"]).assign(
                protocol="v1", flags="", model="delays", created_timestamp=part["event_timestamp"],
                weather__event_timestamp=part["event_timestamp"],
            )  # fmt: skip
            self.predictions.put(name, full.to_parquet(index=False))

    def ingest(self, now: datetime) -> None:
        """Have the examples in the lake, with the labels that are known at an instant."""
        known = as_of(self.log, now).drop_duplicates("order")
        examples = known[["event_timestamp", "order", "wind"]].assign(
            minutes=known["label"], known_at=known["label_first_known_at"]
        )
        self.lake.replace("examples", examples)

    def witness(self, **settings: Any) -> LogWitness:
        """One that has read nothing yet."""
        return LogWitness(self.environment, lambda model: COUNTED, self.registry, **settings)


def attempt(how: Rollout, candidates=(4,), name="delays-4", **fields: Any) -> Attempt:
    made = ModelRollout.model_validate(
        {
            "apiVersion": "evergrow.dev/v1alpha1",
            "kind": "ModelRollout",
            "metadata": {"name": name},
            "spec": {"model": "delays", "candidates": candidates},
        }
    )
    return Attempt(made.model_copy(update={"status": status(how, **fields)}))
