"""The environment that is measured on a cluster: what serves its model, and where this machine reaches it."""

from __future__ import annotations

import base64
import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from benchmarks.measure import Skipped
from evergrow.errors import ClusterError
from evergrow.integrations.environments import namespace_of, read_environment
from evergrow.integrations.gateway import PORT, host
from evergrow.integrations.kserve import condition
from evergrow.integrations.kubernetes import CONFIG_MAP, HTTP_ROUTE, INFERENCE_SERVICE, POD, Kind, Kubernetes, Object
from evergrow.spec.environment import EnvironmentSpec

ENVIRONMENT = "dev"
DOCUMENT = Path(__file__).parent.parent / "models/arrival_delay/model.yaml"
MODEL = "arrival-delay"
ROW = {
    **{"carrier": "UA", "origin": "EWR", "route": "EWR-IAH", "tailnum": "N14228", "distance": 1400.0},
    **{"scheduled_departure": "2013-10-01T05:15:00-04:00", "scheduled_minutes": 227.0},
}
BODY = json.dumps({"instances": [ROW]}).encode()
PATH = f"/v1/models/{MODEL}:predict"
SERVER_PORT = 8080
PATIENCE = 180.0

SERVICE, SECRET = Kind("Service", "services", "v1"), Kind("Secret", "secrets", "v1")
GATEWAY = Kind("Gateway", "gateways", "v1", "gateway.networking.k8s.io")


@dataclass(frozen=True)
class Address:
    """Where a server is asked, and under which name."""

    ip: str
    port: int
    host: str = "localhost"


@dataclass(frozen=True)
class Installed:
    """An environment that serves the model.

    Attributes:
        place: what is installed.
        kubernetes: its namespace.
        service: name of the InferenceService that the model's route leads to.
    """

    place: EnvironmentSpec
    kubernetes: Kubernetes
    service: str

    @classmethod
    def find(cls) -> Self:
        """What KUBECONFIG leads to.

        Raises:
            Skipped: says what is missing: a cluster, the environment in it, a version that serves, a way to it.
        """
        if not os.environ.get("KUBECONFIG"):
            raise Skipped("KUBECONFIG names no cluster")
        try:
            kubernetes = Kubernetes.open(namespace_of(ENVIRONMENT), patience=5)
            place = read_environment(ENVIRONMENT, kubernetes)
            routed = kubernetes.get(HTTP_ROUTE, MODEL)
        except ClusterError as error:
            raise Skipped(str(error)) from error
        if routed is None:
            raise Skipped(f"no version of {MODEL} serves in {kubernetes.namespace}: submit a training run first")
        backend = routed["spec"]["rules"][0]["backendRefs"][0]["name"]
        found = cls(place, kubernetes, backend.removesuffix("-predictor"))
        if not found.pods:
            raise Skipped(f"InferenceService {found.service} has no pod that is Ready")
        found._check_reached()
        return found

    @property
    def gateway(self) -> Address:
        """Where the model's callers ask."""
        named = self.place.execution.serving.gateway
        gateway = self.elsewhere(named.namespace).get(GATEWAY, named.name) or {}
        addresses = gateway.get("status", {}).get("addresses") or [{}]
        return Address(addresses[0].get("value", ""), PORT, host(self.place, MODEL))

    @property
    def pods(self) -> list[Object]:
        """What serves: neither being stopped nor, as when load has scaled it, still starting."""
        found = self.kubernetes.search(POD, {"serving.kserve.io/inferenceservice": self.service})
        staying = (pod for pod in found if "deletionTimestamp" not in pod["metadata"])
        return [pod for pod in staying if condition(pod, "Ready").get("status") == "True"]

    @property
    def pod(self) -> Address:
        """A pod that serves, asked directly."""
        return Address(self.pods[0]["status"]["podIP"], SERVER_PORT)

    @property
    def directory(self) -> str:
        """The name of the version's directory in the environment's object store."""
        service = self.kubernetes.get(INFERENCE_SERVICE, self.service) or {}
        url: str = service["spec"]["predictor"]["model"]["storageUri"]
        return url.removeprefix(self.place.data.store).strip("/")

    def online_store(self) -> str:
        """URL of the online store, as this machine reaches it."""
        return self.reached(self.secret(self.place.data.secrets.online_store)["url"])

    def storage(self) -> dict[str, str]:
        """Variables that lead to the object store, as this machine reaches it."""
        settings = (self.kubernetes.get(CONFIG_MAP, "evergrow-environment") or {})["data"]
        found = {**settings, **self.secret(self.place.data.secrets.credentials)}
        variables = {name: value for name, value in found.items() if name.startswith("AWS_")}
        if "AWS_ENDPOINT_URL" in variables:
            variables["AWS_ENDPOINT_URL"] = self.reached(variables["AWS_ENDPOINT_URL"])
        return variables

    def secret(self, name: str) -> dict[str, str]:
        """A Secret's values."""
        data: Mapping[str, str] = (self.kubernetes.get(SECRET, name) or {}).get("data", {})
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def reached(self, url: str) -> str:
        """A URL with the name of a Service of the cluster replaced by its address: its DNS is for pods only."""
        name = urlsplit(url).hostname or ""
        service, _, namespace = name.partition(".")
        namespace = namespace.split(".")[0] or self.kubernetes.namespace
        found = self.elsewhere(namespace).get(SERVICE, service)
        return url.replace(name, found["spec"]["clusterIP"], 1) if found else url

    def elsewhere(self, namespace: str) -> Kubernetes:
        """Another namespace of the cluster."""
        return Kubernetes(self.kubernetes.client, namespace, self.kubernetes.patience)

    def wait_until_ready(self, service: str) -> None:
        """Return when an InferenceService is Ready."""
        until(
            lambda: condition(self.kubernetes.get(INFERENCE_SERVICE, service) or {}, "Ready").get("status") == "True",
            f"InferenceService {service} is not Ready",
        )

    def _check_reached(self) -> None:
        for what, address in (("gateway", self.gateway), ("pods", self.pod)):
            try:
                socket.create_connection((address.ip, address.port), timeout=2).close()
            except OSError as error:
                raise Skipped(f"this machine does not reach the cluster's {what} at {address.ip}: {error}") from error


def until(holds: Callable[[], bool], otherwise: str, pause: float = 0.25, patience: float = PATIENCE) -> float:
    """Wait until something holds; returns how long that took.

    Raises:
        RuntimeError: it does not in time.
    """
    begun = time.monotonic()
    while not holds():
        if time.monotonic() - begun > patience:
            raise RuntimeError(f"{otherwise} after {patience:.0f} s")
        time.sleep(pause)
    return time.monotonic() - begun
