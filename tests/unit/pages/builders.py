"""Synthetic reports and data snapshots, as large and as odd as real ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from evergrow.contracts import Check, EvaluationReport, Feature, Metric, Slice, TrainingSet, Verdict, digest
from evergrow.evaluation import curves
from evergrow.spec import ContinualModel
from tests import builders

START = datetime(2013, 1, 1, tzinfo=UTC)
REASON = "log_loss 0.4123 vs champion 0.4330, difference +0.0207 [+0.0151, +0.0262], margin 0, n=52,310 in 60 blocks"


def metric(name: str, value: float, width: float = 0.02, rows: int = 52_310) -> Metric:
    return Metric(name=name, value=value, low=value - width / 2, high=value + width / 2, rows=rows)


def slices(column: str, values: list[str], seed: int = 1) -> tuple[Slice, ...]:
    random = np.random.default_rng(seed)
    return tuple(
        Slice(
            column=column,
            value=value,
            metrics=(
                metric("log_loss", 0.41 + random.normal(0, 0.05), random.uniform(0.01, 0.1), 100 * (i + 2)),
                metric("roc_auc", 0.76, 0.03),
            ),
        )
        for i, value in enumerate(values)
    )


def binary_curves() -> dict[str, Any]:
    random = np.random.default_rng(3)
    scores = random.beta(1.5, 5, 20_000)
    y = (random.random(20_000) < scores).astype(float)
    return {
        "roc": curves.roc(y, scores),
        "calibration": curves.calibration(y, scores),
        "confusion": curves.confusion(y, scores, 0.23),
        "importance": {f"feature_{i}": 0.05 / (i + 1) - 0.001 for i in range(18)},
        "skipped": [{"column": "carrier", "value": "OO", "rows": 12, "reason": "fewer than 100 rows"}],
    }


def report(**changes: Any) -> EvaluationReport:
    checks = (
        Check(name="champion", verdict=Verdict(outcome="pass", reason=REASON)),
        Check(name="floor roc_auc", verdict=Verdict(outcome="pass", reason="roc_auc 0.7620, at least 0.7, n=52,310")),
        Check(name="latency", verdict=Verdict(outcome="pass", reason="latency 0.04 ms, at most 5 ms")),
        Check(name="size", verdict=Verdict(outcome="pass", reason="size 1.2 MB, at most 50 MB")),
    )
    given: dict[str, Any] = {
        "model": "arrival-delay",
        "identity": digest("identity"),
        "model_digest": digest("model"),
        "task": "binary-classification",
        "as_of": START + timedelta(days=273),
        "holdout": (START + timedelta(days=212), START + timedelta(days=272)),
        "rows": 52_310,
        "primary": "log_loss",
        "metrics": (
            metric("log_loss", 0.4123),
            metric("brier", 0.1312, 0.006),
            metric("roc_auc", 0.762),
            metric("average_precision", 0.51),
            metric("calibration_error", 0.012, 0.004),
        ),
        "champion": "3",
        "champion_metrics": (metric("log_loss", 0.433), metric("brier", 0.139, 0.006), metric("roc_auc", 0.731)),
        "slices": slices("origin", ["EWR", "JFK", "LGA"]) + slices("carrier", [f"C{i}" for i in range(14)], 2),
        "months": slices("month", ["2013-08", "2013-09"]),
        "curves": binary_curves(),
        "checks": checks,
        "verdict": Verdict.worst(check.verdict for check in checks),
    }
    return EvaluationReport(**{**given, **changes})


def regression_report(**changes: Any) -> EvaluationReport:
    checks = (Check(name="champion", verdict=Verdict(outcome="inconclusive", reason="mae 31.2 vs champion 31.9")),)
    part = Slice(column="month", value="2012-12", metrics=(metric("mae", 31.0, 3.0),))
    residuals = curves.residuals(np.random.default_rng(0).normal(2, 30, 5000), np.zeros(5000))
    given = {
        "model": "bike-demand",
        "task": "regression",
        "primary": "mae",
        "metrics": (metric("mae", 31.2, 2.0), metric("rmse", 52.0, 4.0), metric("r2", 0.91, 0.02)),
        "champion": "prior",
        "champion_metrics": (metric("mae", 120.4, 6.0), metric("rmse", 160.0, 9.0)),
        "slices": (),
        "months": (part,),
        "curves": {"residuals": residuals, "importance": {"hour": 80.0, "temperature": 12.0}, "skipped": []},
        "checks": checks,
        "verdict": checks[0].verdict,
    }
    return report(**{**given, **changes})


def document(task: str = "binary-classification", **changes: Any) -> ContinualModel:
    return builders.document(task=task, name="arrival-delay" if task != "regression" else "bike-demand", **changes)


def snapshot(rows: int = 5_000, features: int = 6, task: str = "binary-classification", seed: int = 0) -> pd.DataFrame:
    """Rows of a year whose label depends on `signal` and `carrier`; `noise_i` tell nothing; some values are missing."""
    random = np.random.default_rng(seed)
    asked = pd.DatetimeIndex([START] * rows) + pd.to_timedelta(np.sort(random.uniform(0, 364 * 86400, rows)), "s")
    signal = random.normal(0, 1, rows)
    carrier = random.choice(["UA", "AA", "DL", "B6"], rows, p=[0.4, 0.3, 0.2, 0.1])
    strength = 0.8 * signal + (carrier == "B6") * 0.8 - 1.3
    late = (random.random(rows) < 1 / (1 + np.exp(-strength))).astype(np.int64)
    label = late if task != "regression" else np.round(np.exp(0.5 * strength + random.normal(0, 0.5, rows)) * 100)
    noise = {f"noise_{i}": random.gamma(2, 3, rows) for i in range(features)}
    noise["noise_0"] = np.where(random.random(rows) < 0.1, np.nan, noise["noise_0"])
    noise["noise_1"] = np.where(asked.month == 3, np.nan, noise["noise_1"])
    return pd.DataFrame(
        {
            "event_timestamp": asked,
            "known_at": asked + pd.to_timedelta(random.gamma(4, 2500, rows), "s"),
            "flight": np.arange(rows),
            "signal": signal,
            "carrier": carrier,
            **noise,
            "late": label,
        }
    )


def about(
    rows: pd.DataFrame, task: str = "binary-classification", slices: tuple[str, ...] = ("carrier",)
) -> TrainingSet:
    """The TrainingSet of a snapshot: every column but keys, instants and label is a feature."""
    outside = ("event_timestamp", "known_at", "flight", "late")
    features = [
        Feature(name=name, kind="numeric" if pd.api.types.is_numeric_dtype(rows[name]) else "categorical")
        for name in rows.columns
        if name not in outside
    ]
    end = START + timedelta(days=365)
    return TrainingSet(
        model="arrival-delay",
        task=task,
        as_of=end,
        label="late",
        keys=("flight",),
        features=tuple(features),
        slices=slices,
        rows=len(rows),
        first=rows["event_timestamp"].min() if len(rows) else START,
        last=rows["event_timestamp"].max() if len(rows) else end,
        holdout_from=end - timedelta(days=60),
        calibration_from=end - timedelta(days=74),
        data_digest=digest("rows"),
        features_digest=digest("features"),
        source_digest=digest("lake"),
    )
