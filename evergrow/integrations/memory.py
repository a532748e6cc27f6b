"""An in-memory twin of every port, held to the same laws as the real one."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from evergrow.audit import AuditLog, Promotion
from evergrow.contracts import EvaluationReport, ModelVersion, TrainedModel
from evergrow.errors import RegistryError
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
        judged = {"verdict": report.verdict.outcome, "judged_against": report.champion}
        version = self._store(version.model_copy(update={"tags": {**version.tags, **judged}}))
        return version if "champion" in version.aliases else self._move("challenger", version)

    def promote(self, version: ModelVersion, reason: str, now: datetime) -> ModelVersion:
        """Make a version the champion, and write the audit record."""
        champion = self.resolve(version.model, "champion")
        if champion is not None and champion.version == version.version:
            return champion
        record = self.audit.append(
            Promotion(
                at=now,
                actor=self.actor,
                model=version.model,
                replaced=champion.version if champion else None,
                version=version.version,
                identity=version.identity,
                model_digest=version.model_digest,
                reason=reason,
            )
        )
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
