"""A real server process over loopback, on Feast's SQLite and Redis layouts."""

import http.client
import json
import math
import signal
import socket
import subprocess
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.serving_world import NOW, feature_store, redis_server, row, server, serving_directory
from components.server.serving_directory import ServingDirectory
from evergrow.integrations.feast_online import OnlineReader, plan

PREDICT, EXPLAIN, INFER = "/v1/models/delays:predict", "/v1/models/delays:explain", "/v2/models/delays/infer"


@pytest.fixture(scope="module")
def sqlite_directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sqlite")
    store = feature_store(folder / "repo", {"type": "sqlite", "path": str(folder / "online.db")})
    return serving_directory(folder / "serving", plan(store, "flights_v1"))


@pytest.fixture(scope="module")
def delays(sqlite_directory):
    with server(sqlite_directory) as running:
        yield running


@pytest.fixture(scope="module")
def oracle(sqlite_directory):
    """The same answer without a server: reader and bundle called in this process."""
    served = ServingDirectory.load(sqlite_directory)
    reader = OnlineReader.open(served.plan)

    def answer(rows):
        found = reader.read(rows, NOW)
        return served.bundle.predict(served.bundle.vector([f.values for f in found])).tolist(), found

    return answer


def v2(rows, **changes):
    kinds = {"origin": "BYTES", "dest": "BYTES", "tailnum": "BYTES", "carrier": "INT64", "departs": "BYTES"}
    kinds |= {"distance": "FP64", "passengers": "INT64"}
    inputs = [
        {"name": name, "shape": [len(rows)], "datatype": kind, "data": [r[name] for r in rows]}
        for name, kind in kinds.items()
    ]
    return {"inputs": inputs, **changes}


# -- predictions -------------------------------------------------------------------------------------------------------


def test_v1_answers_each_row_with_score_and_flags_in_order(delays, oracle):
    rows = [row(), row(origin="Zürich", tailnum=None), row(carrier=99)]
    status, answer = delays.post(PREDICT, {"instances": rows})
    scores, found = oracle(rows)
    assert status == 200
    assert answer["predictions"] == pytest.approx(scores, abs=1e-9)
    assert answer["flags"] == [list(f.flags) for f in found]
    assert answer["flags"][0] == []
    assert answer["flags"][2] == ["unknown:carrier"]
    assert (answer["model_name"], answer["model_version"], len(answer["id"])) == ("delays", "3", 32)


def test_v2_answers_the_same_scores_as_doubles_with_the_callers_id(delays):
    rows = [row(), row(origin="Zürich", tailnum=None)]
    _, v1 = delays.post(PREDICT, {"instances": rows})
    status, answer = delays.post(INFER, v2(rows, id="mine"))
    score, flags = answer["outputs"]
    assert (status, answer["id"], answer["model_version"]) == (200, "mine", "3")
    assert (score["datatype"], score["shape"], score["data"]) == ("FP64", [2], v1["predictions"])
    assert (flags["datatype"], flags["data"]) == ("BYTES", [",".join(f) for f in v1["flags"]])


def test_grpc_answers_the_same_scores(delays):
    rows = [row(), row(origin="LGA", carrier=99)]
    _, v1 = delays.post(PREDICT, {"instances": rows})
    response = infer_over_grpc(delays, v2(rows, id="g"))
    assert (response.id, response.model_version) == ("g", "3")
    assert list(response.outputs[0].contents.fp64_contents) == v1["predictions"]
    assert [b.decode() for b in response.outputs[1].contents.bytes_contents] == [",".join(f) for f in v1["flags"]]


def test_grpc_raw_contents_are_read_too(delays):
    import numpy as np
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

    kinds = {"origin": "BYTES", "dest": "BYTES", "tailnum": "BYTES", "departs": "BYTES", "carrier": "INT64"}
    request = pb.ModelInferRequest(model_name="delays")
    for name, kind in {**kinds, "distance": "FP64", "passengers": "INT64"}.items():
        request.inputs.add(name=name, datatype=kind, shape=[1])
        value = row()[name]
        raw = len(value).to_bytes(4, "little") + value.encode() if kind == "BYTES" else None
        raw = raw or np.array([value], dtype="<f8" if kind == "FP64" else "<i8").tobytes()
        request.raw_input_contents.append(raw)
    _, v1 = delays.post(PREDICT, {"instances": [row()]})
    response = call_grpc(delays, request)
    assert response.outputs[0].name == "score"
    found = response.raw_output_contents or [b""]
    values = list(response.outputs[0].contents.fp64_contents) or np.frombuffer(found[0]).tolist()
    assert values == v1["predictions"]


def test_an_explanation_adds_up_from_the_base_to_the_prediction(delays):
    _, predicted = delays.post(PREDICT, {"instances": [row(), row(origin="JFK")]})
    status, answer = delays.post(EXPLAIN, {"instances": [row(), row(origin="JFK")]})
    assert status == 200
    for explained, score in zip(answer["explanations"], predicted["predictions"], strict=True):
        assert explained["prediction"] == score
        assert explained["base"] + math.fsum(explained["attributions"].values()) == pytest.approx(score, abs=1e-6)
        assert "temperature" in explained["attributions"]


def test_a_request_id_in_the_header_is_answered_back(delays):
    assert delays.post(PREDICT, {"instances": [row()]}, x_request_id="abc-1")[1]["id"] == "abc-1"
    assert delays.post(PREDICT, {"instances": [row()]}, x_request_id="a" * 500)[1]["id"] != "a" * 500


def test_metadata_names_the_fields_that_a_request_must_have(delays):
    answer = json.loads(delays.ask("GET", "/v2/models/delays")[2])
    assert {i["name"]: i["datatype"] for i in answer["inputs"]} == {
        "origin": "BYTES",
        "dest": "BYTES",
        "tailnum": "BYTES",
        "carrier": "INT64",
        "departs": "BYTES",
        "distance": "FP64",
        "passengers": "FP64",
    }
    assert [o["name"] for o in answer["outputs"]] == ["score", "flags"]


# -- every bad request -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "document", "status", "message"),
    [
        (PREDICT, {"instances": []}, 400, "instances: must have at least one row"),
        (PREDICT, {"instances": [row()] * 51}, 413, "at most 50 rows (`serving.maxBatch`), found 51"),
        (PREDICT, {"instances": [row(distance="far")]}, 400, "instances[0].distance: must be a number, found 'far'"),
        (PREDICT, {"instances": [row(), row(departs="now")]}, 400, "instances[1]: departure of"),
        (PREDICT, {"instances": [{"origin": "EWR"}]}, 400, "instances[0]: field 'tailnum' is required"),
        (PREDICT, {"instances": [row(tail_num=1)]}, 400, "did you mean"),
        (EXPLAIN, {"instances": [row(carrier=None, distance=[])]}, 400, "instances[0].distance: must be a number"),
        (INFER, {"inputs": []}, 400, "field 'origin' is required"),
        (INFER, {"instances": [row()]}, 400, "inputs: must be a list of tensors"),
        (INFER, v2([row(distance="far")]), 400, "input distance, row 0: must be a number, found 'far'"),
        ("/v1/models/other:predict", {}, 404, "model 'other' is not served here; this server answers for 'delays'"),
        ("/v2/models/other/infer", {}, 404, "model 'other' is not served here"),
        ("/v2/models/delays/versions/2/infer", {}, 404, "version '2' is not served here; it is '3'"),
        ("/v2/repository/models/delays/unload", {}, 403, "models are loaded and unloaded by deploying them"),
    ],
)
def test_a_bad_request_is_answered_with_its_fault_and_how_to_mend_it(delays, path, document, status, message):
    found, answer = delays.post(path, document)
    assert (found, message in answer["error"]) == (status, True), answer


@pytest.mark.parametrize(
    ("body", "content_type", "status", "message"),
    [
        (b"", "application/json", 400, "body: must be JSON, found nothing"),
        (b'{"instances": [', "application/json", 400, "body: must be JSON"),
        (b'{"instances": [{"distance": NaN}]}', "application/json", 400, "JSON has no NaN or Infinity, send null"),
        (b'{"instances": [{"distance": -Infinity}]}', "application/json", 400, "JSON has no NaN or Infinity"),
        (b"[" * 100_000, "application/json", 400, "body: must be JSON"),
        (b'{"a":' * 1000 + b"1" + b"}" * 1000, "application/json", 400, "body: unknown key 'a'"),
        (b'"\xff"', "application/json", 400, "body: must be JSON"),
        (b"origin=EWR", "application/x-www-form-urlencoded", 415, "content-type: must be application/json"),
        (b"\x00", "application/octet-stream", 415, "content-type: must be application/json"),
    ],
)
@pytest.mark.parametrize("path", [PREDICT, EXPLAIN, INFER])
def test_a_body_that_is_no_json_object_is_refused(delays, path, body, content_type, status, message):
    if path == INFER and "unknown key" in message:
        message = "inputs: must be a list"
    found, _, answer = delays.ask("POST", path, body, content_type=content_type)
    assert (found, message in json.loads(answer)["error"]) == (status, True), answer


def test_json_with_a_charset_is_json(delays):
    body = json.dumps({"instances": [row()]}).encode()
    assert delays.ask("POST", PREDICT, body, content_type="application/json; charset=utf-8")[0] == 200


def test_a_compressed_body_is_refused(delays):
    found, _, answer = delays.ask("POST", PREDICT, b"x", content_type="application/json", content_encoding="gzip")
    assert (found, "content-encoding: must be absent" in json.loads(answer)["error"]) == (415, True)


@pytest.mark.parametrize("path", [PREDICT, INFER, "/v2/models/other/infer"])
def test_ten_megabytes_are_refused_and_the_caller_can_read_why(delays, path):
    found, headers, answer = delays.ask("POST", path, b"[" + b" " * 10_000_000, content_type="application/json")
    assert found == (404 if "other" in path else 413)
    if found == 413:
        assert "body: must be at most 1,048,576 bytes, found 10,000,001" in json.loads(answer)["error"]
        assert headers["connection"] == "close"


def test_ten_megabytes_in_chunks_are_refused_too(delays):
    connection = http.client.HTTPConnection("127.0.0.1", delays.port, timeout=30)
    pieces = (b" " * 100_000 for _ in range(100))
    connection.request("POST", PREDICT, pieces, {"content-type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413


def test_a_body_that_never_ends_is_answered_in_bounded_time(sqlite_directory):
    with (
        server(sqlite_directory) as running,
        socket.create_connection(("127.0.0.1", running.port), timeout=20) as slow,
    ):
        slow.sendall(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n".encode() + b'{"inst')
        time.sleep(0.2)
        slow.sendall(b"a")
        assert b" 408 " in slow.recv(65536)


def test_a_prediction_must_be_posted(delays):
    assert delays.ask("GET", PREDICT)[0] == 405
    assert delays.ask("PUT", INFER, b"{}", content_type="application/json")[0] == 405


def test_grpc_refusals_have_the_status_and_the_message(delays):
    import grpc

    with pytest.raises(grpc.RpcError) as caught:
        infer_over_grpc(delays, v2([row()])["inputs"][1:])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "field 'origin' is required" in caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        infer_over_grpc(delays, v2([row(distance=math.nan)]))
    assert "row 0: must be a finite number" in caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        infer_over_grpc(delays, v2([row()]), model="other")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
documents = st.recursive(scalars, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(), x, max_size=3))
instances = st.fixed_dictionaries({name: st.just(value) | documents for name, value in row().items()})


@given(documents | st.fixed_dictionaries({"instances": st.lists(instances, max_size=3)}))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_is_posted_is_answered_with_a_prediction_or_a_fault_of_the_callers(delays, document):
    for path in (PREDICT, INFER):
        status, answer = delays.post(path, document)
        assert status in (200, 400, 413), (status, answer)
        assert ("predictions" in answer) == (status == 200 and path == PREDICT)


@given(st.binary(max_size=200))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_bytes_are_posted_are_refused(delays, body):
    status, _, answer = delays.ask("POST", PREDICT, body, content_type="application/json")
    assert (status, "error" in json.loads(answer)) == (400, True)


# -- what is missing ---------------------------------------------------------------------------------------------------


def test_on_missing_reject_refuses_what_flag_would_have_flagged(tmp_path, sqlite_directory):
    features = json.loads((sqlite_directory / "features.json").read_text())
    with server(serving_directory(tmp_path / "serving", features, on_missing="reject"), "--grpc-port", "0") as strict:
        assert strict.post(PREDICT, {"instances": [row()]})[0] == 200
        status, answer = strict.post(PREDICT, {"instances": [row(), row(tailnum="N99", carrier=None)]})
        assert status == 422
        assert "instances[1]: " in answer["error"]
        assert "unknown:tailnum" in answer["error"]
        assert "missing:carrier" in answer["error"]


def test_at_a_later_instant_the_same_values_are_stale(sqlite_directory):
    with server(sqlite_directory, "--now", "2013-07-02T12:00Z", now=None) as later:
        _, answer = later.post(PREDICT, {"instances": [row()]})
        assert {"stale:origin_delays", "stale:weather"} <= set(answer["flags"][0])


# -- ready or not ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"), [("/v2/health/ready", 200), ("/v2/models/delays/ready", 200), ("/v1/models/delays", 200)]
)
def test_a_healthy_server_is_ready_everywhere(delays, path, status):
    assert delays.ask("GET", path)[0] == status


@pytest.mark.parametrize("broken", ["golden", "features.json", "bundle/model.onnx", "serving.json"])
def test_a_directory_that_cannot_be_served_ends_the_process_before_it_was_ready(tmp_path, sqlite_directory, broken):
    features = json.loads((sqlite_directory / "features.json").read_text())
    directory = serving_directory(tmp_path / "serving", features)
    if broken == "golden":
        path = directory / "bundle" / "golden.json"
        golden = json.loads(path.read_text())
        golden["scores"][2] += 0.01
        path.write_text(json.dumps(golden))
    else:
        (directory / broken).write_text("{")
    with server(directory, ready=False) as running:
        assert running.process.wait(30) == 7
        log = running.log.read_text()
    expected = "golden row 2 must score" if broken == "golden" else broken.rpartition("/")[2]
    assert expected in log
    assert "Traceback" not in log


def test_without_its_redis_the_server_says_503_is_not_ready_and_recovers(tmp_path):
    with redis_server(tmp_path / "first") as port:
        online = {"type": "redis", "connection_string": f"127.0.0.1:{port}"}
        directory = serving_directory(tmp_path / "serving", plan(feature_store(tmp_path / "a", online), "flights_v1"))
        with server(directory) as running:
            ready = running.post(PREDICT, {"instances": [row()]})
            assert ready[0] == 200
            subprocess.run(["redis-cli", "-p", str(port), "shutdown", "nosave"], check=True, capture_output=True)
            started = time.monotonic()
            status, headers, answer = running.ask(
                "POST", PREDICT, json.dumps({"instances": [row()]}).encode(), content_type="application/json"
            )
            assert time.monotonic() - started < 10
            assert (status, headers["retry-after"]) == (503, "1")
            assert f"redis at 127.0.0.1:{port}/0" in json.loads(answer)["error"]
            running.wait_until(lambda: running.ask("GET", "/v2/health/ready")[0] == 503)
            assert running.log.read_text().count("not ready until it is back") == 1
            with pytest.raises(Exception, match="UNAVAILABLE"):
                infer_over_grpc(running, v2([row()]))
            with redis_server(tmp_path / "second", port):
                feature_store(tmp_path / "b", online)
                running.wait_until_ready()
                assert running.post(PREDICT, {"instances": [row()]})[1]["predictions"] == ready[1]["predictions"]


def test_a_server_that_starts_before_its_store_is_there_waits_for_it(tmp_path, sqlite_directory):
    features = json.loads((sqlite_directory / "features.json").read_text())
    directory = serving_directory(tmp_path / "serving", features)
    late = tmp_path / "late.db"
    with server(directory, env={"EVERGROW_ONLINE_STORE": f"sqlite://{late}"}, ready=False) as running:
        running.wait_until(lambda: running.log.exists() and reachable(running))
        assert running.ask("GET", "/v2/health/ready")[0] == 503
        late.write_bytes(pathlib_read(features["store"]["path"]))
        running.wait_until_ready()
        assert running.post(PREDICT, {"instances": [row()]})[0] == 200


def reachable(running) -> bool:
    try:
        return running.ask("GET", "/v2/health/live")[0] == 200
    except OSError:
        return False


def pathlib_read(path: str) -> bytes:
    from pathlib import Path

    return Path(path).read_bytes()


# -- the end -----------------------------------------------------------------------------------------------------------


def test_sigterm_under_load_fails_no_request_and_ends_with_0(sqlite_directory):
    """Behind a load balancer that probes readiness every second: till it notices, requests keep coming."""
    with server(sqlite_directory, "--drain-seconds", "4") as running:
        body = json.dumps({"instances": [row()]}).encode()
        answered, failed, noticed = [], [], threading.Event()

        def client(keeps: bool):
            connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=20)
            while not noticed.is_set():
                try:
                    connection.request("POST", PREDICT, body, {"content-type": "application/json"})
                    response = connection.getresponse()
                    answered.append((response.status, len(response.read())))
                except OSError as error:
                    failed.append(repr(error))
                    return
                if not keeps:
                    connection.close()

        clients = [threading.Thread(target=client, args=[number % 2 == 0]) for number in range(16)]
        for thread in clients:
            thread.start()
        running.wait_until(lambda: len(answered) > 500)
        before = len(answered)
        running.process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        assert not running.ready()
        noticed.set()
        for thread in clients:
            thread.join(20)
        assert running.process.wait(20) == 0
        assert failed == []
        assert {status for status, _ in answered} == {200}
        assert len(answered) >= before + 16


def test_after_sigterm_the_server_is_not_ready_but_answers_until_the_drain_is_over(sqlite_directory):
    with server(sqlite_directory, "--drain-seconds", "3") as running:
        running.process.send_signal(signal.SIGTERM)
        running.wait_until(lambda: running.ask("GET", "/v2/health/ready")[0] == 503)
        assert running.post(PREDICT, {"instances": [row()]})[0] == 200
        assert list(infer_over_grpc(running, v2([row()])).outputs)
        assert running.process.wait(20) == 0


def test_a_request_under_way_at_the_end_of_the_drain_is_answered(sqlite_directory):
    with server(sqlite_directory, "--drain-seconds", "0.2") as running:
        body = json.dumps({"instances": [row()]}).encode()
        with socket.create_connection(("127.0.0.1", running.port), timeout=20) as slow:
            head = f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            slow.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body[:10])
            time.sleep(0.2)
            running.process.send_signal(signal.SIGTERM)
            time.sleep(1.0)
            slow.sendall(body[10:])
            assert b" 200 " in slow.recv(65536)
        assert running.process.wait(20) == 0


# -- metrics -----------------------------------------------------------------------------------------------------------


def test_metrics_count_requests_rows_and_flags(delays):
    def metric(name):
        text = delays.ask("GET", "/metrics")[2].decode()
        return float(next((line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")), 0))

    names = {
        'evergrow_requests_total{code="200",protocol="v1"}': 1,
        'evergrow_requests_total{code="400",protocol="v1"}': 1,
        "evergrow_rows_total": 2,
        'evergrow_flags_total{kind="unknown",name="tailnum"}': 1,
        'evergrow_flags_total{kind="unknown",name="carrier"}': 1,
        'evergrow_refusals_total{reason="empty"}': 1,
        'evergrow_request_seconds_count{part="total"}': 1,
    }
    before = {name: metric(name) for name in names}
    delays.post(PREDICT, {"instances": [row(), row(tailnum="N99", carrier=99)]})
    delays.post(PREDICT, {"instances": []})
    assert {name: metric(name) - before[name] for name in names} == names
    assert metric('evergrow_model_info{backend="onnx",model="delays",version="3"}') == 1
    assert metric("evergrow_online_store_up") == 1
    assert metric("evergrow_ready") == 1
    delays.post(PREDICT, {"instances": [row()]})
    assert metric('evergrow_feature_age_seconds{view="weather"}') == pytest.approx(1800, abs=600)


# -- gRPC --------------------------------------------------------------------------------------------------------------


def infer_over_grpc(running, document, model="delays", **said):
    from kserve.protocol.grpc import grpc_predict_v2_pb2 as pb

    slots = {"BYTES": "bytes_contents", "FP64": "fp64_contents", "INT64": "int64_contents"}
    inputs = document["inputs"] if isinstance(document, dict) else document
    request = pb.ModelInferRequest(model_name=model, id=document.get("id", "") if isinstance(document, dict) else "")
    for tensor in inputs:
        values = [v.encode() if isinstance(v, str) else v for v in tensor["data"]]
        contents = pb.InferTensorContents(**{slots[tensor["datatype"]]: values})
        request.inputs.add(name=tensor["name"], datatype=tensor["datatype"], shape=tensor["shape"], contents=contents)
    return call_grpc(running, request, **said)


def call_grpc(running, request, **said):
    import grpc
    from kserve.protocol.grpc import grpc_predict_v2_pb2_grpc as services

    with grpc.insecure_channel(f"127.0.0.1:{running.grpc}") as channel:
        metadata = [(name.replace("_", "-"), value) for name, value in said.items()]
        return services.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20, metadata=metadata)
