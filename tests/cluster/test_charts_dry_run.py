"""Charts are what an API server takes: its schemas, its admission, its pod security standard. Nothing is created."""

from __future__ import annotations

import copy
import subprocess
import uuid
from collections.abc import Iterator, Sequence

import pytest
import yaml

from tests.charts.rendering import Object, Variant, rendered, variants
from tests.cluster.conftest import Dev

pytestmark = pytest.mark.cluster


def kubectl(*arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def namespace(dev: Dev) -> Iterator[str]:
    """A namespace of its own, in which the API server says which pods are not restricted; our kinds are known to it."""
    name = f"charts-{uuid.uuid4().hex[:8]}"
    made = kubectl("create", "namespace", name)
    assert made.returncode == 0, made.stderr
    kubectl("label", "namespace", name, "pod-security.kubernetes.io/warn=restricted")
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def dry_run(objects: Sequence[Object], namespace: str) -> subprocess.CompletedProcess[str]:
    """Have the API server look at objects, all of them in one namespace, since others may not exist."""
    placed = copy.deepcopy(list(objects))
    for each in placed:
        each["metadata"]["namespace"] = namespace
    return kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", text=yaml.safe_dump_all(placed))


@pytest.mark.parametrize("variant", variants(), ids=str)
def test_an_api_server_takes_every_object_and_warns_of_none(variant: Variant, namespace: str) -> None:
    objects = rendered(variant)
    done = dry_run(objects, namespace)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr, done.stderr
    assert len(done.stdout.splitlines()) == len(objects)


@pytest.fixture
def deployment() -> Object:
    """One that is as it should be."""
    return copy.deepcopy(next(o for o in rendered(Variant("evergrow-platform", "dev")) if o["kind"] == "Deployment"))


def test_a_field_that_does_not_exist_is_refused(deployment: Object, namespace: str) -> None:
    deployment["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    done = dry_run([deployment], namespace)
    assert done.returncode != 0
    assert "livenesProbe" in done.stderr


def test_a_pod_that_is_not_restricted_is_warned_of(deployment: Object, namespace: str) -> None:
    deployment["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] = False
    done = dry_run([deployment], namespace)
    assert "would violate PodSecurity" in done.stderr
