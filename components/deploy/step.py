"""Put a version that passed its gate into service."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from evergrow.contracts import EvaluationReport, ModelVersion
from evergrow.environment import Environment
from evergrow.errors import RegistryError, SpecError
from evergrow.integrations.mlflow import CHAMPION, MlflowRegistry
from evergrow.integrations.places import serving_of
from evergrow.integrations.spending import metered
from evergrow.journal import note, step
from evergrow.spec import ContinualModel, parse

PLAN = "features.json"
PRIOR = "prior"


@step
@metered("training")
def main(spec: str, version: str, training_set: str, model: str, report: str) -> str:
    """Promote `version` to champion and serve it; returns where: a directory, or on a cluster its URL.

    In an order that is safe to be killed in: all that can fail is made ready, then the promotion is on record, then
    the version is served. Running it again completes what was cut off.

    Args:
        spec: the document.
        version: number of the version.
        training_set: directory of its training set, which holds the plan by which its features are read online.
        model: its bundle's directory, as registered.
        report: its evaluation's directory, for the reason of the promotion.

    Raises:
        RegistryError: there is no such version, its evaluation did not pass, or the champion has changed since.
        SpecError: the document asks for a rollout that is not carried out yet.
    """
    document, environment = parse(spec), Environment.read()
    check_strategy(document)
    registry = MlflowRegistry(environment)
    judged = EvaluationReport.model_validate_json((Path(report) / "report.json").read_text(encoding="utf-8"))
    found = registry.resolve(document.name, version)
    if found is None:
        raise RegistryError(f"{document.name} has no version {version}", hint="`evergrow models list` shows all")
    _check(found, registry.resolve(document.name, CHAMPION), judged)
    plan = json.loads((Path(training_set) / PLAN).read_text(encoding="utf-8"))
    serving = serving_of(environment, document, plan)
    serving.prepare(found, Path(model))
    registry.promote(found, judged.verdict.reason, datetime.now(UTC))
    where = serving.deploy(found, Path(model))
    note("deploy", f"version {version} is the champion, served from {where}")
    return where


def check_strategy(document: ContinualModel) -> None:
    """Refuse what would be promoted with less evidence than the document asks for."""
    kind = document.spec.rollout.strategy.kind
    if kind != "single":
        raise SpecError(
            f"spec.rollout.strategy.kind: must be single, for no other is carried out yet, found {kind}",
            hint="leave `rollout` out: a version that passed its gate replaces what serves as soon as it is ready",
        )


def _check(version: ModelVersion, champion: ModelVersion | None, judged: EvaluationReport) -> None:
    """Refuse a version that did not pass, and one that passed against a champion that is no longer it."""
    name = f"{version.model} version {version.version}"
    if judged.verdict.outcome != "pass" or judged.identity != version.identity:
        raise RegistryError(
            f"{name}: only a version whose own evaluation passed is deployed, "
            f"found {judged.verdict.outcome} of identity {judged.identity[:12]}"
        )
    present = PRIOR if champion is None else str(champion.version)
    if present not in (judged.champion, str(version.version)):
        raise RegistryError(
            f"{name}: it was judged against {judged.champion}, but the champion is {present} by now",
            hint="run the training pipeline again: it judges against the present champion",
        )
