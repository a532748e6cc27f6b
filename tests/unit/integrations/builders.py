"""Bundles and reports to register, as small as the registry allows."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from evergrow.contracts import EvaluationReport, Feature, Identity, Metric, TrainedModel, Verdict
from evergrow.learning.bundle import bundle_digest

AS_OF = datetime(2013, 7, 1, tzinfo=UTC)


def identity(seed: int = 0) -> Identity:
    return Identity(code="c" * 64, data="d" * 64, features="f" * 64, parameters="p" * 64, seed=seed)


def make_bundle(folder: Path, seed: int = 0, model: str = "bikes") -> Path:
    trained = TrainedModel(
        model=model,
        task="regression",
        identity=identity(seed),
        features=(Feature(name="hour", kind="numeric"), Feature(name="weather", kind="categorical")),
        categories={"weather": ("rain", "sun")},
        calibration={"kind": "none"},
        trained_on=(AS_OF, AS_OF),
        as_of=AS_OF,
        rows=1000,
        backend="scikit-learn",
        backend_reason="no conversion",
        prior=3.5,
        feature_service="bikes",
        requirements=("scikit-learn==1.9.1",),
        package="models.bikes",
    )
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_text(trained.model_dump_json())
    (folder / "model.skops").write_bytes(f"the bytes of seed {seed}".encode())
    return folder


def make_report(bundle: Path, champion: str = "prior", outcome: str = "pass") -> EvaluationReport:
    trained = TrainedModel.model_validate_json((bundle / "bundle.json").read_text())
    metric = Metric(name="mae", value=2.0, low=1.9, high=2.1, rows=300)
    return EvaluationReport(
        model=trained.model,
        identity=trained.identity.digest,
        model_digest=bundle_digest(bundle),
        task=trained.task,
        as_of=AS_OF,
        holdout=(AS_OF, AS_OF),
        rows=300,
        primary="mae",
        metrics=(metric,),
        champion=champion,
        champion_metrics=(metric.model_copy(update={"value": 3.0}),),
        slices=(),
        months=(),
        curves={},
        checks=(),
        verdict=Verdict(outcome=outcome, reason="mae 2.0 < champion 3.0"),
    )


def make_evaluation(folder: Path, report: EvaluationReport) -> Path:
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(report.model_dump_json())
    (folder / "report.html").write_text("<p>a report</p>")
    return folder
