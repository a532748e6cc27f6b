"""Where the pages people look at are: below `<home>/reports/<model>/`, one set a training run."""

from __future__ import annotations

import shutil
from pathlib import Path

from evergrow.contracts import instant
from evergrow.environment import Environment
from evergrow.errors import DataError

REPORT, EXPLORATION = "report.html", "exploration.html"


def folder(environment: Environment, model: str, as_of: str) -> Path:
    """Where the pages of the training run of an instant are."""
    return environment.home / "reports" / model / f"as_of={instant(as_of):%Y-%m-%dT%H%M%SZ}"


def keep(environment: Environment, model: str, as_of: str, report: Path, exploration: Path) -> Path:
    """Copy a training run's pages to where they are found; returns the report."""
    place = folder(environment, model, as_of)
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(exploration, place / EXPLORATION)
    return Path(shutil.copyfile(report, place / REPORT))


def newest(environment: Environment, model: str | None = None) -> Path:
    """The report written last, of one model or of any.

    Raises:
        DataError: there is none yet.
    """
    found = (environment.home / "reports").glob(f"{model or '*'}/*/{REPORT}")
    written = sorted(found, key=lambda path: path.stat().st_mtime)
    if not written:
        raise DataError(
            f"there is no report{f' of {model}' if model else ''} in {environment.home}",
            hint="`evergrow run training -f models/<name>/model.yaml` writes one",
        )
    return written[-1]
