"""What Prometheus sees of predictions, beside KServe's own metrics at /metrics."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable

from prometheus_client import Counter, Gauge, Histogram

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
