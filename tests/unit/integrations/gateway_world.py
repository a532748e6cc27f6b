"""Servers for a gateway to stand before: they say which version they are, and remember what they were asked."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from evergrow.integrations.envoy_config import Backend

PREDICT = "/v1/models/delays:predict"
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # An answer in one packet: the kernel holds back the second of two.
    wbufsize = -1

    def body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


class Listening(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        """A caller that hangs up is no news."""


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler], port: int = 0):
    with Listening(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server.server_port
        server.shutdown()


class Version:
    """A server of one version.

    Attributes:
        asked: headers of what it was asked over HTTP (names in lower case), with `:path`; over gRPC the metadata.
        seconds: that it takes to answer.
        status: that it answers with; None to hang up instead.
        grpc_status: that it answers with over gRPC; None for a success.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked: list[dict[str, str]] = []
        self.http_port = self.grpc_port = 0
        self.seconds, self.status, self.grpc_status = 0.0, 200, None

    @property
    def backend(self) -> Backend:
        return Backend(http_port=self.http_port, grpc_port=self.grpc_port)

    def forget(self) -> None:
        self.asked.clear()
        self.seconds, self.status, self.grpc_status = 0.0, 200, None

    @contextmanager
    def serving(self, port: int = 0):
        version = self

        class Answers(Handler):
            def do_POST(self) -> None:
                self.body()
                version.asked.append({**{k.lower(): v for k, v in self.headers.items()}, ":path": self.path})
                time.sleep(version.seconds)
                if version.status is None:
                    self.close_connection = True
                else:
                    self.answer(version.status, json.dumps({"version": version.number}).encode())

        with listening(Answers, port) as self.http_port:
            yield self

    @contextmanager
    def serving_grpc(self):
        def infer(_: bytes, context: Any) -> bytes:
            self.asked.append(dict(context.invocation_metadata()))
            if self.grpc_status is not None:
                context.abort(self.grpc_status, "no")
            return str(self.number).encode()

        service, method = INFER[1:].split("/")
        handlers = {method: grpc.unary_unary_rpc_method_handler(infer)}
        server = grpc.server(ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self.grpc_port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield self
        server.stop(None)


class Caller:
    """A client with one connection that it keeps.

    Attributes:
        connections: how many it needed.
    """

    def __init__(self, port: int) -> None:
        self.connections = 0
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)

    def ask(self, path: str = PREDICT, body: bytes = b"{}", **headers: str) -> tuple[int, Any]:
        """Status, and what the JSON of the answer says: the version, or the error."""
        self.connections += self._connection.sock is None
        self._connection.request("POST", path, body, {k.replace("_", "-"): v for k, v in headers.items()})
        answer = self._connection.getresponse()
        return answer.status, next(iter(json.loads(answer.read()).values()))

    def versions(self, requests: int) -> list[int]:
        """Who answered each of so many requests, all well."""
        answers = [self.ask() for _ in range(requests)]
        assert {status for status, _ in answers} == {200}
        return [version for _, version in answers]

    def assigned(self, entities: Iterable[str]) -> dict[str, int]:
        """Who answered for each."""
        return {entity: self.ask(x_evergrow_entity=entity)[1] for entity in entities}


class Spans:
    """A collector: what was sent to it."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    @contextmanager
    def collecting(self):
        spans = self

        class Takes(Handler):
            def do_POST(self) -> None:
                spans.bodies.append(self.body())
                self.answer(200, b"")

        with listening(Takes) as port:
            yield f"http://127.0.0.1:{port}"

    def resources(self):
        return [r for body in self.bodies for r in ExportTraceServiceRequest.FromString(body).resource_spans]

    def of(self, trace: str):
        found = [span for r in self.resources() for scope in r.scope_spans for span in scope.spans]
        return [span for span in found if span.trace_id.hex() == trace]


def until(holds, seconds: float = 20.0) -> None:
    """Return when it holds."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.005)
