"""The servers that ours is compared with, each a process: python -m benchmarks.serving_arms ARM PORT FOLDER.

constant        KServe's model server as it comes, a model that returns a constant: what KServe itself costs
constant_quiet  the same without a log line per request, as ours is
routed          our model, as ours is, but through KServe's own HTTP routes
floor           bare uvicorn, JSON and ONNX Runtime: 13 numbers in, a score out, no features looked up
documented      KServe's model server, Feast's SDK into a DataFrame, scikit-learn: as the docs show
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def constant(port: int, folder: Path) -> None:
    """KServe alone."""
    _kserve(_constant(), port)


def constant_quiet(port: int, folder: Path) -> None:
    """KServe alone, without its log."""
    _kserve(_constant(), port, quiet=True)


def _constant() -> Any:
    from kserve import Model

    class Constant(Model):
        def load(self) -> bool:
            self.ready = True
            return True

        async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
            return {"predictions": [0.5]}

    model = Constant("delays")
    model.load()
    return model


def routed(port: int, folder: Path) -> None:
    """Our model behind KServe's routes."""
    from datetime import UTC, datetime

    from benchmarks.serving_world import NOW
    from components.server.model import PredictionModel
    from components.server.serving_directory import ServingDirectory
    from evergrow.integrations.feast_online import OnlineReader

    served = ServingDirectory.load(folder / "serving")
    model = PredictionModel(served, OnlineReader.open(served.plan), NOW - datetime.now(UTC))
    model.note_store(None)
    _kserve(model, port, quiet=True)


def floor(port: int, folder: Path) -> None:
    """Nothing but HTTP, JSON and ONNX."""
    import orjson
    import uvicorn

    from evergrow.learning.bundle import Bundle

    predict = Bundle.load(folder / "serving" / "bundle").predict

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        X = np.array(orjson.loads(message["body"])["instances"], dtype=np.float32)
        body = orjson.dumps({"predictions": predict(X).tolist()})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off")


def documented(port: int, folder: Path) -> None:
    """Feast's SDK and scikit-learn on a DataFrame."""
    from kserve import Model

    from benchmarks.serving_world import FEATURES, LEVELS, repository
    from evergrow.learning.skops_file import loads

    store = repository(folder / "repo", json.loads((folder / "online.json").read_text()))
    service = store.get_feature_service("flights_v1")

    class Documented(Model):
        def load(self) -> bool:
            self.estimator = loads((folder / "serving/bundle/model.skops").read_bytes())
            self.ready = True
            return True

        async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:
            rows = payload["instances"]
            frame = store.get_online_features(features=service, entity_rows=rows).to_df()
            frame["passengers"] = [row["passengers"] for row in rows]
            for name, levels in LEVELS.items():
                frame[name] = frame[name].map({level: code for code, level in enumerate(levels)})
            X = frame[list(FEATURES)].astype("float32")
            return {"predictions": self.estimator.predict_proba(X)[:, 1].tolist()}

    model = Documented("delays")
    model.load()
    _kserve(model, port)


def _kserve(model: Any, port: int, *, quiet: bool = False) -> None:
    from kserve import ModelServer

    if quiet:
        from evergrow import logs

        logs.configure()
    ModelServer(http_port=port, enable_grpc=False, enable_latency_logging=not quiet).start([model])


ARMS = {arm.__name__: arm for arm in (constant, constant_quiet, routed, floor, documented)}

if __name__ == "__main__":
    name, port, folder = sys.argv[1:]
    sys.argv = sys.argv[:1]
    ARMS[name](int(port), Path(folder))
