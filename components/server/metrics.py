"""What Prometheus sees of predictions, beside KServe's own metrics at /metrics."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable, Iterator

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from evergrow.prediction_log.segments import Counts as LogCounts

_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

_requests = Counter("evergrow_requests_total", "Requests answered, by protocol and HTTP status.", ["protocol", "code"])
_seconds = Histogram("evergrow_request_seconds", "Time of answered predictions, by part.", ["part"], buckets=_BUCKETS)
_flags = Counter("evergrow_flags_total", "Rows predicted without something, by kind of flag.", ["kind"])
ROWS = Counter("evergrow_rows_total", "Rows predicted.")
MODEL = Gauge("evergrow_model_info", "1 for the version that is served.", ["model", "version", "backend"])
STORE_UP = Gauge("evergrow_online_store_up", "Whether the online store answered last.")

FEATURES_SECONDS, MODEL_SECONDS, TOTAL_SECONDS = (_seconds.labels(part) for part in ("features", "model", "total"))
_by_code: dict[tuple[str, int], Counter] = {}


def count_request(protocol: str, code: int) -> None:
    """One more answer; the label lookup of prometheus_client costs more than the count."""
    counter = _by_code.get((protocol, code))
    if counter is None:
        counter = _by_code[protocol, code] = _requests.labels(protocol, str(code))
    counter.inc()


def count_flags(flags: Iterable[tuple[str, ...]]) -> None:
    """Rows by kind of flag: unknown, missing, stale or future."""
    kinds = Counts(flag.partition(":")[0] for row in flags for flag in row)
    for kind, rows in kinds.items():
        _flags.labels(kind).inc(rows)


class _Log:
    """The prediction log's own counts, read when Prometheus asks: counting twice would cost each request."""

    def __init__(self, counts: LogCounts) -> None:
        self.counts = counts

    def collect(self) -> Iterator[Metric]:
        """What there is now."""
        counts = self.counts
        yield CounterMetricFamily("evergrow_predictions_recorded", "Predictions kept in the log.", counts.recorded)
        yield CounterMetricFamily("evergrow_predictions_dropped", "Answered and not kept in the log.", counts.dropped)
        yield GaugeMetricFamily("evergrow_prediction_log_bytes", "Waiting here to be shipped.", counts.bytes)
        yield GaugeMetricFamily("evergrow_prediction_log_up", "Whether the last was kept.", counts.failure is None)


def watch_log(counts: LogCounts) -> None:
    """Show the log's counts."""
    REGISTRY.register(_Log(counts))
