"""Put a version that passed its gate into service."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from evergrow.contracts import EvaluationReport
from evergrow.environment import Environment
from evergrow.errors import RegistryError
from evergrow.integrations.mlflow import MlflowRegistry
from evergrow.integrations.serving import LocalServing
from evergrow.journal import note, step
from evergrow.spec import parse


@step
def main(spec: str, version: str, model: str, report: str) -> str:
    """Promote `version` to champion and serve it; returns the directory it is served from.

    In an order that is safe to be killed in: all that can fail is made ready, then the promotion is on record, then
    the version is served. Running it again completes what was cut off.

    Args:
        spec: the document.
        version: number of the version.
        model: its bundle's directory, as registered.
        report: its evaluation's directory, for the reason of the promotion.

    Raises:
        RegistryError: there is no such version, or its evaluation did not pass.
    """
    from evergrow.integrations.feast import FeastStore
    from evergrow.integrations.feast_online import plan

    document, environment = parse(spec), Environment.read()
    registry = MlflowRegistry(environment)
    judged = EvaluationReport.model_validate_json((Path(report) / "report.json").read_text(encoding="utf-8"))
    found = registry.resolve(document.name, version)
    if found is None:
        raise RegistryError(f"{document.name} has no version {version}", hint="`evergrow models list` shows all")
    if judged.verdict.outcome != "pass" or judged.identity != found.identity:
        raise RegistryError(
            f"{document.name} version {version}: only a version whose own evaluation passed is deployed, "
            f"found {judged.verdict.outcome} of identity {judged.identity[:12]}"
        )
    service = plan(FeastStore(environment).feast, document.spec.features.service)
    serving = LocalServing(environment.serving(document.name), document, service)
    serving.prepare(found, Path(model))
    registry.promote(found, judged.verdict.reason, datetime.now(UTC))
    where = serving.deploy(found, Path(model))
    note("deploy", f"version {version} is the champion, served from {where}")
    return where
