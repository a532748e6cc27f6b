"""Judge a model against the champion on the same held-out rows."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import evergrow.evaluation
import evergrow.statistics
from evergrow.contracts import EvaluationReport, ModelVersion, TrainedModel, TrainingSet, digest
from evergrow.environment import Environment
from evergrow.evaluation.evaluate import REPORT, evaluate
from evergrow.evaluation.page import render
from evergrow.integrations.mlflow import CHAMPION, MlflowRegistry
from evergrow.journal import note, step
from evergrow.learning.identity import source_digest
from evergrow.ports import ModelRegistry
from evergrow.spec import ContinualModel, parse

RULES = "rules.json"
"""Beside a stored evaluation: by which rules and code it was judged."""


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
    spec: str,
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
    """Evaluate against the champion of the environment's registry, unless that was done before."""
    registry = MlflowRegistry(Environment.read())
    champion = registry.resolve(document.name, CHAMPION)
    rules = {"evaluation": document.spec.evaluation.dump(), "code": judging_code()}
    known = judged_before(registry, model, champion, rules, out)
    if known is None:
        known = _evaluate(registry, document, training_set, model, champion, out)
        (out / RULES).write_text(json.dumps(rules, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return known


def judged_before(
    registry: ModelRegistry, model: Path, champion: ModelVersion | None, rules: Mapping[str, Any], out: Path
) -> EvaluationReport | None:
    """The stored evaluation of a model of this identity by these rules, against this champion; copied to `out`.

    Of the champion itself the evaluation that made it the champion counts: it has no rival but itself.
    """
    trained = TrainedModel.model_validate_json((model / "bundle.json").read_text(encoding="utf-8"))
    version = registry.find(trained.model, trained.identity.digest)
    if version is None or champion is None:
        return None
    if version.version != champion.version and version.tags.get("judged_against") != str(champion.version):
        return None
    with tempfile.TemporaryDirectory() as folder:
        stored = registry.evaluation(version, Path(folder) / "evaluation")
        if not (stored / RULES).exists() or json.loads((stored / RULES).read_text(encoding="utf-8")) != rules:
            return None
        shutil.copytree(stored, out, dirs_exist_ok=True)
    note("evaluate", f"version {version.version} was judged against {version.tags['judged_against']} before")
    return EvaluationReport.model_validate_json((out / REPORT).read_text(encoding="utf-8"))


def judging_code() -> str:
    """Digest of the sources that judge."""
    return digest([source_digest(Path(package.__path__[0])) for package in (evergrow.evaluation, evergrow.statistics)])


def _evaluate(
    registry: ModelRegistry,
    document: ContinualModel,
    training_set: Path,
    model: Path,
    champion: ModelVersion | None,
    out: Path,
) -> EvaluationReport:
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
