"""An in-memory twin of every port, held to the same laws as the real one."""

from __future__ import annotations

import inspect
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from evergrow.audit import AuditLog, Promotion
from evergrow.contracts import (
    CREATED_TIMESTAMP,
    EVENT_TIMESTAMP,
    EvaluationReport,
    ModelVersion,
    Route,
    TrainedModel,
    digest,
)
from evergrow.errors import FeatureStoreError, RegistryError, ServingError
from evergrow.learning.bundle import bundle_digest


class FixedClock:
    """`evergrow.ports.Clock` that stands still until it is moved."""

    def __init__(self, now: datetime) -> None:
        self._now = now.astimezone(UTC)

    def now(self) -> datetime:
        """The instant it was set to."""
        return self._now

    def move_to(self, now: datetime) -> None:
        """Set another instant."""
        self._now = now.astimezone(UTC)


class MemoryRegistry:
    """`evergrow.ports.ModelRegistry` of this process. Bundles are copied below `folder`, for their files are files."""

    def __init__(self, folder: Path, clock: FixedClock, actor: str = "somebody") -> None:
        self.folder = folder
        self.clock = clock
        self.actor = actor
        self.audit = AuditLog(folder / "audit.jsonl")
        self._versions: dict[tuple[str, int], ModelVersion] = {}
        self._cards: dict[tuple[str, int], str] = {}

    def find(self, model: str, identity: str) -> ModelVersion | None:
        """The version of that identity, if there is one."""
        return next((v for v in self.versions(model) if v.identity == identity), None)

    def resolve(self, model: str, reference: str) -> ModelVersion | None:
        """The version an alias or a number names."""
        return next((v for v in self.versions(model) if reference in (*v.aliases, str(v.version))), None)

    def versions(self, model: str | None = None) -> list[ModelVersion]:
        """All versions, newest first."""
        found = [v for v in self._versions.values() if model in (None, v.model)]
        return sorted(found, key=lambda v: (v.model, -v.version))

    def fetch(self, version: ModelVersion, to: Path) -> Path:
        """Copy a version's bundle into the directory `to` and check its digest."""
        shutil.copytree(self._folder(version) / "bundle", to, dirs_exist_ok=True)
        if bundle_digest(to) != version.model_digest:
            raise RegistryError(f"{version.model} version {version.version}: its files are not what was registered")
        return to

    def evaluation(self, version: ModelVersion, to: Path) -> Path:
        """Copy a version's newest evaluation into the directory `to`."""
        shutil.copytree(self._folder(version) / "evaluation", to, dirs_exist_ok=True)
        return to

    def card(self, version: ModelVersion) -> str:
        """A version's model card, Markdown; empty if it has none."""
        return self._cards[version.model, version.version]

    def register(
        self,
        bundle: Path,
        report: EvaluationReport,
        evaluation: Path,
        document: Mapping[str, Any] | None = None,
        card: str = "",
    ) -> ModelVersion:
        """Store a bundle with its evaluation as a new version; of a known identity, only the evaluation."""
        trained = TrainedModel.model_validate_json((bundle / "bundle.json").read_text(encoding="utf-8"))
        version = self.find(trained.model, trained.identity.digest) or self._create(bundle, trained)
        folder = self._folder(version) / "evaluation"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(evaluation, folder)
        self._cards.setdefault((version.model, version.version), card)
        judged = {"verdict": report.verdict.outcome, "judged_against": report.champion}
        version = self._store(version.model_copy(update={"tags": {**version.tags, **judged}}))
        return version if "champion" in version.aliases else self._move("challenger", version)

    def promote(self, version: ModelVersion, reason: str, now: datetime) -> ModelVersion:
        """Make a version the champion, and write the audit record."""
        champion = self.resolve(version.model, "champion")
        if champion is not None and champion.version == version.version:
            return champion
        record = self.audit.append(Promotion.of(version, champion, self.actor, reason, now))
        version = self._move("champion", self._versions[version.model, version.version])
        kept = tuple(alias for alias in version.aliases if alias != "challenger")
        return self._store(version.model_copy(update={"aliases": kept, "tags": {**version.tags, "audit": record}}))

    def _create(self, bundle: Path, trained: TrainedModel) -> ModelVersion:
        number = max((v.version for v in self.versions(trained.model)), default=0) + 1
        version = ModelVersion(
            model=trained.model,
            version=number,
            identity=trained.identity.digest,
            model_digest=bundle_digest(bundle),
            run_id=f"{trained.model}-{number}",
            created=self.clock.now(),
        )
        shutil.copytree(bundle, self._folder(version) / "bundle")
        return self._store(version)

    def _move(self, alias: str, to: ModelVersion) -> ModelVersion:
        for version in self.versions(to.model):
            aliases = set(version.aliases) - {alias} | ({alias} if version.version == to.version else set())
            self._store(version.model_copy(update={"aliases": tuple(sorted(aliases))}))
        return self._versions[to.model, to.version]

    def _store(self, version: ModelVersion) -> ModelVersion:
        self._versions[version.model, version.version] = version
        return version

    def _folder(self, version: ModelVersion) -> Path:
        return self.folder / version.model / str(version.version)


@dataclass(frozen=True)
class MemoryView:
    """Feature rows of a `MemoryFeatureStore`.

    Attributes:
        rows: the keys, the features, `event_timestamp` and, if it may be later, `created_timestamp`; aware.
        keys: columns a row to be joined has too.
        features: columns that are joined.
        ttl: how long a value counts; None is for ever.
    """

    rows: pd.DataFrame
    keys: tuple[str, ...]
    features: tuple[str, ...]
    ttl: timedelta | None = None

    def known(self, row: Mapping[Any, Any]) -> Mapping[str, Any]:
        """The feature values known best for `row` at its `event_timestamp`; none where nothing was known."""
        asked = row[EVENT_TIMESTAMP]
        rows = self.rows.assign(**{CREATED_TIMESTAMP: self._created()})
        known = rows[(rows[EVENT_TIMESTAMP] <= asked) & (rows[CREATED_TIMESTAMP] <= asked)]
        for key in self.keys:
            known = known[known[key] == row[key]]
        if known.empty:
            return {}
        best = known.sort_values([EVENT_TIMESTAMP, CREATED_TIMESTAMP], kind="stable").iloc[-1]
        expired = self.ttl is not None and best[EVENT_TIMESTAMP] + self.ttl < asked
        return {} if expired else {feature: best[feature] for feature in self.features}

    def _created(self) -> pd.Series:
        event = self.rows[EVENT_TIMESTAMP]
        created: pd.Series = self.rows.get(CREATED_TIMESTAMP, event)
        return created.fillna(event)


class MemoryFeatureStore:
    """`evergrow.ports.FeatureStore` that looks at every feature row for every row: plain, exact and slow.

    Args:
        services: the views of each service; a function `f(inputs: columns) -> columns` among them is an on-demand
            view, given the row's own columns and the features before it as lists.
    """

    def __init__(self, services: Mapping[str, Sequence[MemoryView | Callable[..., Mapping[str, list[Any]]]]]) -> None:
        self._services = services

    def history(self, service: str, entities: pd.DataFrame) -> pd.DataFrame:
        """Add the service's features to each row of `entities` as known at its `event_timestamp`."""
        joined = entities.reset_index(drop=True)
        for view in self._views(service):
            if isinstance(view, MemoryView):
                found = [view.known(row) for row in joined.to_dict("records")]
                new: Mapping[str, list[Any]] = {f: [row.get(f) for row in found] for f in view.features}
            else:
                new = view({name: _with_none(joined[name]) for name in joined})
            joined = joined.assign(**{name: pd.Series(values).infer_objects() for name, values in new.items()})
        return joined.set_axis(entities.index)

    def digest(self, service: str) -> str:
        """SHA-256 of the views' keys, features, types and TTLs, and of the on-demand functions' source."""
        return digest([self._describe(view) for view in self._views(service)])

    def _views(self, service: str) -> Sequence[MemoryView | Callable[..., Mapping[str, list[Any]]]]:
        if service not in self._services:
            raise FeatureStoreError(
                f"there is no feature service {service!r}", hint=f"there are: {', '.join(self._services) or 'none'}"
            )
        return self._services[service]

    def _describe(self, view: MemoryView | Callable[..., Mapping[str, list[Any]]]) -> Any:
        if not isinstance(view, MemoryView):
            return inspect.getsource(view)
        return [view.keys, [(f, str(view.rows[f].dtype)) for f in view.features], str(view.ttl)]


def _with_none(column: pd.Series) -> list[Any]:
    return [None if missing else value for value, missing in zip(column, column.isna(), strict=True)]


class MemoryTraffic:
    """`evergrow.ports.Traffic` that remembers: what was applied, in order."""

    can_stick = True

    def __init__(self, backends: Iterable[int]) -> None:
        self.backends = set(backends)
        self.applied: list[Route] = []

    def apply(self, route: Route) -> None:
        """Make it so; again changes nothing."""
        reached = {v for v, weight in route.weights.items() if weight > 0} | {*route.warm}
        if missing := sorted((reached | ({route.mirror} if route.mirror else set())) - self.backends):
            raise ServingError(f"{route.model}: version {missing[0]} of the route has no server")
        if self.read(route.model) != route:
            self.applied.append(route)

    def read(self, model: str) -> Route | None:
        """The route that is in force."""
        return next((route for route in reversed(self.applied) if route.model == model), None)
