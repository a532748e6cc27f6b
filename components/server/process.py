"""The server's process: KServe's ModelServer with our routes, honest readiness and a drain that loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kserve.model_repository import ModelRepository
from kserve.model_server import ModelServer, app
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension

from components.server import metrics
from components.server.model import PredictionModel
from components.server.recording import Recorder
from components.server.routes import Routes
from components.server.serving_directory import ServingDirectory
from evergrow import logs
from evergrow.integrations.feast_online import OnlineReader

if TYPE_CHECKING:
    from components.server.tracing import Tracing

PROBE_SECONDS = 1.0
COLLECTOR = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Variables that name where spans are sent: OpenTelemetry's own."""

logger = logging.getLogger("evergrow.server")


@dataclass(frozen=True)
class Options:
    """How to serve.

    Attributes:
        model_dir: a serving directory.
        grpc_port: 0 for no gRPC.
        now: the instant that the server takes the present for when it starts; None for the real one.
        drain_seconds: how long to go on answering after SIGTERM, while load balancers learn that we are not ready.
        grace_seconds: how long to wait for answers under way after that.
        store_url: the online store, instead of the plan's.
        log_dir: where answered predictions are recorded, to be shipped from there; None for nowhere.
        hash_key: secret for columns that are hashed.
    """

    model_dir: Path
    host: str = "0.0.0.0"  # noqa: S104 - a container's port is published by whoever runs it
    http_port: int = 8080
    grpc_port: int = 8081
    now: datetime | None = None
    drain_seconds: float = 5.0
    grace_seconds: int = 25
    store_url: str | None = None
    log_dir: Path | None = None
    hash_key: bytes | None = None


def serve(options: Options) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ServingError: the directory cannot be served; the server was never ready.
    """
    logs.configure()
    served = ServingDirectory.load(options.model_dir)
    tracing = _tracing(served)
    context = tracing.context if tracing else dict
    logs.configure(context=context, model=served.model, version=served.version)
    offset = options.now - datetime.now(UTC) if options.now else timedelta()
    recorder = Recorder.open(options.log_dir, served, offset, options.hash_key) if options.log_dir else None
    model = (tracing.model if tracing else PredictionModel)(
        served, OnlineReader.open(served.plan, options.store_url), offset, recorder
    )
    metrics.watch_model(model.is_ready, model.feature_ages)
    server = Server(model, options, (tracing.routes if tracing else Routes)(app, model))
    server.servers.append(watch(model, options.drain_seconds))
    logger.info("serving on port %d", options.http_port)
    try:
        server.start([model])
    finally:
        if recorder is not None:
            recorder.close()
        if tracing is not None:
            tracing.close()


def _tracing(served: ServingDirectory) -> Tracing | None:
    """Of a server whose environment names a collector; to others, not even the import costs anything."""
    if not any(os.environ.get(name) for name in COLLECTOR):
        return None
    from components.server.tracing import Tracing

    return Tracing.open(served)


class HonestDataPlane(DataPlane):  # type: ignore[misc]  # KServe has no types
    """KServe's calls a server ready that has a model which is not."""

    async def ready(self) -> bool:
        """Whether every model is."""
        models = self.model_registry.get_models()
        return bool(models) and all([await model.healthy() for model in models.values()])


class Server(ModelServer):  # type: ignore[misc]  # KServe has no types
    """KServe's model server, with our routes in front of its application."""

    def __init__(self, model: PredictionModel, options: Options, routes: Routes) -> None:
        repository = ModelRepository()
        super().__init__(
            http_port=options.http_port,
            grpc_port=options.grpc_port,
            enable_grpc=options.grpc_port != 0,
            registered_models=repository,
            enable_latency_logging=False,
            grace_period=options.grace_seconds,
        )
        self.dataplane = HonestDataPlane(model_registry=repository)
        self.model_repository_extension = ModelRepositoryExtension(model_registry=repository)
        self._routes = routes
        self._host = options.host

    def register_signal_handler(self) -> None:
        """KServe calls this when its HTTP server is configured and not started yet."""
        super().register_signal_handler()
        config = self._rest_server.config
        config.app, config.host = self._routes, self._host


async def watch(model: PredictionModel, drain_seconds: float) -> None:
    """Keep readiness true to the online store until told to stop; then drain, and stop the server."""
    told = asyncio.Event()
    probing = asyncio.ensure_future(_probe(model))
    stop = await _take_signals(told)
    await told.wait()
    model.draining = True
    logger.info("draining for %g s: not ready, still answering", drain_seconds)
    await asyncio.sleep(drain_seconds)
    probing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await probing
    stop(signal.SIGTERM, None)


async def _probe(model: PredictionModel) -> None:
    while True:
        await model.probe()
        await asyncio.sleep(PROBE_SECONDS)


async def _take_signals(told: asyncio.Event) -> Callable[[int, Any], None]:
    """Have signals set `told`, and return the handler that stops the HTTP server, and KServe with it, at once.

    Uvicorn replaces KServe's handlers with its own when it starts, and stops accepting the moment it is told: callers
    that a load balancer still sends would be refused.
    """
    kserves = signal.getsignal(signal.SIGTERM)
    while signal.getsignal(signal.SIGTERM) is kserves:
        await asyncio.sleep(0.005)
    uvicorns: Any = signal.getsignal(signal.SIGTERM)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    return uvicorns  # type: ignore[no-any-return]
