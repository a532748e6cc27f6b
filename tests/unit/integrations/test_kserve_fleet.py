"""Servers of versions on a cluster: started from the object store, sized for a rollout and back, removed by rule."""

from __future__ import annotations

import json

import pytest
from obstore.store import MemoryStore

from evergrow.errors import ServingError
from evergrow.integrations.kserve_fleet import KServeFleet
from evergrow.integrations.kubernetes import CONTINUAL_MODEL, DEPLOYMENT, INFERENCE_SERVICE
from evergrow.integrations.labels import MANAGED_BY, MODEL, VERSION
from evergrow.integrations.object_store import ObjectStore
from tests.builders import document
from tests.unit.integrations.fake_cluster import FakeCluster
from tests.unit.integrations.test_kserve import PLACE

DELAYS = document().name


@pytest.fixture
def cluster():
    cluster = FakeCluster()
    cluster.put(CONTINUAL_MODEL, {"metadata": {"name": DELAYS}, "spec": document().dump()["spec"]})
    return cluster


@pytest.fixture
def store():
    store = ObjectStore(MemoryStore(), "s3://evergrow-dev/state")
    for directory in ("1", "2", "3", "12", "2-abcd0123"):
        about = {"model": DELAYS, "version": int(directory.partition("-")[0]), "identity": "i", "model_digest": "d"}
        store.write(f"serving/{DELAYS}/versions/{directory}/serving.json", json.dumps(about).encode())
    return store


@pytest.fixture
def fleet(cluster, store):
    return fleet_of(cluster, store)


def fleet_of(cluster, store, **serving):
    chosen = PLACE.execution.serving.model_copy(update=serving)
    place = PLACE.model_copy(update={"execution": PLACE.execution.model_copy(update={"serving": chosen})})
    return KServeFleet(place, cluster.kubernetes(), store)


def play_kserve(cluster, **ready: int) -> None:
    """Have Deployments with so many ready replicas, by the number of the version ("v1")."""
    for name, replicas in ready.items():
        status = {"readyReplicas": replicas} if replicas else {}
        cluster.put(DEPLOYMENT, {"metadata": {"name": f"{DELAYS}-{name}-predictor"}, "status": status})


def size(cluster, name: str) -> tuple[int, int]:
    predictor = cluster.get(INFERENCE_SERVICE, name)["spec"]["predictor"]
    return predictor["minReplicas"], predictor["maxReplicas"]


def names(cluster) -> list[str]:
    return [one["metadata"]["name"] for one in cluster.all(INFERENCE_SERVICE)]


def test_a_version_that_has_no_servers_is_started_from_the_store_and_belongs_to_its_model(fleet, cluster):
    fleet.ensure(DELAYS, 1, 1)
    made = cluster.get(INFERENCE_SERVICE, f"{DELAYS}-v1")
    assert made["spec"]["predictor"]["model"]["storageUri"] == f"s3://evergrow-dev/state/serving/{DELAYS}/versions/1"
    assert made["metadata"]["labels"].items() >= {MODEL: DELAYS, VERSION: "1", **MANAGED_BY}.items()
    assert made["metadata"]["annotations"]["evergrow.dev/model-digest"] == "d"
    owner = cluster.get(CONTINUAL_MODEL, DELAYS)["metadata"]["uid"]
    assert [one["uid"] for one in made["metadata"]["ownerReferences"]] == [owner]


def test_what_was_published_last_of_a_version_is_started(fleet, cluster):
    fleet.ensure(DELAYS, 2, 1)
    assert names(cluster) == [f"{DELAYS}-v2-abcd0123"]


def test_a_version_that_is_not_in_the_store_cannot_be_started_and_what_is_there_is_told(fleet):
    with pytest.raises(ServingError, match=r"version 9 is not in s3://.*/versions, found \['1', '12', '2', .*'3'\]"):
        fleet.ensure(DELAYS, 9, 1)


def test_a_version_of_a_model_without_a_document_cannot_be_started(fleet, cluster):
    cluster.remove(CONTINUAL_MODEL, DELAYS)
    with pytest.raises(ServingError, match="there is no ContinualModel named delays"):
        fleet.ensure(DELAYS, 1, 1)


def test_replicas_are_raised_and_never_lowered_and_the_same_again_is_no_write(fleet, cluster):
    fleet.ensure(DELAYS, 1, 2)
    assert size(cluster, f"{DELAYS}-v1") == (2, 3)
    fleet.ensure(DELAYS, 1, 5)
    assert size(cluster, f"{DELAYS}-v1") == (5, 5)
    before = len(cluster.asked)
    fleet.ensure(DELAYS, 1, 5)
    fleet.ensure(DELAYS, 1, 1)
    assert size(cluster, f"{DELAYS}-v1") == (5, 5)
    assert {method for method, _ in cluster.asked[before:]} == {"GET"}


def test_ready_are_the_replicas_that_are_whatever_else_the_service_waits_for(fleet, cluster):
    for version in (1, 3, 12):
        fleet.ensure(DELAYS, version, 1)
    play_kserve(cluster, v1=2, v3=0)
    assert fleet.ready(DELAYS) == {1: 2}
    assert fleet.ready("others") == {}


def test_only_the_versions_that_are_needed_and_the_newest_that_are_kept_stay(cluster, store):
    fleet = fleet_of(cluster, store, keep_versions=2)
    for version in (1, 2, 3, 12):
        fleet.ensure(DELAYS, version, 1)
        cluster.seconds += 1
    other = {"metadata": {"name": "by-hand", "labels": {MODEL: DELAYS, VERSION: "7"}}, "spec": {"predictor": {}}}
    cluster.put(INFERENCE_SERVICE, other)
    fleet.keep(DELAYS, frozenset({1}))
    assert sorted(names(cluster)) == ["by-hand", f"{DELAYS}-v1", f"{DELAYS}-v12"]
    fleet.keep(DELAYS, frozenset({1, 12}))
    assert sorted(names(cluster)) == ["by-hand", f"{DELAYS}-v1", f"{DELAYS}-v12"]


def test_none_is_kept_beyond_what_is_needed_where_the_environment_keeps_one(cluster, store):
    fleet = fleet_of(cluster, store, keep_versions=1)
    for version in (1, 3):
        fleet.ensure(DELAYS, version, 1)
    fleet.keep(DELAYS, frozenset({1}))
    assert names(cluster) == [f"{DELAYS}-v1"]


def test_those_that_stay_have_their_usual_size_again(fleet, cluster):
    fleet.ensure(DELAYS, 1, 4)
    fleet.ensure(DELAYS, 3, 1)
    fleet.keep(DELAYS, frozenset({1, 3}))
    assert size(cluster, f"{DELAYS}-v1") == size(cluster, f"{DELAYS}-v3") == (1, 3)
    before = len(cluster.asked)
    fleet.keep(DELAYS, frozenset({1, 3}))
    assert {method for method, _ in cluster.asked[before:]} == {"GET"}


def test_one_that_is_being_removed_is_no_server_any_more_and_is_waited_for(fleet, cluster):
    fleet.ensure(DELAYS, 1, 1)
    play_kserve(cluster, v1=1)
    found = cluster.get(INFERENCE_SERVICE, f"{DELAYS}-v1")
    found["metadata"]["finalizers"] = ["inferenceservice.finalizers"]
    cluster.put(INFERENCE_SERVICE, found)
    cluster.remove(INFERENCE_SERVICE, f"{DELAYS}-v1")
    assert fleet.ready(DELAYS) == {}
    with pytest.raises(ServingError, match="is being deleted") as refused:
        fleet.ensure(DELAYS, 1, 1)
    assert refused.value.retriable
