"""What there is to be seen of an environment's models: versions, rollouts, promotions, what monitoring saw and decided.

All of it is read and nothing is changed, on one machine from `home` and on a cluster from the object store. What cannot
be read is told in words, and the rest is read all the same.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import TypeAdapter

from evergrow.audit import AuditLog, Promotion
from evergrow.contracts import Decision, EvaluationReport, Instant, Metric, ModelVersion, Observation, Value, digest
from evergrow.environment import Environment
from evergrow.errors import EvergrowError
from evergrow.evaluation.card_page import card_page
from evergrow.integrations.mlflow import CHAMPION, JUDGED, MlflowRegistry
from evergrow.integrations.object_store import ObjectStore, fetch
from evergrow.integrations.places import rollouts_seen
from evergrow.monitoring.timeline import Look
from evergrow.monitoring.watch import FILE, Watch
from evergrow.ports import ModelRegistry
from evergrow.reports import DECISION, REPORT
from evergrow.spec import ModelRollout

CARD_PAGE = "card.html"
REPORTS, MONITORING, VERSION = "reports", "monitoring", "version="
LOOKS, DAYS = 200, 60
"""Newest looks and days that are read."""
KEPT = 64
"""Evaluations that are remembered; a version's never changes, but for another champion's sake."""
AGAIN = timedelta(minutes=1)
"""After which an evaluation that could not be read is asked for again."""
PATIENCE = timedelta(seconds=5)
"""How long a store that does not answer is asked again; the page would rather say so than wait."""

NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
"""Of a model of ours; a shared registry has others, too."""

_OBSERVATIONS = TypeAdapter(tuple[Observation, ...])


class Judged(Value):
    """How a version was judged before it could serve: the data it knew, and the gate's metric on the holdout."""

    as_of: Instant
    metric: Metric | None


@dataclass(frozen=True)
class Seen:
    """All that is known of one model; looks and folders are newest first."""

    model: str
    versions: tuple[ModelVersion, ...] = ()
    promotions: tuple[Promotion, ...] = ()
    looks: tuple[Look, ...] = ()
    watch: Watch | None = None
    """Of the newest look."""
    days: Mapping[date, tuple[Observation, ...]] = field(default_factory=dict)
    pages: tuple[str, ...] = ()
    """Below reports/<model>: "as_of=2013-10-01T000000Z/report.html"."""
    judged: Mapping[int, Judged] = field(default_factory=dict)
    """By version that was promoted once."""
    rollouts: tuple[ModelRollout, ...] = ()
    """That have begun, newest first."""
    succeeded: datetime | None = None
    """When monitoring wrote its newest decision, by the store's clock."""
    troubles: tuple[str, ...] = ()
    """What could not be read, and why."""

    @property
    def champion(self) -> int | None:
        """The version that serves: by the registry, and where that is silent by the audit log."""
        named = next((v.version for v in self.versions if CHAMPION in v.aliases), None)
        newest = max(self.promotions, key=lambda p: p.at, default=None)
        return named or (newest.version if newest else None)

    @cached_property
    def digest(self) -> str:
        """Changes when anything of this does."""
        return digest(
            [
                [v.model_dump(mode="json") for v in (*self.versions, *self.promotions, *self.looks, *self.rollouts)],
                self.watch.model_dump(mode="json") if self.watch else None,
                [[str(day), [o.model_dump(mode="json") for o in seen]] for day, seen in sorted(self.days.items())],
                [self.pages, sorted((v, j.model_dump(mode="json")) for v, j in self.judged.items())],
                [self.succeeded, self.troubles],
            ]
        )


@dataclass(frozen=True)
class Snapshot:
    """All models as of an instant."""

    at: datetime
    models: Mapping[str, Seen]
    troubles: tuple[str, ...] = ()
    """What could not be read of all of them together."""

    @cached_property
    def digests(self) -> dict[str, str]:
        """What changes when what is shown of a model does."""
        return {name: digest([seen.digest, self.troubles]) for name, seen in self.models.items()}


class Reader:
    """Reads snapshots, one at a time; what has not changed since the last is not read again."""

    def __init__(self, environment: Environment, registry: ModelRegistry | None = None) -> None:
        self.environment = environment
        self.registry = registry or MlflowRegistry(environment, actor="watch")
        self._files: dict[str, tuple[datetime, Any]] = {}
        self._used: set[str] = set()
        self._evaluations: dict[tuple[int, str, str], tuple[float, Judged | str]] = {}
        self._audit: tuple[Mapping[str, datetime], list[Promotion]] = ({}, [])
        self._models: dict[str, Seen] = {}
        self._versions: list[ModelVersion] = []
        self._rollouts: list[ModelRollout] = []

    @cached_property
    def store(self) -> ObjectStore:
        """Where files are: the environment's object store, on one machine `home`."""
        return ObjectStore.of(self.environment, PATIENCE)

    @cached_property
    def rollouts(self) -> Callable[[], Iterator[ModelRollout]]:
        """Reads all rollouts; on a cluster by one connection."""
        return rollouts_seen(self.environment, PATIENCE.total_seconds())

    def read(self) -> Snapshot:
        """Everything, as it is now; of what does not answer, what it said last."""
        troubles: list[str] = []
        promotions: list[Promotion] = []
        files: dict[str, datetime] | None = None
        with told("registry", troubles):
            self._versions = self.registry.versions()
        with told("rollouts", troubles):
            self._rollouts = [one for one in self.rollouts() if one.status.started]
        with told("reports", troubles):
            files = self.store.written(REPORTS)
        if files is None:
            return Snapshot(datetime.now(UTC), self._models, tuple(troubles))
        with told("audit log", troubles):
            promotions = self._promotions()
        versions = self._versions
        named = [*(v.model for v in versions), *(p.model for p in promotions), *(n.partition("/")[0] for n in files)]
        named += (rollout.spec.model for rollout in self._rollouts)
        names = sorted(name for name in set(named) if NAME.fullmatch(name))
        self._used = set()
        models = {name: self._model(name, versions, promotions, files) for name in names}
        # What is as it was stays what it was: its digest is known, and to compare costs less than to compute.
        self._models = {name: self._models[name] if self._models.get(name) == m else m for name, m in models.items()}
        self._files = {name: kept for name, kept in self._files.items() if name in self._used}
        return Snapshot(datetime.now(UTC), self._models, tuple(troubles))

    def page(self, seen: Seen, folder: str, file: str) -> bytes | None:
        """A stored HTML page of a model; of "version=3", the registry's evaluation or card. None if there is none.

        Only what a snapshot has listed is read, so that no name leads anywhere else.

        Raises:
            EvergrowError: it is there, and cannot be read.
        """
        if f"{folder}/{file}" in seen.pages:
            found = self.store.read(f"{REPORTS}/{seen.model}/{folder}/{file}")
            return found[0] if found else None
        named = next((v for v in seen.versions if f"{VERSION}{v.version}" == folder), None)
        if named is None or JUDGED not in named.tags or file not in (REPORT, CARD_PAGE):
            return None
        if file == CARD_PAGE:
            card = self.registry.card(named)
            return card_page(named, card).encode() if card else None
        with TemporaryDirectory() as scratch:
            return (self.registry.evaluation(named, Path(scratch)) / REPORT).read_bytes()

    def _model(
        self, name: str, versions: list[ModelVersion], promotions: list[Promotion], files: Mapping[str, datetime]
    ) -> Seen:
        troubles: list[str] = []
        mine = {n.removeprefix(f"{name}/"): at for n, at in files.items() if n.startswith(f"{name}/")}
        promoted = tuple(p for p in promotions if p.model == name)
        registered = tuple(v for v in versions if v.model == name)
        looks = self._looks(name, mine, troubles)
        return Seen(
            model=name,
            versions=registered,
            promotions=promoted,
            looks=looks,
            watch=self._watch(name, looks, mine, troubles),
            days=self._days(name, troubles),
            pages=tuple(sorted((n for n in mine if n.count("/") == 1 and n.endswith(".html")), reverse=True)),
            judged=self._judged(registered, {p.version for p in promoted}, troubles),
            rollouts=tuple(sorted((r for r in self._rollouts if r.spec.model == name), key=_begun, reverse=True)),
            succeeded=max((at for n, at in mine.items() if n.endswith(f"/{DECISION}")), default=None),
            troubles=tuple(troubles),
        )

    def _looks(self, name: str, mine: Mapping[str, datetime], troubles: list[str]) -> tuple[Look, ...]:
        decided = sorted((n for n in mine if n.startswith("watch=") and n.endswith(f"/{DECISION}")), reverse=True)
        found = []
        for place in decided[:LOOKS]:
            with told(f"{name}/{place}", troubles):
                decision = self._file(f"{REPORTS}/{name}/{place}", mine[place], Decision.model_validate_json)
                found.append(Look(folder=place.partition("/")[0], decision=decision))
        return tuple(found)

    def _watch(
        self, name: str, looks: tuple[Look, ...], mine: Mapping[str, datetime], troubles: list[str]
    ) -> Watch | None:
        place = f"{looks[0].folder}/{FILE}" if looks else ""
        if not place:
            return None
        if place not in mine:
            troubles.append(f"{name}/{place}: is missing")
            return None
        with told(f"{name}/{place}", troubles):
            read: Watch = self._file(f"{REPORTS}/{name}/{place}", mine[place], Watch.model_validate_json)
            return read
        return None

    def _days(self, name: str, troubles: list[str]) -> dict[date, tuple[Observation, ...]]:
        folder, written = f"{MONITORING}/{name}/observations", {}
        with told(folder, troubles):
            written = self.store.written(folder)
        found = {}
        for file in sorted((n for n in written if n.endswith(".json")), reverse=True)[:DAYS]:
            with told(f"{folder}/{file}", troubles):
                day = date.fromisoformat(file.removesuffix(".json"))
                found[day] = self._file(f"{folder}/{file}", written[file], _OBSERVATIONS.validate_json)
        return found

    def _file(self, name: str, written: datetime, parse: Callable[[bytes], Any]) -> Any:
        """A file's content, read again only if it was written again."""
        self._used.add(name)
        if name not in self._files or self._files[name][0] != written:
            content = self.store.read(name)
            if content is None:
                raise FileNotFoundError("was removed while it was being read")
            self._files[name] = written, parse(content[0])
        return self._files[name][1]

    def _promotions(self) -> list[Promotion]:
        written = self.store.written(self.environment.audit.parent.name)
        if written != self._audit[0]:
            fetch(self.environment, self.environment.audit.parent.name)
            self._audit = written, AuditLog(self.environment.audit).records()
        return self._audit[1]

    def _judged(self, versions: tuple[ModelVersion, ...], promoted: set[int], troubles: list[str]) -> dict[int, Judged]:
        found = {}
        for version in versions:
            if version.version in promoted and JUDGED in version.tags:
                judged = self._evaluation(version)
                if isinstance(judged, Judged):
                    found[version.version] = judged
                else:
                    troubles.append(judged)
        return found

    def _evaluation(self, version: ModelVersion) -> Judged | str:
        """A version's evaluation, or why it cannot be read: that is remembered, too, for a while."""
        key = (version.version, version.run_id, version.tags[JUDGED])
        at, known = self._evaluations.get(key, (0.0, ""))
        if isinstance(known, Judged) or (known and time.monotonic() - at < AGAIN.total_seconds()):
            return known
        said: list[str] = []
        read: Judged | str = ""
        with told(f"evaluation of {version.model} version {version.version}", said), TemporaryDirectory() as scratch:
            content = (self.registry.evaluation(version, Path(scratch)) / "report.json").read_bytes()
            report = EvaluationReport.model_validate_json(content)
            read = Judged(
                as_of=report.as_of, metric=next((m for m in report.metrics if m.name == report.primary), None)
            )
        while len(self._evaluations) >= KEPT:
            self._evaluations.pop(next(iter(self._evaluations)))
        self._evaluations[key] = time.monotonic(), read or said[0]
        return self._evaluations[key][1]


def _begun(rollout: ModelRollout) -> tuple[datetime | None, str]:
    return rollout.status.started, rollout.name


@contextmanager
def told(what: str, troubles: list[str]) -> Iterator[None]:
    """Put into words what goes wrong with reading something; whoever shows what is wrong must not be what is wrong."""
    try:
        yield
    except EvergrowError as error:
        troubles.append(f"{what}: {error}" + (f" ({error.hint})" if error.hint else ""))
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        troubles.append(f"{what}: cannot be read: {type(error).__name__}: {first[:200]}")
