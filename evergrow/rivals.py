"""What the registry knew when a training run asked it: a directory that travels from `train` to `evaluate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from evergrow.contracts import ModelVersion

Role = Literal["champion", "known"]


@dataclass(frozen=True)
class Rivals:
    """The champion, and the version that has the new model's identity already; each only if the registry had it.

    `champion.json` and `champion/` are the first's version and bundle, `known.json` and `known/` the other's version
    and its newest evaluation. `control/` is the bundle of an update's control, which no registry ever has.
    """

    path: Path

    def read(self, role: Role) -> ModelVersion | None:
        """The version in a role; None if there was none."""
        file = self.path / f"{role}.json"
        return ModelVersion.model_validate_json(file.read_text(encoding="utf-8")) if file.exists() else None

    def write(self, role: Role, version: ModelVersion) -> None:
        """Note the version in a role."""
        (self.path / f"{role}.json").write_text(version.model_dump_json(indent=1), encoding="utf-8")

    @property
    def bundle(self) -> Path:
        """The champion's bundle."""
        return self.path / "champion"

    @property
    def control(self) -> Path:
        """The control's bundle, if the document wants one of an update that went on."""
        return self.path / "control"

    @property
    def evaluation(self) -> Path:
        """The known version's evaluation."""
        return self.path / "known"
