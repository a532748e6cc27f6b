"""Which adapter stands behind a port: decided by where we run, here and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from evergrow.environment import Environment
from evergrow.ports import Rollouts, Serving
from evergrow.spec import ContinualModel, ModelRollout, stored
from evergrow.spec.environment import EnvironmentSpec


def place_of(environment: Environment) -> EnvironmentSpec | None:
    """The environment of a cluster that this process runs in; None if it runs in none."""
    if environment.document is None or environment.store is None:
        return None
    return EnvironmentSpec.model_validate_json(environment.document)


def serving_of(environment: Environment, model: ContinualModel, plan: Mapping[str, Any]) -> Serving:
    """What puts versions of a model in front of callers: KServe in an environment of a cluster, a folder elsewhere.

    Args:
        environment: where we run.
        model: the model's document.
        plan: by which its features are read online.
    """
    place = place_of(environment)
    if place is None:
        from evergrow.integrations.serving import LocalServing

        return LocalServing(environment.serving(model.name), model, plan)
    from evergrow.integrations.kserve import KServeServing
    from evergrow.integrations.kubernetes import Kubernetes
    from evergrow.integrations.object_store import ObjectStore

    kubernetes, store = Kubernetes.open(place.execution.namespace), ObjectStore.open(str(environment.store))
    return KServeServing(environment, place, kubernetes, store, model, plan)


def rollouts_of(environment: Environment) -> Rollouts | None:
    """Where rollouts are asked for: custom resources in an environment of a cluster, files elsewhere.

    None where nobody would carry them out: in an environment whose operator is switched off.
    """
    place = place_of(environment)
    if place is None:
        from evergrow.integrations.rollout_files import RolloutFiles

        return RolloutFiles(environment.home)
    if not place.execution.serving.rollouts:
        return None
    from evergrow.integrations.clocks import OffsetClock
    from evergrow.integrations.kubernetes import Kubernetes
    from evergrow.integrations.rollouts_kubernetes import KubernetesRollouts

    return KubernetesRollouts(Kubernetes.open(place.execution.namespace), OffsetClock())


def rollouts_seen(environment: Environment, patience: float) -> Callable[[], Iterator[ModelRollout]]:
    """What reads all rollouts of an environment, in no order, by one connection; nothing is changed.

    It raises SpecError if one cannot be read, ClusterError if the cluster refuses or does not answer.

    Args:
        environment: where.
        patience: for how many seconds a cluster that does not answer is asked again.

    Raises:
        ClusterError: there is no cluster to connect to.
    """
    place = place_of(environment)
    if place is None:
        from evergrow.integrations.rollout_files import RolloutFiles

        files = RolloutFiles(environment.home)
        return lambda: (attempt.document for model in files.models() for attempt in files.attempts(model))
    if not place.execution.serving.rollouts:
        return lambda: iter(())
    from evergrow.integrations.kubernetes import MODEL_ROLLOUT, Kubernetes

    kubernetes = Kubernetes.open(place.execution.namespace, patience=patience)
    return lambda: (stored(one, ModelRollout) for one in kubernetes.search(MODEL_ROLLOUT))
