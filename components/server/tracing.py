"""Traces of requests, where the environment names a collector: spans of OpenTelemetry, sent by OTLP over HTTP.

A request's span continues the W3C trace context that it came with, by HTTP or gRPC, and is sampled as that says; it has
two children, `features` and `model`. No span holds a value of a request or the message of an exception. Spans are sent
by a thread of their own, from a queue that drops what it has no room for: a collector that is away costs requests
nothing.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Self

from grpc import StatusCode  # type: ignore[import-untyped]
from grpc_interceptor.exceptions import GrpcException
from kserve.model import InferenceVerb
from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace import StatusCode as SpanStatus
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from components.server.model import PredictionModel
from components.server.recording import TRACEPARENT
from components.server.refusal import Refusal
from components.server.request import Row
from components.server.routes import Answer, App, Receive, Routes, Scope, Send
from components.server.serving_directory import ServingDirectory
from components.server.unanswered import AtMost
from evergrow.headers import REQUEST_ID
from evergrow.integrations.feast_online import FeatureRow

LAST_SECONDS = 2.0
"""How long a server that ends waits for its last spans to be sent."""

_CARRIED = frozenset(name.encode() for name in (TRACEPARENT, "tracestate", REQUEST_ID))
_FAULTS = (StatusCode.INTERNAL, StatusCode.UNAVAILABLE)
_propagator = TraceContextTextMapPropagator()


class Tracing:
    """Makes spans, and what makes them where requests are answered."""

    def __init__(self, provider: TracerProvider) -> None:
        self.provider = provider
        self.tracer = provider.get_tracer("evergrow.server")
        self.model = functools.partial(TracedModel, self.tracer)
        self.routes = functools.partial(TracedRoutes, self.tracer)

    @classmethod
    def open(cls, served: ServingDirectory) -> Self:
        """Of a served version; where to and which share is said by OpenTelemetry's own variables."""
        # One line for each span that finds no room would cost more than the span.
        logging.getLogger("opentelemetry.sdk._shared_internal").addFilter(AtMost(1))
        resource = Resource.create({"service.name": served.model, "service.version": served.version})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    @staticmethod
    def context() -> Mapping[str, str]:
        """What log lines say of the request that is being answered."""
        here = trace.get_current_span().get_span_context()
        if not here.is_valid:
            return {}
        return {"trace_id": trace.format_trace_id(here.trace_id), "span_id": trace.format_span_id(here.span_id)}

    def close(self) -> None:
        """Send the last spans, if the collector takes them at once."""
        ending = threading.Thread(target=self.provider.shutdown, name="last-spans", daemon=True)
        ending.start()
        ending.join(LAST_SECONDS)


class TracedRoutes(Routes):
    """Routes that make a span of each prediction."""

    def __init__(self, tracer: Tracer, app: App, model: PredictionModel) -> None:
        super().__init__(app, model)
        self._tracer = tracer

    async def _answer(self, protocol: str, answer: Answer, scope: Scope, receive: Receive, send: Send) -> int:
        carried = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _CARRIED}
        span = _begun(self._tracer, protocol, carried)
        token = attach(trace.set_span_in_context(span))
        try:
            status = await super()._answer(protocol, answer, scope, receive, send)
            if span.is_recording():
                _describe(span, scope["path"], status)
            return status
        finally:
            detach(token)
            span.end()


class TracedModel(PredictionModel):
    """A model that makes spans of its parts, and of requests that come by gRPC."""

    def __init__(self, tracer: Tracer, served: ServingDirectory, *args: Any) -> None:
        super().__init__(served, *args)
        self._tracer = tracer
        self._store = str(served.plan["store"]["type"])
        self._keys = [[key["column"] for key in group["keys"]] for group in served.plan["groups"]]

    async def __call__(
        self, body: Any, headers: dict[str, str] | None = None, verb: InferenceVerb = InferenceVerb.PREDICT
    ) -> Any:
        """KServe's own way in, which gRPC takes."""
        span = _begun(self._tracer, "grpc", headers or {})
        token = attach(trace.set_span_in_context(span))
        try:
            return await super().__call__(body, headers, verb)
        except Exception as error:
            _fail(span, error)
            raise
        finally:
            detach(token)
            span.end()

    async def _features(self, rows: Sequence[Row], now: datetime) -> list[FeatureRow]:
        if not trace.get_current_span().is_recording():
            return await super()._features(rows, now)
        about = {"db.system.name": self._store, "evergrow.rows": len(rows), "evergrow.entities": self._entities(rows)}
        with _span(self._tracer, "features", SpanKind.CLIENT, about):
            return await super()._features(rows, now)

    def _scores(self, found: Sequence[FeatureRow]) -> list[float]:
        if not trace.get_current_span().is_recording():
            return super()._scores(found)
        about = {"evergrow.rows": len(found), "evergrow.backend": self.bundle.info.backend}
        with _span(self._tracer, "model", SpanKind.INTERNAL, about):
            return super()._scores(found)

    def _entities(self, rows: Sequence[Row]) -> int:
        """How many are looked up."""
        return sum(len({tuple(row.get(column) for column in columns) for row in rows}) for columns in self._keys)


def _begun(tracer: Tracer, protocol: str, carried: Mapping[str, str]) -> Span:
    """A request's span, with what it carried for its parent. Most are not sampled, and should cost next to nothing."""
    context = _propagator.extract(carried) if TRACEPARENT in carried else None
    span = tracer.start_span("explain" if protocol == "explain" else "predict", context, SpanKind.SERVER)
    if span.is_recording():
        span.set_attribute("evergrow.protocol", protocol)
        if REQUEST_ID in carried:
            span.set_attribute("evergrow.request_id", carried[REQUEST_ID])
    return span


def _describe(span: Span, path: str, status: int) -> None:
    span.set_attributes({"http.request.method": "POST", "http.route": path, "http.response.status_code": status})
    if status >= 500:
        span.set_status(SpanStatus.ERROR)


def _fail(span: Span, error: Exception) -> None:
    """Tell the class of what was raised; its message may quote data. A caller's mistake is no fault of ours."""
    span.set_attribute("error.type", type(error).__name__)
    is_callers = isinstance(error, Refusal) and error.status < 500
    is_callers |= isinstance(error, GrpcException) and error.status_code not in _FAULTS
    if not is_callers:
        span.set_status(SpanStatus.ERROR)


@contextmanager
def _span(tracer: Tracer, name: str, kind: SpanKind, about: Mapping[str, Any]) -> Iterator[None]:
    """A span around a block."""
    with tracer.start_as_current_span(
        name, kind=kind, attributes=about, record_exception=False, set_status_on_exception=False
    ) as span:
        try:
            yield
        except Exception as error:
            _fail(span, error)
            raise
