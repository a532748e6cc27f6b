"""Versions to roll out on a cluster, and to wait for: version 1 of a model once more, under another number."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.on_cluster import MODEL, Installed, until
from evergrow.integrations.clocks import OffsetClock
from evergrow.integrations.kubernetes import CONFIG_MAP, HTTP_ROUTE, POD
from evergrow.integrations.object_store import ObjectStore
from evergrow.integrations.rollouts_kubernetes import KubernetesRollouts
from evergrow.integrations.serving import SERVING
from evergrow.spec.rollout import ModelRollout

OPERATOR = {"app.kubernetes.io/component": "operator"}


def another(variables: Mapping[str, str], store: ObjectStore, model: str, **log: Any) -> int:
    """Register and publish version 1 once more; its number.

    Args:
        variables: that lead to MLflow and the object store.
        store: the environment's.
        model: its name.
        log: settings of the prediction log that are other than version 1's.
    """
    version = _register(variables, model)
    with TemporaryDirectory() as name:
        _publish(store, Path(name) / "version", model, version, log)
    return version


def _register(variables: Mapping[str, str], model: str) -> int:
    """As the register step does."""
    from mlflow import MlflowClient

    os.environ.update({name: value for name, value in variables.items() if name.startswith(("AWS_", "MLFLOW_"))})
    client = MlflowClient(variables["MLFLOW_TRACKING_URI"])
    first = client.get_model_version(model, "1")
    logged = first.source.removeprefix("models:/")
    return int(client.create_model_version(model, first.source, first.run_id, tags=first.tags, model_id=logged).version)


def _publish(store: ObjectStore, directory: Path, model: str, version: int, log: Mapping[str, Any]) -> None:
    """As the deploy step does."""
    store.download(f"serving/{model}/versions/1", directory)
    about = json.loads((directory / SERVING).read_text())
    about["serving"]["log"] |= log
    (directory / SERVING).write_text(json.dumps({**about, "version": version}))
    store.upload(directory, f"serving/{model}/versions/{version}", last=SERVING)


class Rollouts:
    """Of one model, asked for and waited for."""

    def __init__(self, installed: Installed) -> None:
        self.installed = installed
        self.kept = KubernetesRollouts(installed.kubernetes, OffsetClock())
        variables = _variables(installed)
        os.environ.update({name: value for name, value in variables.items() if name.startswith("AWS_")})
        self.versions = [1, another(variables, ObjectStore.open(str(installed.place.data.store)), MODEL)]
        self.asked = 0
        self.random = random.Random(1)

    def take_over(self, killed: bool) -> tuple[bool, float]:
        """Have the other version take over; whether the operator was killed, and seconds until callers are there."""
        self.versions.reverse()
        version, begun = self.versions[0], time.monotonic()
        self.asked += 1
        name = f"takeover-{self.asked}-{time.time_ns() % 10**9}"
        spec = {"model": MODEL, "candidates": [version], "rollout": {"strategy": {"kind": "single"}}}
        about = {"apiVersion": "evergrow.dev/v1alpha1", "kind": "ModelRollout", "metadata": {"name": name}}
        self.kept.create(ModelRollout.model_validate({**about, "spec": spec}))
        if killed:
            time.sleep(2 * self.random.random())
            self._kill()
        until(lambda: self._answers(version), f"version {version} does not answer")
        took = time.monotonic() - begun
        print(f"{name}: version {version} in {took:.1f} s{', operator killed' if killed else ''}", file=sys.stderr)
        return killed, took

    def back(self) -> None:
        """Version 1 answers, as it was found."""
        if self.versions[0] != 1:
            self.take_over(killed=False)

    def _answers(self, version: int) -> bool:
        route = self.installed.kubernetes.get(HTTP_ROUTE, MODEL) or {}
        backends = route["spec"]["rules"][0]["backendRefs"]
        return [one["name"] for one in backends] == [f"{MODEL}-v{version}-predictor"]

    def _kill(self) -> None:
        for pod in self.installed.kubernetes.search(POD, OPERATOR):
            command = ["kubectl", "-n", self.installed.kubernetes.namespace, "delete", "pod", pod["metadata"]["name"]]
            subprocess.run([*command, "--grace-period=0", "--force"], check=False, capture_output=True)


def _variables(installed: Installed) -> dict[str, str]:
    settings = (installed.kubernetes.get(CONFIG_MAP, "evergrow-environment") or {})["data"]
    variables = {**settings, **installed.secret(installed.place.data.secrets.credentials), **installed.storage()}
    return {**variables, "MLFLOW_TRACKING_URI": installed.reached(variables["MLFLOW_TRACKING_URI"])}
