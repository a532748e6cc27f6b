"""EnvironmentSpec: one environment on a cluster, on the four axes in which environments differ.

It is at once the values of the chart `evergrow` (whose schema is generated from it) and what the chart leaves in the
cluster, in the ConfigMap `evergrow-environment`, for `evergrow submit` and for the steps to read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializationInfo,
    StringConstraints,
    field_serializer,
    model_validator,
)

from evergrow.spec.base import Duration, Name, Part
from evergrow.spec.model import ContinualModel

Quantity = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?(m|Ki|Mi|Gi|Ti|k|M|G|T)?$")]
"""A Kubernetes quantity: "500m" of a CPU, "2Gi" of memory."""

Image = Annotated[str, StringConstraints(pattern=r"^[\w.\-/]+(:\d+)?[\w.\-/]*(:[\w][\w.\-]*)(@sha256:[0-9a-f]{64})?$")]
"""An image with a tag, and a digest where it is known: "evergrow/server-python:0.1.0@sha256:..."."""

Url = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9+]*://\S+$")]

Cidr = Annotated[str, StringConstraints(pattern=r"^[0-9a-fA-F.:]+/\d{1,3}$")]
"""A range of addresses: "10.0.0.0/8", "fd00::/8"."""

Port = Annotated[int, Field(ge=1, le=65535)]

StepName = Literal[
    "ingest",
    "build_training_set",
    "train",
    "evaluate",
    "register",
    "deploy",
    "materialize",
    "observe",
    "decide",
    "plan_shards",
    "score",
    "commit",
    "plan_backtest",
    "replay",
    "recommend",
]
"""The steps of our pipelines, one for each `@component`."""


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

    def manifest(self) -> dict[str, dict[str, str]]:
        """As a container's `resources` has it."""
        return {
            "requests": {"cpu": self.cpu, "memory": self.memory},
            "limits": {"cpu": self.cpu_limit, "memory": self.memory_limit},
        }


class Toleration(Part):
    """A taint that pods may be placed in spite of."""

    key: str
    """The taint's key."""
    operator: Literal["Equal", "Exists"] = "Equal"
    """`Equal`: the taint has this value; `Exists`: whatever its value."""
    value: str = ""
    """The taint's value; empty with `Exists`."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute", ""] = ""
    """The taint's effect; every one if empty."""

    @model_validator(mode="after")
    def _value_is_compared(self) -> Self:
        if self.operator == "Exists" and self.value:
            raise ValueError(f"`value` must be empty with the operator Exists, found {self.value!r}")
        return self

    def manifest(self) -> dict[str, str]:
        """As a pod's `tolerations` has it."""
        return self.model_dump(exclude_defaults=True)


class Step(Part):
    """How the pods of a pipeline step run."""

    resources: Resources = Resources()
    timeout: Duration = Field(default="2h", validate_default=True, ge=timedelta(seconds=1))
    """A step that takes longer is stopped and has failed."""
    retries: NonNegativeInt = 2
    """How often a step is run again after its pod was lost or its backing services did not answer."""
    back_off: Duration = Field(default="10s", validate_default=True, ge=timedelta(seconds=1))
    """How long to wait before the first retry; twice as long before each further one."""
    node_selector: Mapping[str, str] = {}
    """Labels of the nodes it may run on."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes it may run on all the same."""
    labels: Mapping[str, str] = {}
    """Labels of its pods, beside our own."""


class Kubeflow(Part):
    """Where Kubeflow Pipelines is."""

    endpoint: Url = "http://ml-pipeline.kubeflow:8888"
    """Its API server as seen from within the cluster."""
    ui: str = ""
    """Base URL of its user interface as people see it, for the links that are printed; its Service's if empty."""
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
    step_overrides: Mapping[StepName, Step] = {}
    """Per step (`train`, `build_training_set`, ...), what of `steps` is different; what is left out is as there."""

    @field_serializer("step_overrides")
    def _what_is_different(self, overrides: Mapping[str, Step], info: SerializationInfo) -> dict[str, Any]:
        return {name: _given(step, info) for name, step in overrides.items()}

    def step(self, name: str) -> Step:
        """How one step runs: `steps`, with what its override says."""
        overrides = self.dump()["stepOverrides"]
        return Step.model_validate(_merged(self.steps.dump(), overrides.get(name, {})))


class Gateway(Part):
    """The Gateway (Gateway API) that callers come through."""

    name: Name = "kserve-ingress-gateway"
    """The Gateway's name."""
    namespace: Name = "kserve"
    """The Gateway's namespace."""
    domain: str = "example.com"
    """A model answers at `<model>.<namespace>.<domain>`."""


class Autoscaling(Part):
    """How many pods serve a version."""

    min_replicas: PositiveInt = 1
    """At least so many."""
    max_replicas: PositiveInt = 3
    """At most so many."""
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
    """Where callers come in."""
    autoscaling: Autoscaling = Autoscaling()
    """How many pods serve a version."""
    resources: Resources = Resources(cpu="100m", memory="512Mi", cpu_limit="1", memory_limit="1Gi")
    """What a server's container may use."""
    rollouts: bool = False
    """Whether an operator carries out rollouts. The chart says so, by `operator.enabled`; what is given here does not
    count."""
    approval: bool = False
    """Whether a version that passed its gate waits, warm and without traffic, until somebody approves of it
    (`evergrow approve`). Needs `rollouts`."""
    keep_versions: PositiveInt = 2
    """How many of the newest champions keep their InferenceService, so that a rollback is a change of route."""
    ready_within: Duration = Field(default="5m", validate_default=True, ge=timedelta(seconds=1))
    """A version that is not Ready by then is not deployed."""
    log_volume: Quantity = "1Gi"
    """Space in a server's pod for predictions that were answered and not shipped yet."""
    node_selector: Mapping[str, str] = {}
    """Labels of the nodes that may serve."""
    tolerations: tuple[Toleration, ...] = ()
    """Taints of nodes that may serve all the same."""


class Quota(Part):
    """What the environment's namespace may use in all."""

    cpu: Quantity = "8"
    """Sum of CPU requests."""
    memory: Quantity = "16Gi"
    """Sum of memory requests."""
    cpu_limit: Quantity = "32"
    """Sum of CPU limits."""
    memory_limit: Quantity = "64Gi"
    """Sum of memory limits."""
    pods: PositiveInt = 100
    """Number of pods that have not ended."""


class External(Part):
    """What is reached outside the cluster: a managed database, an object store."""

    cidr: Cidr
    """Its range of addresses."""
    ports: tuple[Port, ...] = Field(min_length=1)
    """Its TCP ports."""


class Network(Part):
    """What may be reached, and by whom, where network policies are on."""

    platform_namespaces: tuple[Name, ...] = ("evergrow-platform",)
    """Namespaces that steps and servers may reach: those of MLflow, the stores and the databases in the cluster."""
    external: tuple[External, ...] = ()
    """What steps and servers may reach outside the cluster."""
    kubernetes_api: tuple[Cidr, ...] = ("0.0.0.0/0", "::/0")
    """Addresses of the API server, which steps may reach on ports 443 and 6443. A chart cannot know them, so the
    default is any; `kubectl get endpointslices kubernetes` shows them."""
    gateway_namespaces: tuple[Name, ...] = ("envoy-gateway-system",)
    """Namespaces whose pods may call servers: those of the Gateway's proxies."""
    monitoring_namespaces: tuple[Name, ...] = ("monitoring",)
    """Namespaces whose pods may read servers' metrics, and take their traces."""


class Execution(Part):
    """Axis 1: where things run, and with how much."""

    namespace: Name
    """The environment's namespace."""
    pipelines: Pipelines = Pipelines()
    """How pipelines run."""
    serving: Serving = Serving()
    """How versions are served."""
    quota: Quota = Quota()
    """How much all of it may use."""
    network_policies: bool = True
    """Whether only what must be reached can be reached. Needs a network plug-in that enforces NetworkPolicies."""
    network: Network = Network()
    """What must be reached."""


class Images(Part):
    """The images that hold the code."""

    steps: Image = "evergrow/steps-python:0.1.0"
    """What pipeline steps run in: the library, the models' code, the feature repository."""
    server: Image = "evergrow/server-python:0.1.0"
    """What serves."""
    operator: Image = "evergrow/operator-python:0.1.0"
    """What carries out rollouts: the steps', and what it watches the cluster with."""
    pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When nodes pull them."""
    pull_secrets: tuple[Name, ...] = ()
    """Secrets in the environment's namespace that nodes pull them with."""


class Code(Part):
    """Axis 2: which code runs."""

    images: Images = Images()
    """The images that hold the code."""


class Schedule(Part):
    """A pipeline that is run again and again."""

    pipeline: Literal["training", "materialization", "batch_scoring", "monitoring"]
    """Which one."""
    cron: Annotated[str, StringConstraints(pattern=r"^\S+( \S+){4}$")]
    """Five fields, UTC: minute, hour, day of month, month, day of week."""
    suspended: bool = False
    """Whether it rests."""


class ModelOfEnvironment(Part):
    """A model that lives in the environment."""

    document: ContinualModel | None = None
    """Its ContinualModel, whole; null for one whose document only comes with `evergrow submit`."""
    schedules: tuple[Schedule, ...] = ()
    """When its pipelines run by themselves (with the runner `pods`; Kubeflow keeps its own recurring runs)."""

    @model_validator(mode="after")
    def _schedules_have_a_document(self) -> Self:
        if self.schedules and self.document is None:
            raise ValueError(
                f"`document` is required where there are schedules, found {len(self.schedules)} and no document"
            )
        return self


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
    """The object store's region."""
    mlflow: Url
    """MLflow's tracking and registry server."""
    secrets: Secrets = Secrets()
    """Where credentials are."""


class Logs(Part):
    """What servers, shippers and steps log."""

    format: Literal["json", "text"] = "json"
    """`json`: one object a line, for what collects logs; `text`: a line for people."""
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """The least level that is logged of what is ours; libraries are heard from WARNING on, or all of it with DEBUG."""


class Tracing(Part):
    """Traces of requests: OpenTelemetry, in the W3C's trace context."""

    endpoint: Url | None = None
    """Where servers send spans by OTLP over HTTP: "http://collector.monitoring:4318"; null for nowhere."""
    sampling: float = Field(0.01, ge=0, le=1)
    """Share of requests that are traced, of those that come without a trace context; others are as theirs says."""


class PodMonitor(Part):
    """A PodMonitor of the Prometheus operator, which has Prometheus read servers' metrics."""

    enabled: bool = False
    """Whether to make it; the cluster must know monitoring.coreos.com/v1."""
    labels: Mapping[str, str] = {}
    """Labels by which your Prometheus finds it: {release: prometheus}."""
    interval: Duration = Field(default="30s", validate_default=True, ge=timedelta(seconds=1))
    """How often metrics are read."""


class PrometheusRules(Part):
    """A PrometheusRule of the Prometheus operator: alerts, each with a page in docs/runbooks."""

    enabled: bool = False
    """Whether to make it; the cluster must know monitoring.coreos.com/v1."""
    labels: Mapping[str, str] = {}
    """Labels by which your Prometheus finds it: {release: prometheus}."""
    runbooks: str = "docs/runbooks"
    """Where docs/runbooks is read: the URL that alerts' `runbook_url` begins with."""
    availability: float = Field(99.9, ge=95, lt=100)
    """Objective: percent of a model's requests, over 30 days, that are not answered with a fault of ours (5xx)."""
    latency: Literal["0.01", "0.025", "0.05", "0.1", "0.25", "0.5"] = "0.1"
    """Seconds within which a request is to be answered; bounds of the server's histogram."""
    latency_objective: float = Field(99, ge=95, lt=100)
    """Objective: percent of a model's answered requests, over 30 days, that are answered within that."""
    stale_share: float = Field(0.05, gt=0, lt=1)
    """Share of rows predicted without a feature view because what is known of it is too old, from which it is told."""


class Dashboards(Part):
    """Dashboards of Grafana, as ConfigMaps that its sidecar finds."""

    enabled: bool = False
    """Whether to make them."""
    labels: Mapping[str, str] = {"grafana_dashboard": "1"}
    """Labels by which your Grafana finds them."""


class WatchPage(Part):
    """The page that `evergrow watch` shows, in the cluster: read by `kubectl port-forward`, scraped by Prometheus."""

    enabled: bool = False
    """Whether there is one, in the namespace of the steps."""
    token_key: str = ""
    """Key of the Secret `data.secrets.credentials` whose value readers must give; none if empty."""


class Observability(Part):
    """What is seen of the environment from outside."""

    logs: Logs = Logs()
    """What is logged."""
    tracing: Tracing = Tracing()
    """Traces of requests."""
    pod_monitor: PodMonitor = PodMonitor()
    """Whether Prometheus reads servers' metrics through a PodMonitor."""
    prometheus_rules: PrometheusRules = PrometheusRules()
    """Alerts."""
    dashboards: Dashboards = Dashboards()
    """Dashboards."""
    watch: WatchPage = WatchPage()
    """The page of all models' timelines."""


class Operator(Part):
    """What carries out rollouts: a Deployment in the environment's namespace."""

    enabled: bool = True
    """Whether there is one. Without it a version that passed its gate replaces what serves as soon as it is ready."""
    replicas: PositiveInt = 1
    """How many there are; one of them works, the others wait to take its place."""
    resources: Resources = Resources(cpu="50m", memory="192Mi", cpu_limit="1", memory_limit="2Gi")
    """What each may use. While a rollout is under way, evidence is weighed in a process of its own, which takes most of
    the memory."""


class EnvironmentSpec(Part):
    """One environment: dev, staging, production."""

    name: Name
    """Its name, for `--env`."""
    execution: Execution
    """Axis 1: where things run, and with how much."""
    code: Code = Code()
    """Axis 2: which code runs."""
    models: Mapping[Name, ModelOfEnvironment] = {}
    """Axis 3: which models live here, by name."""
    data: Data
    """Axis 4: which data is read and written."""
    operator: Operator = Operator()
    """Beside the axes: what carries out rollouts."""
    observability: Observability = Observability()
    """Beside the axes: what is seen of it all from outside."""

    @property
    def steps_namespace(self) -> str:
        """Where the pods of steps are."""
        pipelines = self.execution.pipelines
        return pipelines.kubeflow.namespace if pipelines.runner == "kubeflow" else self.execution.namespace

    def beside_steps(self, name: str) -> str:
        """What an object of the environment is called in the namespace of its steps.

        Environments may share Kubeflow's namespace, so names there end in the environment's: of the service account,
        the credentials' Secret and the ConfigMap `evergrow-environment`.
        """
        return name if self.steps_namespace == self.execution.namespace else f"{name}-{self.name}"

    @model_validator(mode="after")
    def _models_have_their_own_names(self) -> Self:
        for name, model in self.models.items():
            if model.document is not None and model.document.name != name:
                raise ValueError(
                    f"`models.{name}.document.metadata.name` must be {name!r}, found {model.document.name!r}"
                )
        return self


def _given(part: Part, info: SerializationInfo) -> dict[str, Any]:
    """What of a part was given, without defaults."""
    return part.model_dump(mode=info.mode, by_alias=info.by_alias, exclude_unset=True)


def _merged(base: Any, over: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping with another laid over it; mappings within are merged, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(below, value) if both else value
    return merged
