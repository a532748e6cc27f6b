"""What Prometheus sees of predictions, beside KServe's own metrics at /metrics."""

from __future__ import annotations

import time
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from evergrow.prediction_log.segments import SEALED, SegmentWriter, files

_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

_requests = Counter("evergrow_requests_total", "Requests answered, by protocol and HTTP status.", ["protocol", "code"])
_seconds = Histogram("evergrow_request_seconds", "Time of answered predictions, by part.", ["part"], buckets=_BUCKETS)
_flags = Counter("evergrow_flags_total", "Rows predicted without something: why, and without what.", ["kind", "name"])
REFUSALS = Counter("evergrow_refusals_total", "Requests that were not answered with a prediction.", ["reason"])
ROWS = Counter("evergrow_rows_total", "Rows predicted.")
MODEL = Gauge("evergrow_model_info", "1 for the version that is served.", ["model", "version", "backend"])
STORE_UP = Gauge("evergrow_online_store_up", "Whether the online store answered last.")

FEATURES_SECONDS, MODEL_SECONDS, TOTAL_SECONDS = (_seconds.labels(part) for part in ("features", "model", "total"))
# From the start, for what is not there cannot be seen to grow, nor to stand still.
_by_code: dict[tuple[str, int], Counter] = {
    (protocol, code): _requests.labels(protocol, str(code))
    for protocol in ("v1", "v2", "grpc", "explain")
    for code in (200, 500, 503)
}


def count_request(protocol: str, code: int) -> None:
    """One more answer; the label lookup of prometheus_client costs more than the count."""
    counter = _by_code.get((protocol, code))
    if counter is None:
        counter = _by_code[protocol, code] = _requests.labels(protocol, str(code))
    counter.inc()


def count_flags(flags: Iterable[tuple[str, ...]]) -> None:
    """Rows by flag: of the kind unknown, missing, stale or future, and the name of a key, view or feature."""
    for (kind, _, name), rows in Counts(flag.partition(":") for row in flags for flag in row).items():
        _flags.labels(kind, name).inc(rows)


@dataclass(frozen=True)
class _Log:
    """The prediction log's own counts, read when Prometheus asks: counting twice would cost each request."""

    writer: SegmentWriter

    def collect(self) -> Iterator[Metric]:
        """What there is now."""
        counts, limit = self.writer.counts, self.writer.settings.limit_mb * 1e6
        yield CounterMetricFamily("evergrow_predictions_recorded", "Predictions kept in the log.", counts.recorded)
        yield CounterMetricFamily("evergrow_predictions_dropped", "Answered and not kept in the log.", counts.dropped)
        yield GaugeMetricFamily("evergrow_prediction_log_bytes", "Waiting here to be shipped.", counts.bytes)
        yield GaugeMetricFamily("evergrow_prediction_log_limit_bytes", "As much may wait.", limit)
        yield GaugeMetricFamily("evergrow_prediction_log_up", "Whether the last was kept.", counts.failure is None)
        oldest = min((stat.st_mtime for _, stat in files(self.writer.root, f"*{SEALED}")), default=None)
        age = 0.0 if oldest is None else max(0.0, time.time() - oldest)
        yield GaugeMetricFamily("evergrow_prediction_log_oldest_seconds", "Since when the oldest file waits.", age)


@dataclass(frozen=True)
class _Model:
    """What the model knows of itself, read when Prometheus asks."""

    is_ready: Callable[[], bool]
    ages: Callable[[], Mapping[str, float]]

    def collect(self) -> Iterator[Metric]:
        """What there is now."""
        yield GaugeMetricFamily("evergrow_ready", "Whether requests are to be sent here.", self.is_ready())
        about = "Of the row predicted last: how old what its features were made of was, by feature view."
        ages = GaugeMetricFamily("evergrow_feature_age_seconds", about, labels=["view"])
        for view, seconds in self.ages().items():
            ages.add_metric([view], seconds)
        yield ages


def watch_log(writer: SegmentWriter) -> None:
    """Show the log's counts."""
    REGISTRY.register(_Log(writer))


def watch_model(is_ready: Callable[[], bool], ages: Callable[[], Mapping[str, float]]) -> None:
    """Show a model's readiness, and the ages of its features in seconds by view."""
    REGISTRY.register(_Model(is_ready, ages))
