"""What the operator watches: kopf tells of every change, and of those that matter the model is looked at.

No handler keeps a state of its own on objects: kopf only watches here, and what is done follows from what is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import kopf

from components.operator.work_queue import WorkQueue
from evergrow.integrations.kubernetes import (
    CONTINUAL_MODEL,
    DEPLOYMENT,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    MODEL_ROLLOUT,
    Kubernetes,
    Object,
)
from evergrow.integrations.kubernetes_cache import CachedKubernetes, Watched
from evergrow.integrations.labels import MANAGED_BY, MODEL

PHASE = "phase"
"""As a label that ModelRollouts are counted by; it is only known here."""
FRUITLESS = "fruitless"
"""As a label of ContinualModels: how many trainings in a row have brought no champion; it is only known here, too."""


def _asked_for(found: Object) -> Any:
    """What others say of an object: the status is ours, and telling it must not have us look again."""
    metadata = found["metadata"]
    return [metadata.get(key) for key in ("generation", "annotations", "labels", "deletionTimestamp", "uid")]


def _service(found: Object) -> Any:
    conditions = found.get("status", {}).get("conditions", [])
    return [_asked_for(found), [one["status"] for one in conditions if one["type"] == "Ready"]]


def _replicas(found: Object) -> Any:
    return found.get("status", {}).get("readyReplicas", 0)


def _of_deployment(found: Object) -> Object:
    metadata = {key: found["metadata"].get(key) for key in ("name", "labels", "resourceVersion")}
    return {"metadata": metadata, "status": {"readyReplicas": _replicas(found)}}


def _of_model(found: Object) -> Mapping[str, str]:
    fruitless = found.get("status", {}).get("loop", {}).get("fruitless", 0)
    return {MODEL: str(found["metadata"]["name"]), FRUITLESS: str(fruitless)}


def _of_rollout(found: Object) -> Mapping[str, str]:
    """Of one that was made by hand the label may be missing, or wrong."""
    return {MODEL: str(found["spec"]["model"]), PHASE: found.get("status", {}).get("phase", "Pending")}


# A Deployment has the labels of its InferenceService, but for those that say who manages it.
WATCHED = (
    Watched(CONTINUAL_MODEL, labels=_of_model, matters=_asked_for),
    Watched(MODEL_ROLLOUT, labels=_of_rollout, matters=_asked_for),
    Watched(INFERENCE_SERVICE, matters=_service, selector=MANAGED_BY),
    Watched(DEPLOYMENT, matters=_replicas, kept=_of_deployment),
    Watched(HTTP_ROUTE, matters=_asked_for, selector=MANAGED_BY),
)


def models(cache: CachedKubernetes) -> list[str]:
    """Names of all models that something is known of."""
    return sorted({labels[MODEL] for one in WATCHED for labels in cache.labels(one.kind) if MODEL in labels})


def heard(cache: CachedKubernetes, queue: WorkQueue, watched: Watched, event: Mapping[str, Any]) -> None:
    """Keep what an event tells, and have its model looked at if that matters."""
    found = event["object"]
    own = {**found["metadata"].get("labels", {}), **watched.labels(found)}
    if event["type"] == "DELETED":
        cache.forget(watched.kind, found["metadata"]["name"])
    elif not cache.learn(watched.kind, found):
        return
    if MODEL in own:
        queue.add(own[MODEL])


def registry(cache: CachedKubernetes, queue: WorkQueue) -> kopf.OperatorRegistry:
    """Kopf's handlers: of each kind that is watched, all events."""
    handlers = kopf.OperatorRegistry()
    for watched in WATCHED:
        kind = watched.kind
        on = kopf.on.event(kind.group, kind.version, kind.plural, id=kind.plural, registry=handlers)
        on(_handler(cache, queue, watched))
    kopf.on.login(registry=handlers)(lambda **_: connection(cache))
    return handlers


def _handler(cache: CachedKubernetes, queue: WorkQueue, watched: Watched) -> Callable[..., Any]:
    # Of a coroutine kopf needs no thread.
    async def handler(event: Any, **_: Any) -> None:
        heard(cache, queue, watched, event)

    return handler


def settings() -> kopf.OperatorSettings:
    """Nothing is looked for beyond one namespace, and nothing is written."""
    chosen = kopf.OperatorSettings()
    chosen.scanning.disabled = True
    chosen.posting.enabled = False
    chosen.peering.standalone = True
    for watched in WATCHED:
        if watched.selector is not None:
            selector = ",".join(f"{key}={value}" for key, value in watched.selector.items())
            chosen.watching.label_selectors[watched.kind.group, watched.kind.plural] = selector
    return chosen


def connection(kubernetes: Kubernetes) -> kopf.ConnectionInfo:
    """The way to the API server that everything else of the operator takes, too; a token is read anew each time."""
    configured = kubernetes.client.configuration
    scheme, _, token = (configured.get_api_key_with_prefix("authorization") or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=configured.host,
        ca_path=configured.ssl_ca_cert,
        insecure=not configured.verify_ssl,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configured.cert_file,
        private_key_path=configured.key_file,
    )
