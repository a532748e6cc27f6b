"""A cluster with evergrow on it, put there by the installer as a user would, and the same run on this machine.

KUBECONFIG names the cluster; EVERGROW_CLUSTER says which of manifests/clusters/ it is (default ci, which also needs
CLUSTER_TOOLS). EVERGROW_INSTALLED=1 takes what is installed already, for trying a single test again.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.on_cluster_load import Report, under_load
from evergrow.environment import Environment
from evergrow.integrations.gateway import host
from evergrow.integrations.kubernetes import CONFIG_MAP, Kind, Kubernetes
from evergrow.integrations.object_store import ObjectStore
from evergrow.spec.environment import EnvironmentSpec

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "models/arrival_delay/model.yaml"
NAME, AS_OF = "arrival-delay", "2013-10-01"
PLATFORM, DEV = "evergrow-platform", "evergrow-dev"
SECRET, SERVICE, GATEWAY = (
    Kind("Secret", "secrets", "v1"),
    Kind("Service", "services", "v1"),
    Kind("Gateway", "gateways", "v1", "gateway.networking.k8s.io"),
)


INSTALLATION_SECONDS = 2400
"""With images that are built from nothing, on two cores; no test's own time counts it."""


def command(
    *arguments: str, variables: Mapping[str, str] | None = None, check: bool = True, seconds: float | None = None
) -> str:
    """Run a command from the repository's root; its output, or its failure with all it said."""
    environment = {**os.environ, **(variables or {})}
    done = subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=seconds
    )
    assert done.returncode == 0 or not check, f"{' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
    return done.stdout if done.returncode == 0 else done.stdout + done.stderr


def evergrow(*arguments: str, check: bool = True, **variables: str) -> str:
    """Run our command."""
    return command(sys.executable, "-m", "evergrow", *arguments, variables=variables, check=check)


def eventually(question: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first answer that holds.

    Raises:
        AssertionError: there is none for that long.
    """
    end = time.monotonic() + seconds
    while not (answer := question()):
        assert time.monotonic() < end, f"still {answer!r} after {seconds:.0f} s"
        time.sleep(0.5)
    return answer


@dataclass(frozen=True)
class Dev:
    """The environment `dev`."""

    kubernetes: Kubernetes
    platform: Kubernetes
    place: EnvironmentSpec

    def secret(self, name: str) -> dict[str, str]:
        """A Secret of the environment, decoded."""
        found = self.kubernetes.get(SECRET, name)
        assert found is not None, name
        return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}

    def address(self, service: str) -> str:
        """Address of a Service of the platform; this machine does not know the cluster's names."""
        found = self.platform.get(SERVICE, service)
        assert found is not None, service
        return f"{found['spec']['clusterIP']}:{found['spec']['ports'][0]['port']}"

    @property
    def variables(self) -> dict[str, str]:
        """What a step's environment is, for a process of this machine."""
        configured = dict((self.kubernetes.get(CONFIG_MAP, "evergrow-environment") or {})["data"])
        return {
            **configured,
            **self.secret("evergrow-credentials"),
            "AWS_ENDPOINT_URL": f"http://{self.address('seaweedfs')}",
            "MLFLOW_TRACKING_URI": f"http://{self.address('mlflow')}",
        }

    def store(self) -> ObjectStore:
        """The environment's part of the object store."""
        os.environ.update({k: v for k, v in self.variables.items() if k.startswith("AWS_")})
        return ObjectStore.open(str(self.place.data.store))

    def versions(self, model: str) -> list[dict[str, Any]]:
        """The model's versions in the registry, newest first."""
        return list(json.loads(evergrow("models", "list", model, "-o", "json", **self.variables)))

    @property
    def gateway(self) -> str:
        """URL of the Gateway."""
        gateway = self.place.execution.serving.gateway
        found = Kubernetes(self.kubernetes.client, gateway.namespace).get(GATEWAY, gateway.name)
        assert found is not None
        return f"http://{found['status']['addresses'][0]['value']}"

    def host(self, model: str) -> str:
        """The name that a model's callers use."""
        return host(self.place, model)

    def under_load(self, model: str, body: bytes, per_second: float) -> AbstractContextManager[Report]:
        """Requests to a model through the Gateway while the block runs; its report is filled in at the end."""
        return under_load(f"{self.gateway}/v1/models/{model}:predict", self.host(model), body, per_second)

    def ask(self, rows: list[dict[str, Any]], model: str = NAME, to: str | None = None) -> Any:
        """A prediction through the Gateway."""
        return post(f"{self.gateway}/v1/models/{model}:predict", {"instances": rows}, to or self.host(model))


def post(url: str, body: Any, host: str | None = None) -> Any:
    """Post JSON and read JSON."""
    headers = {"Content-Type": "application/json", **({"Host": host} if host else {})}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read())


@pytest.fixture(scope="session")
def dev() -> Dev:
    """Given a cluster on which evergrow was installed, and a model trained, by the one command of the README."""
    assert os.environ.get("KUBECONFIG"), "KUBECONFIG must name a cluster; see docs/how-to/run-on-kind.md"
    if not os.environ.get("EVERGROW_INSTALLED"):
        cluster = os.environ.get("EVERGROW_CLUSTER", "ci")
        command(sys.executable, "-m", "manifests.installer", "up", cluster, seconds=INSTALLATION_SECONDS)
    kubernetes = Kubernetes.open(DEV)
    configured = kubernetes.get(CONFIG_MAP, "evergrow-environment")
    assert configured is not None
    place = EnvironmentSpec.model_validate_json(configured["data"]["EVERGROW_ENVIRONMENT"])
    return Dev(kubernetes, Kubernetes(kubernetes.client, PLATFORM), place)


@dataclass(frozen=True)
class Here:
    """The same model trained by processes of this machine."""

    environment: Environment

    def evergrow(self, *arguments: str) -> str:
        """Our command on this machine's state."""
        return evergrow(
            *arguments,
            EVERGROW_HOME=str(self.environment.home),
            MLFLOW_TRACKING_URI=self.environment.tracking_uri,
            EVERGROW_FEATURE_REPO=str(self.environment.feature_repo),
        )

    def run(self, pipeline: str) -> dict[str, Any]:
        """Run a pipeline; its summary."""
        told = self.evergrow("run", pipeline, "-f", str(MODEL), "--as-of", AS_OF, "-o", "json")
        return dict(json.loads(told))


@pytest.fixture(scope="session")
def here(tmp_path_factory: pytest.TempPathFactory) -> Here:
    """Given the same training on this machine."""
    home = tmp_path_factory.mktemp("here")
    here = Here(Environment.read({"EVERGROW_HOME": str(home)}))
    here.run("training")
    here.run("materialization")
    return here
