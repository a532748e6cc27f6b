"""A small feature store with every value type the server reads, written by Feast itself into SQLite or Redis."""

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest

NOW = datetime(2013, 7, 1, 12, tzinfo=UTC)


def since_departure(inputs):
    """On-demand: what the request says, and one stored feature."""
    from datetime import datetime

    # Feast tries the function with "hello world" when it is applied.
    hours = [0 if t == "hello world" else datetime.fromisoformat(t).hour for t in inputs["departs"]]
    celsius = [None if f is None else (f - 32) / 1.8 for f in inputs["temperature"]]
    return {
        "hour": hours,
        "km": [None if miles is None else miles * 1.609 for miles in inputs["distance"]],
        "celsius": celsius,
    }


def frames():
    """Per view its rows; ages in hours stand beside each entity."""

    def at(hours):
        return [NOW - timedelta(hours=h) for h in hours]

    return {
        "origin_delays": pd.DataFrame(
            {
                "origin": ["EWR", "JFK", "LGA", "Zürich"],
                "mean_delay": [12.5, -3.25, 0.0, 1e-3],
                "flights": [100, 0, -7, 2**40],
                "event_timestamp": at([1, 7, 6, 0]),
            }
        ),
        "weather": pd.DataFrame(
            {
                "origin": ["EWR", "JFK", "Zürich"],
                "temperature": [71.6, 32.0, None],
                "gusty": [True, False, None],
                "sky": ["clear", "", None],
                "event_timestamp": at([0.5, 0.5, 0.5]),
            }
        ),
        "planes": pd.DataFrame(
            {
                "tailnum": ["N1", "N2"],
                "seats": [189, 55],
                "built": [datetime(1999, 5, 4, tzinfo=UTC), datetime(1969, 12, 31, 23, tzinfo=UTC)],
                "event_timestamp": at([24 * 900, 1]),
            }
        ),
        "route_delays": pd.DataFrame(
            {"origin": ["EWR", "JFK"], "dest": ["SFO", "LAX"], "p90": [40.0, 55.5], "event_timestamp": at([2, -2])}
        ),
        "ratings": pd.DataFrame({"carrier": [7, -1], "rating": [4.5, 0.0], "event_timestamp": at([3, 3])}),
        "holidays": pd.DataFrame({"holiday": [False], "event_timestamp": at([0])}),
    }


def repository(folder: Path, online_store: dict):
    """Feast's SDK on a repository in `folder`."""
    from feast import FeatureStore, RepoConfig

    return FeatureStore(
        config=RepoConfig(
            project="flights",
            provider="local",
            registry=str(folder / "registry.db"),
            online_store=online_store,
            offline_store={"type": "file"},
            entity_key_serialization_version=3,
        )
    )


def feature_store(folder: Path, online_store: dict):
    """A Feast repository, applied, with `frames()` in its online store."""
    folder.mkdir(parents=True, exist_ok=True)
    store = repository(folder, online_store)
    store.apply(declarations(folder))
    for view, frame in frames().items():
        frame.to_parquet(folder / f"{view}.parquet")
        # Feast writes a view without entities where it does not look for it, unless it materializes it.
        if view == "holidays":
            store.materialize(NOW - timedelta(days=1), NOW + timedelta(days=1), feature_views=[view])
        else:
            store.write_to_online_store(view, frame)
    return store


def declarations(folder: Path) -> list:
    """Everything that `feast apply` is given."""
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
    from feast import types as t
    from feast.on_demand_feature_view import on_demand_feature_view

    kinds = {"origin": ValueType.STRING, "dest": ValueType.STRING, "tailnum": ValueType.STRING}
    kinds["carrier"] = ValueType.INT64
    entities = {name: Entity(name=name, join_keys=[name], value_type=kind) for name, kind in kinds.items()}

    def view(name, keys, ttl_hours, **features):
        path = folder / f"{name}.parquet"
        frames()[name].to_parquet(path)
        return FeatureView(
            name=name,
            entities=[entities[key] for key in keys],
            ttl=timedelta(hours=ttl_hours),
            schema=[Field(name=f, dtype=kind) for f, kind in features.items()],
            source=FileSource(name=f"{name}_source", path=str(path), timestamp_field="event_timestamp"),
        )

    views = [
        view("origin_delays", ["origin"], 6, mean_delay=t.Float32, flights=t.Int64),
        view("weather", ["origin"], 3, temperature=t.Float64, gusty=t.Bool, sky=t.String),
        view("planes", ["tailnum"], 0, seats=t.Int32, built=t.UnixTimestamp),
        view("route_delays", ["origin", "dest"], 24, p90=t.Float64),
        view("ratings", ["carrier"], 24, rating=t.Float64),
        view("holidays", [], 24, holiday=t.Bool),
    ]
    request = RequestSource(
        name="request", schema=[Field(name="departs", dtype=t.String), Field(name="distance", dtype=t.Float64)]
    )
    outputs = [
        Field(name="hour", dtype=t.Int64),
        Field(name="km", dtype=t.Float64),
        Field(name="celsius", dtype=t.Float64),
    ]
    declare = on_demand_feature_view(name="departure", sources=[request, views[1]], schema=outputs, mode="python")
    # Feast's decorator says that the function is of __main__, and then does not find its source a second time.
    since_departure.__module__ = __name__
    on_demand = declare(since_departure)
    service = FeatureService(name="flights_v1", features=[*views, on_demand])
    bare = FeatureService(name="origins", features=[views[0]])
    return [*entities.values(), *views, on_demand, service, bare]


FEATURES = {
    **dict.fromkeys(("mean_delay", "flights", "temperature", "seats", "p90", "rating"), "numeric"),
    **dict.fromkeys(("hour", "km", "celsius", "gusty", "passengers"), "numeric"),
    **dict.fromkeys(("origin", "sky"), "categorical"),
}
"""What the model takes: stored and on-demand features, an entity key, and "passengers" that only a request knows."""

LEVELS = {"origin": ("EWR", "JFK", "LGA"), "sky": ("clear", "rain")}


def write_bundle(path: Path, seed: int = 0) -> None:
    """Boosted trees on random rows of FEATURES, as a bundle that runs on ONNX."""
    import io

    import numpy as np
    from sklearn.ensemble import HistGradientBoostingClassifier

    from evergrow.contracts import Feature, Golden, Identity, TrainedModel
    from evergrow.learning import bundle, onnx_conversion, skops_file

    random = np.random.default_rng(seed)
    X = random.normal(size=(2000, len(FEATURES))).astype(np.float32) * 50
    X[random.random(X.shape) < 0.1] = np.nan
    estimator = HistGradientBoostingClassifier(random_state=0).fit(X, np.nansum(X, axis=1) > 0)
    background = io.BytesIO()
    np.save(background, X[:16])
    info = TrainedModel(
        model="delays",
        task="binary-classification",
        identity=Identity(code="c", data="d", features="f", parameters="p", seed=seed),
        features=[Feature(name=name, kind=kind) for name, kind in FEATURES.items()],
        categories=LEVELS,
        calibration={"kind": "sigmoid", "slope": -1.2, "intercept": 0.1},
        trained_on=(NOW, NOW),
        as_of=NOW,
        rows=len(X),
        backend="onnx",
        backend_reason="synthetic",
        prior=0.5,
        feature_service="flights_v1",
        requirements=(),
    )
    model = onnx_conversion.convert(estimator, len(FEATURES), "probabilities")
    asked = [{"temperature": 60.0 + i, "origin": "EWR", "flights": 3.0 * i, "sky": None} for i in range(5)]
    loaded = bundle.Bundle(path, info, bundle.onnx_score(model))
    golden = Golden(features=asked, scores=loaded.predict(loaded.vector(asked)).tolist(), tolerance=1e-5)
    files = {bundle.ONNX: model, bundle.SKOPS: skops_file.dumps(estimator), bundle.BACKGROUND: background.getvalue()}
    bundle.write(path, info, files, golden)


def serving_directory(
    folder: Path, plan: dict, *, on_missing: str = "flag", max_batch: int = 50, log: dict | None = None
) -> Path:
    """What a deployment writes: bundle, plan and options of "delays" version 3."""
    write_bundle(folder / "bundle")
    options = {"onMissing": on_missing, "maxBatch": max_batch, "log": log or {}}
    about = {"model": "delays", "version": 3, "feature_service": "flights_v1", "serving": options}
    (folder / "features.json").write_text(json.dumps(plan))
    (folder / "serving.json").write_text(json.dumps(about))
    return folder


def row(**changes) -> dict:
    """A request row that everything is known for."""
    known = {"origin": "EWR", "dest": "SFO", "tailnum": "N1", "carrier": 7}
    return {**known, "departs": "2013-07-01T09:30", "distance": 2565.0, "passengers": 100, **changes}


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def redis_server(folder: Path, port: int | None = None):
    """A Redis of our own on a random loopback port; its port."""
    if not shutil.which("redis-server"):
        pytest.skip("redis-server is not installed (Debian package redis-server)")
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for_port(port, process)
        yield port
    finally:
        process.kill()
        process.wait()


def wait_for_port(port: int, process: subprocess.Popen, seconds: float = 60.0) -> None:
    """Return when something listens; an AssertionError if the process ends before, or it takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"nothing listens on port {port}; exit code {process.poll()}")


@contextmanager
def server(directory: Path, *arguments: str, now: datetime | None = NOW, env: dict | None = None, ready: bool = True):
    """A model server as a process of its own on random loopback ports; stopped hard if it still runs at the end."""
    port, grpc = free_port(), free_port()
    command = [sys.executable, "-m", "components.server", "--model-dir", str(directory), "--host", "127.0.0.1"]
    command += ["--http-port", str(port), "--grpc-port", str(grpc), *(["--now", now.isoformat()] if now else [])]
    log = directory.parent / f"server-{port}.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [*command, *arguments], env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})}, stdout=out, stderr=out
        )
    running = Server(process, port, grpc, log)
    try:
        if ready:
            running.wait_until_ready()
        yield running
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Server:
    """A running server."""

    process: subprocess.Popen
    port: int
    grpc: int
    log: Path

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict, bytes]:
        """Status, headers (lower case) and body of one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def post(self, path: str, document: object, **headers: str) -> tuple[int, dict]:
        """Status and JSON of a POST."""
        body = json.dumps(document).encode()
        status, _, answer = self.ask("POST", path, body, content_type="application/json", **headers)
        return status, json.loads(answer)

    def ready(self) -> bool:
        """What a readiness probe sees."""
        try:
            return self.ask("GET", "/v2/health/ready")[0] == 200
        except OSError:
            return False

    def wait_until(self, what: Callable[[], bool], seconds: float = 60.0) -> None:
        """Return when it holds; an AssertionError with the log if it never does."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            if what():
                return
            time.sleep(0.05)
        raise AssertionError(f"not so within {seconds} s; exit code {self.process.poll()}:\n{self.log.read_text()}")

    def wait_until_ready(self) -> None:
        """Return when readiness is true."""
        self.wait_until(self.ready)
