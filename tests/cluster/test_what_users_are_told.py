"""What is wrong with an environment is said by `evergrow status`, with what to do."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from evergrow.integrations.clocks import OffsetClock
from evergrow.integrations.rollouts_kubernetes import KubernetesRollouts
from evergrow.integrations.serving import SERVING
from evergrow.spec.rollout import ModelRollout
from tests.cluster.conftest import DEV, MODEL, NAME, PLATFORM, Dev, command, eventually, evergrow

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600, func_only=True)]

BROKEN = "evergrow-broken"


@pytest.fixture
def namespace() -> Iterator[None]:
    """Given a second namespace that the platform serves."""
    command("kubectl", "create", "namespace", BROKEN)
    command("kubectl", "label", "namespace", BROKEN, "pod-security.kubernetes.io/enforce=restricted")
    consumers(DEV, BROKEN)
    yield
    consumers(DEV)
    command("kubectl", "delete", "namespace", BROKEN, "--wait=true")


def consumers(*namespaces: str) -> None:
    """Say whom the platform serves: who reaches its stores, and has the Secret of their credentials."""
    changed = f"consumers={{{','.join(namespaces)}}}"
    command("helm", "upgrade", PLATFORM, "charts/evergrow-platform", "-n", PLATFORM, "--reuse-values", "--set", changed)


@pytest.fixture
def broken(dev: Dev, namespace: None, tmp_path: Path) -> Callable[..., None]:
    """Given an environment of which something is wrong: a function that installs it so, and submits a run."""

    def install(secret: dict[str, str] | None, **changed: str) -> None:
        values = dev.place.model_dump(mode="json", by_alias=True)
        values["name"] = "broken"
        values["execution"]["namespace"] = BROKEN
        values["code"]["images"] |= {k: v for k, v in changed.items() if k == "steps"}
        values["data"] |= {k: v for k, v in changed.items() if k == "store"}
        (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
        command("helm", "install", "evergrow", "charts/evergrow", "-n", BROKEN, "-f", str(tmp_path / "values.yaml"))
        if secret is None:
            command("kubectl", "-n", BROKEN, "delete", "secret", "evergrow-credentials")
        else:
            patch = json.dumps({"stringData": secret})
            command("kubectl", "-n", BROKEN, "patch", "secret", "evergrow-credentials", "-p", patch)
        evergrow("submit", "training", "-f", str(MODEL), "--env", "broken", "--as-of", "2013-10-01")

    return install


def problems(text: str, env: str = "broken") -> str | None:
    """What `evergrow status` says, once it says this."""
    told = evergrow("status", "--env", env, check=False)
    return told if text in " ".join(told.split()) else None


def test_a_missing_secret_is_named(broken):
    broken(secret=None)
    told = eventually(lambda: problems('secret "evergrow-credentials" not found'), 90)
    assert "fix:" in told


def test_a_wrong_secret_is_told_as_what_the_store_said(broken):
    broken(secret={"AWS_SECRET_ACCESS_KEY": "wrong"})
    told = " ".join(eventually(lambda: problems("StoreError"), 120).split())
    assert "the object store denies access" in told
    assert "the credentials lack a right, or the secret key is wrong" in told


def test_a_missing_bucket_is_named(broken):
    broken(secret={}, store="s3://no-such-bucket/state")
    told = " ".join(eventually(lambda: problems("StoreError"), 120).split())
    assert "s3://no-such-bucket/state" in told
    assert "fix: the bucket does not exist" in told


def test_an_image_that_cannot_be_pulled_is_named(broken):
    broken(secret={}, steps="evergrow/steps-python:no-such-tag")
    told = eventually(lambda: problems("evergrow/steps-python:no-such-tag"), 90)
    assert "fix:" in told
    assert PLATFORM not in told


@pytest.fixture
def refused(dev: Dev, tmp_path: Path) -> Iterator[None]:
    """Given a version that was made with another release of onnxruntime than the server's image has."""
    store, folder = dev.store(), f"serving/{NAME}/versions"
    version = store.download(f"{folder}/1", tmp_path / "version")
    bundle = version / "bundle/bundle.json"
    text = bundle.read_text(encoding="utf-8")
    bundle.write_text(re.sub(r"onnxruntime==[0-9.]+", "onnxruntime==0.0.1", text), encoding="utf-8")
    about = json.loads((version / SERVING).read_text(encoding="utf-8"))
    (version / SERVING).write_text(json.dumps({**about, "version": 99}), encoding="utf-8")
    store.upload(version, f"{folder}/99", last=SERVING)
    attempt = {
        "apiVersion": "evergrow.dev/v1alpha1",
        "kind": "ModelRollout",
        "metadata": {"name": "refused"},
        "spec": {"model": NAME, "candidates": [99], "rollout": {"strategy": {"kind": "single"}}},
    }
    KubernetesRollouts(dev.kubernetes, OffsetClock()).create(ModelRollout.model_validate(attempt))
    yield
    command("kubectl", "-n", DEV, "delete", "modelrollout", "refused", "--timeout=60s")


def test_a_version_made_with_other_libraries_is_refused_before_it_serves_and_it_is_said_which(refused):
    told = " ".join(eventually(lambda: problems("onnxruntime 0.0.1 is required", "dev"), 120).split())
    assert f"{NAME} version 99" in told
    assert "fix: serve it with an image of its own requirements" in told
