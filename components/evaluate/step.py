"""Judge a model against the champion on the same held-out rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import evergrow.evaluation
import evergrow.statistics
from evergrow.contracts import EvaluationReport, TrainingSet, digest
from evergrow.evaluation.evaluate import REPORT, evaluate
from evergrow.evaluation.page import render
from evergrow.integrations.spending import metered
from evergrow.journal import note, step
from evergrow.learning.fit import read_info
from evergrow.learning.identity import source_digest
from evergrow.rivals import Rivals
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
@metered("training")
def main(
    spec: str,
    training_set: str,
    model: str,
    rivals: str,
    report: str,
    page: str,
    metrics: Metrics,
    classification: ClassificationMetrics,
) -> str:
    """Evaluate the bundle `model` against the champion among `rivals`, or against the prior if there is none.

    Writes the report's folder `report` and its page, tells Kubeflow's page the numbers, and returns the outcome.
    """
    document = parse(spec)
    judged = judge(document, Path(training_set), Path(model), Rivals(Path(rivals)), Path(report))
    about = TrainingSet.model_validate_json((Path(training_set) / "training_set.json").read_text(encoding="utf-8"))
    html = render(judged, document, about)
    for place in (Path(page), Path(report) / "report.html"):
        place.write_text(html, encoding="utf-8")
    show(judged, metrics, classification)
    note("evaluate", f"{judged.verdict.outcome}: {judged.verdict.reason}")
    return judged.verdict.outcome


def judge(document: ContinualModel, training_set: Path, model: Path, rivals: Rivals, out: Path) -> EvaluationReport:
    """Evaluate against the champion, or the prior if there is none; unless that was done before."""
    wanted = document.spec.training.update.control
    rules = {
        "evaluation": document.spec.evaluation.dump(),
        "control": wanted.dump() if wanted is not None else None,
        "code": judging_code(),
    }
    known = judged_before(rivals, rules, out)
    if known is not None:
        return known
    champion = rivals.read("champion")
    if champion is None:
        report = evaluate(document, training_set, model, None, "", out)
    else:
        control = rivals.control if wanted is not None and read_info(model).parent else None
        report = evaluate(document, training_set, model, rivals.bundle, str(champion.version), out, control)
    (out / RULES).write_text(json.dumps(rules, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return report


def judged_before(rivals: Rivals, rules: Mapping[str, Any], out: Path) -> EvaluationReport | None:
    """The stored evaluation of a model of this identity by these rules, against this champion; copied to `out`.

    Of the champion itself the evaluation that made it the champion counts: it has no rival but itself.
    """
    champion, known = rivals.read("champion"), rivals.read("known")
    if champion is None or known is None:
        return None
    against = known.tags.get("judged_against")
    if known.version != champion.version and against != str(champion.version):
        return None
    stored = rivals.evaluation / RULES
    if not stored.exists() or json.loads(stored.read_text(encoding="utf-8")) != rules:
        return None
    shutil.copytree(rivals.evaluation, out, dirs_exist_ok=True)
    note("evaluate", f"version {known.version} was judged against {against} before")
    return EvaluationReport.model_validate_json((out / REPORT).read_text(encoding="utf-8"))


def judging_code() -> str:
    """Digest of the sources that judge."""
    return digest([source_digest(Path(package.__path__[0])) for package in (evergrow.evaluation, evergrow.statistics)])


def show(report: EvaluationReport, metrics: Metrics, classification: ClassificationMetrics) -> None:
    """Tell Kubeflow's page the numbers, which must all be finite, and for a classification the curves."""
    for metric in report.metrics:
        metrics.log_metric(metric.name, metric.value)
    for metric in report.champion_metrics:
        metrics.log_metric(f"champion {metric.name}", metric.value)
    if report.backward_transfer is not None:
        metrics.log_metric("backward_transfer", report.backward_transfer)
    if roc := report.curves.get("roc"):
        classification.log_roc_curve(roc["fpr"], roc["tpr"], roc["thresholds"])
    if confusion := report.curves.get("confusion"):
        classification.log_confusion_matrix(confusion["labels"], confusion["matrix"])
