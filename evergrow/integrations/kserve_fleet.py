"""Servers of a model's versions on a cluster: an InferenceService a version, made and sized as rollouts need it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evergrow.errors import ServingError
from evergrow.integrations.kserve import published, services, sized, start, superfluous
from evergrow.integrations.kubernetes import CONTINUAL_MODEL, DEPLOYMENT, INFERENCE_SERVICE, Kubernetes, Object, owners
from evergrow.integrations.labels import VERSION
from evergrow.integrations.object_store import ObjectStore
from evergrow.spec import ContinualModel, stored
from evergrow.spec.environment import EnvironmentSpec


class KServeFleet:
    """`evergrow.ports.Fleet` in an environment of a cluster.

    A version that was removed is made again from the object store, where the deploy step has put it.
    """

    def __init__(self, place: EnvironmentSpec, kubernetes: Kubernetes, store: ObjectStore) -> None:
        self.place, self.kubernetes, self.store = place, kubernetes, store

    def ready(self, model: str) -> Mapping[int, int]:
        """Replicas that take requests, by version: those that its Deployment calls ready.

        Not by the InferenceService's condition Ready, which is False while more replicas are being started, though
        those that are there go on answering.
        """
        found = {version: self._replicas(service) for version, service in self._services(model).items()}
        return {version: replicas for version, replicas in found.items() if replicas > 0}

    def ensure(self, model: str, version: int, replicas: int) -> None:
        """Have at least so many replicas of a version started, without waiting for them; never stops any.

        Raises:
            ServingError: the version cannot be started.
        """
        service = self._services(model).get(version)
        if service is None:
            self._start(model, version, replicas)
            return
        predictor = service["spec"]["predictor"]
        if predictor.get("minReplicas", 1) < replicas:
            most = max(predictor.get("maxReplicas", 1), replicas)
            self._resize(service, {"minReplicas": replicas, "maxReplicas": most})

    def keep(self, model: str, versions: frozenset[int]) -> None:
        """Let the servers of all other versions go, but for the newest that the environment keeps.

        Those that stay have their usual size: more replicas than the environment says were for a rollout.
        """
        every = [one for one in services(self.kubernetes, model) if not _is_going(one)]
        needed = {_name(service) for version, service in self._services(model).items() if version in versions}
        gone = {*superfluous(self.place, every, needed)}
        for service in every:
            if _name(service) in gone:
                self.kubernetes.delete(INFERENCE_SERVICE, _name(service))
            elif _size(service) != sized(self.place):
                self._resize(service, sized(self.place))

    def _services(self, model: str) -> dict[int, Object]:
        """The newest InferenceService of each version."""
        oldest_first = reversed(services(self.kubernetes, model))
        return {int(one["metadata"]["labels"][VERSION]): one for one in oldest_first if not _is_going(one)}

    def _replicas(self, service: Object) -> int:
        deployment = self.kubernetes.get(DEPLOYMENT, f"{_name(service)}-predictor") or {}
        return int(deployment.get("status", {}).get("readyReplicas", 0))

    def _start(self, model: str, version: int, replicas: int) -> None:
        found = self.kubernetes.get(CONTINUAL_MODEL, model)
        if found is None:
            raise ServingError(
                f"{model} version {version} cannot be started: there is no ContinualModel named {model}",
                hint="apply the model's document",
            )
        document = stored(found, ContinualModel)
        version_there = published(self.store, model, version)
        start(self.kubernetes, self.place, document, version_there, owners(found), replicas)

    def _resize(self, service: Object, size: Mapping[str, int]) -> None:
        changes = {"spec": {"predictor": dict(size)}}
        if self.kubernetes.patch(INFERENCE_SERVICE, _name(service), changes) is None:
            raise ServingError(f"InferenceService {_name(service)} is gone", retriable=True)


def _name(service: Object) -> str:
    return str(service["metadata"]["name"])


def _size(service: Object) -> dict[str, Any]:
    predictor = service["spec"]["predictor"]
    return {key: predictor.get(key) for key in ("minReplicas", "maxReplicas")}


def _is_going(service: Object) -> bool:
    return "deletionTimestamp" in service["metadata"]
