"""Serving on a cluster: a version is Ready before anything points to it, and what points is changed in one write."""

from datetime import UTC, datetime

import pytest
from obstore.store import MemoryStore

from evergrow.contracts import ModelVersion
from evergrow.environment import Environment
from evergrow.errors import ServingError
from evergrow.integrations import kserve
from evergrow.integrations.gateway import host
from evergrow.integrations.kserve import KServeServing, reasons
from evergrow.integrations.kubernetes import HTTP_ROUTE, INFERENCE_SERVICE, POD
from evergrow.integrations.object_store import ObjectStore
from evergrow.spec.environment import EnvironmentSpec
from tests.builders import document
from tests.unit.integrations.kubernetes_twin import KubernetesTwin

PLACE = EnvironmentSpec.model_validate(
    {
        "name": "dev",
        "execution": {"namespace": "evergrow-dev", "serving": {"keepVersions": 2, "readyWithin": "1m"}},
        "data": {"store": "s3://evergrow-dev/state", "mlflow": "http://mlflow:5000"},
    }
)


class Cluster(KubernetesTwin):
    """KServe makes an InferenceService Ready, or not, once it was looked at a few times."""

    ready_after: float = 2
    refusal = ""

    def get(self, kind, name):
        found = super().get(kind, name)
        if kind == INFERENCE_SERVICE and found:
            seen = self.objects[kind.name, name].setdefault("seen", 0)
            self.objects[kind.name, name]["seen"] = seen + 1
            status = "True" if seen >= self.ready_after else "False"
            conditions = [{"type": "PredictorReady", "status": status, "message": self.refusal}]
            conditions += [{"type": "Ready", "status": status, "message": "predictor not ready"}]
            found["status"] = {"conditions": conditions}
        return found


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(kserve.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    monkeypatch.setattr(kserve.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"model")
    return folder


@pytest.fixture
def store():
    return ObjectStore(MemoryStore(), "s3://evergrow-dev/state")


@pytest.fixture
def cluster():
    return Cluster()


@pytest.fixture
def serving(tmp_path, store, cluster):
    """Serving as one pod does it; each has a home of its own."""

    def serving(pod: str = "pod", plan: dict | None = None, place: EnvironmentSpec = PLACE) -> KServeServing:
        environment = Environment(home=tmp_path / pod, feature_repo=tmp_path, tracking_uri="")
        return KServeServing(environment, place, cluster, store, document(), plan or {"keys": {}})

    return serving


def version(number: int) -> ModelVersion:
    return ModelVersion(
        model=document().name,
        version=number,
        identity=f"{number}" * 64,
        model_digest=f"{number}" * 64,
        run_id="r",
        created=datetime(2026, 1, 1, tzinfo=UTC),
    )


def backends(cluster) -> list[str]:
    drawn, *named = cluster.objects["HTTPRoute", document().name]["spec"]["rules"]
    assert [rule["backendRefs"][0]["name"] for rule in named] == [b["name"] for b in drawn["backendRefs"]]
    return [b["name"] for b in drawn["backendRefs"]]


def test_a_prepared_version_is_ready_and_nothing_points_to_it(serving, cluster, bundle, store):
    name = document().name
    assert serving().prepare(version(1), bundle) == f"{name}-v1"
    assert cluster.names(HTTP_ROUTE) == []
    made = cluster.objects["InferenceService", f"{name}-v1"]
    assert made["spec"]["predictor"]["model"]["storageUri"] == f"s3://evergrow-dev/state/serving/{name}/versions/1"
    assert made["metadata"]["labels"]["evergrow.dev/version"] == "1"
    assert store.names(f"serving/{name}/versions/1") == ["bundle/model.onnx", "features.json", "serving.json"]


def test_a_deployed_version_is_what_the_route_points_to(serving, cluster, bundle):
    assert serving().deploy(version(1), bundle) == f"http://{document().name}.evergrow-dev.example.com"
    serving("next").deploy(version(2), bundle)
    assert backends(cluster) == [f"{document().name}-v2-predictor"]


def test_a_version_that_is_not_ready_in_time_leaves_the_route_as_it_was_and_says_why(serving, cluster, bundle, clock):
    serving().deploy(version(1), bundle)
    cluster.ready_after = float("inf")
    waiting = {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "evergrow/server-python:9"'}
    labels = {"serving.kserve.io/inferenceservice": f"{document().name}-v2"}
    pod = {"metadata": {"name": "p", "labels": labels}}
    cluster.create(POD, pod)
    cluster.objects["Pod", "p"]["status"] = {
        "containerStatuses": [{"name": "kserve-container", "state": {"waiting": waiting}}]
    }
    with pytest.raises(
        ServingError, match=r"v2 is not Ready after 0:01:00: kserve-container: ImagePullBackOff Back-off"
    ):
        serving("next").deploy(version(2), bundle)
    assert backends(cluster) == [f"{document().name}-v1-predictor"]


def test_doing_it_again_changes_nothing(serving, cluster, bundle):
    serving().deploy(version(1), bundle)
    before = cluster.objects["InferenceService", f"{document().name}-v1"]["spec"]
    serving("again").deploy(version(1), bundle)
    assert cluster.names(INFERENCE_SERVICE) == [f"{document().name}-v1"]
    assert cluster.objects["InferenceService", f"{document().name}-v1"]["spec"] == before


def test_a_version_with_another_plan_is_another_inference_service_for_they_never_change(serving, cluster, bundle):
    serving().deploy(version(1), bundle)
    serving("again", plan={"keys": {"k": "STRING"}}).deploy(version(1), bundle)
    first, second = cluster.names(INFERENCE_SERVICE)
    assert first == f"{document().name}-v1"
    assert second.startswith(f"{document().name}-v1-")
    assert backends(cluster) == [f"{second}-predictor"]


def test_a_service_of_that_name_that_serves_something_else_is_refused(serving, cluster, bundle):
    name = f"{document().name}-v1"
    cluster.create(
        INFERENCE_SERVICE,
        {"metadata": {"name": name}, "spec": {"predictor": {"model": {"storageUri": "s3://elsewhere"}}}},
    )
    with pytest.raises(ServingError, match=f"InferenceService {name} serves s3://elsewhere, and not s3://evergrow-dev"):
        serving().deploy(version(1), bundle)


@pytest.mark.parametrize(("keep", "left"), [(1, [3, 4]), (2, [3, 4]), (3, [2, 3, 4]), (9, [1, 2, 3, 4])])
def test_the_newest_versions_are_kept_and_always_the_one_to_roll_back_to(serving, cluster, bundle, keep, left):
    place = PLACE.model_copy(
        update={
            "execution": PLACE.execution.model_copy(
                update={"serving": PLACE.execution.serving.model_copy(update={"keep_versions": keep})}
            )
        }
    )
    for number in (1, 2, 3, 4):
        serving(f"pod-{number}", place=place).deploy(version(number), bundle)
    assert cluster.names(INFERENCE_SERVICE) == [f"{document().name}-v{n}" for n in left]


def test_a_version_that_did_not_go_whole_into_the_store_goes_again(serving, store, bundle):
    name = document().name
    store.write(f"serving/{name}/versions/1/bundle/model.onnx", b"half")
    serving().prepare(version(1), bundle)
    assert store.read(f"serving/{name}/versions/1/bundle/model.onnx")[0] == b"model"


def test_the_host_of_a_model_names_model_and_namespace():
    assert host(PLACE, "delays") == "delays.evergrow-dev.example.com"


def test_a_name_that_kserve_could_make_no_host_of_is_refused_with_how_much_it_is_too_long():
    place = PLACE.model_copy(update={"execution": PLACE.execution.model_copy(update={"namespace": "n" * 40})})
    assert kserve.service_name(place, "m" * 8, "1") == "mmmmmmmm-v1"
    with pytest.raises(ServingError, match=r"must be 3 characters shorter to be served in namespace n+, found 'm+'"):
        kserve.service_name(place, "m" * 11, "12")


def test_a_log_that_may_outgrow_its_volume_is_refused_before_anything_is_made(serving, cluster, bundle):
    small = PLACE.execution.serving.model_copy(update={"log_volume": "500Mi"})
    place = PLACE.model_copy(update={"execution": PLACE.execution.model_copy(update={"serving": small})})
    with pytest.raises(ServingError, match=r"limitMb: must be at most 472 in environment dev, found 512") as refused:
        serving(place=place).prepare(version(1), bundle)
    assert "logVolume (500Mi)" in refused.value.hint
    assert cluster.objects == {}
    serving().prepare(version(1), bundle)


def test_a_version_whose_pods_are_forbidden_says_so(serving, cluster, bundle):
    cluster.ready_after = float("inf")
    cluster.refusal = 'pods "delays-v1" is forbidden: violates PodSecurity'
    with pytest.raises(ServingError, match="violates PodSecurity"):
        serving().prepare(version(1), bundle)


def test_why_a_pod_does_not_run_is_told_of_init_containers_too_and_of_none_that_is_well():
    waiting = {
        "name": "storage-initializer",
        "lastState": {"terminated": {"reason": "Error", "message": "NoSuchBucket"}},
    }
    assert reasons({"status": {"initContainerStatuses": [waiting]}}) == ["storage-initializer: Error NoSuchBucket"]
    assert reasons({"status": {"containerStatuses": [{"name": "c", "state": {"running": {}}}]}}) == []
    unscheduled = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes are available: Insufficient cpu."}
    assert reasons({"status": {"conditions": [unscheduled]}}) == ["0/1 nodes are available: Insufficient cpu."]
