"""What is asked of the operator from outside: /healthz and /metrics."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import ThreadingWSGIServer

from components.operator.watch import FRUITLESS, PHASE
from components.operator.work_queue import WorkQueue
from evergrow.integrations.kubernetes import CONTINUAL_MODEL, MODEL_ROLLOUT
from evergrow.integrations.kubernetes_cache import CachedKubernetes
from evergrow.integrations.labels import MODEL


def serve(port: int, registry: CollectorRegistry, trouble: Callable[[], str]) -> ThreadingWSGIServer:
    """Answer in threads of their own; returns the server.

    Args:
        port: to listen on; 0 for one that is free.
        registry: of metrics.
        trouble: why the process should be started anew; empty if it should not.
    """
    metrics = make_wsgi_app(registry)

    def answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            return metrics(environ, start)  # type: ignore[no-any-return]
        if environ["PATH_INFO"] != "/healthz":
            start("404 Not Found", [])
            return [b""]
        told = trouble()
        start("503 Service Unavailable" if told else "200 OK", [("Content-Type", "text/plain")])
        return [f"{told or 'ok'}\n".encode()]

    server = make_server("", port, answer, ThreadingWSGIServer, handler_class=_Silent)
    threading.Thread(target=server.serve_forever, name="health", daemon=True).start()
    return server


class _Silent(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """A probe is no news."""


@dataclass(frozen=True, eq=False)
class State:
    """Metrics that are read when Prometheus asks."""

    queue: WorkQueue
    cache: CachedKubernetes
    is_leader: Callable[[], bool]

    def collect(self) -> Iterator[Metric]:
        """What there is now."""
        depth = GaugeMetricFamily("evergrow_operator_queue_depth", "Models that are due to be looked at.")
        depth.add_metric([], self.queue.depth)
        leader = GaugeMetricFamily("evergrow_operator_leader", "1 if this one of the operators works.")
        leader.add_metric([], float(self.is_leader()))
        phases = GaugeMetricFamily("evergrow_rollouts", "ModelRollouts that there are, by phase.", labels=["phase"])
        for phase, number in sorted(self.cache.count(MODEL_ROLLOUT, PHASE).items()):
            phases.add_metric([phase], number)
        paused = GaugeMetricFamily(
            "evergrow_rollout_paused", "1 while a rollout of the model waits for somebody.", labels=["model"]
        )
        found = [(labels[MODEL], labels[PHASE]) for labels in self.cache.labels(MODEL_ROLLOUT)]
        for model in sorted({model for model, _ in found}):
            paused.add_metric([model], float((model, "Paused") in found))
        fruitless = GaugeMetricFamily(
            "evergrow_loop_fruitless", "Trainings in a row that have brought no champion.", labels=["model"]
        )
        for labels in self.cache.labels(CONTINUAL_MODEL):
            fruitless.add_metric([labels[MODEL]], float(labels[FRUITLESS]))
        return iter((depth, leader, phases, paused, fruitless))
