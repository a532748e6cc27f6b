"""EnvironmentSpec: one environment on a cluster, on the four axes in which environments differ.

It is at once the values of the chart `evergrow` (whose schema is generated from it) and what the chart leaves in the
cluster, in the ConfigMap `evergrow-environment`, for `evergrow submit` and for the steps to read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeInt, PositiveInt, StringConstraints, model_validator

from evergrow.spec.base import Duration, Name, Part

Quantity = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$")]
"""A Kubernetes quantity: "500m" of a CPU, "2Gi" of memory."""

Image = Annotated[str, StringConstraints(pattern=r"^[\w.\-/]+(:\d+)?[\w.\-/]*(:[\w][\w.\-]*)(@sha256:[0-9a-f]{64})?$")]
"""An image with a tag, and a digest where it is known: "evergrow/server-python:0.1.0@sha256:..."."""

Url = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9+]*://\S+$")]


class Resources(Part):
    """What a container may use. A request is what the scheduler sets aside, a limit what it may not exceed."""

    cpu: Quantity = "100m"
    """CPU request."""
    memory: Quantity = "512Mi"
    """Memory request."""
    cpu_limit: Quantity = "2"
    """CPU limit."""
    memory_limit: Quantity = "2Gi"
    """Memory limit."""


class Toleration(Part):
    """A taint that pods may be placed in spite of."""

    key: str
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str = ""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute", ""] = ""


class Step(Part):
    """How the pods of a pipeline step run."""

    resources: Resources = Resources()
    timeout: Duration = Field(timedelta(hours=2), ge=timedelta(seconds=1))
    """A step that takes longer is stopped and has failed."""
    retries: NonNegativeInt = 2
    """How often a step is run again after its pod was lost or its backing services did not answer."""
    back_off: Duration = Field(timedelta(seconds=10), ge=timedelta(seconds=1))
    """How long to wait before the first retry; twice as long before each further one."""
    node_selector: Mapping[str, str] = {}
    tolerations: Sequence[Toleration] = ()
    labels: Mapping[str, str] = {}


class Kubeflow(Part):
    """Where Kubeflow Pipelines is."""

    endpoint: Url = "http://ml-pipeline.kubeflow:8888"
    """Its API server as seen from within the cluster."""
    ui: str = ""
    """Base URL of its user interface as seen by people, for the links that are printed; the endpoint if empty."""
    namespace: Name = "kubeflow"
    """Where its runs' pods are."""


class Pipelines(Part):
    """How pipelines run."""

    runner: Literal["kubeflow", "pods"] = "kubeflow"
    """`kubeflow`: Kubeflow Pipelines; `pods`: a Job of ours starts a Pod a step, with no Kubeflow installed."""
    kubeflow: Kubeflow = Kubeflow()
    service_account: Name = "evergrow-steps"
    """The steps' service account; the chart makes it, with the rights that steps use and no other."""
    steps: Step = Step()
    """How every step runs."""
    step_overrides: Mapping[str, Mapping[str, Any]] = {}
    """Per step (`train`, `build_training_set`, ...), what of `steps` is different."""

    @model_validator(mode="after")
    def _overrides_are_steps(self) -> Self:
        for name in self.step_overrides:
            self.step(name)
        return self

    def step(self, name: str) -> Step:
        """How one step runs: `steps`, with what its override says."""
        merged = _merged(self.steps.dump(), self.step_overrides.get(name, {}))
        return Step.model_validate(merged)


class Gateway(Part):
    """The Gateway (Gateway API) that callers come through."""

    name: Name = "kserve-ingress-gateway"
    namespace: Name = "kserve"
    domain: str = "example.com"
    """A model answers at `<model>.<namespace>.<domain>`."""


class Autoscaling(Part):
    """How many pods serve a version."""

    min_replicas: PositiveInt = 1
    max_replicas: PositiveInt = 3
    cpu_utilization: int = Field(70, ge=1, le=100)
    """Percent of the CPU request that the autoscaler aims at."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.max_replicas < self.min_replicas:
            raise ValueError(f"maxReplicas must be at least minReplicas, found {self.max_replicas}")
        return self


class Serving(Part):
    """How model versions are served by KServe."""

    runtime: Name = "evergrow-server"
    """The ServingRuntime of our server; the chart makes it."""
    service_account: Name = "evergrow-serving"
    """Its credentials let KServe's storage initializer read versions; the chart makes it."""
    gateway: Gateway = Gateway()
    autoscaling: Autoscaling = Autoscaling()
    resources: Resources = Resources(cpu="100m", memory="512Mi", cpu_limit="1", memory_limit="1Gi")
    keep_versions: PositiveInt = 2
    """How many of the newest champions keep their InferenceService, so that a rollback is a change of route."""
    ready_within: Duration = timedelta(minutes=5)
    """A version that is not Ready by then is not deployed."""
    node_selector: Mapping[str, str] = {}
    tolerations: Sequence[Toleration] = ()


class Quota(Part):
    """What the environment's namespace may use in all."""

    cpu: Quantity = "8"
    """Sum of CPU requests."""
    memory: Quantity = "16Gi"
    """Sum of memory requests."""
    cpu_limit: Quantity = "32"
    memory_limit: Quantity = "64Gi"
    pods: PositiveInt = 100


class Execution(Part):
    """Axis 1: where things run, and with how much."""

    namespace: Name
    """The environment's namespace."""
    pipelines: Pipelines = Pipelines()
    serving: Serving = Serving()
    quota: Quota = Quota()
    network_policies: bool = True
    """Whether only what must be reached can be reached. Needs a network plug-in that enforces NetworkPolicies."""


class Images(Part):
    """The images that hold the code."""

    steps: Image = "evergrow/steps-python:0.1.0"
    """What pipeline steps run in: the library, the models' code, the feature repository."""
    server: Image = "evergrow/server-python:0.1.0"
    """What serves."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    pull_secrets: Sequence[Name] = ()


class Code(Part):
    """Axis 2: which code runs."""

    images: Images = Images()


class Schedule(Part):
    """A pipeline that is run again and again."""

    pipeline: Literal["training", "materialization", "batch_scoring"]
    cron: str
    """Five fields, UTC: minute, hour, day of month, month, day of week."""
    suspended: bool = False


class ModelOfEnvironment(Part):
    """A model that lives in the environment."""

    document: Mapping[str, Any] | None = None
    """Its ContinualModel, whole; null for one whose document only comes with `evergrow submit`."""
    schedules: Sequence[Schedule] = ()
    """When its pipelines run by themselves (with the runner `pods`; Kubeflow keeps its own recurring runs)."""


class Secrets(Part):
    """Names of Secrets in the environment's namespace. No secret is ever a value."""

    credentials: Name = "evergrow-credentials"
    """Becomes environment variables of steps: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, FEAST_REGISTRY_URL,
    FEAST_REDIS, and where MLflow asks for it MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."""
    online_store: Name = "evergrow-online-store"
    """Becomes the server's variable EVERGROW_ONLINE_STORE: the key `url`, "redis://[:password@]host:6379"."""
    storage: Name = "evergrow-storage"
    """KServe's storage secret, with the keys AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."""


class Data(Part):
    """Axis 4: which data is read and written."""

    store: Url
    """The object store's folder of this environment: "s3://evergrow-dev/state". Data, versions to be served and
    predictions are below it."""
    endpoint: Url | None = None
    """The object store's endpoint where it is not its provider's: "http://seaweedfs.evergrow-platform:8333"."""
    region: str = "us-east-1"
    mlflow: Url
    """MLflow's tracking and registry server."""
    secrets: Secrets = Secrets()


class EnvironmentSpec(Part):
    """One environment: dev, staging, production."""

    name: Name
    """Its name, for `--env`."""
    execution: Execution
    code: Code = Code()
    models: Mapping[Name, ModelOfEnvironment] = {}
    """Axis 3: which models live here, by name."""
    data: Data


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with another laid over it; mappings within are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(below, value) if both else value
    return merged
