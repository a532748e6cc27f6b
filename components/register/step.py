"""Store a judged model in the registry."""

from __future__ import annotations

from pathlib import Path

from evergrow.contracts import EvaluationReport, TrainedModel, instant
from evergrow.environment import Environment
from evergrow.evaluation.card import model_card, readme_of
from evergrow.integrations.loop_cluster import keep_result
from evergrow.integrations.mlflow import MlflowRegistry
from evergrow.integrations.object_store import ObjectStore
from evergrow.integrations.spending import metered
from evergrow.journal import note, step
from evergrow.spec import parse


@step
@metered("training")
def main(spec: str, as_of: str, model: str, report: str) -> str:
    """Register the bundle `model` with the evaluation folder `report`; returns the version's number.

    A bundle whose identity is registered already keeps its version. On a cluster, what became of the training as of
    `as_of` is left for the model's loop.
    """
    document, environment = parse(spec), Environment.read()
    registry = MlflowRegistry(environment)
    judged = EvaluationReport.model_validate_json((Path(report) / "report.json").read_text(encoding="utf-8"))
    trained = TrainedModel.model_validate_json((Path(model) / "bundle.json").read_text(encoding="utf-8"))
    card = model_card(document, trained, judged, readme_of(document))
    version = registry.register(Path(model), judged, Path(report), document.dump(), card)
    if environment.store is not None:
        keep_result(ObjectStore.open(environment.store), judged, version.version, instant(as_of))
    note("register", f"{version.model} version {version.version}, {', '.join(version.aliases) or 'no alias'}")
    return str(version.version)
