"""Profiles as a Parquet file: one row a profile, with the axes they share in the file's metadata."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from evergrow.errors import DataError
from evergrow.monitoring.profile import Axis, Profile

FORMAT = 1
_AXES, _ABOUT, _FORMAT = b"evergrow.axes", b"evergrow.about", b"evergrow.format"
_SCHEMA = pa.schema(
    {
        "name": pa.string(),
        "rows": pa.int64(),
        "counts": pa.list_(pa.int64()),
        "low": pa.list_(pa.float64()),
        "high": pa.list_(pa.float64()),
        "unseen": pa.string(),
    }
)


def write(profiles: Mapping[str, Profile], axes: Sequence[Axis], about: Mapping[str, Any]) -> bytes:
    """Profiles of the same axes by name, and what else is to be known of them, as JSON values."""
    rows = [
        {
            "name": name,
            "rows": profile.rows,
            "counts": profile.counts,
            "low": profile.low,
            "high": profile.high,
            "unseen": json.dumps(profile.unseen, sort_keys=True),
        }
        for name, profile in profiles.items()
    ]
    metadata = {
        _FORMAT: str(FORMAT),
        _AXES: json.dumps([axis.model_dump() for axis in axes]),
        _ABOUT: json.dumps(about, sort_keys=True),
    }
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, _SCHEMA.with_metadata(metadata)), buffer, compression="zstd")
    return buffer.getvalue()


def read(content: bytes) -> tuple[dict[str, Profile], tuple[Axis, ...], dict[str, Any]]:
    """What `write` wrote.

    Raises:
        DataError: a newer evergrow wrote it.
    """
    table = pq.read_table(io.BytesIO(content))
    metadata = table.schema.metadata
    if int(metadata[_FORMAT]) > FORMAT:
        found = int(metadata[_FORMAT])
        raise DataError(f"profiles of format {found} cannot be read, this evergrow reads up to {FORMAT}")
    axes = tuple(Axis.model_validate(axis) for axis in json.loads(metadata[_AXES]))
    profiles = {row["name"]: _profile(axes, row) for row in table.to_pylist()}
    return profiles, axes, json.loads(metadata[_ABOUT])


def _profile(axes: tuple[Axis, ...], row: Mapping[str, Any]) -> Profile:
    return Profile(
        axes,
        row["rows"],
        np.array(row["counts"], np.int64),
        np.array(row["low"], np.float64),
        np.array(row["high"], np.float64),
        json.loads(row["unseen"]),
    )
