"""What Prometheus is told of models in service: what monitoring saw last."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

from evergrow.integrations.seen import Seen, Snapshot
from evergrow.monitoring.page import newest
from evergrow.monitoring.watch import Performance, Watch


def exposition(snapshot: Snapshot) -> bytes:
    """All metrics, in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Seen(snapshot))
    text: bytes = generate_latest(registry)
    return text


@dataclass(frozen=True, eq=False)
class _Seen:
    snapshot: Snapshot

    def collect(self) -> Iterator[Metric]:
        """What there is now."""
        models = list(self.snapshot.models.values())
        yield _failed(models)
        yield _succeeded(models)
        yield _performance(models)
        yield _coverage(models)
        troubles = GaugeMetricFamily("evergrow_watch_troubles", "What could not be read, so that it is missing here.")
        troubles.add_metric([], len(self.snapshot.troubles) + sum(len(seen.troubles) for seen in models))
        yield troubles


def _failed(models: list[Seen]) -> Metric:
    about = "Whether what is an alarm failed in the newest look, or could not be checked."
    gauge = GaugeMetricFamily("evergrow_observation_failed", about, labels=["model", "kind", "subject"])
    for seen in models:
        worst: dict[tuple[str, str], bool] = {}
        for one in seen.watch.observations if seen.watch else ():
            if one.alarm:
                failed = one.verdict.outcome in ("fail", "error")
                worst[one.kind, one.subject] = worst.get((one.kind, one.subject), False) or failed
        for (kind, subject), failed in sorted(worst.items()):
            gauge.add_metric([seen.model, kind, subject], float(failed))
    return gauge


def _succeeded(models: list[Seen]) -> Metric:
    about = "When monitoring has written a decision last."
    gauge = GaugeMetricFamily("evergrow_monitoring_last_success_timestamp_seconds", about, labels=["model"])
    for seen in models:
        if seen.succeeded is not None:
            gauge.add_metric([seen.model], seen.succeeded.timestamp())
    return gauge


def _performance(models: list[Seen]) -> Metric:
    about = "A metric of the newest day whose labels are in (realised), or of the newest estimate (estimated)."
    gauge = GaugeMetricFamily("evergrow_performance", about, labels=["model", "version", "metric", "kind"])
    for seen in models:
        for one in newest_performance(seen.watch) if seen.watch else ():
            for metric in one.metrics:
                gauge.add_metric([seen.model, str(one.version), metric.name, one.kind], metric.value)
    return gauge


def newest_performance(watch: Watch) -> list[Performance]:
    """Of all versions that served on them: the newest matured day, and the newest estimated one."""
    matured = newest(watch)
    estimated = [one for one in watch.performance if one.kind == "estimated"]
    last = max((one.day for one in estimated), default=None)
    realised = [p for p in watch.performance if matured and p.kind == "realised" and p.day == matured.day]
    return [*realised, *(one for one in estimated if one.day == last)]


def _coverage(models: list[Seen]) -> Metric:
    about = "Share of predictions whose label ever comes."
    gauge = GaugeMetricFamily("evergrow_label_coverage", about, labels=["model"])
    for seen in models:
        if seen.watch is not None and seen.watch.labels:
            gauge.add_metric([seen.model], seen.watch.coverage)
    return gauge
