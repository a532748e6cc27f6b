"""What a server would have answered, in the prediction log: the same values as training saw, by the champion."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

import pandas as pd

from evergrow.contracts import EVENT_TIMESTAMP, KNOWN_AT
from evergrow.data.lake import Lake
from evergrow.environment import Environment
from evergrow.integrations.feast import FeastStore
from evergrow.integrations.mlflow import MlflowRegistry
from evergrow.integrations.prediction_store import PredictionStore
from evergrow.learning.bundle import Bundle
from evergrow.prediction_log.records import Asked, Column, Header, Record, Segment, logged
from evergrow.prediction_log.tables import parquet
from evergrow.spec import ContinualModel

Change = Callable[[pd.DataFrame], pd.DataFrame]
TYPES = {"float64": "DOUBLE", "int64": "INT64", "object": "STRING", "str": "STRING"}


def answers(
    environment: Environment,
    document: ContinualModel,
    since: datetime,
    until: datetime,
    version: str = "champion",
    change: Change = lambda rows: rows,
) -> pd.DataFrame:
    """Examples asked in [since, until) with their features, as `change` leaves these, and the version's scores."""
    examples = Lake(environment.data(document.name)).read("examples")
    asked = examples[(examples[EVENT_TIMESTAMP] >= since) & (examples[EVENT_TIMESTAMP] < until)]
    asked = asked.drop(columns=[document.spec.label.column, KNOWN_AT]).reset_index(drop=True)
    store = FeastStore(environment)
    store.apply()
    rows = change(store.history(document.spec.features.service, asked))
    registry = MlflowRegistry(environment)
    found = registry.resolve(document.name, version)
    assert found is not None
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Bundle.load(registry.fetch(found, Path(scratch) / "bundle"))
        return rows.assign(version=found.version, score=bundle.predict(bundle.columns(rows)))


def log(
    environment: Environment, document: ContinualModel, rows: pd.DataFrame, name: str = "w", views: Sequence[str] = ()
) -> list[str]:
    """Put answers in the log, a segment a day and version; returns the segments' names.

    What is found in each of the views became so at the very instant that it is asked for.
    """
    store = PredictionStore.of(environment)
    names = []
    for (day, version), part in rows.groupby([rows[EVENT_TIMESTAMP].dt.date, "version"]):
        segment = _segment(document, part.reset_index(drop=True), day, int(version), name, tuple(views))
        assert segment.header is not None
        store.put(segment.header.name, parquet(segment))
        names.append(segment.header.name)
    return names


def _segment(
    document: ContinualModel, rows: pd.DataFrame, day: date, version: int, name: str, views: tuple[str, ...]
) -> Segment:
    values = rows.drop(columns=[EVENT_TIMESTAMP, "version", "score"])
    columns = tuple(Column(name=logged(c), type=TYPES.get(str(t), "UNIX_TIMESTAMP")) for c, t in values.dtypes.items())
    texts = values.copy()
    for column in columns:
        if column.type == "UNIX_TIMESTAMP":
            texts[column.name] = values[column.name].map(lambda at: at.isoformat(), na_action="ignore")
    records = [
        (i, _record(asked, score, [None if pd.isna(v) else v for v in row], views))
        for i, (asked, score, row) in enumerate(
            zip(rows[EVENT_TIMESTAMP], rows["score"], texts.itertuples(index=False, name=None), strict=True)
        )
    ]
    header = Header(
        writer=f"{name}{version}",
        number=day.toordinal(),
        model=document.name,
        version=version,
        day=day,
        columns=columns,
        views=views,
        retention=timedelta(days=400),
    )
    return Segment(header, records, 0, 0)


def _record(asked: pd.Timestamp, score: float, values: list[object], views: Sequence[str]) -> Record:
    return Record(
        Asked(f"r{asked.value}", "v1"),
        asked.timestamp(),
        0.001,
        [values],
        [[asked.timestamp()] * len(views)],
        [float(score)],
        [()],
    )
