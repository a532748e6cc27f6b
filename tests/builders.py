"""Builders of the values that tests start from: a document, and a synthetic training set."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evergrow.contracts import Feature, TrainingSet, digest
from evergrow.spec import ContinualModel, parse

START = datetime(2024, 1, 1, tzinfo=UTC)
FEATURES = (
    Feature(name="wind", kind="numeric"),
    Feature(name="delay", kind="numeric"),
    Feature(name="origin", kind="categorical"),
)


def document(
    *,
    estimator: str = "tests.example_model.estimator:boosted",
    task: str = "binary-classification",
    training: dict[str, Any] | None = None,
    evaluation: dict[str, Any] | None = None,
    gate: dict[str, Any] | None = None,
    name: str = "delays",
) -> ContinualModel:
    """A document around an estimator; parts given are merged over the defaults."""
    binary = task == "binary-classification"
    return parse(
        {
            "apiVersion": "evergrow.dev/v1alpha1",
            "kind": "ContinualModel",
            "metadata": {"name": name},
            "spec": {
                "task": task,
                "source": {"entrypoint": "tests.example_model.data:Delays"},
                "features": {"service": "delays"},
                "label": {"column": "late" if binary else "minutes"},
                "training": {"estimator": {"entrypoint": estimator}, **(training or {})},
                "evaluation": {
                    "holdout": "30d",
                    "metrics": ["log_loss", "roc_auc"] if binary else ["mae", "rmse"],
                    "slices": ["origin"],
                    "gate": {"metric": "log_loss" if binary else "mae", **(gate or {})},
                    **(evaluation or {}),
                },
            },
        }
    )


def rows(days: int = 120, per_day: int = 40, seed: int = 0, strength: float = 1.0) -> pd.DataFrame:
    """Delays: `late` (0/1) and `minutes` depend on wind, delay and origin by `strength`, and on a day's luck.

    Some values are missing; labels become known three hours after they were asked for.
    """
    random = np.random.default_rng(seed)
    n = days * per_day
    day = np.repeat(np.arange(days), per_day)
    asked = pd.DatetimeIndex([START] * n) + pd.to_timedelta(day * 86400 + np.tile(np.arange(per_day), days) * 1800, "s")
    wind, delay = random.gamma(2.0, 5.0, n), random.normal(0, 10, n)
    origin = random.choice(["EWR", "JFK", "LGA"], n, p=[0.5, 0.3, 0.2])
    luck = random.normal(0, 0.3, days)[day]
    signal = strength * (0.1 * (wind - 10) + 0.08 * delay + np.where(origin == "LGA", 1.0, 0.0)) - 1.0 + luck
    late = (random.random(n) < 1 / (1 + np.exp(-signal))).astype(np.int64)
    minutes = np.round(np.exp(0.3 * signal + random.normal(0, 0.3, n)) * 10, 3)
    wind[random.random(n) < 0.05] = np.nan
    origin = np.where(random.random(n) < 0.02, None, origin)
    known = asked + pd.Timedelta(hours=3)
    columns = {"event_timestamp": asked, "known_at": known, "flight": np.arange(n)}
    return pd.DataFrame({**columns, "wind": wind, "delay": delay, "origin": origin, "late": late, "minutes": minutes})


def training_set(
    folder: Path,
    *,
    model: ContinualModel | None = None,
    frame: pd.DataFrame | None = None,
    holdout: timedelta = timedelta(days=30),
    calibration: timedelta = timedelta(days=14),
) -> Path:
    """Write a training set of synthetic rows as the document `model` wants it; gives its directory."""
    model = model or document()
    frame = rows() if frame is None else frame
    frame = frame.sort_values(["event_timestamp", "flight"], ignore_index=True)
    last = frame["event_timestamp"].max().to_pydatetime()
    about = TrainingSet(
        model=model.name,
        task=model.spec.task,
        as_of=frame["known_at"].max().to_pydatetime(),
        label=model.spec.label.column,
        keys=("flight",),
        features=FEATURES,
        slices=model.spec.evaluation.slices,
        rows=len(frame),
        first=frame["event_timestamp"].min().to_pydatetime(),
        last=last,
        holdout_from=last - holdout,
        calibration_from=last - holdout - calibration,
        data_digest=digest(int(pd.util.hash_pandas_object(frame).sum())),
        features_digest=digest([f.model_dump() for f in FEATURES]),
        source_digest=digest("synthetic"),
    )
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(folder / "rows.parquet")
    (folder / "training_set.json").write_text(about.model_dump_json(indent=1))
    return folder
