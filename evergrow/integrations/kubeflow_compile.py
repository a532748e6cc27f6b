"""A pipeline as Kubeflow is given it for one environment: its image, and per step what Kubernetes is to do.

KFP compiles a pipeline when its module is imported, for no environment in particular. Here its intermediate
representation (IR) is completed: image, resources and retries are part of the IR, everything else is KFP's platform
spec, which the second document of a compiled file holds.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from evergrow.integrations.environments import CONFIGURATION
from evergrow.integrations.labels import ENVIRONMENT, STEP
from evergrow.spec.environment import EnvironmentSpec, Step

VARIABLES = (
    "EVERGROW_ENV",
    "EVERGROW_ENVIRONMENT",
    "EVERGROW_STORE",
    "EVERGROW_HOME",
    "EVERGROW_RUN",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_DISABLE_TELEMETRY",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
    "FEAST_USAGE",
    "OMP_NUM_THREADS",
)
"""Keys of the environment's ConfigMap that become variables of steps: KFP wants each by name."""
OPTIONAL_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP", "EVERGROW_LOG", "EVERGROW_LOG_LEVEL")
"""Only there where the object store is not its provider's, and where the chart says how to log."""

CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "FEAST_REGISTRY_URL", "FEAST_REDIS")
OPTIONAL_CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
"""Only there where MLflow asks for them."""

SCRATCH = {"state": ("/home/evergrow/state", "20Gi"), "tmp": ("/tmp", "5Gi")}  # noqa: S108 - a mount
"""All that steps write to, which ends with them: name of the volume, where it is mounted, its greatest size."""

BACK_OFF_FACTOR = 2

ACTOR = "EVERGROW_ACTOR"
"""Who promotes a version, for the audit record: "pipeline", or "schedule" where nobody submitted it."""


@dataclass(frozen=True)
class Compiled:
    """A pipeline that can be submitted.

    Attributes:
        ir: KFP's PipelineSpec.
        platform: KFP's PlatformSpec.
    """

    ir: dict[str, Any]
    platform: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """As the API takes it."""
        return {"pipeline_spec": self.ir, "platform_spec": self.platform}

    def to_yaml(self) -> str:
        """As a file: two documents."""
        return yaml.safe_dump_all([self.ir, self.platform], sort_keys=True)


def compile_for(pipeline: Any, environment: EnvironmentSpec, labels: Mapping[str, str]) -> Compiled:
    """Complete a pipeline for an environment.

    Args:
        pipeline: made by `kfp.dsl.pipeline`; stays as it is.
        environment: where it will run.
        labels: of every pod of its steps, beside the environment's and the step's own.
    """
    from google.protobuf import json_format

    ir = json_format.MessageToDict(pipeline.pipeline_spec)
    options = {}
    pipelines = environment.execution.pipelines
    for label, executor in ir["deploymentSpec"]["executors"].items():
        name = step_of(label)
        step = pipelines.step(name)
        executor["container"] |= {"image": environment.code.images.steps, "resources": _resources(step)}
        executor["container"]["env"] = [{"name": ACTOR, "value": "pipeline"}]
        of_pod = {**labels, ENVIRONMENT: environment.name, STEP: name, **step.labels}
        options[label] = _options(step, environment, of_pod)
    for task in tasks(ir):
        executor = ir["components"][task["componentRef"]["name"]].get("executorLabel")
        if executor:
            task["retryPolicy"] = _retries(pipelines.step(step_of(executor)))
    return Compiled(ir, {"platforms": {"kubernetes": {"deploymentSpec": {"executors": options}}}})


def at_scheduled_time(compiled: Compiled) -> Compiled:
    """Make a pipeline take the time a recurring run is due for its `as_of`, the same in all its steps.

    The argument itself cannot name that time: KFP's `[[ScheduledTime]]` is replaced only in arguments of runs that
    its API creates, which a recurring run's are not. Its driver does replace a task's constant.
    """
    from kfp.dsl import PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER

    ir = copy.deepcopy(compiled.ir)
    del ir["root"]["inputDefinitions"]["parameters"]["as_of"]
    for executor in ir["deploymentSpec"]["executors"].values():
        executor["container"]["env"] = [{"name": ACTOR, "value": "schedule"}]
    for task in ir["root"]["dag"]["tasks"].values():
        given = task.get("inputs", {}).get("parameters", {})
        for name, value in given.items():
            if value == {"componentInputParameter": "as_of"}:
                given[name] = {"runtimeValue": {"constant": PIPELINE_JOB_SCHEDULE_TIME_UTC_PLACEHOLDER}}
    return Compiled(ir, compiled.platform)


def tasks(ir: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Every task of a pipeline, also those of its branches and loops."""
    for part in (ir["root"], *ir["components"].values()):
        yield from part.get("dag", {}).get("tasks", {}).values()


def step_of(executor: str) -> str:
    """The step that an executor is.

    >>> step_of("exec-build-training-set")
    'build_training_set'
    """
    return executor.removeprefix("exec-").replace("-", "_")


def _resources(step: Step) -> dict[str, str]:
    given = step.resources
    return {
        "resourceCpuRequest": given.cpu,
        "resourceCpuLimit": given.cpu_limit,
        "resourceMemoryRequest": given.memory,
        "resourceMemoryLimit": given.memory_limit,
    }


def _retries(step: Step) -> dict[str, Any]:
    """KFP's retry policy. All attempts and the waits between them must fit into its longest duration.

    Argo, which carries it out, counts that from the start of the first attempt and ends a later one there. A step that
    is not to be run again must say so, too: else it gets the retries that Kubeflow's installation gives every pod.
    """
    wait, attempt = (int(duration.total_seconds()) for duration in (step.back_off, step.timeout))
    waits = wait * (BACK_OFF_FACTOR**step.retries - 1)
    return {
        "maxRetryCount": step.retries,
        "backoffDuration": f"{wait}s",
        "backoffFactor": float(BACK_OFF_FACTOR),
        "backoffMaxDuration": f"{(step.retries + 1) * attempt + waits}s",
    }


class _Task:
    """As much of a task as the functions of `kfp.kubernetes` need: a place to note options in."""

    def __init__(self) -> None:
        self.platform_config: dict[str, Any] = {}


def _options(step: Step, environment: EnvironmentSpec, labels: Mapping[str, str]) -> Any:
    """KFP's KubernetesExecutorConfig of one step."""
    from kfp import kubernetes

    task = _Task()
    images = environment.code.images
    kubernetes.set_timeout(task, int(step.timeout.total_seconds()))
    kubernetes.set_image_pull_policy(task, images.pull_policy)
    kubernetes.set_image_pull_secrets(task, list(images.pull_secrets))
    kubernetes.set_security_context(task, run_as_user=1000, run_as_group=1000, run_as_non_root=True)
    for volume, (path, size) in SCRATCH.items():
        kubernetes.empty_dir_mount(task, volume, path, size_limit=size)
    for key, value in labels.items():
        kubernetes.add_pod_label(task, key, value)
    _place(task, step)
    _provide_variables(task, environment)
    return task.platform_config["kubernetes"]


def _place(task: _Task, step: Step) -> None:
    from kfp import kubernetes

    for key, value in step.node_selector.items():
        kubernetes.add_node_selector(task, key, value)
    for taint in step.tolerations:
        kubernetes.add_toleration(task, taint.key, taint.operator, taint.value or None, taint.effect or None)


def _provide_variables(task: _Task, environment: EnvironmentSpec) -> None:
    """By reference, so that no secret is in what is submitted."""
    from kfp import kubernetes

    config_map = environment.beside_steps(CONFIGURATION)
    kubernetes.use_config_map_as_env(task, config_map, _by_their_names(VARIABLES))
    kubernetes.use_config_map_as_env(task, config_map, _by_their_names(OPTIONAL_VARIABLES), optional=True)
    secret = environment.beside_steps(environment.data.secrets.credentials)
    kubernetes.use_secret_as_env(task, secret, _by_their_names(CREDENTIALS))
    kubernetes.use_secret_as_env(task, secret, _by_their_names(OPTIONAL_CREDENTIALS), optional=True)
    kubernetes.use_field_path_as_env(task, "EVERGROW_NAMESPACE", "metadata.namespace")


def _by_their_names(keys: Sequence[str]) -> dict[str, str]:
    return {key: key for key in keys}
