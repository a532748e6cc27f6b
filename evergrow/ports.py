"""What the core asks of the outside. Each port has a real adapter and an in-memory twin in `integrations/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from evergrow.contracts import Comparison, EvaluationReport, Feature, ModelVersion, Route
from evergrow.rollout.attempt import Attempt
from evergrow.rollout.evidence import Evidence
from evergrow.rollout.machine import Order
from evergrow.spec import ContinualModel
from evergrow.spec.model import ModelStatus
from evergrow.spec.rollout import ModelRollout, RolloutStatus

if TYPE_CHECKING:
    import pandas as pd


class Clock(Protocol):
    """Where `now` comes from. Core code never reads the clock: it is handed `now`."""

    def now(self) -> datetime:
        """The present instant, timezone-aware."""
        ...


class Source(Protocol):
    """What a user writes in `models/<name>/data.py`: where raw rows come from and what is made of them."""

    tables: Sequence[Any]
    """`evergrow.data.schema.Table`s: the raw tables, each with its schema, key and watermark column."""

    def read(self, table: str, after: datetime | None, until: datetime) -> pd.DataFrame:
        """Raw rows of `table` that became known in (`after`, `until`]; `after` None means from the start."""
        ...

    def derive(self, tables: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
        """Feature tables from raw tables, and `examples`: one row per prediction to be made.

        Pure. A feature row of instant t depends on raw rows known by t only. Each feature table has its join
        keys, `event_timestamp` and `created_timestamp`; `examples` has the entity keys, `event_timestamp`,
        request-time values, the label (missing while unknown) and `known_at` (missing while unknown). A label that
        was corrected is another row, the same but for its label and a later `known_at`.
        """
        ...


class FeatureStore(Protocol):
    """Feature values, as they were known at any instant."""

    def history(self, service: str, entities: pd.DataFrame) -> pd.DataFrame:
        """Add the service's features to each row of `entities` as known at its `event_timestamp`.

        Rows, their order and their columns are kept; feature columns are added.
        """
        ...

    def digest(self, service: str) -> str:
        """SHA-256 of everything that defines the service's features."""
        ...


class ModelRegistry(Protocol):
    """Versions of models and the aliases that point at them."""

    def register(
        self,
        bundle: Path,
        report: EvaluationReport,
        evaluation: Path,
        document: Mapping[str, Any] | None = None,
        card: str = "",
    ) -> ModelVersion:
        """Store a bundle with its evaluation, document and model card as a new version with alias `challenger`.

        A bundle whose identity is registered adds its evaluation to that version: none is stored twice.
        """
        ...

    def find(self, model: str, identity: str) -> ModelVersion | None:
        """The version of that identity, if there is one."""
        ...

    def resolve(self, model: str, reference: str) -> ModelVersion | None:
        """The version a reference names: an alias ("champion") or a number ("3")."""
        ...

    def versions(self, model: str | None = None) -> list[ModelVersion]:
        """All versions, newest first; of one model, or of all."""
        ...

    def fetch(self, version: ModelVersion, to: Path) -> Path:
        """Copy the version's bundle into the directory `to`, check its digest and return it."""
        ...

    def evaluation(self, version: ModelVersion, to: Path) -> Path:
        """Copy the version's newest evaluation into the directory `to` and return it."""
        ...

    def card(self, version: ModelVersion) -> str:
        """The version's model card, Markdown; empty if it was registered without one."""
        ...

    def promote(self, version: ModelVersion, reason: str, now: datetime) -> ModelVersion:
        """Make a version the champion, and write the audit record."""
        ...


class Serving(Protocol):
    """What puts a model version in front of callers."""

    @property
    def where(self) -> str:
        """Where the model is served: a path or a URL."""
        ...

    def publish(self, version: ModelVersion, bundle: Path) -> object:
        """Have the version's files where servers are started from; again changes nothing."""
        ...

    def prepare(self, version: ModelVersion, bundle: Path) -> object:
        """Make all ready that can fail, without serving `version` yet."""
        ...

    def deploy(self, version: ModelVersion, bundle: Path) -> str:
        """Make `version` the one served; returns where (a path or a URL)."""
        ...


class Traffic(Protocol):
    """What divides a model's callers among its versions."""

    can_stick: bool
    """Whether callers can be kept to one version (`Route.sticky`)."""

    def apply(self, route: Route) -> None:
        """Make it so, in one change; again changes nothing.

        Raises:
            ServingError: a version of the route has no backend, or the gateway refused.
        """
        ...

    def read(self, model: str) -> Route | None:
        """The route that is in force; None if there is none yet."""
        ...


class Rollouts(Protocol):
    """Attempts to put versions into service: who asked for what, and what has become of it."""

    def model(self, name: str) -> ContinualModel | None:
        """The model's document; None if there is none."""
        ...

    def put_model(self, document: ContinualModel) -> None:
        """Have a model's document known. On a cluster, one that somebody applied stays as it is."""
        ...

    def attempts(self, model: str) -> Sequence[Attempt]:
        """All that are known of a model, in the order in which they were asked for."""
        ...

    def create(self, attempt: ModelRollout) -> None:
        """Ask for one.

        Raises:
            ConflictError: there is one of that name.
        """
        ...

    def order(self, model: str, name: str, order: Order, by: str) -> None:
        """Order something of one, in place of what was ordered before.

        Raises:
            RolloutError: there is none of that name.
        """
        ...

    def write(self, attempt: Attempt, status: RolloutStatus) -> Attempt:
        """Replace the status that was read; returns the attempt as it is now.

        Raises:
            ConflictError: it has changed since, or is gone.
        """
        ...

    def fulfil(self, attempt: Attempt) -> None:
        """Take away the order that was read, unless another has come since."""
        ...

    def release(self, attempt: Attempt) -> None:
        """Let one that has come to its end be deleted; again changes nothing."""
        ...

    def tell(self, attempt: Attempt, reason: str, message: str, *, warning: bool = False) -> None:
        """Have an event of it where people look; `reason` is one word in CamelCase."""
        ...

    def report(self, model: str, status: ModelStatus) -> None:
        """Say what has become of a model; again changes nothing."""
        ...

    def reported(self, model: str) -> ModelStatus | None:
        """What was said last; None if nothing was."""
        ...


class Fleet(Protocol):
    """Servers of a model's versions."""

    def ready(self, model: str) -> Mapping[int, int]:
        """Replicas that take requests, by version; a version that has none may be left out."""
        ...

    def ensure(self, model: str, version: int, replicas: int) -> None:
        """Have at least so many replicas of a version started, without waiting for them; never stops any.

        Raises:
            ServingError: the version cannot be started.
        """
        ...

    def keep(self, model: str, versions: frozenset[int]) -> None:
        """Let the servers of all other versions go, after what they have under way; these have their usual size."""
        ...


class Champions(Protocol):
    """Which version of a model is the champion: what serves while nothing is rolled out."""

    def serving(self, model: str) -> int | None:
        """The version that serves by what is known without its rollouts; None: none does."""
        ...

    def promote(self, model: str, version: int, reason: str) -> None:
        """Put it on record that a version is the champion; again changes nothing.

        Raises:
            EvergrowError: the registry refuses or does not answer.
        """
        ...


class Witness(Protocol):
    """What tells of a rollout's candidates."""

    def examine(self, model: ContinualModel, attempt: Attempt, now: datetime) -> Evidence:
        """What is known now of an attempt whose moves have begun (`status.step_started`), by `status.rollout`.

        Raises:
            EvergrowError: something that is needed cannot be read; retriable if it may be, later.
        """
        ...


class DriftTool(Protocol):
    """What tells how far values of now are from those of a reference, feature by feature."""

    def compare(
        self, reference: pd.DataFrame, current: pd.DataFrame, features: Sequence[Feature]
    ) -> Sequence[Comparison]:
        """One comparison or more for each feature, in their order; a feature without values in either has none.

        Both frames have a column for each of `features`; a missing value is NaN or None.
        """
        ...
