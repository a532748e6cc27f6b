"""One environment on a cluster with KServe and a Gateway: from its namespaces to a prediction."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from evergrow.spec import load
from evergrow.spec.environment import EnvironmentSpec
from manifests.installer.cluster import ROOT, Cluster
from manifests.installer.commands import Commands
from manifests.installer.errors import InstallError
from manifests.installer.gateway import ask, gateway_url
from manifests.installer.platform import patiently, read, submit
from manifests.installer.steps import Step

CHART_SECONDS = 900
RUN_SECONDS = 3600
SERVING_SECONDS = 300
ANSWER_SECONDS = 60.0
KUBEFLOW = "kubeflow"


@dataclass(frozen=True)
class Environment:
    """What is installed, and under which names.

    Attributes:
        name: of the environment; charts/*/values-<name>.yaml are its values.
        namespace: of its steps and models.
        platform: namespace of what environments share.
        model: the document that is trained.
        as_of: as if it were then.
        request: what is asked of the model, a file of JSON.
    """

    name: str
    namespace: str
    platform: str
    model: Path
    as_of: str
    request: Path


def check(environment: Environment, cluster: Cluster) -> None:
    """See that the names fit together.

    Raises:
        InstallError: they do not.
    """
    usual = f"evergrow-{environment.name}"
    if cluster.runner == "kubeflow" and environment.namespace != usual:
        # The chart evergrow-platform knows namespaces, and names what it makes for steps in Kubeflow's by the rest.
        raise InstallError(f"--namespace: must be {usual} where Kubeflow runs pipelines, found {environment.namespace}")


def steps(environment: Environment, cluster: Cluster, commands: Commands) -> list[Step]:
    """The steps from namespaces to a prediction."""
    pods = f"see `kubectl -n {environment.platform} get pods`, and of one that does not run `kubectl describe`"
    status = (
        f"see `evergrow status --env {environment.name} --namespace {environment.namespace}`: it says what is wrong"
    )
    minutes = f"at most {CHART_SECONDS // 60} minutes"
    return [
        Step(
            "namespaces",
            f"{environment.platform} and {environment.namespace} are there",
            lambda: submit(list(read(namespaces(environment))), commands),
            "may you make namespaces? `kubectl auth can-i create namespaces`",
        ),
        Step(
            "chart evergrow-platform",
            f"its pods are ready, {minutes}",
            lambda: _install(
                "evergrow-platform", environment.platform, environment, platform_values(environment, cluster), commands
            ),
            pods,
        ),
        Step(
            "chart evergrow",
            f"it is applied, {minutes}",
            lambda: _install(
                "evergrow", environment.namespace, environment, environment_values(environment, cluster), commands
            ),
            "see what Helm says above",
        ),
        _pipeline("training", ["--as-of", environment.as_of], environment, commands, status),
        # As of now: the online store does not go back, and this is done again.
        _pipeline("materialization", [], environment, commands, status),
        Step(
            "serving", f"a version is Ready, {SERVING_SECONDS} s at most", lambda: _serve(environment, commands), status
        ),
        Step(
            "prediction",
            "the model answers through the Gateway",
            lambda: predict(environment, cluster, commands),
            status,
        ),
    ]


def namespaces(environment: Environment) -> str:
    """The namespaces, which admit only pods that ask for no privileges."""
    levels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
    labels = {"app.kubernetes.io/part-of": "evergrow", **levels}
    return yaml.safe_dump_all(
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(labels)}}
        for name in (environment.platform, environment.namespace)
    )


def platform_values(environment: Environment, cluster: Cluster) -> dict[str, Any]:
    """What the chart evergrow-platform is told beside the environment's values."""
    volumes = {"bundled": {"storageClass": cluster.storage_class}}
    return {
        "consumers": [environment.namespace],
        "kubeflowNamespace": KUBEFLOW if cluster.runner == "kubeflow" else "",
        **dict.fromkeys(("postgres", "redis", "objectStore"), volumes),
    }


def environment_values(environment: Environment, cluster: Cluster) -> dict[str, Any]:
    """What the chart evergrow is told beside the environment's values: this cluster's runner, and our names."""
    return {
        "execution": {
            "namespace": environment.namespace,
            "pipelines": {"runner": cluster.runner},
            "network": {"platformNamespaces": [environment.platform]},
        },
        "data": {
            # The platform makes a bucket of each consumer's name.
            "store": f"s3://{environment.namespace}/state",
            "endpoint": f"http://seaweedfs.{environment.platform}:8333",
            "mlflow": f"http://mlflow.{environment.platform}:5000",
        },
    }


def _install(
    chart: str, namespace: str, environment: Environment, values: Mapping[str, Any], commands: Commands
) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        json.dump(values, file)
        file.flush()
        command = ["helm", "upgrade", "--install", chart, f"charts/{chart}", "--namespace", namespace]
        command += ["--values", f"charts/{chart}/values-{environment.name}.yaml", "--values", file.name]
        commands.run([*command, "--wait", f"--timeout={CHART_SECONDS}s"], CHART_SECONDS + 60)


def _pipeline(name: str, as_of: list[str], environment: Environment, commands: Commands, hint: str) -> Step:
    where = ["--env", environment.name, "--namespace", environment.namespace]
    command = ["evergrow", "submit", name, "--file", str(environment.model), *as_of, *where, "--wait"]
    waits_for = f"the run has ended, at most {RUN_SECONDS // 60} minutes"
    return Step(name, waits_for, lambda: commands.run(command, RUN_SECONDS), hint)


def _serve(environment: Environment, commands: Commands) -> None:
    services = ["inferenceservices", f"--selector=evergrow.dev/model={_name(environment)}"]
    ready = ["--for=condition=Ready", f"--timeout={SERVING_SECONDS}s"]
    commands.run(["kubectl", "--namespace", environment.namespace, "wait", *services, *ready], SERVING_SECONDS + 30)


def predict(environment: Environment, cluster: Cluster, commands: Commands) -> None:
    """Ask the model as a caller would, through the Gateway, and show the answer.

    Raises:
        InstallError: there is no answer.
    """
    host = host_of(environment, commands)
    url = f"{gateway_url(cluster, commands)}/v1/models/{_name(environment)}:predict"
    body = (ROOT / environment.request).read_bytes()
    # A route takes a second or two to be everywhere.
    patiently(lambda: print(f"      {ask(url, host, body)}"), ANSWER_SECONDS)


def host_of(environment: Environment, commands: Commands) -> str:
    """The name that callers of the model use, by what is installed."""
    path = "jsonpath={.data.EVERGROW_ENVIRONMENT}"
    command = ["kubectl", "--namespace", environment.namespace, "get", "configmap", "evergrow-environment", "-o", path]
    place = EnvironmentSpec.model_validate_json(commands.ask(command))
    return f"{_name(environment)}.{environment.namespace}.{place.execution.serving.gateway.domain}"


def _name(environment: Environment) -> str:
    return load(ROOT / environment.model).name


def look_around(environment: Environment, cluster: Cluster, commands: Commands) -> Sequence[str]:
    """Commands to look around with, each with what it shows."""
    models, shared = f"kubectl -n {environment.namespace}", f"kubectl -n {environment.platform}"
    host, name = host_of(environment, commands), _name(environment)
    ui = [("kubectl -n kubeflow port-forward service/ml-pipeline-ui 8888:80", "Kubeflow: http://localhost:8888")]
    rows = [
        (f"{models} get inferenceservices,httproutes", "versions, and which of them is asked"),
        (
            f"evergrow status --env {environment.name} --namespace {environment.namespace}",
            "models, runs, and what is wrong",
        ),
        *(ui if cluster.runner == "kubeflow" else []),
        (f"{shared} port-forward service/mlflow 5000", "MLflow: http://localhost:5000"),
        (f"{shared} port-forward service/feast-ui 8889:8888", "Feast: http://localhost:8889"),
        (
            f"curl -H 'Host: {host}' -H 'Content-Type: application/json' -d @{environment.request} "
            f"{gateway_url(cluster, commands)}/v1/models/{name}:predict",
            "a prediction",
        ),
    ]
    return [line for command, shows in rows for line in (f"# {shows}", command)]
