"""A whole operator, as its container runs it, on a stand-in of the API server: watches, lease, health and end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable

import pytest

from evergrow.contracts import Route
from evergrow.integrations.kubernetes import (
    CONTINUAL_MODEL,
    DEPLOYMENT,
    EVENT,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    LEASE,
    MODEL_ROLLOUT,
)
from evergrow.integrations.labels import MANAGED_BY, MODEL, VERSION
from tests.builders import document
from tests.unit.integrations.fake_cluster import FakeCluster

pytestmark = pytest.mark.slow

DELAYS = document().name
PLACE = {
    "name": "dev",
    "execution": {"namespace": "evergrow-dev"},
    "data": {"store": "s3://evergrow-dev/state", "mlflow": "http://mlflow:5000"},
}


def until(holds: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


@pytest.fixture
def cluster():
    with FakeCluster() as cluster:
        cluster.put(CONTINUAL_MODEL, {"metadata": {"name": DELAYS}, "spec": document().dump()["spec"]})
        serve(cluster, 1)
        labels = {MODEL: DELAYS, **MANAGED_BY}
        told = Route(model=DELAYS, weights={1: 100}, warm=(1,)).model_dump_json()
        metadata = {"name": DELAYS, "labels": labels, "annotations": {"evergrow.dev/route": told}}
        cluster.put(HTTP_ROUTE, {"metadata": metadata, "spec": {}})
        yield cluster


def serve(cluster: FakeCluster, version: int) -> None:
    """What KServe does of a version that is ready."""
    labels = {MODEL: DELAYS, VERSION: str(version), **MANAGED_BY}
    name = f"{DELAYS}-v{version}"
    if cluster.get(INFERENCE_SERVICE, name) is None:
        predictor = {"minReplicas": 1, "maxReplicas": 3}
        cluster.put(INFERENCE_SERVICE, {"metadata": {"name": name, "labels": labels}, "spec": {"predictor": predictor}})
    deployment = {"metadata": {"name": f"{name}-predictor", "labels": labels}, "status": {"readyReplicas": 1}}
    cluster.put(DEPLOYMENT, deployment)


@pytest.fixture
def start(cluster, tmp_path):
    """Start an operator; returns its process and the address of its health."""
    started = []
    about = {"version": 2, "model": DELAYS, "identity": "i", "model_digest": "d"}
    folder = tmp_path / "store/serving" / DELAYS / "versions/2"
    folder.mkdir(parents=True)
    (folder / "serving.json").write_text(json.dumps(about))
    variables = {
        **os.environ,
        "KUBECONFIG": str(cluster.kubeconfig(tmp_path / "kubeconfig")),
        "EVERGROW_STORE": (tmp_path / "store").as_uri(),
        "EVERGROW_HOME": str(tmp_path / "home"),
        "EVERGROW_ENVIRONMENT": json.dumps(PLACE),
        "EVERGROW_LOG": "json",
    }

    def start() -> tuple[subprocess.Popen[bytes], str]:
        log = tmp_path / f"{len(started)}.log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "components.operator", "--port", "0"]
            started.append(subprocess.Popen(command, env=variables, stdout=out, stderr=out))
        until(lambda: "on port" in log.read_text())
        return started[-1], f"http://127.0.0.1:{re.search(r'on port ([0-9]+)', log.read_text())[1]}"

    yield start
    for process in started:
        process.kill()
        process.wait()


def asked(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def phase(cluster: FakeCluster, name: str) -> str | None:
    return (cluster.get(MODEL_ROLLOUT, name) or {}).get("status", {}).get("phase")


def ask(cluster: FakeCluster, name: str, version: int = 2) -> None:
    cluster.put(MODEL_ROLLOUT, {"metadata": {"name": name}, "spec": {"model": DELAYS, "candidates": [version]}})


def watches(cluster: FakeCluster) -> int:
    return sum(method == "WATCH" for method, _ in cluster.asked)


def test_a_rollout_is_carried_out_by_one_operator_and_gone_on_with_by_the_next(cluster, start):
    first, health = start()
    until(lambda: watches(cluster) == 5)
    ask(cluster, "delays-v2")
    until(lambda: phase(cluster, "delays-v2") == "Pending")
    until(lambda: cluster.get(INFERENCE_SERVICE, f"{DELAYS}-v2"))
    assert "ok" in asked(f"{health}/healthz")
    assert "evergrow_operator_leader 1.0" in asked(f"{health}/metrics")

    second, other = start()
    assert "ok" in asked(f"{other}/healthz")
    assert "evergrow_operator_leader 0.0" in asked(f"{other}/metrics")

    first.send_signal(signal.SIGTERM)
    assert first.wait(30) == 0
    until(lambda: "evergrow_operator_leader 1.0" in asked(f"{other}/metrics"))
    until(lambda: watches(cluster) == 10)
    serve(cluster, 2)
    until(lambda: phase(cluster, "delays-v2") == "Promoted")
    until(lambda: Route.model_validate_json(
        cluster.get(HTTP_ROUTE, DELAYS)["metadata"]["annotations"]["evergrow.dev/route"]
    ).weights == {2: 100})  # fmt: skip
    assert 'evergrow_rollouts{phase="Promoted"} 1.0' in asked(f"{other}/metrics")
    # There is no registry that could be told of it: that is said where people look, and who serves is served.
    until(lambda: "Failed" in [event["reason"] for event in cluster.all(EVENT)])
    assert second.poll() is None


def test_an_operator_that_cannot_reach_the_api_server_ends_and_the_next_waits_until_it_is_back(cluster, start):
    first, _ = start()
    until(lambda: cluster.get(LEASE, "evergrow-operator"))
    cluster.is_away = True
    assert first.wait(60) == 3
    _, health = start()
    assert "evergrow_operator_leader 0.0" in asked(f"{health}/metrics")
    cluster.is_away = False
    until(lambda: "evergrow_operator_leader 1.0" in asked(f"{health}/metrics"))
    ask(cluster, "delays-v2")
    until(lambda: phase(cluster, "delays-v2") == "Pending")
