"""An environment at a glance: what serves, what runs, what is to run, and what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from evergrow.errors import ClusterError
from evergrow.integrations.diagnosis import Problem, problems
from evergrow.integrations.gateway import host
from evergrow.integrations.kserve import condition
from evergrow.integrations.kubeflow_schedules import ScheduledRun
from evergrow.integrations.kubernetes import (
    CRON_JOB,
    EVENT,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    POD,
    Kubernetes,
    Object,
)
from evergrow.integrations.labels import ENVIRONMENT, MODEL, VERSION
from evergrow.integrations.submission import SubmittedRun
from evergrow.spec.environment import EnvironmentSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Served:
    """A version of a model that has an InferenceService.

    Attributes:
        model: its name.
        version: its number; empty for a model that has no version in service.
        state: Ready, starting, or why not.
        share: percent of the model's requests that it answers.
        url: where the model answers; empty if nothing is routed to the version.
    """

    model: str
    version: str
    state: str
    share: int
    url: str


@dataclass(frozen=True)
class Overview:
    """What there is of an environment."""

    models: Sequence[Served]
    runs: Sequence[SubmittedRun]
    schedules: Sequence[ScheduledRun]
    problems: Sequence[Problem]


def look(
    place: EnvironmentSpec,
    models: Kubernetes,
    steps: Kubernetes,
    runs: Callable[[], Sequence[SubmittedRun]],
    schedules: Callable[[], Sequence[ScheduledRun]],
    now: datetime,
) -> Overview:
    """Look at an environment. What cannot be looked at is one of its problems.

    Args:
        place: the environment.
        models: its namespace.
        steps: the namespace of its steps, which may be the same.
        runs: lists its runs.
        schedules: lists its schedules.
        now: to tell what is over.
    """
    blind: list[Problem] = []
    services = _seen(blind, "InferenceServices", lambda: models.search(INFERENCE_SERVICE, {ENVIRONMENT: place.name}))
    routes = _seen(blind, "HTTPRoutes", lambda: models.search(HTTP_ROUTE, {ENVIRONMENT: place.name}))
    pods = _seen(blind, "pods", lambda: models.search(POD))
    events = _seen(blind, "events", lambda: models.search(EVENT))
    if steps.namespace != models.namespace:
        where = f"pods in namespace {steps.namespace}"
        pods = [*pods, *_seen(blind, where, lambda: steps.search(POD, {ENVIRONMENT: place.name}))]
    return Overview(
        models=served(place, services, routes),
        runs=_seen(blind, "runs", runs),
        schedules=_seen(blind, "schedules", schedules),
        problems=[*blind, *problems(pods, events, services, now)],
    )


def _seen(blind: list[Problem], what: str, read: Callable[[], Sequence[T]]) -> Sequence[T]:
    try:
        return read()
    except ClusterError as error:
        blind.append(Problem(what, "they cannot be read", str(error), error.hint))
        return []


def served(place: EnvironmentSpec, services: Iterable[Object], routes: Iterable[Object]) -> list[Served]:
    """Versions that have an InferenceService, newest first, and models that have none."""
    shares = {route["metadata"]["name"]: _shares(route) for route in routes}
    found = [_served(place, service, shares) for service in services]
    found += [Served(name, "", "not deployed", 0, "") for name in place.models if name not in {s.model for s in found}]
    return sorted(found, key=lambda s: (s.model, -int(s.version) if s.version.isdigit() else 0))


def _served(place: EnvironmentSpec, service: Object, shares: Mapping[str, Mapping[str, int]]) -> Served:
    labels, ready = service["metadata"].get("labels", {}), condition(service, "Ready")
    model, name = str(labels.get(MODEL, "")), str(service["metadata"]["name"])
    share = shares.get(model, {}).get(name, 0)
    state = {"True": "Ready", "False": "not ready"}.get(str(ready.get("status")), "starting")
    return Served(model, str(labels.get(VERSION, "")), state, share, f"http://{host(place, model)}" if share else "")


def _shares(route: Object) -> Mapping[str, int]:
    """Percent of requests by InferenceService: of those who ask for none by its number."""
    rules = [
        rule for rule in route["spec"].get("rules", []) if not any("headers" in m for m in rule.get("matches", []))
    ]
    backends = [b for rule in rules for b in rule.get("backendRefs", [])]
    weights = {b["name"].removesuffix("-predictor"): int(b.get("weight", 1)) for b in backends}
    whole = sum(weights.values()) or 1
    return {name: round(100 * weight / whole) for name, weight in weights.items()}


def cron_jobs(kubernetes: Kubernetes, place: EnvironmentSpec) -> list[ScheduledRun]:
    """The schedules of an environment whose steps run in pods: the chart's CronJobs."""
    return [_cron_job(found) for found in kubernetes.search(CRON_JOB, {ENVIRONMENT: place.name})]


def _cron_job(found: Any) -> ScheduledRun:
    name, spec = str(found["metadata"]["name"]), found["spec"]
    return ScheduledRun(name, name, str(spec["schedule"]), bool(spec.get("suspend", False)), "pods")
