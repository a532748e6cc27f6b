"""Serving on this machine: a version's directory, and a symbolic link that says which version is served."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evergrow.contracts import ModelVersion, digest
from evergrow.spec import ContinualModel

FEATURES, SERVING, BUNDLE = "features.json", "serving.json", "bundle"


class LocalServing:
    """`evergrow.ports.Serving` in a folder: `versions/<n>/{bundle/, features.json, serving.json}` and `current`.

    A version's directory is written aside and renamed, then the link is replaced: killed at any point, what is
    served is the old version or the new one, whole.
    """

    def __init__(self, root: Path, model: ContinualModel, plan: Mapping[str, Any]) -> None:
        self.root = root
        self.model = model
        self.plan = plan

    @property
    def where(self) -> str:
        """The link to what is served."""
        return str(self.root / "current")

    def prepare(self, version: ModelVersion, bundle: Path) -> Path:
        """All that can fail: the version's files."""
        return self.publish(version, bundle)

    def publish(self, version: ModelVersion, bundle: Path) -> Path:
        """Write the version's directory, whole, without serving it yet. Doing it again changes nothing."""
        described = {FEATURES: self.plan, SERVING: self._about(version)}
        directory = self._directory(version, described)
        if not directory.exists():
            self._write(directory, described, bundle)
        return directory

    def deploy(self, version: ModelVersion, bundle: Path) -> str:
        """Make `version` the one served; returns its directory."""
        directory = self.prepare(version, bundle)
        point(self.root, directory)
        return str(directory)

    def _about(self, version: ModelVersion) -> dict[str, Any]:
        return {
            "model": version.model,
            "version": version.version,
            "model_digest": version.model_digest,
            "identity": version.identity,
            "task": self.model.spec.task,
            "feature_service": self.model.spec.features.service,
            "serving": self.model.spec.serving.dump(),
        }

    def _directory(self, version: ModelVersion, described: Mapping[str, Any]) -> Path:
        """`versions/<n>`; of a version that was deployed before with another plan or options, one beside it."""
        directory = self.root / "versions" / str(version.version)
        same = all(_holds(directory / name, value) for name, value in described.items())
        if same or not directory.exists():
            return directory
        return directory.with_name(f"{version.version}-{digest(dict(described))[:8]}")

    def _write(self, directory: Path, described: Mapping[str, Any], bundle: Path) -> None:
        aside = directory.with_name(f".{directory.name}.{os.getpid()}")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(bundle, aside / BUNDLE)
        for name, value in described.items():
            (aside / name).write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        for path in (*aside.rglob("*"), aside):
            _sync(path)
        aside.rename(directory)
        _sync(directory.parent)


def point(root: Path, directory: Path) -> None:
    """Have the link `current` of a model's serving folder lead to one of its directories, in one step."""
    aside = root / f".current.{os.getpid()}"
    aside.unlink(missing_ok=True)
    aside.symlink_to(directory.relative_to(root))
    aside.replace(root / "current")
    _sync(root)


def served(root: Path) -> dict[str, Any] | None:
    """What `serving.json` says of the version served from this folder; None if none is."""
    path = root / "current" / SERVING
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def _holds(path: Path, value: Any) -> bool:
    return path.exists() and json.loads(path.read_text(encoding="utf-8")) == value


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
