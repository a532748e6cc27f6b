"""Judge a model against the champion on the same held-out rows."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from evergrow.contracts import EvaluationReport, TrainingSet
from evergrow.environment import Environment
from evergrow.evaluation.evaluate import evaluate
from evergrow.evaluation.page import render
from evergrow.integrations.mlflow import CHAMPION, MlflowRegistry
from evergrow.journal import note, step
from evergrow.spec import ContinualModel, parse


class Metrics(Protocol):
    """What of `kfp.dsl.Metrics` is used."""

    def log_metric(self, metric: str, value: float) -> None:
        """Show one number."""
        ...


class ClassificationMetrics(Protocol):
    """What of `kfp.dsl.ClassificationMetrics` is used."""

    def log_roc_curve(self, fpr: list[float], tpr: list[float], threshold: list[float]) -> None:
        """Show a ROC curve."""
        ...

    def log_confusion_matrix(self, categories: list[str], matrix: list[list[int]]) -> None:
        """Show a confusion matrix; its rows are true labels."""
        ...


@step
def main(
    spec: Mapping[str, Any],
    training_set: str,
    model: str,
    report: str,
    page: str,
    metrics: Metrics,
    classification: ClassificationMetrics,
) -> str:
    """Evaluate the bundle `model` against the registry's champion, or against the prior if there is none.

    Writes the report's folder `report` and its page, tells Kubeflow's page the numbers, and returns the outcome.
    """
    document = parse(spec)
    judged = judge(document, Path(training_set), Path(model), Path(report))
    about = TrainingSet.model_validate_json((Path(training_set) / "training_set.json").read_text(encoding="utf-8"))
    html = render(judged, document, about)
    for place in (Path(page), Path(report) / "report.html"):
        place.write_text(html, encoding="utf-8")
    show(judged, metrics, classification)
    note("evaluate", f"{judged.verdict.outcome}: {judged.verdict.reason}")
    return judged.verdict.outcome


def judge(document: ContinualModel, training_set: Path, model: Path, out: Path) -> EvaluationReport:
    """Evaluate against the champion of the environment's registry."""
    registry = MlflowRegistry(Environment.read())
    champion = registry.resolve(document.name, CHAMPION)
    if champion is None:
        return evaluate(document, training_set, model, None, "", out)
    with tempfile.TemporaryDirectory() as folder:
        bundle = registry.fetch(champion, Path(folder) / "champion")
        return evaluate(document, training_set, model, bundle, str(champion.version), out)


def show(report: EvaluationReport, metrics: Metrics, classification: ClassificationMetrics) -> None:
    """Tell Kubeflow's page the numbers, which must all be finite, and for a classification the curves."""
    for metric in report.metrics:
        metrics.log_metric(metric.name, metric.value)
    for metric in report.champion_metrics:
        metrics.log_metric(f"champion {metric.name}", metric.value)
    if roc := report.curves.get("roc"):
        classification.log_roc_curve(roc["fpr"], roc["tpr"], roc["thresholds"])
    if confusion := report.curves.get("confusion"):
        classification.log_confusion_matrix(confusion["labels"], confusion["matrix"])
