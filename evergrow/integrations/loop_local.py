"""The loop of a model on this machine: its files, who runs it, and what it asks.

    <home>/loops/<model>/book.jsonl   the book
    <home>/loops/<model>/.run         locked by the process that runs the loop; says which
    <home>/loops/<model>/.work        locked while a pipeline runs that it started, even if it was killed meanwhile

A lock ends with the processes that hold it.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from evergrow.contracts import instant
from evergrow.data.ingest import ingest, source_of
from evergrow.data.lake import Lake
from evergrow.environment import Environment
from evergrow.errors import DataError, EvergrowError, LoopError, SpecError
from evergrow.integrations.rollout_files import RolloutFiles
from evergrow.journal import Event
from evergrow.loop.book import BookFile
from evergrow.loop.labels import first_known
from evergrow.loop.ports import Result, Return
from evergrow.spec import ContinualModel
from evergrow.triggers.history import Champion, Instants, Look

CLAIM_SECONDS = 0.5
"""Who asks whether a loop is run holds its lock for a moment."""
POLL_SECONDS = 0.05
Tell = Callable[[str], object]


def book_of(environment: Environment, model: str) -> BookFile:
    """The book of a model's loop."""
    return BookFile(environment.loop(model) / "book.jsonl")


def run_by(environment: Environment, model: str) -> int | None:
    """The process that runs a model's loop; None: none does."""
    path = environment.loop(model) / ".run"
    if not path.exists():
        return None
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read() or b"0")
    return None


@contextmanager
def claimed(environment: Environment, model: str, tell: Tell) -> Iterator[int]:
    """Be the one that runs a model's loop; yields the descriptor of a lock for the pipelines that it starts.

    What a process that was killed has started goes on; it is waited for.

    Raises:
        LoopError: another process runs it.
    """
    folder = environment.loop(model)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".run").open("a+b") as run, (folder / ".work").open("ab") as work:
        until = time.monotonic() + CLAIM_SECONDS
        while not _locked(run.fileno()):
            other = run_by(environment, model)
            if other is not None and time.monotonic() > until:
                raise LoopError(
                    f"{model}: its loop is run already, by process {other}",
                    hint="end that one first; `evergrow loop ask`, `freeze` and `thaw` are heard by it",
                )
            time.sleep(POLL_SECONDS)
        run.truncate(0)
        run.write(str(os.getpid()).encode())
        run.flush()
        if not _locked(work.fileno()):
            tell("waiting for the pipeline that a loop which was killed has started")
            fcntl.flock(work, fcntl.LOCK_EX)
        yield work.fileno()


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class Quiet:
    """Watches a run and says nothing."""

    def say(self, text: str) -> None:
        """Nothing of the run."""

    def __call__(self, event: Event) -> None:
        """Nothing of a step."""


class LocalWorld:
    """`evergrow.loop.ports.World` of this machine: lake, MLflow, and pipelines in processes of their own."""

    def __init__(
        self, environment: Environment, document: ContinualModel, lock: int | None = None, tell: Tell = lambda _: None
    ) -> None:
        """The world of a model.

        Args:
            environment: where.
            document: of the model.
            lock: descriptor of the lock that pipelines hold while they run; None: there is none.
            tell: is told what goes wrong and holds nothing up.
        """
        self.environment, self.document, self.tell = environment, document, tell
        self.inherits = () if lock is None else (lock,)

    def known(self, now: datetime) -> Instants | None:
        """Ingest up to an instant; None if the source is not what it was: triggers then say that it is missing."""
        source, lake = source_of(self.document.spec.source), Lake(self.environment.data(self.document.name))
        try:
            ingest(source, lake, now)
            return first_known(lake.read("examples"), self.document.spec.label.column, now)
        except DataError as error:
            self.tell(f"ingest: {error}")
        except Exception as error:  # of the model's own code, which may raise anything
            if isinstance(error, EvergrowError):
                raise
            self.tell(f"ingest: {type(error).__name__}: {error}")
        return None

    def champion(self, now: datetime) -> Champion | None:
        """By MLflow's alias."""
        champion: Champion | None = self._registry.champion(self.document.name, now)
        return champion

    def look(self, now: datetime) -> Look | None:
        """Run the monitoring pipeline if anything was predicted; what it saw before, if it fails."""
        from evergrow.integrations.prediction_store import PredictionStore

        days = PredictionStore.of(self.environment).days(self.document.name)
        if not any(day < now.date() for day in days):
            return None
        try:
            self._run("monitoring", now)
        except SpecError:
            raise
        except EvergrowError as error:
            if error.retriable:
                raise
            self.tell(f"monitoring: {error}")
        return self._newest_look(now)

    def train(self, now: datetime) -> Result:
        """Run the training pipeline; a run as of the same instant is told, or completes what was cut off."""
        from evergrow.integrations.pipeline_runs import children_cpu_seconds

        used = children_cpu_seconds()
        try:
            told = self._run("training", now)
        except SpecError:
            raise
        except EvergrowError as error:
            if error.retriable:
                raise
            used = children_cpu_seconds() - used
            return Result(outcome="failed", version=None, cpu_hours=_hours(used), reason=str(error))
        verdict = told["verdict"]
        outcome = "promoted" if verdict["outcome"] == "pass" else "rejected"
        cpu_hours, reason = _hours(told.get("cpu_seconds", 0.0)), f"{verdict['outcome']}: {verdict['reason']}"
        return Result(outcome=outcome, version=told["version"], cpu_hours=cpu_hours, reason=reason)

    def sent_back(self, version: int, since: datetime) -> Return | None:
        """By the rollouts of this machine."""
        return Return.of(RolloutFiles(self.environment.home).attempts(self.document.name), version, since)

    # -- how --

    @cached_property
    def _registry(self) -> Any:
        from evergrow.integrations.mlflow import MlflowRegistry  # takes seconds, once

        return MlflowRegistry(self.environment)

    def _run(self, pipeline: str, now: datetime) -> dict[str, Any]:
        from evergrow.integrations.pipeline_runs import run_pipeline

        at = now.isoformat()
        return run_pipeline(self.environment, pipeline, self.document, at, Quiet(), inherits=self.inherits)

    def _newest_look(self, now: datetime) -> Look | None:
        from evergrow.monitoring.watch import Watch

        found = (self.environment.home / "reports" / self.document.name).glob("watch=*/watch.json")
        for path in sorted(found, reverse=True):
            if _named(path) <= now:
                watch = Watch.load(path.parent)
                return Look(watch.as_of, watch.observations)
        return None


def _named(path: Path) -> datetime:
    """The instant of a look, in whole seconds, by its folder's name."""
    return instant(path.parent.name.removeprefix("watch=").removesuffix("Z"))


def _hours(seconds: float) -> float:
    return round(seconds / 3600, 4)
