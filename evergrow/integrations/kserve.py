"""KServe: one immutable InferenceService per model version, and one HTTPRoute per model that says which one answers."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes.utils.quantity import parse_quantity

from evergrow.contracts import ModelVersion, Route
from evergrow.environment import Environment
from evergrow.errors import ServingError
from evergrow.integrations.gateway import GatewayTraffic, host
from evergrow.integrations.kubernetes import HTTP_ROUTE, INFERENCE_SERVICE, POD, Kubernetes, Object
from evergrow.integrations.labels import ENVIRONMENT, MANAGED_BY, MODEL, VERSION
from evergrow.integrations.object_store import ObjectStore
from evergrow.integrations.serving import SERVING, LocalServing
from evergrow.spec import ContinualModel
from evergrow.spec.environment import EnvironmentSpec, Serving

# A version is reached through its model's route; without this KServe makes two public routes of its own for each.
NO_ROUTES_OF_ITS_OWN: Mapping[str, str] = {"networking.kserve.io/visibility": "cluster-local"}
# The server answers for 5 s after it is told to stop, then has 25 s for what is under way.
GRACE_SECONDS = 40
# Of "<service>-predictor-<namespace>", which KServe makes a host name's first label of.
LONGEST_NAME = 63
POLL_SECONDS = 1.0


LOG_SHARE = 0.9
"""Of a server's log volume that its records may fill: one is being written while another is shipped."""


class KServeServing:
    """`evergrow.ports.Serving` on a cluster.

    A version's directory is put into the object store, where it never changes; its InferenceService loads it from
    there and is Ready before anything points to it; then the model's route is changed, in one write. Killed at any
    point, what answers is the old version or the new one.
    """

    def __init__(
        self,
        environment: Environment,
        place: EnvironmentSpec,
        kubernetes: Kubernetes,
        store: ObjectStore,
        model: ContinualModel,
        plan: Mapping[str, Any],
    ) -> None:
        self.place, self.model = place, model
        self.kubernetes, self.store = kubernetes, store
        self.traffic = GatewayTraffic(place, kubernetes)
        self.local = LocalServing(environment.serving(model.name), model, plan)

    def prepare(self, version: ModelVersion, bundle: Path) -> str:
        """Have the version's InferenceService Ready, without sending it anything; returns its name.

        Raises:
            ServingError: it is not Ready in time; says what its pods say.
        """
        name = start(self.kubernetes, self.place, self.model, self.publish(version, bundle))
        self._wait(name)
        return name

    def deploy(self, version: ModelVersion, bundle: Path) -> str:
        """Send the model's callers to `version`; returns its URL. Older versions than are kept go."""
        name = self.prepare(version, bundle)
        before = self._routed()
        here = version.version
        self.traffic.apply(Route(model=self.model.name, weights={here: 100}, warm=(here,)))
        self._prune({name, *before})
        return self.where

    @property
    def where(self) -> str:
        """URL of the model's route."""
        return f"http://{host(self.place, self.model.name)}"

    def publish(self, version: ModelVersion, bundle: Path) -> Published:
        """Put the version's directory into the object store, once, from where servers are started at any time.

        Raises:
            ServingError: it could not be served in this environment.
        """
        folder = versions_folder(self.model.name)
        here = self.local.root / "versions" / str(version.version)
        if not here.exists() and self.store.read(f"{folder}/{version.version}/{SERVING}") is not None:
            self.store.download(f"{folder}/{version.version}", here)
        directory = self.local.prepare(version, bundle)
        check(self.place, self.model, directory.name)
        where = f"{folder}/{directory.name}"
        if self.store.read(f"{where}/{SERVING}") is None:
            self.store.upload(directory, where, last=SERVING)
        url = f"{self.store.url}/{where}"
        return Published(version.version, version.identity, version.model_digest, directory.name, url)

    def _wait(self, name: str) -> None:
        limit = self.place.execution.serving.ready_within
        end = time.monotonic() + limit.total_seconds()
        while True:
            found = self.kubernetes.get(INFERENCE_SERVICE, name) or {}
            if condition(found, "Ready").get("status") == "True":
                return
            if time.monotonic() > end:
                raise ServingError(
                    f"InferenceService {name} is not Ready after {limit}: {self._why(name, found)}",
                    hint=f"`evergrow status --env {self.place.name}` says more; what served before goes on serving",
                )
            time.sleep(POLL_SECONDS)

    def _why(self, name: str, found: Object) -> str:
        pods = self.kubernetes.search(POD, {"serving.kserve.io/inferenceservice": name})
        said = [text for pod in pods for text in reasons(pod)]
        failure = _at(found, "status", "modelStatus", "lastFailureInfo", "message")
        unmet = [c.get("message") for c in _at(found, "status", "conditions") or [] if c.get("status") == "False"]
        told = dict.fromkeys(filter(None, (*said, failure, *unmet)))
        return "; ".join(told) or "it has no pods yet"

    def _routed(self) -> set[str]:
        """Names of the InferenceServices that the route pointed to until now."""
        found = self.kubernetes.get(HTTP_ROUTE, self.model.name) or {}
        rules = _at(found, "spec", "rules") or []
        backends = (b["name"] for rule in rules for b in rule.get("backendRefs", []))
        return {name.removesuffix("-predictor") for name in backends}

    def _prune(self, keep: set[str]) -> None:
        """Remove InferenceServices beyond the newest that are kept."""
        for name in superfluous(self.place, services(self.kubernetes, self.model.name), keep):
            self.kubernetes.delete(INFERENCE_SERVICE, name)


@dataclass(frozen=True)
class Published:
    """A version in the object store, which servers are started from.

    Attributes:
        version: its number.
        identity: of what it was made of.
        model_digest: of its bundle.
        directory: name of its directory; a version that was published with other options too has several.
        url: of the directory.
    """

    version: int
    identity: str
    model_digest: str
    directory: str
    url: str


def published(store: ObjectStore, model: str, version: int) -> Published:
    """A version as it was published last.

    Raises:
        ServingError: it never was.
    """
    folder = versions_folder(model)
    whole = {name.removesuffix(f"/{SERVING}"): at for name, at in store.written(folder).items() if _is_serving(name)}
    own = {name: at for name, at in whole.items() if name.partition("-")[0] == str(version)}
    if not own:
        raise ServingError(
            f"{model} version {version} is not in {store.url}/{folder}, found {sorted(whole) or 'nothing'}",
            hint="the deploy step of its training run puts it there; run the pipeline again",
        )
    directory = max(own, key=lambda name: (own[name], name))
    content, _ = store.read(f"{folder}/{directory}/{SERVING}") or (b"{}", "")
    about = json.loads(content)
    url = f"{store.url}/{folder}/{directory}"
    return Published(version, about["identity"], about["model_digest"], directory, url)


def _is_serving(name: str) -> bool:
    return name.count("/") == 1 and name.endswith(f"/{SERVING}")


def versions_folder(model: str) -> str:
    """Where a model's versions are in the object store."""
    return f"serving/{model}/versions"


def start(
    kubernetes: Kubernetes,
    place: EnvironmentSpec,
    model: ContinualModel,
    version: Published,
    owners: Sequence[Object] = (),
    replicas: int = 0,
) -> str:
    """Have a version's InferenceService, without waiting for it; returns its name. Again changes nothing.

    Args:
        kubernetes: where.
        place: the environment.
        model: its document.
        version: as it is in the object store.
        owners: references of objects whose end is its end, too.
        replicas: at least so many, and not fewer than the environment says.

    Raises:
        ServingError: there is one of its name that serves something else, or that is about to go.
    """
    service = inference_service(place, model, version, version.directory, version.url)
    service["spec"]["predictor"] |= sized(place, replicas)
    if owners:
        service["metadata"]["ownerReferences"] = [*owners]
    name = str(service["metadata"]["name"])
    if kubernetes.create(INFERENCE_SERVICE, service) is None:
        _check_same(kubernetes.get(INFERENCE_SERVICE, name) or {}, name, version.url)
    return name


def _check_same(found: Object, name: str, url: str) -> None:
    if _at(found, "metadata", "deletionTimestamp"):
        raise ServingError(f"InferenceService {name} is being deleted; it is made again after that", retriable=True)
    there = _at(found, "spec", "predictor", "model", "storageUri")
    if there != url:
        raise ServingError(
            f"InferenceService {name} serves {there}, and not {url}",
            hint=f"it was made by other means: `kubectl delete inferenceservice {name}`, then run again",
        )


def sized(place: EnvironmentSpec, replicas: int = 0) -> dict[str, int]:
    """How many pods serve a version: as the environment says, and at least `replicas`."""
    scaling = place.execution.serving.autoscaling
    least = max(scaling.min_replicas, replicas)
    return {"minReplicas": least, "maxReplicas": max(scaling.max_replicas, least)}


def services(kubernetes: Kubernetes, model: str) -> list[Object]:
    """A model's InferenceServices, the newest first."""
    found = kubernetes.search(INFERENCE_SERVICE, {MODEL: model, **MANAGED_BY})
    return sorted(found, key=lambda one: str(one["metadata"]["creationTimestamp"]), reverse=True)


def superfluous(place: EnvironmentSpec, newest: Sequence[Object], keep: set[str]) -> list[str]:
    """Names of InferenceServices beyond the newest that the environment keeps.

    Args:
        place: the environment.
        newest: all of a model, the newest first.
        keep: names of those that stay in any case, which count.
    """
    others = [str(one["metadata"]["name"]) for one in newest if one["metadata"]["name"] not in keep]
    return others[max(0, place.execution.serving.keep_versions - len(keep)) :]


def inference_service(
    place: EnvironmentSpec, model: ContinualModel, version: ModelVersion | Published, directory: str, url: str
) -> dict[str, Any]:
    """The InferenceService of a version, whose directory of that name is at `url`.

    Raises:
        ServingError: KServe could make no host name of it; its log may grow larger than its pod's volume.
    """
    check(place, model, directory)
    # KServe copies labels and annotations to the pods: changing one later would restart them all.
    return {
        "metadata": {
            "name": service_name(place, model.name, directory),
            "labels": {
                **model.metadata.labels,
                **MANAGED_BY,
                **NO_ROUTES_OF_ITS_OWN,
                MODEL: model.name,
                VERSION: str(version.version),
                ENVIRONMENT: place.name,
            },
            "annotations": {
                "evergrow.dev/identity": version.identity,
                "evergrow.dev/model-digest": version.model_digest,
            },
        },
        "spec": {"predictor": {**_predictor(place.execution.serving, url), **sized(place)}},
    }


def service_name(place: EnvironmentSpec, model: str, directory: str) -> str:
    """The name of a version's InferenceService.

    Raises:
        ServingError: KServe could make no host name of it.
    """
    name = f"{model}-v{directory}"
    longer = len(f"{name}-predictor-{place.execution.namespace}") - LONGEST_NAME
    if longer > 0:
        raise ServingError(
            f"metadata.name: must be {longer} characters shorter to be served in namespace "
            f"{place.execution.namespace}, found {model!r}",
            hint=f"KServe names a host <model>-v<version>-predictor-<namespace>, of at most {LONGEST_NAME} characters",
        )
    return name


def check(place: EnvironmentSpec, model: ContinualModel, directory: str) -> None:
    """Whether a version whose directory has this name could be served in an environment.

    Raises:
        ServingError: KServe could make no host name of it; its log may grow larger than its pod's volume, and what was
            recorded goes with a pod that is evicted for a full one.
    """
    service_name(place, model.name, directory)
    limit, volume = model.spec.serving.log.limit_mb, place.execution.serving.log_volume
    most = float(parse_quantity(volume)) * LOG_SHARE / 1_000_000
    if limit > most:
        raise ServingError(
            f"spec.serving.log.limitMb: must be at most {most:,.0f} in environment {place.name}, found {limit:,g}",
            hint=f"raise execution.serving.logVolume ({volume}) in the environment's values, or lower the limit",
        )


def _predictor(serving: Serving, url: str) -> dict[str, Any]:
    scaling = serving.autoscaling
    return {
        "serviceAccountName": serving.service_account,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "scaleMetric": "cpu",
        "scaleTarget": scaling.cpu_utilization,
        "nodeSelector": dict(serving.node_selector),
        "tolerations": [t.manifest() for t in serving.tolerations],
        "model": {
            "modelFormat": {"name": "evergrow"},
            "runtime": serving.runtime,
            "storageUri": url,
            "resources": serving.resources.manifest(),
        },
    }


def condition(found: Object, name: str) -> Mapping[str, Any]:
    """A condition of an object's status; empty if it has none of that name yet."""
    conditions = _at(found, "status", "conditions") or []
    return next((c for c in conditions if c["type"] == name), {})


def reasons(pod: Object) -> list[str]:
    """Why containers of a pod are not running, as Kubernetes says it."""
    status = pod.get("status", {})
    said = []
    for container in (*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])):
        for state in ("waiting", "terminated"):
            told = container.get("state", {}).get(state) or container.get("lastState", {}).get(state) or {}
            text = " ".join(filter(None, (told.get("reason"), told.get("message"))))
            if text and told.get("reason") not in ("PodInitializing", "Completed", "ContainerCreating"):
                said.append(f"{container['name']}: {text.strip()}")
    pending = (c for c in status.get("conditions", []) if c["type"] == "PodScheduled" and c["status"] == "False")
    return said or [str(c.get("message", "")) for c in pending]


def _at(found: Any, *path: str) -> Any:
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found
