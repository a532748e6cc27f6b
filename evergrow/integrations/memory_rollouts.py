"""In-memory twins of the ports that carry out rollouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from evergrow.errors import ConflictError, RolloutError, ServingError
from evergrow.rollout.attempt import ORDER, ORDERED_BY, Attempt
from evergrow.rollout.evidence import Evidence
from evergrow.rollout.machine import Order
from evergrow.spec import ContinualModel
from evergrow.spec.model import ModelStatus
from evergrow.spec.rollout import ModelRollout, RolloutStatus


class MemoryRollouts:
    """`evergrow.ports.Rollouts` of this process; every write is another revision."""

    def __init__(self, models: Sequence[ContinualModel] = ()) -> None:
        self.models = {model.name: model for model in models}
        self.reports: dict[str, ModelStatus] = {}
        self.events: list[tuple[str, str, str]] = []
        self.released: set[str] = set()
        self._attempts: dict[str, Attempt] = {}

    def model(self, name: str) -> ContinualModel | None:
        """The model's document."""
        return self.models.get(name)

    def put_model(self, document: ContinualModel) -> None:
        """Have a model's document known."""
        self.models[document.name] = document

    def attempts(self, model: str) -> Sequence[Attempt]:
        """All of a model, in the order in which they were asked for."""
        return [one for one in self._attempts.values() if one.document.spec.model == model]

    def create(self, attempt: ModelRollout) -> None:
        """Ask for one."""
        if attempt.name in self._attempts:
            raise ConflictError(f"there is a rollout {attempt.name} already")
        self._attempts[attempt.name] = Attempt(attempt, "1")

    def order(self, model: str, name: str, order: Order, by: str) -> None:
        """Order something of one."""
        if name not in self._attempts:
            raise RolloutError(f"{model} has no rollout {name}")
        self._annotate(name, {ORDER: order, ORDERED_BY: by})

    def write(self, attempt: Attempt, status: RolloutStatus) -> Attempt:
        """Replace the status that was read."""
        found = self._attempts.get(attempt.name)
        if found is None or found.revision != attempt.revision:
            raise ConflictError(f"rollout {attempt.name} has changed", retriable=True)
        return self._put(found.becoming(status))

    def fulfil(self, attempt: Attempt) -> None:
        """Take away the order that was read."""
        found = self._attempts.get(attempt.name)
        if found is not None and _order(found) == _order(attempt):
            self._annotate(attempt.name, {ORDER: None, ORDERED_BY: None})

    def release(self, attempt: Attempt) -> None:
        """Let one that has come to its end be deleted."""
        self.released.add(attempt.name)
        if attempt.name in self._attempts and self._attempts[attempt.name].deleted:
            del self._attempts[attempt.name]

    def tell(self, attempt: Attempt, reason: str, message: str, *, warning: bool = False) -> None:
        """Remember an event."""
        self.events.append((attempt.name, reason, message))

    def report(self, model: str, status: ModelStatus) -> None:
        """Say what has become of a model."""
        self.reports[model] = status

    def reported(self, model: str) -> ModelStatus | None:
        """What was said last."""
        return self.reports.get(model)

    def delete(self, name: str) -> None:
        """What a user does: it stays until it has come to its end and is released."""
        self._put(replace(self._attempts[name], deleted=True))

    def _annotate(self, name: str, values: Mapping[str, str | None]) -> None:
        found = self._attempts[name]
        merged = {**found.document.metadata.annotations, **values}
        told = {key: value for key, value in merged.items() if value is not None}
        metadata = found.document.metadata.model_copy(update={"annotations": told})
        self._put(replace(found, document=found.document.model_copy(update={"metadata": metadata})))

    def _put(self, attempt: Attempt) -> Attempt:
        stored = replace(attempt, revision=str(int(attempt.revision) + 1))
        self._attempts[attempt.name] = stored
        return stored


class MemoryFleet:
    """`evergrow.ports.Fleet` whose servers are ready when `settle` says so.

    Attributes:
        wanted: replicas by version.
        broken: versions that never become ready.
        missing: versions that cannot be started.
    """

    def __init__(self, ready: Mapping[int, int] | None = None) -> None:
        self.wanted = dict(ready or {})
        self.broken: set[int] = set()
        self.missing: set[int] = set()
        self._ready = dict(ready or {})

    def ready(self, model: str) -> Mapping[int, int]:
        """Replicas that take requests, by version."""
        return {version: count for version, count in self._ready.items() if count}

    def ensure(self, model: str, version: int, replicas: int) -> None:
        """Have at least so many replicas."""
        if version in self.missing:
            raise ServingError(f"{model} has no files of version {version}")
        self.wanted[version] = max(replicas, self.wanted.get(version, 0))

    def keep(self, model: str, versions: frozenset[int]) -> None:
        """Let all others go."""
        for version in set(self.wanted) - versions:
            del self.wanted[version]
        self._ready = {version: count for version, count in self._ready.items() if version in versions}

    def settle(self) -> None:
        """Time passes: what was started is ready."""
        self._ready = {version: count for version, count in self.wanted.items() if version not in self.broken}

    def lose(self, version: int) -> None:
        """Its servers die; they are started again by `ensure` and `settle`."""
        self._ready.pop(version, None)
        self.wanted.pop(version, None)


class MemoryChampions:
    """`evergrow.ports.Champions` that remembers."""

    def __init__(self, serving: int | None = None) -> None:
        self.history: list[tuple[int, str]] = []
        self._serving = serving

    def serving(self, model: str) -> int | None:
        """The version that serves."""
        return self._serving

    def promote(self, model: str, version: int, reason: str) -> None:
        """Put it on record."""
        if version != self._serving:
            self.history.append((version, reason))
        self._serving = version


class MemoryWitness:
    """`evergrow.ports.Witness` that says what it was told to."""

    def __init__(self, evidence: Evidence | None = None) -> None:
        self.evidence = evidence or Evidence()
        self.fails: Exception | None = None

    def examine(self, model: ContinualModel, attempt: Attempt, now: datetime) -> Evidence:
        """What is known now."""
        if self.fails is not None:
            raise self.fails
        return self.evidence


def _order(attempt: Attempt) -> str | None:
    return attempt.document.metadata.annotations.get(ORDER)
