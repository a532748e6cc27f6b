"""A segment as rows: one of each prediction, flat, as DuckDB, pandas and Feast read it.

| column | |
|---|---|
| `prediction_id` | writer, segment, record, row: no other prediction has it |
| `event_timestamp` | to which instant the features were looked up: the prediction's own |
| `created_timestamp` | the same by the server's own clock: another one if it replays the past |
| `request_id`, `protocol`, `route`, `propensity` | of the request; see `Asked` |
| `latency_ms` | from the lookup of its features until its answer was made |
| `model`, `version`, `score`, `flags` | of the answer |
| every key, request-time value and feature | by its own name (`value_<name>` if that is one of the above) |
| `<view>__event_timestamp` | of the features of each view, when what was found had become so |
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from evergrow.contracts import instant
from evergrow.prediction_log.records import FORMAT, Header, Record, Segment

INSTANT = pa.timestamp("us", tz="UTC")
FIXED: Mapping[str, pa.DataType] = {
    "prediction_id": pa.string(),
    "event_timestamp": INSTANT,
    "created_timestamp": INSTANT,
    "request_id": pa.string(),
    "protocol": pa.string(),
    "route": pa.string(),
    "propensity": pa.float64(),
    "latency_ms": pa.float64(),
    "model": pa.string(),
    "version": pa.int32(),
    "score": pa.float64(),
    "flags": pa.list_(pa.string()),
}
"""Columns of every prediction, whatever the model."""
TYPES: Mapping[str, pa.DataType] = {
    "STRING": pa.string(),
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "BOOL": pa.bool_(),
    "UNIX_TIMESTAMP": INSTANT,
}
"""Feast's types; what is not among them is kept as text."""
READ: Mapping[str, Callable[[Any], Any]] = {
    "INT32": int,
    "INT64": int,
    "FLOAT": float,
    "DOUBLE": float,
    "BOOL": bool,
    "UNIX_TIMESTAMP": instant,
}


def time_column(view: str) -> str:
    """Name of the column with the event time of a view's features."""
    return f"{view}__event_timestamp"


def schema(header: Header) -> pa.Schema:
    """The columns of a segment's rows."""
    own = {c.name: TYPES.get(c.type, pa.string()) for c in header.columns}
    times = {time_column(view): INSTANT for view in header.views}
    return pa.schema({**FIXED, **own, **times}, metadata={"evergrow.format": str(FORMAT)})


def table(segment: Segment) -> pa.Table:
    """The rows of a segment, in the order of its records."""
    header = segment.header
    assert header is not None, "a segment without a header has no rows"
    rows = [(number, record, row) for number, record in segment.records for row in range(len(record.scores))]
    columns: dict[str, Sequence[Any]] = {
        place.name: [_read(place.type, record.values[row][i]) for _, record, row in rows]
        for i, place in enumerate(header.columns)
    }
    columns |= {
        time_column(view): [_instant(record.times[row][i]) for _, record, row in rows]
        for i, view in enumerate(header.views)
    }
    columns |= _fixed(header, rows)
    return pa.table({field.name: pa.array(columns[field.name], field.type) for field in schema(header)}, schema(header))


def parquet(segment: Segment) -> bytes:
    """A segment as a file. The same segment gives the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(table(segment), buffer, compression="zstd")
    return buffer.getvalue()


def _fixed(header: Header, rows: Sequence[tuple[int, Record, int]]) -> dict[str, Sequence[Any]]:
    prefix = f"{header.writer}-{header.number:08d}"
    return {
        "prediction_id": [f"{prefix}-{number}-{row}" for number, _, row in rows],
        "event_timestamp": [_instant(record.event) for _, record, _ in rows],
        "created_timestamp": [_instant(record.event - header.offset) for _, record, _ in rows],
        "request_id": [record.asked.request_id for _, record, _ in rows],
        "protocol": [record.asked.protocol for _, record, _ in rows],
        "route": [record.asked.route for _, record, _ in rows],
        "propensity": [record.asked.propensity for _, record, _ in rows],
        "latency_ms": [1000 * record.seconds for _, record, _ in rows],
        "model": [header.model] * len(rows),
        "version": [header.version] * len(rows),
        "score": [record.scores[row] for _, record, row in rows],
        "flags": [record.flags[row] for _, record, row in rows],
    }


def _read(kind: str, value: Any) -> Any:
    """A value of JSON as its type; text where the type is none that Parquet keeps."""
    return None if value is None else READ.get(kind, str)(value)


def _instant(seconds: float | None) -> int | None:
    """As microseconds, which is what Parquet keeps."""
    return None if seconds is None else round(seconds * 1_000_000)
