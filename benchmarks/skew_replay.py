"""A real week of flights served hour by hour, then recomputed: how many of the values that were served differ.

Each hour the online store is materialized as of then, and the hour's flights are asked about at their own instants, one
hour before they leave: by the server's model, its recorder and the shipper, on the declared features. What the model
says of them does not matter here, so it is one of random rows. Before the check, the lake is brought up to a later day:
the tables that are recomputed from are not those that were served from.
"""

from __future__ import annotations

import asyncio
import io
import json
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.measure import Result
from components.server.__main__ import without_kserves_client
from evergrow.contracts import Feature, Golden, Identity, TrainedModel
from evergrow.data.ingest import ingest
from evergrow.data.lake import Lake
from evergrow.environment import Environment
from evergrow.integrations import feast_online
from evergrow.integrations.feast import FeastStore
from evergrow.integrations.prediction_store import PredictionStore
from evergrow.integrations.skew import check
from evergrow.learning import bundle, onnx_conversion, skops_file
from evergrow.monitoring.skew import Skew
from evergrow.ports import Source
from evergrow.prediction_log.shipping import Shipper
from models.arrival_delay.data import Flights

MODEL, SERVICE = "arrival-delay", "arrival_delay"
FIRST, LAST = datetime(2013, 10, 1, tzinfo=UTC), datetime(2013, 10, 8, tzinfo=UTC)
LATER = timedelta(days=3)
HOUR = timedelta(hours=1)
CATEGORIES = {"carrier", "origin", "engine", "airline"}


def new_world(home: Path, source: Source, until: datetime) -> FeastStore:
    """A lake of flights up to `until`, and the declared features applied to it."""
    repository = Path(__file__).parents[1] / "feature_repo"
    environment = Environment(home=home, feature_repo=repository, tracking_uri="")
    ingest(source, Lake(environment.data(MODEL)), until)
    store = FeastStore(environment)
    store.apply()
    return store


def replay(store: FeastStore, since: datetime, until: datetime) -> int:
    """Serve the flights that are asked about in [`since`, `until`), and ship the log; returns how many there were."""
    without_kserves_client()
    from components.server.model import PredictionModel
    from components.server.recording import Recorder, asked_by
    from components.server.serving_directory import ServingDirectory

    class Replayed(PredictionModel):
        """A server's model at the instant that it is told."""

        instant = since

        def now(self) -> datetime:
            return self.instant

    home, plan = store.environment.home, feast_online.plan(store.feast, SERVICE)
    served = ServingDirectory.load(_serving_directory(home / "serving", plan))
    recorder = Recorder.open(home / "recorded", served, since - datetime.now(UTC), None)
    model = Replayed(served, feast_online.OnlineReader.open(plan), recorder=recorder)

    async def answer() -> int:
        count = 0
        for instant, instances in _requests(store, list(served.fields), since, until):
            model.instant = instant
            asked = asked_by("v1", {}, model.version)
            count += len((await model.answer_v1({"instances": instances}, asked))["predictions"])
        return count

    answered = asyncio.run(answer())
    recorder.close()
    predictions = PredictionStore.of(store.environment)
    list(Shipper(home / "recorded", predictions.put, predictions.expire).ship())
    return answered


def _requests(
    store: FeastStore, fields: list[str], since: datetime, until: datetime
) -> Iterator[tuple[datetime, list[dict[str, Any]]]]:
    """The flights asked about at each instant; at each full hour, the online store is brought up to it."""
    examples = Lake(store.environment.data(MODEL)).read("examples")
    wanted = examples[(examples.event_timestamp >= since) & (examples.event_timestamp < until)]
    hour = since
    store.materialize(SERVICE, hour)
    for instant, flights in wanted.groupby("event_timestamp"):
        while instant >= hour + HOUR:
            hour += HOUR
            store.materialize(SERVICE, hour)
        texts = flights[fields].assign(scheduled_departure=flights.scheduled_departure.map(pd.Timestamp.isoformat))
        yield instant.to_pydatetime(), texts.astype(object).where(texts.notna(), None).to_dict("records")


def _serving_directory(folder: Path, plan: dict[str, Any]) -> Path:
    """What a deployment writes."""
    _write_bundle(folder / "bundle", plan["features"])
    options = {"onMissing": "flag", "maxBatch": 1000, "log": {"durability": "off"}}
    about = {"model": MODEL, "version": 1, "feature_service": SERVICE, "serving": options}
    (folder / "features.json").write_text(json.dumps(plan))
    (folder / "serving.json").write_text(json.dumps(about))
    return folder


def _write_bundle(path: Path, features: list[str]) -> None:
    """A linear model of random rows."""
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(0)
    X = random.normal(size=(200, len(features))).astype(np.float32)
    estimator = LogisticRegression().fit(X, X[:, 0] > 0)
    background = io.BytesIO()
    np.save(background, X[:16])
    info = TrainedModel(
        model=MODEL,
        task="binary-classification",
        identity=Identity(code="c", data="d", features="f", parameters="p", seed=0),
        features=[Feature(name=n, kind="categorical" if n in CATEGORIES else "numeric") for n in features],
        categories={name: () for name in features if name in CATEGORIES},
        calibration={"kind": "none"},
        trained_on=(FIRST, FIRST),
        as_of=FIRST,
        rows=len(X),
        backend="onnx",
        backend_reason="synthetic",
        prior=0.5,
        feature_service=SERVICE,
        requirements=(),
    )
    model = onnx_conversion.convert(estimator, len(features), "probabilities")
    files = {bundle.ONNX: model, bundle.SKOPS: skops_file.dumps(estimator), bundle.BACKGROUND: background.getvalue()}
    bundle.write(path, info, files, Golden(features=(), scores=(), tolerance=1e-5))


def run() -> list[Result]:
    """Replay the week and check it."""
    with tempfile.TemporaryDirectory() as folder:
        store = new_world(Path(folder), Flights(), LAST)
        answered = replay(store, FIRST, LAST)
        ingest(Flights(), Lake(store.environment.data(MODEL)), LAST + LATER)
        log = PredictionStore.of(store.environment).read(MODEL, date.min, date.max)
        began = time.process_time()
        found = check(store, SERVICE, log)
        spent = time.process_time() - began
    assert found.rows == answered, f"{answered} predictions were answered, {found.rows} are in the log"
    return _results(found, spent)


def _results(found: Skew, spent: float) -> list[Result]:
    stale, ahead = (sum(getattr(feature, kind) for feature in found.features) for kind in ("stale", "ahead"))
    worst = max(found.views, key=lambda view: view.p95)
    behind = sum(view.stale for view in found.views) / sum(view.rows for view in found.views)
    return [
        Result(
            "a week of flights served: values that are not those recomputed offline",
            found.skewed,
            "",
            "0",
            found.skewed == 0 and not found.skipped,
            f"{found.compared:,} values of {len(found.features)} features in {found.rows:,} predictions, bit for bit; "
            f"{stale:,} of them of a row that a newer one had replaced since the full hour, {ahead:,} ahead",
        ),
        Result(
            "a week of flights served: lag of online rows that were no longer the best, p95",
            worst.p95.total_seconds() / 60,
            "min",
            "≤ 60",
            worst.p95 <= HOUR,
            f"materialized hourly; the worst view, {worst.view}; {behind:.1%} of all rows found were behind",
        ),
        Result("checking a week of flights for skew", spent, "CPU s", "stated", True, f"{found.rows:,} predictions"),
    ]
