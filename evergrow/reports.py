"""Where the pages people look at are: below `<home>/reports/<model>/`, one set a training run or a look at service."""

from __future__ import annotations

import shutil
from pathlib import Path

from evergrow.contracts import Decision, instant
from evergrow.data.lake import replace
from evergrow.environment import Environment
from evergrow.errors import DataError
from evergrow.monitoring.watch import FILE, Watch

REPORT, EXPLORATION, DECISION = "report.html", "exploration.html", "decision.json"


def folder(environment: Environment, model: str, as_of: str) -> Path:
    """Where the pages of the training run of an instant are."""
    return environment.home / "reports" / model / f"as_of={instant(as_of):%Y-%m-%dT%H%M%SZ}"


def keep(environment: Environment, model: str, as_of: str, report: Path, exploration: Path) -> Path:
    """Copy a training run's pages to where they are found; returns the report."""
    place = folder(environment, model, as_of)
    place.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(exploration, place / EXPLORATION)
    return Path(shutil.copyfile(report, place / REPORT))


def keep_watch(environment: Environment, watch: Watch, decision: Decision, html: str) -> list[Path]:
    """Write what monitoring saw, decided and shows of it to where it is found; returns the files."""
    place = environment.home / "reports" / watch.model / f"watch={watch.as_of:%Y-%m-%dT%H%M%SZ}"
    watch.save(place)
    contents = {DECISION: decision.model_dump_json(indent=1) + "\n", REPORT: html}
    for name, content in contents.items():
        replace(place / name, content.encode())
    return [place / FILE, *(place / name for name in contents)]


def newest(environment: Environment, model: str | None = None) -> Path:
    """The training report written last, of one model or of any.

    Raises:
        DataError: there is none yet.
    """
    found = (environment.home / "reports").glob(f"{model or '*'}/as_of=*/{REPORT}")
    written = sorted(found, key=lambda path: path.stat().st_mtime)
    if not written:
        raise DataError(
            f"there is no report{f' of {model}' if model else ''} in {environment.home}",
            hint="`evergrow run training -f models/<name>/model.yaml` writes one",
        )
    return written[-1]
