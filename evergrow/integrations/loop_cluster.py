"""The loop of a model in an environment of a cluster: the last step of monitoring looks once, and that is a tick.

    loops/<model>/book.jsonl             the book
    loops/<model>/trainings/<as of>.json what became of the training as of an instant, by the step that registers

A training is a run of the environment's, submitted by what it is of: asked for again, the same run is found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Protocol

from evergrow.contracts import EvaluationReport
from evergrow.data.lake import Lake
from evergrow.environment import Environment
from evergrow.errors import ConflictError
from evergrow.integrations.book_store import StoredBook
from evergrow.integrations.clocks import OffsetClock
from evergrow.integrations.loop_kubernetes import ModelObject
from evergrow.integrations.memory import FixedClock
from evergrow.integrations.object_store import ObjectStore, fetch
from evergrow.integrations.rollouts_kubernetes import KubernetesRollouts
from evergrow.integrations.spending import Ledger
from evergrow.integrations.submission import OVER, Submission, SubmittedRun, written
from evergrow.loop.book import Began, Decided, Ended, Entry, SentBack
from evergrow.loop.labels import first_known
from evergrow.loop.ports import Result, Return
from evergrow.loop.state import newly_said, status_of, warning
from evergrow.loop.tick import Loop
from evergrow.spec import ContinualModel
from evergrow.spec.environment import EnvironmentSpec
from evergrow.triggers.history import Champion, Instants, Look

REASON = "loop"
"""Of the runs that a loop submits."""
TURNS = 5
"""Looks that others' entries may spoil in a row."""


class Runs(Protocol):
    """Runs of an environment, whichever runner it has."""

    def submit(self, submission: Submission) -> SubmittedRun:
        """Start a run, or find the one that does or did the same."""
        ...

    def find(self, name: str) -> SubmittedRun | None:
        """The newest run that is still known whose name begins so."""
        ...

    def why(self, run_id: str) -> str:
        """What keeps a run from going well."""
        ...


def runs_of(place: EnvironmentSpec) -> Runs:
    """The runs of the environment that this process runs in."""
    from evergrow.integrations.kubernetes import Kubernetes

    kubernetes = Kubernetes.open(place.steps_namespace)
    if place.execution.pipelines.runner == "pods":
        from evergrow.integrations.pods_submit import PodRuns

        return PodRuns(kubernetes, place)
    from evergrow.integrations.kubeflow_api import Access, connect
    from evergrow.integrations.kubeflow_client import KubeflowRuns

    return KubeflowRuns(connect(place, Access()), kubernetes)


# -- what became of trainings ------------------------------------------------------------------------------------------


def keep_result(store: ObjectStore, judged: EvaluationReport, version: int, as_of: datetime) -> None:
    """Keep what became of the training as of an instant: its version, and what the gate says of it."""
    verdict = judged.verdict
    result = Result(
        outcome="promoted" if verdict.outcome == "pass" else "rejected",
        version=version,
        cpu_hours=0.0,
        reason=f"{verdict.outcome}: {verdict.reason}",
    )
    store.write(_result_name(judged.model, as_of), result.model_dump_json().encode())


def _result_name(model: str, as_of: datetime) -> str:
    return f"loops/{model}/trainings/{as_of.astimezone(UTC):%Y-%m-%dT%H%M%S.%fZ}.json"


# -- the world ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClusterWorld:
    """`evergrow.loop.ports.World` of an environment of a cluster.

    Attributes:
        environment: where this process runs.
        place: the same, as it is installed.
        document: of the model.
        seen: what monitoring has just seen.
        store: the environment's object store.
        runs: of the environment.
        rollouts: of the environment.
    """

    environment: Environment
    place: EnvironmentSpec
    document: ContinualModel
    seen: Look
    store: ObjectStore
    runs: Runs
    rollouts: KubernetesRollouts

    def known(self, now: datetime) -> Instants | None:
        """Of the labels that monitoring has ingested; it ends, and so does this, if there is no bringing them."""
        fetch(self.environment, f"data/{self.document.name}")
        lake = Lake(self.environment.data(self.document.name))
        return first_known(lake.read("examples"), self.document.spec.label.column, now)

    def champion(self, now: datetime) -> Champion | None:
        """By MLflow's alias, as the operator has set it."""
        fetch(self.environment, "audit")
        champion: Champion | None = self._registry.champion(self.document.name, now)
        return champion

    def look(self, now: datetime) -> Look | None:
        """What monitoring has just seen."""
        return self.seen

    def train(self, now: datetime) -> Result | None:
        """Submit the run, unless that was done; once it is over, what became of it."""
        run = self._submitted(now) or self.runs.submit(
            Submission(self.place, "training", self.document, now, reason=REASON)
        )
        if run.state not in OVER:
            return None
        hours = self._cpu_hours(run)
        kept = self.store.read(_result_name(self.document.name, now)) if run.state == "succeeded" else None
        if kept is not None:
            told = Result.model_validate_json(kept[0])
            return told.model_copy(update={"cpu_hours": hours, "at": run.ended})
        why = self.runs.why(run.id) if run.state == "failed" else "it left no result"
        return Result(
            outcome="failed", version=None, cpu_hours=hours, reason=f"run {run.id} {run.state}: {why}", at=run.ended
        )

    def sent_back(self, version: int, since: datetime) -> Return | None:
        """By the ModelRollouts that there are."""
        return Return.of(self.rollouts.attempts(self.document.name), version, since)

    @cached_property
    def _registry(self) -> Any:
        from evergrow.integrations.mlflow import MlflowRegistry  # takes seconds, once

        return MlflowRegistry(self.environment)

    def _submitted(self, now: datetime) -> SubmittedRun | None:
        """The run that was submitted as of an instant, whatever the document was then."""
        return self.runs.find(f"training {self.document.name} as of {written(now)} ({REASON})")

    def _cpu_hours(self, run: SubmittedRun) -> float:
        """What trainings of the model used while the run was under way."""
        if run.created is None:
            return 0.0
        until = run.ended or datetime.max.replace(tzinfo=UTC)
        since = datetime.now(UTC) - run.created + timedelta(days=1)
        spent = Ledger(self.store).read(self.document.name, since)
        mine = [one.cpu_seconds for one in spent if one.purpose == "training" and run.created <= one.at <= until]
        return round(sum(mine) / 3600, 4)


# -- a tick ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClusterLoop:
    """The loop of a model, by one look of its monitoring.

    Attributes:
        world: what is trained in.
        said: the model's object, where people have a say.
        tell: is told of each entry, and of warnings.
    """

    world: ClusterWorld
    said: ModelObject
    tell: Callable[[str], object]

    def tick(self, now: datetime) -> None:
        """Hear what people say, decide as of an instant, begin what is decided, and tell what it came to.

        Killed at any point, it is run again: what was decided is not decided again, what was begun is not begun again.

        Raises:
            ConflictError: others went on writing into the book.
            EvergrowError: what is asked does not answer; nothing is lost, and the next look goes on.
        """
        document = self.world.document
        for turn in range(TURNS):
            book = StoredBook(self.world.store, document.name)
            try:
                self._hear(book, now)
                Loop(document, book, self.world, FixedClock(now), self._tell).tick()
                break
            except ConflictError:
                if turn == TURNS - 1:
                    raise
        retraining, entries = document.spec.retraining, book.entries()
        self.said.report(status_of(retraining, entries, now))
        if told := warning(retraining, entries):
            self.tell(f"warning: {told}")
            self.world.rollouts.tell_of_model(document.name, "ChallengersKeepFailing", told, warning=True)

    def _hear(self, book: StoredBook, now: datetime) -> None:
        ask, freeze = self.said.wishes()
        for entry in newly_said(book.entries(), ask, freeze, now):
            book.append(entry)
        if ask is not None:
            self.said.heard(ask)

    def _tell(self, entry: Entry) -> None:
        name, rollouts = self.world.document.name, self.world.rollouts
        if isinstance(entry, Decided):
            self.tell(f"{'yes' if entry.decision.train else 'no'}: {entry.decision.reason}")
        elif isinstance(entry, Began):
            told = f"training {entry.number} is begun, as of {entry.at:%Y-%m-%d %H:%M}"
            self.tell(told)
            rollouts.tell_of_model(name, "TrainingBegun", told)
        elif isinstance(entry, Ended):
            told = f"training {entry.number} {entry.outcome}: {entry.reason}"
            self.tell(told)
            rollouts.tell_of_model(name, "TrainingEnded", told, warning=entry.outcome == "failed")
        elif isinstance(entry, SentBack):
            self.tell(f"training {entry.number}: version {entry.version} was sent back: {entry.reason}")


def loop_of(
    environment: Environment,
    place: EnvironmentSpec,
    document: ContinualModel,
    seen: Look,
    tell: Callable[[str], object],
) -> ClusterLoop:
    """The loop of a model in the environment that this process runs in."""
    from evergrow.integrations.kubernetes import Kubernetes

    kubernetes, store = Kubernetes.open(place.execution.namespace), ObjectStore.open(str(environment.store))
    rollouts = KubernetesRollouts(kubernetes, OffsetClock())
    world = ClusterWorld(environment, place, document, seen, store, runs_of(place), rollouts)
    return ClusterLoop(world, ModelObject(kubernetes, document.name), tell)
