"""Runs that need not run again: everything they would read is what it was, and everything they made is still there."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from evergrow.contracts import Value, digest, instant
from evergrow.data.lake import Lake, replace
from evergrow.environment import Environment
from evergrow.learning.identity import LIBRARIES, package_of, place_of, source_digest
from evergrow.spec import ContinualModel

PACKAGES = ("evergrow", "components", "pipelines")


class Done(Value):
    """A run that ended well: a digest of its document and code, the files it made, and what it told."""

    inputs: str
    made: tuple[Path, ...]
    summary: Mapping[str, Any]


def recall(
    environment: Environment, pipeline: str, document: ContinualModel, as_of: str, champion: Callable[[], int | None]
) -> dict[str, Any] | None:
    """The summary of the run that did this already; None if there is none, or if running again could differ.

    A run as of T depends on its document, on code, on what was known at T, and on the champion it meets. What was
    known at T cannot change once all tables were read up to T, for ingest takes nothing from before its watermark.

    Args:
        environment: where state lives.
        pipeline: its name.
        document: the document it runs.
        as_of: ISO 8601.
        champion: asks for the champion's version; only asked when all else is as it was.
    """
    file = _file(environment, pipeline, document, as_of)
    if not file.exists():
        return None
    done = Done.model_validate_json(file.read_text(encoding="utf-8"))
    made = all(path.exists() for path in done.made)
    known = Lake(environment.data(document.name)).is_read_up_to(instant(as_of))
    same = made and known and done.inputs == inputs(environment, document)
    return dict(done.summary) if same and done.summary["champion"] == champion() else None


def remember(
    environment: Environment,
    pipeline: str,
    document: ContinualModel,
    as_of: str,
    summary: Mapping[str, Any],
    made: Iterable[Path],
) -> None:
    """Note that a run ended well.

    Args:
        environment: where state lives.
        pipeline: its name.
        document: the document it ran.
        as_of: ISO 8601.
        summary: what it told; `champion` is the version it left in service.
        made: files that must still be there for it to count as done.
    """
    done = Done(inputs=inputs(environment, document), made=tuple(made), summary=summary)
    replace(_file(environment, pipeline, document, as_of), done.model_dump_json(indent=1).encode())


def inputs(environment: Environment, document: ContinualModel) -> str:
    """SHA-256 of a document, of where its state is, and of all code a run of it may execute."""
    spec = document.spec
    named = (package_of(point) for point in (spec.source.entrypoint, spec.training.estimator.entrypoint))
    places = {name: place_of(name) for name in (*PACKAGES, *named)} | {"feature_repo": environment.feature_repo}
    return digest(
        {
            "document": document.dump(),
            "home": str(environment.home),  # a copy of a home tells of files of the original
            "sources": {name: source_digest(place) for name, place in places.items()},
            "libraries": _versions((*LIBRARIES, "feast", "kfp", "mlflow-skinny", "pandas", "duckdb")),
        }
    )


def _versions(libraries: Iterable[str]) -> Mapping[str, str]:
    return {name: importlib.metadata.version(name) for name in libraries}


def _file(environment: Environment, pipeline: str, document: ContinualModel, as_of: str) -> Path:
    when = instant(as_of)
    return environment.home / "runs" / pipeline / "done" / document.name / f"{when:%Y-%m-%dT%H%M%S.%fZ}.json"
