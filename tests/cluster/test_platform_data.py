"""Bundled stores keep their data and their passwords when the platform is uninstalled, unless told otherwise."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.charts.rendering import CHARTS, helm
from tests.cluster.conftest import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600, func_only=True)]

STORES = ("postgres", "redis", "seaweedfs")


def kubectl(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout


@dataclass(frozen=True)
class Platform:
    """A platform in a namespace of its own. Its servers' image is absent, since the stores need none of them."""

    namespace: str

    def install(self, **values: str) -> None:
        values |= {"mlflow.image": "evergrow/absent:0", "feast.image": "evergrow/absent:0"}
        values |= {"imagePullPolicy": "Never"}
        chart = CHARTS / "evergrow-platform"
        told = [f"--set={key}={value}" for key, value in values.items()]
        where = ["--namespace", self.namespace, "--values", str(chart / "values-dev.yaml")]
        done = helm("upgrade", "--install", "stores", str(chart), *where, *told, "--set-json=consumers=[]")
        assert done.returncode == 0, done.stderr
        for store in STORES:
            kubectl("rollout", "status", f"statefulset/{store}", "-n", self.namespace, "--timeout=180s")

    def uninstall(self) -> None:
        done = helm("uninstall", "stores", "--namespace", self.namespace)
        assert done.returncode == 0, done.stderr
        for store in STORES:
            kubectl("wait", "--for=delete", f"pod/{store}-0", "-n", self.namespace, "--timeout=120s")

    def run(self, store: str, *command: str, text: str | None = None) -> str:
        """What a command says in a store's pod."""
        return kubectl("exec", "-i", f"{store}-0", "-n", self.namespace, "--", *command, text=text)

    def write(self, word: str) -> None:
        self.run("redis", "redis-cli", "-e", "set", "word", word)
        self.run("postgres", "psql", "-U", "postgres", "-c", f"CREATE TABLE kept AS SELECT '{word}' AS word", "feast")
        self.run("seaweedfs", "sh", "-c", "cat > /tmp/word", text=word)
        self.run("seaweedfs", "weed", "filer.copy", "/tmp/word", "http://127.0.0.1:8888/buckets/mlflow/")

    def read(self) -> list[str]:
        """The word that each store has."""
        redis = self.run("redis", "redis-cli", "-e", "get", "word")
        postgres = self.run("postgres", "psql", "-U", "postgres", "-At", "-c", "SELECT word FROM kept", "feast")
        shell = ("weed", "shell", "-master=127.0.0.1:9333")
        s3 = self.run("seaweedfs", *shell, text="fs.cat /buckets/mlflow/word\n").strip().removeprefix("> ")
        return [redis.strip(), postgres.strip(), s3]

    def has_all(self) -> bool:
        """Whether every store has the word. A store that is ready may still be looking for what it has."""
        try:
            return self.read() == ["kept"] * 3
        except AssertionError:
            return False

    def kept(self) -> dict[str, dict[str, str]]:
        """Data of what the chart made and Helm left: Secrets and volumes, by name."""
        found = kubectl(
            "get", "secret,pvc", "-n", self.namespace, "-o", "json", "-l", "app.kubernetes.io/instance=stores"
        )
        return {each["metadata"]["name"]: each.get("data", {}) for each in json.loads(found)["items"]}


@pytest.fixture
def platform() -> Iterator[Platform]:
    namespace = f"platform-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", namespace)
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    yield Platform(namespace)
    kubectl("delete", "namespace", namespace, "--wait=false")


def test_data_and_passwords_outlive_the_platform_until_told_otherwise(platform: Platform) -> None:
    # Given a platform with data in every store
    platform.install()
    platform.write("kept")
    assert platform.read() == ["kept"] * 3

    # When it is uninstalled, only passwords and volumes are left
    before = platform.kept()
    platform.uninstall()
    left = platform.kept()
    assert set(left) == {*STORES, *(f"{store}-data" for store in STORES)}
    assert all(left[store] == before[store] for store in STORES)

    # When it is installed again, it has the same passwords and the data
    platform.install()
    assert all(platform.kept()[store] == before[store] for store in STORES)
    assert eventually(platform.has_all)

    # When it is told to keep nothing, nothing is left
    platform.install(keepData="false")
    assert eventually(platform.has_all)
    platform.uninstall()
    assert platform.kept() == {}
