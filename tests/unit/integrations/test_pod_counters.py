"""Requests and errors as servers count them: cumulative since an attempt began, whatever becomes of pods."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evergrow.integrations.kubernetes import POD
from evergrow.integrations.labels import MODEL, VERSION
from evergrow.integrations.pod_counters import Counts, PodCounters, counted
from tests.unit.integrations.kubernetes_twin import KubernetesTwin

BEGAN = datetime(2026, 1, 1, 0, 10, tzinfo=UTC)
TEXT = """# HELP evergrow_requests_total Requests answered, by protocol and HTTP status.
# TYPE evergrow_requests_total counter
evergrow_requests_total{protocol="v1",code="200"} 10.0
evergrow_requests_total{code="503",protocol="v2"} 2.0
evergrow_requests_total{protocol="grpc",code="422"} 1.0
evergrow_requests_created{protocol="v1",code="200"} 1.7e+09
evergrow_refusals_total{reason="schema"} 5.0
"""


class Pods:
    """Pods with counters that go up, and what is read of them."""

    def __init__(self) -> None:
        self.cluster, self.counts = KubernetesTwin(), {}
        self.counters = PodCounters(self.cluster, self.scrape)

    def start(self, name: str, version: int, is_older: bool = False) -> None:
        metadata = {
            "name": name,
            "uid": name,
            "labels": {MODEL: "delays", VERSION: str(version)},
            "creationTimestamp": "2026-01-01T00:00:00Z" if is_older else "2026-01-01T00:20:00Z",
        }
        status = {"phase": "Running", "podIP": name}
        self.cluster.objects[POD.name, name] = {"metadata": metadata, "status": status}
        self.counts[name] = (0, 0)

    def restart(self, name: str, restarts: int = 1) -> None:
        server = {"name": "kserve-container", "restartCount": restarts}
        server["state"] = {"running": {"startedAt": "2026-01-01T00:30:00Z"}}
        self.cluster.objects[POD.name, name]["status"]["containerStatuses"] = [server]
        self.counts[name] = (0, 0)

    def answer(self, name: str, requests: int, errors: int = 0) -> None:
        had = self.counts[name]
        self.counts[name] = (had[0] + requests, had[1] + errors)

    def stop(self, name: str) -> None:
        del self.cluster.objects[POD.name, name], self.counts[name]

    def scrape(self, url: str) -> str:
        name = url.removeprefix("http://").partition(":")[0]
        requests, errors = self.counts[name]
        if requests < 0:
            raise TimeoutError
        return (
            f'evergrow_requests_total{{protocol="v2",code="200"}} {requests - errors}.0\n'
            f'evergrow_requests_total{{protocol="v2",code="500"}} {errors}.0\n'
        )

    def read(self, attempt: str = "a"):
        return dict(self.counters.read("delays", attempt, BEGAN))


@pytest.fixture
def pods():
    return Pods()


def test_all_answers_are_requests_and_those_from_500_are_errors():
    assert counted(TEXT) == Counts(13, 2)
    assert counted("") == Counts(0, 0)


def test_pods_of_a_version_are_added_up(pods):
    for name, version in (("x", 1), ("y", 2), ("z", 2)):
        pods.start(name, version)
        pods.answer(name, 100 * version, 3)
    assert pods.read() == {1: (100, 3), 2: (400, 6)}


def test_what_an_older_pod_had_counted_before_is_left_out(pods):
    pods.start("old", 1, is_older=True)
    pods.answer("old", 5000, 50)
    assert pods.read() == {1: (0, 0)}
    pods.answer("old", 10, 1)
    assert pods.read() == {1: (10, 1)}


def test_a_pod_that_is_gone_still_counts(pods):
    pods.start("x", 2)
    pods.answer("x", 100, 5)
    pods.read()
    pods.stop("x")
    pods.start("y", 2)
    pods.answer("y", 1)
    assert pods.read() == {2: (101, 5)}


def test_a_server_that_begins_anew_in_its_pod_loses_nothing(pods):
    pods.start("old", 1, is_older=True)
    pods.answer("old", 1000, 10)
    pods.read()
    pods.answer("old", 100, 1)
    pods.read()
    pods.restart("old")
    pods.answer("old", 2000, 2)
    assert pods.read() == {1: (2100, 3)}


def test_a_server_that_begins_anew_before_its_pod_says_so_loses_nothing(pods):
    pods.start("x", 2)
    pods.answer("x", 100, 1)
    pods.read()
    pods.counts["x"] = (3, 0)
    assert pods.read() == {2: (100, 1)}
    pods.restart("x")
    pods.answer("x", 4)
    assert pods.read() == {2: (104, 1)}


def test_a_pod_that_does_not_answer_has_what_it_had(pods):
    pods.start("x", 2)
    pods.answer("x", 100, 5)
    pods.read()
    pods.counts["x"] = (-1, 0)
    assert pods.read() == {2: (100, 5)}


def test_another_attempt_begins_at_its_own_beginning(pods):
    pods.start("old", 1, is_older=True)
    pods.read("a")
    pods.answer("old", 10)
    assert pods.read("a") == {1: (10, 0)}
    assert pods.read("b") == {1: (0, 0)}


def test_pods_that_are_not_up_or_of_no_version_are_not_asked(pods):
    for name, change in (("pending", {"phase": "Pending"}), ("homeless", {"podIP": None})):
        pods.start(name, 1)
        pods.cluster.objects[POD.name, name]["status"] |= change
        pods.answer(name, 9)
    pods.start("step", 1)
    del pods.cluster.objects[POD.name, "step"]["metadata"]["labels"][VERSION]
    assert pods.read() == {}


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.sampled_from(("go on", "restart", "replace")))))
def test_nothing_is_counted_twice_and_what_was_read_is_never_lost(steps):
    pods, total = Pods(), {}
    for version in range(3):
        pods.start(f"{version}-0", version)
    for turn, (version, requests, then) in enumerate(steps, start=1):
        (name,) = [name for name in pods.counts if name.startswith(f"{version}-")]
        pods.answer(name, requests)
        total[version] = total.get(version, 0) + requests
        assert pods.read() == {v: (total.get(v, 0), 0) for v in range(3)}
        if then == "restart":
            pods.restart(name, turn)
            pods.read()
        elif then == "replace":
            pods.stop(name)
            pods.start(f"{version}-{turn}", version)
