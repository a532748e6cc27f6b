"""What is done in the worker process: with pandas, MLflow and the prediction log, which take hundreds of megabytes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from components.operator.worker import Worker
from evergrow.environment import Environment
from evergrow.integrations.pod_counters import PodCounters
from evergrow.ports import Clock, Traffic, Witness
from evergrow.rollout.attempt import Attempt
from evergrow.rollout.evidence import Evidence
from evergrow.spec import ContinualModel

if TYPE_CHECKING:
    from evergrow.rollout.guardrails import Answered


class WorkerWitness:
    """`evergrow.ports.Witness` in the worker process, with what the servers have counted."""

    def __init__(self, environment: Environment, worker: Worker, counters: PodCounters) -> None:
        self.environment, self.worker, self.counters = environment, worker, counters

    def examine(self, model: ContinualModel, attempt: Attempt, now: datetime) -> Evidence:
        """What is known now of an attempt whose moves have begun."""
        counts = self.counters.read(model.name, attempt.name, attempt.status.started or now)
        plain = {version: tuple(counted) for version, counted in counts.items()}
        return self.worker.run(examine, self.environment, model, attempt, now, plain)


class RoutedChampions:
    """`evergrow.ports.Champions` of a cluster: the route says who serves, MLflow's alias is set by the worker."""

    def __init__(self, environment: Environment, worker: Worker, traffic: Traffic, clock: Clock) -> None:
        self.environment, self.worker = environment, worker
        self.traffic, self.clock = traffic, clock

    def serving(self, model: str) -> int | None:
        """The version that most callers are routed to; None if the model has no route of ours."""
        route = self.traffic.read(model)
        return None if route is None else max(route.weights, key=lambda version: (route.weights[version], -version))

    def promote(self, model: str, version: int, reason: str) -> None:
        """Put it on record that a version is the champion; again changes nothing."""
        self.worker.run(promote, self.environment, model, version, reason, self.clock.now())


class _Counted:
    """What servers counted, as it was handed over with the present task."""

    def __init__(self) -> None:
        self.counts: Mapping[int, tuple[int, ...]] = {}

    def __call__(self, model: str) -> Mapping[int, Answered]:
        from evergrow.rollout.guardrails import Answered

        # How many were late the witness takes from the log.
        return {version: Answered(requests, errors, None) for version, (requests, errors) in self.counts.items()}


_counted = _Counted()
_witnesses: dict[str, Any] = {}
"""One, which remembers what it has read of the prediction log."""


def examine(
    environment: Environment, model: ContinualModel, attempt: Attempt, now: datetime, counts: Mapping[int, Any]
) -> Evidence:
    """What is known now of an attempt; runs in the worker.

    Args:
        environment: where we run.
        model: the model's document.
        attempt: whose moves have begun.
        now: the instant.
        counts: requests and errors by version since it began.
    """
    _counted.counts = counts
    return _witness(environment).examine(model, attempt, now)


def promote(environment: Environment, model: str, version: int, reason: str, now: datetime) -> None:
    """Put it on record that a version is the champion; runs in the worker.

    Raises:
        RegistryError: there is no such version.
    """
    from evergrow.integrations.mlflow import MlflowRegistry

    registry = MlflowRegistry(environment)
    registry.promote(registry.known(model, version), reason, now)


def _witness(environment: Environment) -> Witness:
    from evergrow.integrations.rollout_evidence import LogWitness

    if "" not in _witnesses:
        _witnesses[""] = LogWitness(environment, _counted)
    witness: Witness = _witnesses[""]
    return witness
