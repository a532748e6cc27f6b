"""A small source whose rows a test can change."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

import pandas as pd
import pandera.pandas as pa

from evergrow.data.schema import Table

START = pd.Timestamp("2024-01-01", tz="UTC").as_unit("us")
UTC_US = "datetime64[us, UTC]"
HOUR = timedelta(hours=1)


def meters(hours: int = 400) -> pd.DataFrame:
    """One reading an hour of two meters, known an hour later."""
    hour = pd.date_range(START, periods=hours, freq="h", unit="us")
    frames = [
        pd.DataFrame({"meter": m, "hour": hour, "litres": [100.0 + (i * 7 + s) % 13 for i in range(hours)]})
        for s, m in enumerate(("a", "b"))
    ]
    rows = pd.concat(frames, ignore_index=True).sort_values(["hour", "meter"], ignore_index=True)
    return rows.assign(known_at=rows.hour + HOUR)


class Meters:
    """Implements `evergrow.ports.Source` over a frame."""

    def __init__(self, rows: pd.DataFrame | None = None, pace: timedelta | None = None) -> None:
        self.rows = meters() if rows is None else rows
        self.reads = 0
        self.derived = 0
        self.tables = (
            Table(
                name="readings",
                key=("meter", "hour"),
                known_at="known_at",
                categories=("meter",),
                pace=pace,
                schema=pa.DataFrameSchema(
                    {
                        "meter": pa.Column(str),
                        "hour": pa.Column(UTC_US),
                        "litres": pa.Column(float, pa.Check.in_range(0, 1e6), nullable=True),
                        "known_at": pa.Column(UTC_US),
                    },
                    checks=pa.Check(lambda f: f.known_at >= f.hour, error="a reading is known after its hour begins"),
                    strict=True,
                ),
            ),
        )

    def read(self, table: str, after: datetime | None, until: datetime) -> pd.DataFrame:
        self.reads += 1
        if "known_at" not in self.rows:
            return self.rows
        known = self.rows["known_at"]
        wanted = (known <= pd.Timestamp(until)) | known.isna()
        if after is not None:
            wanted &= (known > pd.Timestamp(after)) | known.isna()
        return self.rows[wanted].reset_index(drop=True)

    def derive(self, tables: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
        self.derived += 1
        rows = tables["readings"].sort_values(["known_at", "meter"], ignore_index=True)
        stats = pd.DataFrame(
            {
                "meter": rows.meter,
                "event_timestamp": rows.known_at,
                "created_timestamp": rows.known_at,
                "last_litres": rows.litres,
            }
        )
        examples = pd.DataFrame(
            {
                "meter": rows.meter,
                "event_timestamp": rows.hour,
                "litres": rows.litres,
                "known_at": rows.known_at,
            }
        )
        return {"meter_stats": stats, "examples": examples}
