"""A request's trace leads from the gateway through the server to the feature store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from evergrow.integrations.kubernetes import CONFIG_MAP, POD, Kind, Kubernetes
from tests.cluster.conftest import DEV, NAME, ROOT, SERVICE, Dev, command, eventually
from tests.cluster.test_upgrades import servers, settled

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600, func_only=True)]

MONITORING = "monitoring"
ENVOY = Kind("EnvoyProxy", "envoyproxies", "v1alpha1", "gateway.envoyproxy.io")
COLLECTOR = {"app": "collector"}
PORTS = {"grpc": 4317, "http": 4318}
ROWS = json.loads((ROOT / "manifests/serving/arrival-delay/request.json").read_text())["instances"]


@pytest.fixture
def collector(dev: Dev) -> Iterator[Kubernetes]:
    """Given a collector where the environment may send traces to."""
    command("kubectl", "create", "namespace", MONITORING)
    there = Kubernetes(dev.kubernetes.client, MONITORING)
    program = Path(__file__).with_name("collector.py").read_text(encoding="utf-8")
    there.create(CONFIG_MAP, {"metadata": {"name": "collector"}, "data": {"collector.py": program}})
    container = {
        "name": "main", "image": dev.place.code.images.server, "command": ["python", "/program/collector.py"],
        "volumeMounts": [{"name": "program", "mountPath": "/program"}],
        "readinessProbe": {"tcpSocket": {"port": 4318}, "periodSeconds": 1},
    }  # fmt: skip
    volumes = [{"name": "program", "configMap": {"name": "collector"}}]
    metadata = {"name": "collector", "labels": COLLECTOR}
    there.create(POD, {"metadata": metadata, "spec": {"containers": [container], "volumes": volumes}})
    ports = [{"name": name, "port": port} for name, port in PORTS.items()]
    there.create(SERVICE, {"metadata": {"name": "collector"}, "spec": {"selector": COLLECTOR, "ports": ports}})
    command("kubectl", "-n", MONITORING, "wait", "--for=condition=Ready", "pod/collector", "--timeout=120s")
    yield there
    command("kubectl", "delete", "namespace", MONITORING, "--wait=false")


@pytest.fixture
def traced_gateway(dev: Dev, collector: Kubernetes) -> Iterator[None]:
    """Given a gateway that traces every request, as the page on watching in production says."""
    gateway = Kubernetes(dev.kubernetes.client, "envoy-gateway-system")
    (proxy,) = gateway.search(ENVOY)
    provider = {
        "type": "OpenTelemetry",
        "backendRefs": [{"name": "collector", "namespace": MONITORING, "port": PORTS["grpc"]}],
    }
    patched = {"spec": {"telemetry": {"tracing": {"samplingRate": 100, "provider": provider}}}}
    patch = ("kubectl", "-n", "envoy-gateway-system", "patch", "envoyproxy", proxy["metadata"]["name"])
    command(*patch, "--type=merge", "-p", json.dumps(patched))
    yield
    command(*patch, "--type=json", "-p", json.dumps([{"op": "remove", "path": "/spec/telemetry/tracing"}]))


@pytest.fixture
def traced_server(dev: Dev, collector: Kubernetes) -> Iterator[None]:
    """Given servers that send their spans to the collector."""
    before = servers(dev)
    command("helm", "-n", DEV, "upgrade", "evergrow", "charts/evergrow", "--reuse-values",
            "--set", f"observability.tracing.endpoint=http://collector.{MONITORING}:{PORTS['http']}")  # fmt: skip
    eventually(lambda: settled(dev, before), 180)
    between = servers(dev)
    yield
    command("helm", "-n", DEV, "rollback", "evergrow")
    eventually(lambda: settled(dev, between), 180)


def spans(collector: Kubernetes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in collector.log("collector").splitlines() if line.startswith("{")]


def whole(collector: Kubernetes) -> list[dict[str, Any]]:
    """A trace of which the gateway and the server have told, from the outside in; empty if there is none yet."""
    known = spans(collector)
    for features in (span for span in known if span["name"] == "features"):
        chain = [features]
        while outer := [span for span in known if span["span"] == chain[-1]["parent"]]:
            chain.append(outer[0])
        if len(chain) >= 3:
            return chain[::-1]
    return []


def test_a_trace_leads_from_the_gateway_to_the_feature_store(dev, collector, traced_server, traced_gateway):
    def asked() -> list[dict[str, Any]]:
        dev.ask(ROWS)
        return whole(collector)

    chain = eventually(asked, 120)
    assert [span["name"] for span in chain][-2:] == ["predict", "features"]
    assert chain[0]["parent"] == ""
    assert len({span["trace"] for span in chain}) == 1
    assert "envoy" in chain[0]["service"] or "gateway" in chain[0]["service"], chain[0]
    model = {
        span["parent"] for span in spans(collector) if span["name"] == "model" and span["trace"] == chain[0]["trace"]
    }
    assert model == {chain[-2]["span"]}, f"{NAME}'s model is asked within the same request"
