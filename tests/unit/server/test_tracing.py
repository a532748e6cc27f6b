"""Spans of a real server process, as a collector receives them."""

import http.server
import json
import math
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from benchmarks.serving_world import free_port, row, server, serving_directory
from evergrow import logs
from tests.unit.server.test_server import EXPLAIN, PREDICT, v2
from tests.unit.server.test_what_is_logged import HEADERS, features, found_in, lines, planted, spoil

__all__ = ["features"]  # a fixture

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def parent(trace: str = TRACE, span: str = SPAN, sampled: bool = True) -> str:
    """A traceparent header."""
    return f"00-{trace}-{span}-0{int(sampled)}"


class Collector:
    """What was received, by a stand-in for an OpenTelemetry collector."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.received: list[bytes] = []

    def resources(self):
        return [r for body in self.received for r in ExportTraceServiceRequest.FromString(body).resource_spans]

    def spans(self, trace: str | None = None):
        found = [span for r in self.resources() for scope in r.scope_spans for span in scope.spans]
        return [span for span in found if trace in (None, span.trace_id.hex())]

    def wait_for(self, count: int, trace: str | None = None):
        """The spans, when so many have come."""
        deadline = time.monotonic() + 30
        while len(self.spans(trace)) < count and time.monotonic() < deadline:
            time.sleep(0.02)
        return {span.name: span for span in self.spans(trace)}


@contextmanager
def collector():
    received = Collector("")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/v1/traces"
            received.received.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        received.url = f"http://127.0.0.1:{listening.server_port}"
        yield received
        listening.shutdown()


def traced(directory, url, *arguments, **env):
    """A server that sends its spans there, soon."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_BSP_SCHEDULE_DELAY": "50", logs.FORMAT: "json", **env}
    return server(directory, *arguments, env=env)


@pytest.fixture(scope="module")
def directory(tmp_path_factory, features):
    return serving_directory(tmp_path_factory.mktemp("traced") / "serving", features)


@pytest.fixture(scope="module")
def receiving():
    with collector() as running:
        yield running


@pytest.fixture(scope="module")
def delays(directory, receiving):
    with traced(directory, receiving.url) as running:
        yield running


def attributes(span):
    """As Python values."""
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


def test_a_requests_spans_continue_the_trace_that_it_came_with(delays, receiving):
    status, answer = delays.post(PREDICT, {"instances": [row(), row(origin="JFK")]}, traceparent=parent())
    spans = receiving.wait_for(3, TRACE)
    assert (status, set(spans)) == (200, {"predict", "features", "model"})
    assert spans["predict"].parent_span_id.hex() == SPAN
    assert {spans[name].parent_span_id for name in ("features", "model")} == {spans["predict"].span_id}
    assert answer["id"] == f"{TRACE}-{SPAN}"
    whole, parts = spans["predict"], (spans["features"], spans["model"])
    for part in parts:
        assert whole.start_time_unix_nano <= part.start_time_unix_nano
        assert part.end_time_unix_nano <= whole.end_time_unix_nano


def test_spans_say_what_was_done_where(delays, receiving):
    trace = "1" * 32
    rows = [row(), row(), row(origin="JFK")]
    delays.post(PREDICT, {"instances": rows}, traceparent=parent(trace), x_request_id="mine")
    spans = receiving.wait_for(3, trace)
    assert attributes(spans["predict"]) == {
        "evergrow.protocol": "v1",
        "evergrow.request_id": "mine",
        "http.request.method": "POST",
        "http.route": PREDICT,
        "http.response.status_code": 200,
    }
    # Two origins and two routes; of planes, carriers and days one each.
    assert attributes(spans["features"]) == {"db.system.name": "sqlite", "evergrow.rows": 3, "evergrow.entities": 7}
    assert attributes(spans["model"]) == {"evergrow.rows": 3, "evergrow.backend": "onnx"}
    kinds = {name: span.kind for name, span in spans.items()}
    assert kinds == {"predict": 2, "features": 3, "model": 1}, "server, client, internal"
    about = {a.key: a.value.string_value for a in receiving.resources()[0].resource.attributes}
    assert (about["service.name"], about["service.version"]) == ("delays", "3")


def test_grpc_metadata_carry_a_trace_context_too(delays, receiving):
    trace = "2" * 32
    infer(delays, v2([row()]), parent(trace))
    spans = receiving.wait_for(3, trace)
    assert set(spans) == {"predict", "features", "model"}
    assert spans["predict"].parent_span_id.hex() == SPAN
    assert attributes(spans["predict"]) == {"evergrow.protocol": "grpc"}


def infer(running, document, traceparent):
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

    slots = {"BYTES": "bytes_contents", "FP64": "fp64_contents", "INT64": "int64_contents"}
    request = pb.ModelInferRequest(model_name="delays")
    for tensor in document["inputs"]:
        values = [v.encode() if isinstance(v, str) else v for v in tensor["data"]]
        contents = pb.InferTensorContents(**{slots[tensor["datatype"]]: values})
        request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"], contents=contents)
    with grpc.insecure_channel(f"127.0.0.1:{running.grpc}") as channel:
        stub = services.GRPCInferenceServiceStub(channel)
        return stub.ModelInfer(request, timeout=20, metadata=[("traceparent", traceparent)])


def test_a_trace_that_is_not_sampled_sends_nothing(delays, receiving):
    unsampled, sampled = "3" * 32, "4" * 32
    delays.post(PREDICT, {"instances": [row()]}, traceparent=parent(unsampled, sampled=False))
    infer(delays, v2([row()]), parent(unsampled, sampled=False))
    delays.post(PREDICT, {"instances": [row()]}, traceparent=parent(sampled))
    assert len(receiving.wait_for(3, sampled)) == 3
    assert receiving.spans(unsampled) == []


@pytest.mark.parametrize("broken", ["", "00-0-0-01", "ff-" + "5" * 32 + "-" + "5" * 16 + "-01", "x" * 600])
def test_a_trace_context_that_is_none_begins_a_trace_of_ours(delays, receiving, broken):
    before = len(receiving.spans())
    _, answer = delays.post(PREDICT, {"instances": [row()]}, traceparent=broken, x_request_id=f"broken-{len(broken)}")
    receiving.wait_for(before + 3)
    mine = [s for s in receiving.spans() if attributes(s).get("evergrow.request_id") == answer["id"]]
    assert [span.parent_span_id for span in mine] == [b""]


def test_a_refusals_line_has_its_trace_and_span(delays, receiving):
    trace = "6" * 32
    delays.post(PREDICT, {"instances": [row(distance="far")]}, traceparent=parent(trace))
    (span,) = receiving.wait_for(1, trace).values()
    told = [line for line in lines(delays.log.read_text()) if line.get("trace_id") == trace]
    assert [line["message"] for line in told] == ["refused v1: 400 value: distance"]
    assert told[0]["span_id"] == span.span_id.hex()
    assert attributes(span)["http.response.status_code"] == 400
    assert span.status.code == 0, "a caller's mistake is no fault of the server's"


def test_a_callers_mistake_by_grpc_is_no_fault_of_the_servers_either(delays, receiving):
    trace = "7" * 32
    with pytest.raises(grpc.RpcError, match="INVALID_ARGUMENT"):
        infer(delays, v2([row(distance=math.nan)]), parent(trace))
    (span,) = receiving.wait_for(1, trace).values()
    assert (attributes(span)["error.type"], span.status.code) == ("GrpcException", 0)


def test_a_share_of_none_of_the_requests_that_come_without_a_context_is_none(directory):
    with collector() as receiving:
        sampler = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
        with traced(directory, receiving.url, **sampler) as running:
            for _ in range(20):
                running.post(PREDICT, {"instances": [row()]})
            running.post(PREDICT, {"instances": [row()]}, traceparent=parent())
            receiving.wait_for(3)
        assert {span.trace_id.hex() for span in receiving.spans()} == {TRACE}


def test_spans_hold_nothing_of_what_was_asked_nor_messages_of_exceptions(tmp_path, features):
    with collector() as receiving:
        with traced(spoil(tmp_path, features), receiving.url) as running:
            for path in (PREDICT, EXPLAIN):
                assert running.post(path, {"instances": [planted(origin="EWR")]}, **HEADERS)[0] == 500
                assert running.post(path, {"instances": [planted(distance="N-planted-entity-77")]}, **HEADERS)[0] == 400
            with pytest.raises(grpc.RpcError):
                infer(running, v2([planted(origin="EWR")]), parent())
            with pytest.raises(grpc.RpcError):
                infer(running, v2([planted(distance=math.nan)]), parent())
            receiving.wait_for(9)
        sent = b"".join(receiving.received)
        failed = [span for span in receiving.spans() if span.status.code == 2]
    assert found_in(sent.decode("latin-1")) == found_in(sent.hex()) == []
    assert {attributes(span).get("error.type") for span in failed} >= {"ValueError", "GrpcException"}
    assert all(not span.events and not span.status.message for span in failed)


@pytest.mark.parametrize("answers", [False, True], ids=["refuses connections", "accepts them and says nothing"])
def test_a_collector_that_is_away_costs_requests_nothing_and_keeps_no_server_from_ending(directory, answers):
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        if answers:
            mute.listen(64)
        url = f"http://127.0.0.1:{mute.getsockname()[1] if answers else free_port()}"
        with traced(directory, url, "--drain-seconds", "0.1") as running:
            found = {running.post(PREDICT, {"instances": [row()]})[0] for _ in range(1000)}
            running.process.terminate()
            assert (found, running.process.wait(30)) == ({200}, 0)
            text = running.log.read_text()
    assert len(text.splitlines()) < 60, "more spans than there is room for were made, and not a line for each"


def test_without_a_collector_nothing_of_it_is_imported():
    code = "import sys; from components.server.__main__ import without_kserves_client; without_kserves_client()\n"
    code += "sys.argv = sys.argv[:1]; import components.server.process\n"
    code += "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
