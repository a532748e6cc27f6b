"""How images are measured: what is skipped, what fails, and what holds."""

import json
from dataclasses import dataclass, field

import pytest

from benchmarks.images import STARTS, TAG, Start, measure, pod, rows, run
from benchmarks.measure import Skipped
from components.build import IMAGES
from tests.images.dockerfiles import ROOT, stages

START = Start("it answers", ["serve"], "http://localhost/health", {"A": "b"})
NUMBERS = {"megabytes": 500.0, "cpu": 1.5, "seconds": 4.0}


@dataclass
class Cluster:
    """A namespace whose Pods all have one status and one log."""

    status: dict
    said: str = ""
    objects: dict = field(default_factory=dict)
    made: list = field(default_factory=list)

    def create(self, kind, body):
        self.objects[kind, body["metadata"]["name"]] = {**body, "status": self.status}
        self.made.append(body)

    def get(self, kind, name):
        return self.objects.get((kind, name))

    def delete(self, kind, name):
        del self.objects[kind, name]

    def log(self, name):
        return self.said


def test_every_image_has_a_start_that_is_measured():
    assert set(STARTS) == set(IMAGES)


@pytest.mark.parametrize("image", ["server", "mlflow", "feast"])
def test_what_is_started_is_what_the_image_runs(image):
    found = {stage.name: stage for stage in stages((ROOT / IMAGES[image].dockerfile).read_text())}
    entrypoint = json.loads(found[IMAGES[image].target].last("ENTRYPOINT"))
    assert list(STARTS[image].command[: len(entrypoint)]) == entrypoint


def test_a_measured_image_gives_its_numbers_and_leaves_nothing_behind():
    cluster = Cluster({"phase": "Succeeded"}, said=f"a line of the server\n{json.dumps(NUMBERS)}\n")
    assert measure(cluster, "evergrow/x:1", START, {"a": "Yg=="}) == NUMBERS
    files, measuring = cluster.made
    assert files["binaryData"] == {"a": "Yg=="}
    assert measuring["spec"]["containers"][0]["image"] == "evergrow/x:1"
    assert cluster.objects == {}


def test_an_image_that_the_cluster_does_not_have_is_skipped_with_how_to_get_it():
    waiting = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ErrImageNeverPull"}}}]}
    cluster = Cluster(waiting)
    with pytest.raises(Skipped, match=r"does not have evergrow/x:1: python -m components.build --load"):
        measure(cluster, "evergrow/x:1", START, {})
    assert cluster.objects == {}


def test_an_image_that_does_not_start_is_a_failure_with_its_log():
    cluster = Cluster({"phase": "Failed"}, said="No module named 'skops'")
    with pytest.raises(RuntimeError, match="evergrow/x:1 does not start:\nNo module named 'skops'"):
        measure(cluster, "evergrow/x:1", START, {})
    assert cluster.objects == {}


def test_without_a_cluster_nothing_is_measured(monkeypatch):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(Skipped, match="KUBECONFIG names no cluster"):
        run()


@pytest.mark.parametrize(
    ("megabytes", "cpu", "holds"),
    [(600, 3.0, [True, True]), (600.1, 3.0, [False, True]), (600, 3.01, [True, False])],
)
def test_the_server_is_held_to_its_size_and_its_start(megabytes, cpu, holds):
    found = rows("server", START, {"megabytes": megabytes, "cpu": cpu, "seconds": 9.0})
    assert [(r.value, r.reach, r.holds) for r in found] == list(
        zip([megabytes, cpu], ["≤ 600", "≤ 3"], holds, strict=True)
    )


def test_of_the_other_images_the_figures_are_stated():
    assert [(r.reach, r.holds) for r in rows("mlflow", START, {**NUMBERS, "megabytes": 5000.0})] == [
        ("stated", True),
        ("stated", True),
    ]


def test_images_are_measured_with_the_rights_of_restricted_pods_and_no_more():
    spec = pod("name", f"evergrow/x:{TAG}", START)["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"] == {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    assert container["securityContext"] == {
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["env"] == [{"name": "A", "value": "b"}]
    writable = {v["name"] for v in spec["volumes"] if "emptyDir" in v}
    assert [m["mountPath"] for m in container["volumeMounts"] if m["name"] in writable] == [
        "/tmp",
        "/home/evergrow/state",
    ]


def test_a_pod_and_its_files_are_told_apart_from_those_of_another_measurement():
    one, two = Cluster({"phase": "Succeeded"}, said=json.dumps(NUMBERS)), Cluster({"phase": "Failed"})
    measure(one, "x:1", START, {})
    with pytest.raises(RuntimeError):
        measure(two, "x:1", START, {})
    assert not {body["metadata"]["name"] for body in one.made} & {body["metadata"]["name"] for body in two.made}
