"""Rollouts on a real cluster: under load, with the operator killed, and with people at work under its hands."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from benchmarks.on_cluster_versions import another
from evergrow.environment import Environment
from evergrow.errors import DataError
from evergrow.integrations.clocks import OffsetClock
from evergrow.integrations.kubernetes import (
    CONTINUAL_MODEL,
    EVENT,
    HTTP_ROUTE,
    INFERENCE_SERVICE,
    MODEL_ROLLOUT,
    POD,
    Object,
)
from evergrow.integrations.mlflow import MlflowRegistry
from evergrow.integrations.prediction_store import PredictionStore
from evergrow.integrations.rollouts_kubernetes import KubernetesRollouts
from evergrow.spec.rollout import ModelRollout, RolloutStatus
from tests.cluster.conftest import NAME, ROOT, Dev, command, eventually, evergrow

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900, func_only=True)]

BODY = (ROOT / "manifests/serving/arrival-delay/request.json").read_bytes()
OPERATOR = {"app.kubernetes.io/component": "operator"}
PER_SECOND = 20.0
GUARDED = {"decides": "guardrails", "guardrails": ["errors", "latency"], "block": "5s"}
STEPS = [{"weight": 10, "requests": 20, "duration": "5s"}, {"weight": 50, "requests": 20, "duration": "5s"}]


class Rollouts:
    """What a user does with rollouts, and sees of them."""

    def __init__(self, dev: Dev, good: int, other: int, broken: int) -> None:
        self.dev, self.good, self.other, self.broken = dev, good, other, broken
        self.kept = KubernetesRollouts(dev.kubernetes, OffsetClock())

    def ask(self, name: str, version: int, strategy: dict[str, Any], **more: Any) -> None:
        rollout = {"strategy": strategy, "analysis": GUARDED, **more}
        spec = {"model": NAME, "candidates": [version], "rollout": rollout}
        document = {
            "apiVersion": "evergrow.dev/v1alpha1",
            "kind": "ModelRollout",
            "metadata": {"name": name},
            "spec": spec,
        }
        self.kept.create(ModelRollout.model_validate(document))

    def status(self, name: str) -> RolloutStatus:
        return next(one.status for one in self.kept.attempts(NAME) if one.name == name)

    def ended(self, name: str, seconds: float = 300) -> RolloutStatus:
        eventually(lambda: self.status(name).ended, seconds)
        return self.status(name)

    def weights(self) -> dict[str, int]:
        """Percent by the name of the InferenceService, of those that ask for no version."""
        route = self.dev.kubernetes.get(HTTP_ROUTE, NAME)
        backends = route["spec"]["rules"][0]["backendRefs"] if route else []
        return {b["name"].removesuffix("-predictor"): b["weight"] for b in backends}

    def pods(self, version: int) -> set[str]:
        found = self.dev.kubernetes.search(POD, {"evergrow.dev/model": NAME, "evergrow.dev/version": str(version)})
        return {pod["metadata"]["uid"] for pod in found}

    def events(self, name: str) -> list[str]:
        return [e["reason"] for e in self.dev.kubernetes.search(EVENT) if e["involvedObject"]["name"] == name]

    def serving(self) -> int | None:
        """By what `kubectl get continualmodels` says."""
        found = self.dev.kubernetes.get(CONTINUAL_MODEL, NAME) or {}
        return found.get("status", {}).get("serving")


@pytest.fixture(scope="module")
def rollouts(dev: Dev) -> Iterator[Rollouts]:
    """Given version 1 by three other numbers, the last of which may keep nothing of what it answers."""
    good, other = (another(dev.variables, dev.store(), NAME) for _ in range(2))
    broken = another(dev.variables, dev.store(), NAME, limitMb=1e-6, whenFull="refuse")
    made = Rollouts(dev, good, other, broken)
    eventually(lambda: made.serving() == 1, 30)
    yield made
    if made.serving() != 1:
        made.ask("back-to-1", 1, {"kind": "single"})
        eventually(lambda: made.serving() == 1, 60)


@pytest.fixture
def callers(dev: Dev) -> Iterator[None]:
    """Given callers at a steady rate, of which none may notice anything."""
    with dev.under_load(NAME, BODY, PER_SECOND) as report:
        yield
    assert report.kept_up
    assert report.failures == []


def champion(dev: Dev) -> int | None:
    found = MlflowRegistry(Environment.read(dev.variables)).resolve(NAME, "champion")
    return None if found is None else found.version


def kill_the_operator(dev: Dev) -> None:
    for pod in dev.kubernetes.search(POD, OPERATOR):
        name = pod["metadata"]["name"]
        command("kubectl", "-n", dev.place.execution.namespace, "delete", "pod", name, "--grace-period=0", "--force")


def kubectl(dev: Dev, *arguments: str) -> str:
    return command("kubectl", "-n", dev.place.execution.namespace, *arguments)


def test_a_good_canary_grows_and_is_promoted_though_the_operator_is_killed(dev: Dev, rollouts: Rollouts, callers: None):
    rollouts.ask("good", rollouts.good, {"kind": "canary", "steps": STEPS})
    eventually(lambda: sorted(rollouts.weights().values()) == [10, 90], 120)
    candidates = rollouts.pods(rollouts.good)
    kill_the_operator(dev)
    status = rollouts.ended("good")

    assert (status.phase, status.winner, status.stable) == ("Promoted", rollouts.good, 1), status.reason
    assert {f.check: f.outcome for f in status.findings}["errors"] == "pass"
    eventually(lambda: list(rollouts.weights().values()) == [100], 30)
    assert candidates <= rollouts.pods(rollouts.good), "promoted pods are not restarted"
    eventually(lambda: champion(dev) == rollouts.good, 60)
    eventually(lambda: rollouts.serving() == rollouts.good, 30)
    assert {"Started", "Promoted"} <= set(rollouts.events("good"))
    assert "good" in kubectl(dev, "get", "modelrollouts")
    assert "Promoted" in kubectl(dev, "describe", "modelrollout", "good")


def test_a_candidate_that_fails_is_sent_back_and_few_callers_notice(dev: Dev, rollouts: Rollouts):
    before = rollouts.serving()
    with dev.under_load(NAME, BODY, PER_SECOND) as report:
        rollouts.ask("broken", rollouts.broken, {"kind": "canary", "steps": [{"weight": 10, "requests": 10_000}]})
        status = rollouts.ended("broken")
        eventually(lambda: list(rollouts.weights().values()) == [100], 30)
        time.sleep(5)

    assert (status.phase, status.weights) == ("Aborted", {str(before): 100})
    assert "errors: " in status.reason
    assert "against 1.00%" in status.reason
    assert champion(dev) == before
    assert report.kept_up
    assert {why.split()[0] for _, why in report.failures} == {"503"}
    first, last = report.failures[0][0], report.failures[-1][0]
    assert report.seconds - last > 3, "it has ended"
    print(f"{report.failed} of {report.sent:,} requests failed, over {last - first:.1f} s")


def test_copies_reach_the_shadow_and_never_the_caller(dev: Dev, rollouts: Rollouts, callers: None):
    begun = datetime.now(UTC)
    rollouts.ask("shadowed", rollouts.other, {"kind": "shadow", "share": 100, "requests": 20, "duration": "1h"})
    eventually(lambda: rollouts.status("shadowed").mirror == rollouts.other, 120)

    def ways() -> dict[int, set[str]]:
        try:
            found = PredictionStore(dev.store()).read(NAME, begun.date(), datetime.max.date()).to_pandas()
        except DataError:
            return {}
        recent = found[found["event_timestamp"] >= begun]
        return {int(version): set(rows["route"]) for version, rows in recent.groupby("version")}

    seen = eventually(lambda: ways() if rollouts.other in ways() else None, 180)
    assert seen[rollouts.other] == {"shadow"}
    assert seen[rollouts.good] == {"weights"}
    evergrow("rollout", "abort", "shadowed", "--env", "dev")
    assert rollouts.ended("shadowed", 30).phase == "Aborted"
    assert rollouts.status("shadowed").reason.startswith("aborted by ")


def test_what_is_deleted_under_its_hands_is_made_again_or_aborted_first(dev: Dev, rollouts: Rollouts, callers: None):
    serving = rollouts.weights()
    rollouts.ask("deleted", rollouts.other, {"kind": "canary", "steps": [{"weight": 20, "requests": 10_000}]})
    eventually(lambda: len(rollouts.weights()) == 2, 120)
    kubectl(dev, "delete", "modelrollout", "deleted", "--wait=true", "--timeout=60s")
    eventually(lambda: rollouts.weights() == serving, 30)
    assert dev.kubernetes.get(MODEL_ROLLOUT, "deleted") is None

    replicas = newest(dev.kubernetes.search(INFERENCE_SERVICE, {"evergrow.dev/version": str(rollouts.other)}))
    assert replicas is None or replicas["metadata"]["name"] not in serving


def test_a_candidate_that_cannot_be_served_is_given_up_and_nothing_is_shifted(
    dev: Dev, rollouts: Rollouts, callers: None
):
    serving = rollouts.weights()
    rollouts.ask("missing", 99, {"kind": "canary", "steps": STEPS}, readyWithin="10s")
    status = rollouts.ended("missing", 90)

    assert (status.phase, rollouts.weights()) == ("Aborted", serving)
    assert "version 99 not ready after 10s" in status.reason


def test_a_rollback_to_what_is_warm_takes_seconds(dev: Dev, rollouts: Rollouts, callers: None):
    begun = time.monotonic()
    evergrow("rollback", NAME, "--to", "1", "--env", "dev", "--reason", "tried")
    eventually(lambda: rollouts.serving() == 1 and len(rollouts.weights()) == 1, 30)
    took = time.monotonic() - begun

    assert rollouts.status(rollouts.kept.attempts(NAME)[-1].name).phase == "Promoted"
    eventually(lambda: champion(dev) == 1, 60)
    print(f"rolled back in {took:.1f} s")


def newest(found: list[Object]) -> Object | None:
    return max(found, key=lambda one: str(one["metadata"]["creationTimestamp"]), default=None)
