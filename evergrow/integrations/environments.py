"""The environments of a cluster: what is installed there says what each one is."""

from __future__ import annotations

from pydantic import ValidationError

from evergrow.errors import ClusterError
from evergrow.integrations.kubernetes import CONFIG_MAP, Kubernetes
from evergrow.spec.environment import EnvironmentSpec

CONFIGURATION = "evergrow-environment"
"""The ConfigMap that the chart leaves; where steps run, `beside_steps` says what it is called."""
KEY = "EVERGROW_ENVIRONMENT"


def namespace_of(environment: str) -> str:
    """Where an environment is unless it was installed elsewhere."""
    return f"evergrow-{environment}"


def read_environment(name: str, kubernetes: Kubernetes) -> EnvironmentSpec:
    """What is installed in a namespace.

    Raises:
        ClusterError: nothing is, or not this environment, or one that this version cannot read.
    """
    where = f"namespace {kubernetes.namespace}"
    found = kubernetes.get(CONFIG_MAP, CONFIGURATION)
    if found is None:
        raise ClusterError(
            f"--env {name}: {where} has no ConfigMap {CONFIGURATION}: no environment is installed there",
            hint="all there are: kubectl get configmaps --all-namespaces --field-selector "
            f"metadata.name={CONFIGURATION}; another namespace: --namespace; another cluster: --context\n"
            f"to install it: helm upgrade --install evergrow charts/evergrow --namespace {kubernetes.namespace} "
            f"--create-namespace -f charts/evergrow/values-{name}.yaml",
        )
    try:
        spec = EnvironmentSpec.model_validate_json(found.get("data", {}).get(KEY, ""))
    except ValidationError as error:
        raise ClusterError(
            f"--env {name}: ConfigMap {CONFIGURATION} in {where}: {KEY} cannot be read: {error}",
            hint="the chart that was installed and this command differ in version: install the chart again",
        ) from error
    if spec.name != name:
        raise ClusterError(
            f"--env {name}: {where} holds the environment {spec.name!r}", hint=f"give --env {spec.name}, or --namespace"
        )
    return spec
