"""Gateway API: the HTTPRoute of a model says which of its versions answer, and with which probability.

The gateway alone says which way a request took: what a caller sends in our headers is replaced or taken away. A route
that mirrors requests (`RequestMirror`) cannot mark the copies. But each request says which version was drawn for it:
a server of another one has a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evergrow.contracts import Route
from evergrow.errors import ServingError
from evergrow.headers import DRAWN, PROPENSITY, ROUTE, VERSION
from evergrow.integrations import labels
from evergrow.integrations.kubernetes import CONTINUAL_MODEL, HTTP_ROUTE, INFERENCE_SERVICE, Kubernetes, owners
from evergrow.integrations.labels import ENVIRONMENT, MANAGED_BY, MODEL
from evergrow.spec.environment import EnvironmentSpec

ANNOTATION = "evergrow.dev/route"
PORT = 80
"""KServe's Service of a predictor."""


class GatewayTraffic:
    """`evergrow.ports.Traffic` on a cluster: one HTTPRoute a model, applied whole, in one write."""

    can_stick = False

    def __init__(self, place: EnvironmentSpec, kubernetes: Kubernetes) -> None:
        self.place, self.kubernetes = place, kubernetes

    def apply(self, route: Route) -> None:
        """Make it so; again changes nothing.

        Raises:
            ServingError: a version of the route has no InferenceService; callers are to be kept to a version, which
                is not to be had here.
        """
        if route.sticky:
            raise ServingError(
                f"{route.model}: `rollout.sticky` must be empty on a cluster: Gateway API keeps no caller to a version"
            )
        body = http_route(self.place, route, self._services(route.model))
        if owned := owners(self.kubernetes.get(CONTINUAL_MODEL, route.model)):
            body["metadata"]["ownerReferences"] = owned
        self.kubernetes.apply(HTTP_ROUTE, body)

    def read(self, model: str) -> Route | None:
        """The route that was applied last; None if there is none, or one that others made."""
        found = self.kubernetes.get(HTTP_ROUTE, model) or {}
        told = found.get("metadata", {}).get("annotations", {}).get(ANNOTATION)
        return Route.model_validate_json(told) if told else None

    def _services(self, model: str) -> Mapping[int, str]:
        """Names of the model's InferenceServices by version."""
        found = self.kubernetes.search(INFERENCE_SERVICE, {MODEL: model, **MANAGED_BY})
        return {int(one["metadata"]["labels"][labels.VERSION]): str(one["metadata"]["name"]) for one in found}


def http_route(place: EnvironmentSpec, route: Route, services: Mapping[int, str]) -> dict[str, Any]:
    """The HTTPRoute of a route.

    The first rule draws; the others are more specific, and so come before it whatever their order.

    Args:
        place: the environment.
        route: who answers.
        services: names of InferenceServices by version.

    Raises:
        ServingError: a version of the route has none.
    """
    drawn = {version: weight for version, weight in route.weights.items() if weight > 0}
    copied = {route.mirror} if route.mirror is not None else set()
    if missing := sorted({*drawn, *route.warm, *copied} - set(services)):
        raise ServingError(
            f"{route.model}: version {missing[0]} of the route has no InferenceService, found {sorted(services)}"
        )
    gateway = place.execution.serving.gateway
    return {
        "metadata": {
            "name": route.model,
            "labels": {**MANAGED_BY, MODEL: route.model, ENVIRONMENT: place.name},
            "annotations": {ANNOTATION: route.model_dump_json()},
        },
        "spec": {
            "parentRefs": [{"name": gateway.name, "namespace": gateway.namespace}],
            "hostnames": [host(place, route.model)],
            "rules": [_drawn(route, services), *(_named(version, services) for version in sorted(route.warm))],
        },
    }


def host(place: EnvironmentSpec, model: str) -> str:
    """The name that a model's callers use."""
    return f"{model}.{place.execution.namespace}.{place.execution.serving.gateway.domain}"


def _drawn(route: Route, services: Mapping[int, str]) -> dict[str, Any]:
    backends = [
        {
            **_backend(services[version]),
            "weight": weight,
            "filters": [_headers({ROUTE: "weights", PROPENSITY: f"{weight / 100:g}", DRAWN: str(version)})],
        }
        for version, weight in sorted(route.weights.items())
        if weight > 0
    ]
    if route.mirror is None:
        return {"backendRefs": backends}
    copies = {"backendRef": _backend(services[route.mirror]), "percent": route.mirror_percent}
    return {"filters": [{"type": "RequestMirror", "requestMirror": copies}], "backendRefs": backends}


def _named(version: int, services: Mapping[int, str]) -> dict[str, Any]:
    """Requests that ask for a version by its number."""
    header = {"type": "Exact", "name": VERSION, "value": str(version)}
    return {
        "matches": [{"headers": [header]}],
        "filters": [_headers({ROUTE: "named", DRAWN: str(version)}, remove=[PROPENSITY])],
        "backendRefs": [_backend(services[version])],
    }


def _backend(service: str) -> dict[str, Any]:
    return {"name": f"{service}-predictor", "port": PORT}


def _headers(values: Mapping[str, str], remove: list[str] | None = None) -> dict[str, Any]:
    changed: dict[str, Any] = {"set": [{"name": name, "value": value} for name, value in values.items()]}
    return {"type": "RequestHeaderModifier", "requestHeaderModifier": changed | ({"remove": remove} if remove else {})}
