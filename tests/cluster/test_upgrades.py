"""Charts are upgraded and rolled back while requests come in, and none fails; nor is data lost."""

import time
from datetime import UTC, date, datetime

import pytest

from evergrow.errors import DataError
from evergrow.integrations.kubernetes import POD
from evergrow.integrations.prediction_store import PredictionStore
from tests.cluster.conftest import DEV, NAME, PLATFORM, ROOT, Dev, command, eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600, func_only=True)]

REQUEST = (ROOT / "manifests/serving/arrival-delay/request.json").read_bytes()


def servers(dev: Dev) -> set[str]:
    pods = dev.kubernetes.search(POD, {"serving.kserve.io/inferenceservice": f"{NAME}-v1"})
    return {p["metadata"]["uid"] for p in pods if not p["metadata"].get("deletionTimestamp")}


def settled(dev: Dev, before: set[str]) -> bool:
    """Whether other pods than before are all there is, and ready."""
    pods = dev.kubernetes.search(POD, {"serving.kserve.io/inferenceservice": f"{NAME}-v1"})
    ready = [
        any(c["type"] == "Ready" and c["status"] == "True" for c in p.get("status", {}).get("conditions", []))
        for p in pods
    ]
    return bool(pods) and all(ready) and not {p["metadata"]["uid"] for p in pods} & before


def logged(dev: Dev, since: datetime) -> int:
    """How many predictions are in the object store since an instant; no two are one."""
    try:
        found = PredictionStore(dev.store()).read(NAME, since.date(), date.max)
    except DataError:
        return 0
    instants = found["event_timestamp"].to_pylist()
    assert len(set(found["prediction_id"].to_pylist())) == len(instants)
    return sum(at >= since for at in instants)


def test_an_upgrade_of_the_environment_and_its_rollback_fail_no_request(dev: Dev):
    """When the ServingRuntime changes, so that KServe replaces all pods, and changes back."""
    begun = datetime.now(UTC)
    with dev.under_load(NAME, REQUEST, per_second=50) as load:
        time.sleep(2)
        before = servers(dev)
        command("helm", "-n", DEV, "upgrade", "evergrow", "charts/evergrow", "--reuse-values",
                "--set", "code.images.pullPolicy=Never")  # fmt: skip
        eventually(lambda: settled(dev, before), 180)
        between = servers(dev)
        command("helm", "-n", DEV, "rollback", "evergrow")
        eventually(lambda: settled(dev, between), 180)
        time.sleep(2)
    assert load.failures == []
    assert load.kept_up
    eventually(lambda: logged(dev, begun) >= load.sent, 120)
    assert logged(dev, begun) == load.sent, "each answer was recorded once, by pods that are gone, too"


def test_an_upgrade_of_the_platform_and_its_rollback_lose_nothing_and_fail_no_request(dev: Dev):
    """When pods of all stores are replaced: their values outlive them, and the server answers from what it can."""
    versions, objects = dev.versions(NAME), dev.store().names("data")
    with dev.under_load(NAME, REQUEST, per_second=20) as load:
        for step in (["upgrade", "evergrow-platform", "charts/evergrow-platform", "--reuse-values",
                      "--set", "mlflow.resources.limits.memory=2100Mi",
                      "--set", "objectStore.bundled.resources.limits.memory=1100Mi"],
                     ["rollback", "evergrow-platform"]):  # fmt: skip
            command("helm", "-n", PLATFORM, *step, "--wait", "--timeout=300s")
    assert load.failures == []
    assert load.kept_up
    assert dev.versions(NAME) == versions
    assert dev.store().names("data") == objects
