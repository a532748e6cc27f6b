"""What the core asks of the outside. Each port has a real adapter and an in-memory twin in `integrations/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from evergrow.contracts import Comparison, EvaluationReport, Feature, ModelVersion, Route


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

    def prepare(self, version: ModelVersion, bundle: Path) -> object:
        """Make all ready that can fail, without serving `version` yet."""
        ...

    def deploy(self, version: ModelVersion, bundle: Path) -> str:
        """Make `version` the one served; returns where (a path or a URL)."""
        ...


class Traffic(Protocol):
    """What divides a model's callers among its versions."""

    def apply(self, route: Route) -> None:
        """Make it so, in one change; again changes nothing.

        Raises:
            ServingError: a version of the route has no backend, or the gateway refused.
        """
        ...

    def read(self, model: str) -> Route | None:
        """The route that is in force; None if there is none yet."""
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
