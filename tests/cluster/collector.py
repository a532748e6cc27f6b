"""A collector of traces for a pod: takes OTLP by gRPC (Envoy) and by HTTP (our server), and prints a line a span."""

import json
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

METHOD = "opentelemetry.proto.collector.trace.v1.TraceService"


def told(request: ExportTraceServiceRequest) -> None:
    for resource in request.resource_spans:
        service = next((a.value.string_value for a in resource.resource.attributes if a.key == "service.name"), "")
        for scope in resource.scope_spans:
            for span in scope.spans:
                ids = {"trace": span.trace_id.hex(), "span": span.span_id.hex(), "parent": span.parent_span_id.hex()}
                print(json.dumps({"service": service, "name": span.name, **ids}), flush=True)


class Taken(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        told(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


def export(request: ExportTraceServiceRequest, _: object) -> ExportTraceServiceResponse:
    told(request)
    return ExportTraceServiceResponse()


if __name__ == "__main__":
    handler = grpc.unary_unary_rpc_method_handler(
        export, ExportTraceServiceRequest.FromString, ExportTraceServiceResponse.SerializeToString
    )
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(METHOD, {"Export": handler}),))
    server.add_insecure_port("0.0.0.0:4317")
    server.start()
    ThreadingHTTPServer(("0.0.0.0", 4318), Taken).serve_forever()
